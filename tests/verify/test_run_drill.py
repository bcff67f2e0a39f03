"""`invoke drill`: a restore for proof notices what is not as it was, and leaves nothing behind."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_tasks.command.supervise import supervised
from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.errors import ArchiveError, DrillError, RestoreError, UsageError
from backup_tasks.profile.load import load_profile
from backup_tasks.profile.model import Profile
from backup_tasks.read import plain_tar_gz
from backup_tasks.restore.request import RestoreReport
from backup_tasks.stores.directory import DirectoryStore
from backup_tasks.verify import drill_notes
from backup_tasks.verify import run_drill as drill
from backup_tasks.verify.command import TAIL_LINES, CommandResult, run_command
from backup_tasks.verify.drill_report import DrillReport, drill_error, render_drill
from backup_tasks.verify.run_drill import run_drill
from backup_tasks.verify.temporary_tree import temporary_tree
from tests.support.attacks import Item, forge_plain, put
from tests.support.backups import Backups
from tests.support.cli import Cli, cli, finish
from tests.support.details import find_backups
from tests.support.other_process import IS_ROOT, NOBODY, as_nobody, killed_after
from tests.support.smtp_server import start_smtp_server
from tests.support.source_trees import make_whole_tree

__all__ = ["cli"]

CANARY = "wJalrXUtnFEMI/K7MDENG-canary"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files; only a drill uses it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def backups(tmp_path: Path, paths: Paths) -> Backups:
    """Some files of each kind, backed up once the test asks for it."""
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    (source / "folder" / "inside").write_text("inside\n")
    (source / "large").write_bytes(os.urandom(1_500_000))
    (source / "small").write_text("small\n")
    (source / "program").write_text("#!/bin/sh\n")
    (source / "program").chmod(0o4755)
    os.link(source / "small", source / "small-too")
    (source / "symlink").symlink_to("/nowhere")
    os.mkfifo(source / "fifo")
    return Backups(source, tmp_path / "store", paths)


def drill_newest(backups: Backups, *, against_sources: bool = False) -> DrillReport:
    profile, store = backups.profile(), backups.open_store()
    newest = find_backups(store, UTC)[-1]
    return run_drill(profile, store, newest, SilentProgress(), against_sources=against_sources)


def test_a_small_archive_that_unpacks_to_hundreds_of_times_its_size_ends_a_drill(
    backups: Backups, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drill runs by night, over what lies in the store: nobody said that it is to be trusted."""
    monkeypatch.setattr(plain_tar_gz, "BOMB_BYTES", 2**22)
    put(backups.store_folder, forge_plain([Item("zeros", content=bytes(2**24))]))
    with pytest.raises(ArchiveError, match="as in a file made to fill disks"):
        drill_newest(backups)
    assert os.listdir(place) == []


def name_of(backups: Backups, name: str) -> str:
    return f"{backups.source}/{name}".lstrip("/")


def test_a_good_backup_passes_and_leaves_nothing(backups: Backups, place: Path) -> None:
    backups.backup()
    report = drill_newest(backups)
    assert report.failures == []
    assert report.tree is not None
    assert report.tree.files == report.restored_files == 4
    assert report.tree.entries == 7 + len(backups.source.parts)  # without "/", with the source
    assert list(place.iterdir()) == []


def test_a_tree_of_everything_passes(tmp_path: Path, paths: Paths, place: Path) -> None:
    make_whole_tree(tmp_path / "source")
    backups = Backups(tmp_path / "source", tmp_path / "store", paths)
    backups.backup()
    report = drill_newest(backups, against_sources=True)
    assert "\n".join(render_drill(report)).count("not so") == 0
    assert report.failures == []
    assert list(place.iterdir()) == []


def on_restored(monkeypatch: pytest.MonkeyPatch, tamper: Callable[[Path], Any]) -> None:
    """Change the restored tree behind the drill's back."""
    real = drill.restore_opened

    def restore_opened(archive: Any, backup: Any, request: Any, progress: Any) -> RestoreReport:
        report = real(archive, backup, request, progress)
        tamper(request.target)
        return report

    monkeypatch.setattr(drill, "restore_opened", restore_opened)


def flip_content(file: Path) -> None:
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_mtime_ns, before.st_mtime_ns))


def replace_by(file: Path, make: Callable[[Path], Any]) -> None:
    file.unlink()
    make(file)


def split_link(file: Path) -> None:
    content, before = file.read_bytes(), file.stat()
    file.unlink()
    file.write_bytes(content)
    file.chmod(stat.S_IMODE(before.st_mode))
    os.utime(file, ns=(before.st_mtime_ns, before.st_mtime_ns))


def shift_time(path: Path) -> None:
    now = path.lstat().st_mtime_ns + 1
    os.utime(path, ns=(now, now), follow_symlinks=False)


@pytest.mark.parametrize(
    ("name", "tamper", "reason"),
    [
        ("large", flip_content, "differs in content"),
        ("small", lambda path: os.truncate(path, 3), "differs in size, time"),
        ("folder/inside", lambda path: path.chmod(0o600), "differs in mode"),
        ("folder", lambda path: path.chmod(0o700), "differs in mode"),
        ("large", shift_time, "differs in time"),
        ("symlink", shift_time, "differs in time"),
        ("folder", shift_time, "differs in time"),
        ("fifo", lambda path: path.unlink(), "is missing"),
        ("fifo", lambda path: replace_by(path, Path.touch), "differs in type"),
        ("symlink", lambda path: replace_by(path, lambda p: p.symlink_to("/x")), "link"),
        ("small-too", split_link, "differs in link"),
        ("folder/new", Path.touch, "is not in the manifest"),
        ("new", lambda path: (path / "below").mkdir(parents=True), "is not in the manifest"),
    ],
)
def test_what_is_not_as_it_was_is_named(
    backups: Backups,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    tamper: Callable[[Path], Any],
    reason: str,
) -> None:
    backups.backup()
    on_restored(monkeypatch, lambda target: tamper(backups.in_target(target) / name))
    report = drill_newest(backups)
    assert report.tree is not None
    found = dict(report.tree.wrong.first)
    assert reason in found[name_of(backups, name)]
    assert report.failures[0].endswith("not as the manifest says")
    assert name_of(backups, name) in str(drill_error(report))
    assert list(place.iterdir()) == []


@pytest.mark.skipif(not IS_ROOT, reason="only root can give files away")
def test_another_owner_is_named_by_root(
    backups: Backups, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups.backup()
    on_restored(monkeypatch, lambda target: os.chown(backups.in_target(target) / "large", 7, 7))
    report = drill_newest(backups)
    assert report.tree is not None
    assert report.tree.wrong.first == [(name_of(backups, "large"), "differs in owner")]


def test_an_ordinary_user_can_drill_too(backups: Backups) -> None:
    """Also what root stored: files that only their owner may read, folders that are closed."""
    (backups.source / "folder" / "inside").chmod(0)
    (backups.source / "folder").chmod(0o300)
    if IS_ROOT:
        os.mknod(backups.source / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    backups.backup()
    # Folders of pytest are closed to others.
    public = Path(tempfile.mkdtemp(prefix="test-drill-", dir="/tmp"))
    try:
        shutil.copytree(backups.store_folder, public / "store")
        (public / "temporary").mkdir()
        (public / "temporary").chmod(0o1777)
        subprocess.run(["chmod", "-R", "a+rX", public], check=True)
        found = as_nobody(drill_in, public, backups.profile())
        assert found == ([], 1 if IS_ROOT else 0, [])
    finally:
        shutil.rmtree(public)


def drill_in(folder: Path, profile: Profile) -> tuple[list[str], int, list[str]]:
    """Drill the only backup of `folder`/store; what was wrong, devices, and what is left."""
    tempfile.tempdir = str(folder / "temporary")
    store = DirectoryStore(folder / "store")
    (newest,) = find_backups(store, UTC)
    report = run_drill(profile, store, newest, SilentProgress(), against_sources=False)
    assert report.tree is not None
    wrong = [*report.failures, *report.tree.wrong.render()]
    return wrong, report.tree.nodes, os.listdir(folder / "temporary")


def test_a_damaged_archive_fails_and_leaves_nothing(backups: Backups, place: Path) -> None:
    backups.backup()
    content = bytearray(backups.archive().read_bytes())
    content[len(content) // 2] ^= 1
    backups.archive().write_bytes(content)
    with pytest.raises(ArchiveError):
        drill_newest(backups)
    assert list(place.iterdir()) == []


def test_an_ordinary_archive_is_restored_but_compared_with_nothing(
    backups: Backups, place: Path
) -> None:
    backups.write_profile()
    archive = backups.store_folder / "2025-06-12_0200-backup.tar.gz"
    command = ["tar", "-czf", str(archive), "-C", str(backups.source), "small", "large"]
    subprocess.run(command, check=True)
    report = drill_newest(backups)
    assert (report.failures, report.tree, report.restored_files) == ([], None, 2)
    assert "not compared: the archive has no manifest of ours" in list(render_drill(report))
    with pytest.raises(UsageError, match="leave out --against-sources"):
        drill_newest(backups, against_sources=True)
    assert list(place.iterdir()) == []


# --- the temporary folder


def test_the_folder_is_for_its_owner_alone_and_lies_in_tmpdir(place: Path) -> None:
    with temporary_tree() as tree:
        assert tree.parent == place
        assert stat.S_IMODE(tree.stat().st_mode) == 0o700
    assert not tree.exists()


def test_a_tmpdir_that_is_not_there_is_an_error_and_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "not-there"))
    with pytest.raises(RestoreError, match="set TMPDIR"), temporary_tree():
        pass


def test_the_folder_goes_whatever_is_in_it(place: Path) -> None:
    with temporary_tree() as tree:
        closed = tree / "closed"
        (closed / "below").mkdir(parents=True)
        (closed / "below" / "file").touch(0o000)
        (tree / "link").symlink_to(place)
        closed.chmod(0)
        folder = os.open(tree, os.O_RDONLY)
        for _ in range(1500):  # deeper than Python's recursion, longer than PATH_MAX
            os.mkdir("deeper", dir_fd=folder)
            below = os.open("deeper", os.O_RDONLY, dir_fd=folder)
            os.close(folder)
            folder = below
        os.close(folder)
    assert list(place.iterdir()) == []


def test_the_folder_goes_before_a_signal_is_heard(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = drill_notes.remove_or_enter

    def interrupted(*arguments: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        real(*arguments)

    monkeypatch.setattr(drill_notes, "remove_or_enter", interrupted)

    def make() -> None:
        with temporary_tree() as tree:
            (tree / "folder").mkdir()
            (tree / "folder" / "file").touch()

    with pytest.raises(KeyboardInterrupt):
        make()
    assert list(place.iterdir()) == []


# --- the profile's command


def run_in(
    tree: Path, *command: str, timeout: int = 60, secrets: tuple[str, ...] = ()
) -> CommandResult:
    return run_command(command, tree, timeout, secrets)


def test_the_command_runs_in_the_tree_without_a_shell_or_input(tmp_path: Path) -> None:
    result = run_in(tmp_path, "echo", "$HOME", "`id`", "; false")
    assert (result.passed, result.tail) == (True, ("$HOME `id` ; false",))
    assert run_in(tmp_path, "pwd").tail == (str(tmp_path),)
    assert run_in(tmp_path, "cat").tail == ()


def test_the_commands_exit_code_and_last_lines_are_kept(tmp_path: Path) -> None:
    result = run_in(tmp_path, "sh", "-c", "seq 100000; echo 'a\x1b[2J' >&2; exit 3")
    assert (result.passed, result.exit_code) == (False, 3)
    assert len(result.tail) == TAIL_LINES
    assert result.tail[-2:] == ("100000", "a\\x1b[2J")
    assert result.outcome == "ended with exit code 3"
    assert run_in(tmp_path, "sh", "-c", "kill -9 $$").outcome == "was ended by signal 9"


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"sleep 600 & echo $! > {pid_file}; echo waiting; wait"
    result = run_in(tmp_path, "sh", "-c", script, timeout=1)
    assert (result.passed, result.exit_code, result.tail) == (False, None, ("waiting",))
    assert result.outcome == "took longer than 1 s and was ended"
    assert is_gone(int(pid_file.read_text()))


def test_what_a_command_leaves_running_is_not_waited_for(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"sleep 600 & echo $! > {pid_file}; echo done"
    result = run_in(tmp_path, "sh", "-c", script)
    assert (result.passed, result.tail) == (True, ("done",))
    assert is_gone(int(pid_file.read_text()))


def is_gone(pid: int) -> bool:
    """Whether the process ended; perhaps nobody has collected it yet."""
    for _ in range(600):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_command_that_closes_its_output_is_still_waited_for(tmp_path: Path) -> None:
    result = run_in(tmp_path, "sh", "-c", "exec >&- 2>&-; sleep 0.5; exit 4")
    assert result.exit_code == 4


def test_a_command_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DrillError, match=r"drill\.command no-such-program .*looked for in PATH"):
        run_in(tmp_path, "no-such-program")


def test_no_secret_reaches_the_command_or_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUP_SECRET", CANARY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    seen = run_in(tmp_path, "env")
    assert CANARY not in "".join(seen.tail)
    assert any(line.startswith("PATH=") for line in seen.tail)
    told = run_in(tmp_path, "echo", f"key={CANARY}!", secrets=(CANARY,))
    assert told.tail == ("key=***!",)
    # Not even a part of it, where the output is cut.
    script = f"for i in $(seq 2000); do printf %s '{CANARY}'; done"
    cut = run_in(tmp_path, "sh", "-c", script, secrets=(CANARY,))
    assert "canary" not in "".join(cut.tail)


def test_the_profiles_secrets_are_blotted_out(backups: Backups, place: Path) -> None:
    backups.backup()
    secret = backups.source.parent / "secret"
    secret.write_text(f"{CANARY}\n")
    file = backups.write_profile()
    file.write_text(
        file.read_text() + f'[drill]\ncommand = ["cat", "{secret}"]\n'
        '[notify.email]\nhost = "127.0.0.1"\nfrom = "a@example.com"\nto = ["b@example.com"]\n'
        f'username = "a"\npassword = {{ file = "{secret}" }}\n'
    )
    profile, store = load_profile(str(file), backups.paths), backups.open_store()
    (newest,) = find_backups(store, UTC)
    report = run_drill(profile, store, newest, SilentProgress(), against_sources=False)
    assert report.command is not None
    assert report.command.tail == ("***",)
    assert CANARY not in repr(report)


# --- against the sources


def later(backups: Backups) -> None:
    """Let the backup begin after everything that the test does to the sources."""
    backups.now = datetime.now(UTC) + timedelta(hours=1)


def test_sources_that_did_not_change_are_alike(backups: Backups, place: Path) -> None:
    later(backups)
    backups.backup()
    report = drill_newest(backups, against_sources=True)
    assert report.sources is not None
    # Folders above the source are everybody's, and may change at any time.
    assert [path for path, _ in report.sources.wrong.first if name_of(backups, "") in path] == []
    assert report.sources.entries >= 8


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("large", flip_content, "content"),
        ("small", lambda path: path.write_text("more"), "size"),
        ("folder/inside", lambda path: path.chmod(0o600), "mode"),
        ("symlink", lambda path: replace_by(path, lambda p: p.symlink_to("/x")), "link"),
        ("fifo", lambda path: path.unlink(), "removed since|missing in the sources"),
        ("new", Path.touch, "new since|not in the backup"),
        ("moved", lambda path: (path.parent / "folder").rename(path), "since|not in the backup"),
        ("folder", shutil.rmtree, "removed since|missing in the sources"),
    ],
)
def test_what_differs_in_the_sources_failed_unless_it_changed_since(
    backups: Backups,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    change: Callable[[Path], Any],
    reason: str,
) -> None:
    backups.now = datetime.now(UTC) - timedelta(minutes=1)
    backups.backup()
    later(backups)
    backups.backup()
    change(backups.source / name)

    store, profile = backups.open_store(), backups.profile()
    before, after = find_backups(store, UTC)
    changed = run_drill(profile, store, before, SilentProgress(), against_sources=True)
    assert changed.failures == []
    assert changed.sources is not None
    assert name_of(backups, name) in dict(changed.sources.changed.first)

    silent = run_drill(profile, store, after, SilentProgress(), against_sources=True)
    assert silent.sources is not None
    found = dict(silent.sources.wrong.first)[name_of(backups, name)]
    assert any(word in found for word in reason.split("|"))
    assert silent.failures[-1].endswith("not as in the sources")


def test_a_source_that_is_gone_is_named(backups: Backups, place: Path, tmp_path: Path) -> None:
    backups.backup()
    profile, store = backups.profile(), backups.open_store()
    gone = f"{tmp_path}/gone"
    settings = profile.backup.model_copy(update={"sources": (str(backups.source), gone)})
    profile = profile.model_copy(update={"backup": settings})
    newest = find_backups(store, UTC)[-1]
    report = run_drill(profile, store, newest, SilentProgress(), against_sources=True)
    assert report.sources is not None
    assert [path for path, _ in report.sources.wrong.first] == [gone.lstrip("/")]


# --- the command line


def test_a_drill_leaves_a_line_a_record_and_the_evidence_by_mail(cli: Cli) -> None:
    with start_smtp_server() as server:
        mail = (
            f'[notify.email]\nhost = "127.0.0.1"\nport = {server.port}\nsecurity = "none"\n'
            'from = "backup@example.com"\nto = ["admin@example.com"]\n'
        )
        source = str(cli.source).lstrip("/")
        command = f'[drill]\ncommand = ["cat", "{source}/hello world.txt"]\n'
        cli.write_profile(more=command + mail)
        name = cli.back_up()
        done = cli.run("drill", "--profile", "test", "--against-sources")
        assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{name}: drill passed\n")
    assert (
        f"SUCCESS: drill test: {name}-backup.tar.gz restored and compared (3 files, "
        in (cli.log()[-1])
    )
    record = cli.records()[-1]
    assert (record["task"], record["result"], record["files"]) == ("drill", "success", 3)
    assert "  | hello" in record["evidence"]
    message = server.messages[-1]
    subject = str(message["Subject"])
    assert subject.startswith("[backup] test on ")
    assert subject.endswith(": drill passed, 3 files compared")
    for kind in ("plain", "html"):
        body = message.get_body((kind,))
        assert body is not None
        text = body.get_content()
        assert "| hello" in text
        assert "as the manifest says: " in text
        assert "were sent" not in text


def test_a_drill_that_fails_says_why_everywhere(cli: Cli) -> None:
    with start_smtp_server() as server:
        mail = (
            f'[notify.email]\nhost = "127.0.0.1"\nport = {server.port}\nsecurity = "none"\n'
            'from = "backup@example.com"\nto = ["admin@example.com"]\non = ["failure"]\n'
        )
        command = '[drill]\ncommand = ["sh", "-c", "echo no database; exit 5"]\n'
        cli.write_profile(more=command + mail)
        name = cli.back_up()
        done = cli.run("drill", "--profile", "test", "--json")
    assert done.code == 1
    told = json.loads(done.out)
    assert (told["passed"], told["command"]["exit_code"]) == (False, 5)
    head = f"{name}-backup.tar.gz: sh -c 'echo no database; exit 5' ended with exit code 5"
    assert done.err == f"{head}\n  | no database\n"
    assert f"FAILURE: drill test: {head}" in cli.log()[-1]
    assert cli.records()[-1]["error"] == f"{head}\n| no database"
    (message,) = server.messages
    assert str(message["Subject"]).endswith(": drill FAILED")


def test_a_signal_ends_a_drill_and_its_command_and_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    pid_file = tmp_path / "pid"
    script = f"echo $$ > {pid_file}.part; mv {pid_file}.part {pid_file}; exec sleep 600"
    cli.write_profile(more=f'[drill]\ncommand = ["sh", "-c", "{script}"]\n')
    cli.back_up()
    process = cli.start("drill", "--profile", "test", TMPDIR=str(temporary))
    while not pid_file.exists():
        assert process.poll() is None
        time.sleep(0.05)
    assert list(temporary.iterdir())
    process.send_signal(signal.SIGTERM)
    done = finish(process)
    assert done.code == 128 + signal.SIGTERM
    assert is_gone(int(pid_file.read_text()))
    assert list(temporary.iterdir()) == []
    assert cli.records()[-1]["error"] == "ended by SIGTERM"


def test_a_drill_without_room_says_which_variable_to_set(cli: Cli, tmp_path: Path) -> None:
    cli.write_profile()
    cli.back_up()
    done = cli.run("drill", "--profile", "test", TMPDIR=str(tmp_path / "not-there"))
    assert (done.code, done.out) == (1, "")
    assert "set TMPDIR" in done.err
    assert "Traceback" not in done.err


# --- killed


def drill_and_say(state: str, folder: str, profile: Profile) -> None:
    """Drill the only backup of `folder`/store."""
    store = DirectoryStore(Path(folder) / "store")
    (newest,) = find_backups(store, UTC)
    os.environ["TMPDIR"] = f"{folder}/temporary"
    tempfile.tempdir = None
    run_drill(profile, store, newest, SilentProgress(), against_sources=False, state=Path(state))


def wait_for_lock(state: Path) -> None:
    """Until no process holds the notes: one that reads chunks may live a moment longer."""
    for note in (state / "drills").iterdir():
        with note.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)


@pytest.mark.parametrize("calls", [1, 3, 9])
def test_what_a_killed_drill_restored_is_removed_by_the_next_run_of_anything(
    backups: Backups, place: Path, calls: int
) -> None:
    backups.backup()
    state = backups.paths.state
    arguments = str(state), str(place.parent), backups.profile()
    assert killed_after(calls, ("link", "symlink", "utime"), drill_and_say, *arguments)
    (left,) = place.iterdir()
    assert any(left.iterdir())
    (place / "backup-drill-mine").mkdir()
    (note,) = (state / "drills").iterdir()
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    wait_for_lock(state)
    with supervised("profiles", "", backups.paths, lambda: datetime.now(UTC), recorded=False):
        assert [path.name for path in place.iterdir()] == ["backup-drill-mine"]
    assert list((state / "drills").iterdir()) == []
    assert f"removed {left}, which a drill that was killed had left" in backups.log()


def test_a_drill_that_lives_is_left_alone_by_others(place: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with temporary_tree(state) as tree:
        (tree / "file").touch()
        assert drill_notes.remove_dead_drills(state) == []
        assert (tree / "file").exists()
    assert list(place.iterdir()) == list((state / "drills").iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: (tree.rename(tree.with_name("moved")), tree.mkdir(0o700)),
        lambda tree: (tree.rename(tree.with_name("moved")), tree.symlink_to("moved")),
        lambda tree: tree.chmod(0o755),
    ],
    ids=["another folder", "a link", "opened"],
)
def test_only_the_noted_folder_is_removed(
    place: Path, tmp_path: Path, change: Callable[[Path], Any]
) -> None:
    state = tmp_path / "state"
    tree = place / f"{drill_notes.PREFIX}x"
    tree.mkdir(0o700)
    (tree / "file").touch()
    note = drill_notes.DrillNote(state)
    note.write(tree, tree.stat())
    os.close(note._descriptor)
    change(tree)
    before = sorted(place.rglob("*"))
    assert drill_notes.remove_dead_drills(state) == []
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("said", [b"", b"{}", b"[]", b'{"path": "/etc", "device": 1, "inode": 2}'])
def test_a_note_that_says_nothing_removes_nothing_but_itself(tmp_path: Path, said: bytes) -> None:
    (tmp_path / "drills").mkdir()
    note = tmp_path / "drills" / "note.json"
    note.touch(0o600)
    note.write_bytes(said)
    assert drill_notes.remove_dead_drills(tmp_path) == []
    assert not note.exists()


@pytest.mark.skipif(not IS_ROOT, reason="only root gives files away")
def test_a_note_of_another_user_is_not_obeyed(place: Path, tmp_path: Path) -> None:
    tree = place / f"{drill_notes.PREFIX}x"
    tree.mkdir(0o700)
    note = drill_notes.DrillNote(tmp_path)
    note.write(tree, tree.stat())
    os.fchown(note._descriptor, NOBODY, NOBODY)
    os.close(note._descriptor)
    assert drill_notes.remove_dead_drills(tmp_path) == []
    assert tree.exists()


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_tmpdir_in_which_others_could_swap_the_folder_is_refused(place: Path, mode: int) -> None:
    if IS_ROOT:
        os.chown(place, -1, 1234)
    place.chmod(mode | 0o002 * (not IS_ROOT))
    expected = pytest.raises(RestoreError, match=r"another user may rename.*chmod \+t")
    with expected, temporary_tree():
        pass
    assert list(place.iterdir()) == []
    place.chmod(0o1777)
    with temporary_tree() as tree:
        assert tree.exists()
