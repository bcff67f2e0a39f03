"""Promise 3: a file that moves, lies or fails costs that file only."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from backup_tasks.backup import run_backup
from backup_tasks.common.paths import PROJECT_ROOT, Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.journal.run_record import RunRecord
from backup_tasks.read.manifest_reader import read_manifest
from backup_tasks.restore.request import RestoreRequest
from backup_tasks.restore.run_restore import run_restore
from backup_tasks.snapshot import source_file as content
from tests.support.backups import Backups
from tests.support.details import find_backups

Hook = Callable[[Path], None]


@pytest.fixture
def backups(tmp_path: Path, paths: Paths) -> Backups:
    """Two neighbours on either side of the file that each test moves."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a-before", "z-after"):
        (source / name).write_bytes(name.encode() * 3000)
    return Backups(source, tmp_path / "store", paths)


def restored_neighbours_are_intact(backups: Backups, target: Path) -> bool:
    backups.restore(target)
    return all(
        (backups.in_target(target) / name).read_bytes() == name.encode() * 3000
        for name in ("a-before", "z-after")
    )


def on_reading(
    monkeypatch: pytest.MonkeyPatch, victim: Path, hook: Hook, *, times: int = 1000
) -> None:
    """Call the hook after the first piece of `victim` was read, at each of `times` tries."""
    real = content.SourceFile.fill
    seen: list[content.SourceFile] = []
    inode = victim.stat().st_ino

    def fill(self: content.SourceFile, view: memoryview) -> None:
        real(self, view)
        if self.status.st_ino == inode and self not in seen and len(seen) < times:
            seen.append(self)
            hook(victim)

    monkeypatch.setattr(content.SourceFile, "fill", fill)


def shrink(victim: Path) -> None:
    os.truncate(victim, victim.stat().st_size // 2)


def grow(victim: Path) -> None:
    with open(victim, "ab") as file:
        file.write(b"more" * 1000)


def rewrite(victim: Path) -> None:
    with open(victim, "r+b") as file:
        file.write(b"other")
    # A second write within the clock's grain would show no new mtime.
    os.utime(victim, ns=(0, random.getrandbits(50)))


@pytest.mark.parametrize("hook", [shrink, grow, rewrite])
@pytest.mark.parametrize("size", [5_000, 3 * 2**20 + 5])
def test_a_file_that_keeps_changing_is_named_and_costs_only_itself(
    backups: Backups,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hook: Hook,
    size: int,
) -> None:
    victim = backups.source / "m-victim"
    victim.write_bytes(os.urandom(size))
    on_reading(monkeypatch, victim, hook)
    record = backups.backup()
    assert (record.result, record.exit_code) == ("incomplete", 3)
    assert [p.path for p in record.problems] == [str(victim).lstrip("/")]
    assert restored_neighbours_are_intact(backups, tmp_path / "restored")
    with tarfile.open(backups.archive(), "r:gz") as archive:
        assert str(victim).lstrip("/") in archive.getnames()


def test_of_files_without_number_that_vanish_the_first_are_named_and_all_are_counted(
    backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_backup, "_NAMED_PROBLEMS", 5)
    (backups.source / "m").mkdir()
    for number in range(20):
        (backups.source / "m" / f"{number:02}").write_text("here")
    first = backups.source / "a-before"
    on_reading(monkeypatch, first, lambda _: shutil.rmtree(backups.source / "m"), times=1)
    record = backups.backup()
    assert (record.exit_code, len(record.problems)) == (3, 20)
    named = [f"{backups.source}/m/{number:02}".lstrip("/") for number in range(5)]
    assert [problem.path for problem in record.problems[:5]] == named
    assert len({id(problem) for problem in record.problems}) == 6


@pytest.mark.parametrize("size", [5_000, 3 * 2**20 + 5])
def test_a_file_that_changed_once_is_read_again_and_stored_whole(
    backups: Backups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    victim = backups.source / "m-victim"
    victim.write_bytes(os.urandom(size))
    on_reading(monkeypatch, victim, grow, times=1)
    record = backups.backup()
    assert record.problems == []
    assert restored_neighbours_are_intact(backups, tmp_path / "restored")
    restored = backups.in_target(tmp_path / "restored") / victim.name
    assert restored.read_bytes() == victim.read_bytes()
    assert victim.stat().st_size == size + 4000
    # Plain tar gives the same, whether or not the first try is still in the archive.
    plain = tmp_path / "plain"
    plain.mkdir()
    subprocess.run(["tar", "xzf", backups.archive(), "-C", plain], check=True)
    assert (backups.in_target(plain) / victim.name).read_bytes() == victim.read_bytes()


def replace_by_symlink(victim: Path) -> None:
    victim.unlink()
    victim.symlink_to("/etc/hostname")


def replace_by_fifo(victim: Path) -> None:
    victim.unlink()
    os.mkfifo(victim)


def replace_folder_by_symlink(victim: Path) -> None:
    elsewhere = victim.parent.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / victim.name).write_text("not of this backup")
    shutil.rmtree(victim.parent)
    victim.parent.symlink_to(elsewhere)


@pytest.mark.parametrize(
    ("hook", "reason"),
    [
        (Path.unlink, "vanished before it could be read"),
        (replace_by_symlink, "became a symlink"),
        (replace_by_fifo, "is no longer a regular file"),
        (replace_folder_by_symlink, "a folder above it was replaced"),
    ],
)
def test_a_file_replaced_after_the_walk_is_named_and_not_followed(
    backups: Backups,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hook: Hook,
    reason: str,
) -> None:
    victim = backups.source / "inner" / "m-victim"
    victim.parent.mkdir()
    victim.write_text("mine")
    first = backups.source / "a-before"
    on_reading(monkeypatch, first, lambda _: hook(victim), times=1)
    record = backups.backup()
    assert record.exit_code == 3
    [problem] = record.problems
    assert problem.path == str(victim).lstrip("/")
    assert reason in problem.reason
    assert restored_neighbours_are_intact(backups, tmp_path / "restored")
    assert not os.path.lexists(backups.in_target(tmp_path / "restored") / "inner/m-victim")


def test_a_fifo_is_stored_as_one_and_never_blocks(backups: Backups, tmp_path: Path) -> None:
    os.mkfifo(backups.source / "m-pipe")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(backups.source / "m-socket"))
    record = backups.backup()
    listener.close()
    assert record.problems == []
    assert record.sockets == 1
    log = (backups.paths.logs / "backup.log").read_text()
    assert "INFO: backup test: 1 socket not stored" in log
    backups.restore(tmp_path / "restored")
    assert (backups.in_target(tmp_path / "restored") / "m-pipe").is_fifo()
    assert not (backups.in_target(tmp_path / "restored") / "m-socket").exists()


def test_files_of_proc_that_lie_about_their_size_cost_only_themselves(
    tmp_path: Path, paths: Paths
) -> None:
    backups = Backups(Path("/proc/self/net"), tmp_path / "store", paths)
    record = backups.backup()
    assert record.exit_code == 3
    reasons = {p.reason for p in record.problems}
    assert any("says it has 0 bytes but holds more" in reason for reason in reasons)
    subprocess.run(["tar", "tzf", backups.archive()], check=True, stdout=subprocess.DEVNULL)
    backups.restore(tmp_path / "restored")


@pytest.fixture(scope="session")
def io_error_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "io_error.so"
    shim = PROJECT_ROOT / "tests/support/io_error_shim.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, shim, "-ldl"], check=True)
    return library


def test_an_input_output_error_costs_that_megabyte_and_nothing_else(
    backups: Backups, tmp_path: Path, io_error_shim: Path
) -> None:
    whole = os.urandom(3 * 2**20)
    (backups.source / "m-bad-sector").write_bytes(whole)
    (backups.source / "n-all-bad").write_bytes(b"lost")
    profile = backups.write_profile()
    ended = subprocess.run(
        [sys.executable, "-m", "invoke", "-r", PROJECT_ROOT, "backup", "--profile", profile],
        env={**os.environ, **backups.environ(), "LD_PRELOAD": str(io_error_shim)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 3, ended.stderr
    assert "m-bad-sector: Input/output error; zeros stand for what could not be read" in (
        ended.stderr
    )
    assert "n-all-bad: Input/output error" in ended.stderr
    record = json.loads((backups.paths.logs / "runs.jsonl").read_text())
    assert record["problems_total"] == 2
    assert restored_neighbours_are_intact(backups, tmp_path / "restored")
    stored = (backups.in_target(tmp_path / "restored") / "m-bad-sector").read_bytes()
    assert stored == whole[: 2**20] + bytes(2**20) + whole[2 * 2**20 :]
    assert not (backups.in_target(tmp_path / "restored") / "n-all-bad").exists()


def test_a_file_without_permission_is_named(tmp_path: Path, backups: Backups) -> None:
    locked = backups.source / "m-locked"
    locked.write_text("secret")
    locked.chmod(0)
    shutil.chown(backups.source, 65534)
    profile = backups.write_profile()
    ended = subprocess.run(
        [sys.executable, "-m", "invoke", "-r", PROJECT_ROOT, "backup", "--profile", profile],
        env={**os.environ, **backups.environ(), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=without_override_of_permissions,
    )
    assert ended.returncode == 3, ended.stderr
    assert "m-locked: Permission denied" in ended.stderr
    assert restored_neighbours_are_intact(backups, tmp_path / "restored")


def without_override_of_permissions() -> None:
    """As an ordinary user, in so far as this is run by root."""
    if os.geteuid() == 0:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            assert libc.prctl(24, capability, 0, 0, 0) == 0  # PR_CAPBSET_DROP


def test_hardlinks_survive_when_the_first_of_them_vanishes(
    backups: Backups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = backups.source / "h1"
    first.write_text("linked")
    for name in ("h2", "h3"):
        os.link(first, backups.source / name)
    on_reading(monkeypatch, backups.source / "a-before", lambda _: first.unlink(), times=1)
    record = backups.backup()
    assert [p.path for p in record.problems] == [str(first).lstrip("/")]
    backups.restore(tmp_path / "restored")
    second, third = (backups.in_target(tmp_path / "restored") / name for name in ("h2", "h3"))
    assert second.read_text() == "linked"
    assert second.samefile(third)


def test_a_hardlink_replaced_by_a_new_file_is_stored_with_its_own_content(
    backups: Backups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = backups.source / "h1"
    first.write_text("linked")
    second = backups.source / "h2"
    os.link(first, second)

    def replace(_: Path) -> None:
        fresh = backups.source.parent / "fresh"
        fresh.write_text("replaced")
        fresh.rename(second)

    on_reading(monkeypatch, backups.source / "a-before", replace, times=1)
    assert backups.backup().problems == []
    backups.restore(tmp_path / "restored")
    target = backups.in_target(tmp_path / "restored")
    assert (target / "h1").read_text() == "linked"
    assert (target / "h2").read_text() == "replaced"


def test_a_tree_in_turmoil_gives_a_sound_archive(backups: Backups, tmp_path: Path) -> None:
    files = [backups.source / f"m-{number:03}" for number in range(60)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * (number * 40_000 + 1))
    stop = threading.Event()

    def stir() -> None:
        chance = random.Random(7)
        while not stop.is_set():
            file = chance.choice(files)
            deed = chance.choice(("truncate", "grow", "replace", "remove"))
            if deed == "remove":
                file.unlink(missing_ok=True)
            elif deed == "replace":
                fresh = backups.source.parent / "fresh"
                fresh.write_bytes(b"fresh" * 1000)
                fresh.rename(file)
            elif file.exists():
                os.truncate(file, chance.randrange(1, 3_000_000))

    stirrer = threading.Thread(target=stir)
    stirrer.start()
    try:
        record: RunRecord = backups.backup()
    finally:
        stop.set()
        stirrer.join()
    assert record.exit_code in (0, 3)
    [found] = find_backups(backups.open_store(), backups.profile().tzinfo)
    manifest = read_manifest(backups.open_store(), found.stored)
    assert manifest is not None
    named = {entry.name for entry in manifest.entries()}
    manifest.close()
    lost = {p.path for p in record.problems}
    assert lost <= {str(file).lstrip("/") for file in files}
    assert {str(backups.source / name).lstrip("/") for name in ("a-before", "z-after")} <= named
    request = RestoreRequest(paths=(), target=tmp_path / "restored")
    report = run_restore(backups.open_store(), found, request, SilentProgress())
    assert report.extracted.problems == []
    assert all(
        (backups.in_target(tmp_path / "restored") / name).read_bytes() == name.encode() * 3000
        for name in ("a-before", "z-after")
    )
    plain = tmp_path / "plain"
    plain.mkdir()
    subprocess.run(["tar", "xzf", backups.archive(), "-C", plain], check=True)
