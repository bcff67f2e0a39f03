"""Nobody but root and the running user decides: what others may change is refused, as sshd does."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from backup_tasks.common.paths import PROJECT_ROOT, Paths
from backup_tasks.errors import TrustError
from backup_tasks.journal.run_record import open_log
from backup_tasks.permissions import trusted_paths as trust
from backup_tasks.permissions.installation import check_installation
from backup_tasks.profile.load import describe_profiles, load_profile
from backup_tasks.schedule.crontab_program import read_crontab
from tests.support.cli import Cli, assert_refused, cli
from tests.support.other_process import IS_ROOT, NOBODY, as_nobody
from tests.support.profile_files import EMAIL, SMALLEST, write
from tests.support.project_copy import copy_project

__all__ = ["cli"]  # a fixture

needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root gives files away")
# Debian's own, with members that nobody knows of.
STAFF = 50


@pytest.fixture(autouse=True)
def _fresh_groups() -> Iterator[None]:
    trust._is_private_group.cache_clear()
    yield
    trust._is_private_group.cache_clear()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A file two folders down, which nobody else may write."""
    folder = tmp_path / "upper" / "lower"
    folder.mkdir(parents=True)
    file = folder / "a file.toml"
    file.write_text("content")
    for path in (tmp_path / "upper", folder, file):
        path.chmod(path.stat().st_mode & ~0o022)
    return file


def acl(path: Path, entry: str) -> None:
    subprocess.run(["setfacl", "-m", entry, path], check=True)


def read(path: Path) -> bytes:
    with open(trust.open_trusted(path), "rb") as file:
        return file.read()


def refusal(path: Path) -> str:
    """What is said, once the descriptor walk and the look alone were seen to agree."""
    with pytest.raises(TrustError) as caught:
        read(path)
    with pytest.raises(TrustError) as looked:
        trust.check_file(path)
    assert str(caught.value) == str(looked.value)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def mend(told: str) -> None:
    """Type what the message says."""
    command = shlex.split(told.partition("; run: ")[2])
    assert command[0] in ("chmod", "chown")
    subprocess.run(command, check=True)


SPOILERS: dict[str, Callable[[Path], object]] = {
    "everybody writes the file": lambda file: file.chmod(0o646),
    "everybody writes its folder": lambda file: file.parent.chmod(0o757),
    "everybody writes the folder above": lambda file: file.parent.parent.chmod(0o777),
    "an ACL lets a user write the file": lambda file: acl(file, f"u:{NOBODY}:rw"),
    "an ACL lets a user write its folder": lambda file: acl(file.parent, f"u:{NOBODY}:rwx"),
    "an ACL lets a group write the file": lambda file: acl(file, f"g:{STAFF}:rw"),
}


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS.keys())
def test_what_others_may_change_is_refused_until_the_advice_was_typed(
    place: Path, spoil: Callable[[Path], object]
) -> None:
    assert read(place) == b"content"
    spoil(place)
    mend(refusal(place))
    assert read(place) == b"content"


@needs_root
@pytest.mark.parametrize("depth", range(3), ids=["the file", "its folder", "the folder above"])
def test_what_belongs_to_another_user_is_refused_until_the_advice_was_typed(
    place: Path, depth: int
) -> None:
    spoiled = [place, *place.parents][depth]
    os.chown(spoiled, NOBODY, -1)
    told = refusal(place)
    assert f"{spoiled} belongs to nobody" in told
    mend(told)
    assert read(place) == b"content"


@needs_root
@pytest.mark.parametrize("depth", range(2), ids=["the file", "its folder"])
def test_a_group_that_may_write_is_refused(place: Path, depth: int) -> None:
    spoiled = [place, *place.parents][depth]
    os.chown(spoiled, -1, STAFF)
    spoiled.chmod(0o775)
    assert f"by the group {grp.getgrgid(STAFF).gr_name} (mode 0775)" in refusal(place)


@needs_root
def test_a_group_of_services_may_write_where_logs_lie_but_not_the_logs(place: Path) -> None:
    logs = place.parent / "logs"
    logs.mkdir()
    os.chown(place.parent, -1, STAFF)
    place.parent.chmod(0o775)
    trust.check_folder(logs, near_services=True)
    with pytest.raises(TrustError, match="by the group"):
        trust.check_folder(logs)
    os.chown(logs, -1, STAFF)
    logs.chmod(0o775)
    with pytest.raises(TrustError, match="by the group"):
        trust.check_folder(logs, near_services=True)


@needs_root
def test_logs_may_be_made_anew_where_a_group_of_services_writes(place: Path) -> None:
    os.chown(place.parent, -1, STAFF)
    place.parent.chmod(0o775)
    trust.check_folder(place.parent / "logs", near_services=True)
    with pytest.raises(TrustError, match=rf"run: chmod g-w {place.parent}$"):
        trust.check_folder(place.parent / "logs")
    place.parent.chmod(0o1777)
    with pytest.raises(TrustError, match="of your own"):
        trust.check_folder(place.parent / "logs", near_services=True)


@needs_root
def test_nobody_is_told_to_take_a_users_home_from_him(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = place.parent.parent
    os.chown(home, NOBODY, -1)
    entry = pwd.struct_passwd(("anna", "x", NOBODY, NOBODY, "", str(home), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", {NOBODY: entry, 0: pwd.getpwuid(0)}.__getitem__)
    told = refusal(place)
    assert told.startswith(f"{home} is the home of anna, and root obeys what is in it; move that")
    assert told.endswith("or run this as anna")


def test_a_mask_that_takes_the_right_to_write_counts(place: Path) -> None:
    acl(place, f"u:{NOBODY}:rw,m::r")
    assert read(place) == b"content"


def test_an_acl_for_root_and_oneself_is_no_harm(place: Path) -> None:
    acl(place, f"u:0:rw,u:{os.geteuid()}:rw")
    assert read(place) == b"content"


def test_symlinks_are_judged_by_their_folder_and_by_their_targets_chain(
    place: Path, tmp_path: Path
) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "up").symlink_to("../upper")
    link = ours / "link.toml"
    link.symlink_to("up/lower/a file.toml")
    assert read(link) == b"content"
    place.parent.chmod(0o777)
    assert f"{place.parent} may be written by everybody" in refusal(link)
    place.parent.chmod(0o755)
    ours.chmod(0o777)
    assert f"{ours} may be written by everybody" in refusal(link)


@needs_root
def test_a_link_that_another_user_made_is_not_followed(place: Path, tmp_path: Path) -> None:
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o1777)
    link = public / "link.toml"
    link.symlink_to(place)
    assert read(link) == b"content"
    os.lchown(link, NOBODY, NOBODY)
    told = refusal(link)
    assert f"{link} belongs to nobody" in told
    mend(told)
    assert read(link) == b"content"


def test_links_that_go_round_are_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        read(tmp_path / "a")
    trust.check_file(tmp_path / "a")


def test_a_sticky_folder_may_lie_on_the_way_but_nothing_is_looked_for_in_it(place: Path) -> None:
    place.parent.chmod(0o1777)
    assert read(place) == b"content"
    with pytest.raises(TrustError, match=r"may be written by everybody .* of your own"):
        trust.check_folder(place.parent)
    with pytest.raises(TrustError, match=r"may be written by everybody .* of your own"):
        trust.check_folder(place.parent / "not there yet")
    trust.check_folder(place.parent.parent)


@pytest.mark.parametrize(
    ("name", "members", "others", "is_good"),
    [
        ("anna", [], [], True),
        ("anna", ["anna"], [], True),
        ("anna", ["bert"], [], False),
        ("anna", [], [("bert", 4000)], False),
        ("users", [], [], False),
    ],
    ids=["private", "named itself", "a member more", "another's primary group", "other name"],
)
def test_a_user_private_group_is_its_owner_and_no_other_group_is(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    members: list[str],
    others: list[tuple[str, int]],
    is_good: bool,
) -> None:
    group = place.stat().st_gid

    def user(name: str, number: int) -> pwd.struct_passwd:
        return pwd.struct_passwd((name, "x", number, group, "", "/", "/bin/sh"))

    known = [user("anna", os.geteuid()), *(user(*other) for other in others)]
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {u.pw_uid: u for u in known}[number])
    monkeypatch.setattr(pwd, "getpwall", lambda: known)
    monkeypatch.setattr(
        grp, "getgrgid", lambda number: grp.struct_group((name, "x", number, members))
    )
    place.chmod(0o664)
    if is_good:
        assert read(place) == b"content"
    else:
        assert f"by the group {name} (mode 0664)" in refusal(place)


def _link_to_another(place: Path) -> None:
    place.unlink()
    place.symlink_to("/usr/bin/env")


def _file_of_another(place: Path) -> None:
    place.unlink()
    place.write_text("theirs")
    place.chmod(0o666)


@pytest.mark.parametrize("swap", [_link_to_another, _file_of_another])
def test_what_is_read_is_what_was_judged(
    place: Path, monkeypatch: pytest.MonkeyPatch, swap: Callable[[Path], None]
) -> None:
    """Another user swaps the file once it was looked at."""
    real, looks = trust._judge, []

    def judge(status: os.stat_result, at: int | str, path: str, role: trust.Role) -> None:
        real(status, at, path, role)
        if role == "file":
            looks.append(path)
            swap(place)

    monkeypatch.setattr(trust, "_judge", judge)
    with pytest.raises((TrustError, OSError), match=r"may be written by everybody|symbolic link"):
        read(place)
    assert looks == [str(place)]


def test_an_ordinary_user_trusts_root_and_himself_alone() -> None:
    assert as_nobody(_read_as_nobody) == ["ok", "ok", "belongs to "]


def _read_as_nobody() -> list[str]:
    """A file of root, my own, and a third user's."""
    import tempfile

    found = []
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder, "own.toml")
        own.write_text("content")
        for file in (Path("/usr/bin/env"), own):
            os.close(trust.open_trusted(file))
            found.append("ok")
        real = os.geteuid
        os.geteuid = lambda: 12345  # the file of user 65534 is another's now
        try:
            trust.open_trusted(own)
        except TrustError as error:
            found.append("belongs to " if "belongs to " in str(error) else str(error))
        finally:
            os.geteuid = real
    return found


# The profile and what it leads to.


def test_an_inherited_file_that_others_may_write_is_refused(paths: Paths) -> None:
    base = write(paths, "[retention]\nkeep_last = 3\n", "base")
    write(paths, f'inherit = "base"\n{SMALLEST}')
    assert load_profile("prod", paths).retention.keep_last == 3
    base.chmod(0o666)
    with pytest.raises(TrustError, match=rf"{base} may be written by everybody"):
        load_profile("prod", paths)


def test_profiles_shows_it_as_that_profiles_problem(paths: Paths) -> None:
    write(paths, SMALLEST, "good")
    write(paths, SMALLEST, "open", mode=0o666)
    problems = {summary.name: summary.problem for summary in describe_profiles(paths)}
    assert problems["good"] == ""
    assert problems["open"].endswith(f"run: chmod go-w {paths.profiles}/open.toml")


def _spoiled(paths: Paths, name: str) -> Path:
    file = paths.profiles.parent / name
    file.write_text("#!/bin/sh\necho secret\n")
    file.chmod(0o777)
    return file


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("store.access_key_id", '{SMALLEST}access_key_id = {{ file = "{file}" }}\n{REST}'),
        ("store.access_key_id", '{SMALLEST}access_key_id = {{ command = ["{file}"] }}\n{REST}'),
        ("drill.command", '{SMALLEST}[drill]\ncommand = ["{file}", "x"]\n'),
        ("notify.email.ca_file", '{SMALLEST}{EMAIL}ca_file = "{file}"\n'),
    ],
    ids=["a secret's file", "a secret's program", "the drill's program", "the mail's authority"],
)
def test_what_a_profile_leads_to_is_refused_with_its_line(
    paths: Paths, key: str, text: str
) -> None:
    file = _spoiled(paths, "file")
    rest = 'secret_access_key = { env = "HOME" }\n'
    write(paths, text.format(SMALLEST=SMALLEST, EMAIL=EMAIL, REST=rest, file=file))
    with pytest.raises(Exception, match=rf"prod.toml:\d+: {key}: {file} may be written") as caught:
        load_profile("prod", paths)
    assert getattr(caught.value, "exit_code", 0) == 2
    mend(str(caught.value))
    load_profile("prod", paths)


def test_a_program_is_looked_for_in_path_as_it_will_be(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = _spoiled(paths, "judge-of-trees")
    write(paths, f'{SMALLEST}[drill]\ncommand = ["judge-of-trees"]\n')
    load_profile("prod", paths)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with pytest.raises(Exception, match=rf"drill.command: {program} may be written"):
        load_profile("prod", paths)


@pytest.mark.parametrize("name", [".aws/config", ".aws/credentials", ".aws/models", ".boto"])
def test_settings_of_boto_that_others_may_write_are_refused(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    home = paths.profiles.parent / "home"
    settings = home / name
    settings.parent.mkdir(parents=True)
    settings.write_text("[default]\ncredential_process = evil\n")
    monkeypatch.setenv("HOME", str(home))
    for variable in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "BOTO_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    write(paths, '[backup]\nsources = ["/etc"]\n[store]\nurl = "s3://bucket/prefix/"\n')
    load_profile("prod", paths)
    settings.chmod(0o666)
    told = rf"prod.toml:3: store: boto3 reads {settings}, and .*; set HOME, or remove that file$"
    with pytest.raises(Exception, match=told):
        load_profile("prod", paths)
    write(paths, '[backup]\nsources = ["/etc"]\n[store]\nurl = "file:///mnt/backups/"\n')
    load_profile("prod", paths)


def test_a_crontab_program_that_others_may_write_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "crontab"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    read_crontab()
    (tmp_path / "ran").unlink()
    program.chmod(0o757)
    with pytest.raises(TrustError, match=rf"{program} may be written by everybody .*; set PATH$"):
        read_crontab()
    assert not (tmp_path / "ran").exists()


def test_a_secret_that_became_writable_since_is_not_read(paths: Paths) -> None:
    file = _spoiled(paths, "file")
    file.chmod(0o600)
    rest = 'secret_access_key = { env = "HOME" }\n'
    write(paths, f'{SMALLEST}access_key_id = {{ file = "{file}" }}\n{rest}')
    secret = load_profile("prod", paths).store.access_key_id
    assert secret
    file.chmod(0o666)
    with pytest.raises(TrustError, match=rf"prod.toml:\d+: store.access_key_id: {file} may be"):
        secret.reveal()


# The project's folders, and the code.


def test_a_profile_that_others_may_write_runs_nothing(cli: Cli) -> None:
    profile = cli.write_profile(mode=0o666)
    done = cli.run("backup", "--profile", "test")
    told = assert_refused(cli, done, 2, f"{profile} may be written by everybody (mode 0666)")
    assert cli.archives() == []
    mend(told)
    cli.back_up()


@pytest.mark.parametrize("folder", ["profiles", "state"])
def test_a_folder_of_the_project_that_others_may_write_stops_every_task(
    cli: Cli, folder: str
) -> None:
    cli.write_profile()
    (cli.here / folder).chmod(0o777)
    for task in ("backup", "list", "cron-show", "profiles"):
        assert_refused(cli, cli.run(task), 2, f"run: chmod go-w {cli.here / folder}")
    assert cli.archives() == []


@pytest.mark.parametrize("name", ["backup.txt.j2", "included/by another.j2"])
def test_a_template_that_others_may_write_stops_every_task(cli: Cli, name: str) -> None:
    templates = cli.here / "templates"
    template = templates / name
    template.parent.mkdir(parents=True)
    template.write_text("{{ mail.title }}")
    template.chmod(0o666)
    cli.write_profile()
    done = cli.run("backup", "--profile", "test", BACKUP_TASKS_TEMPLATES=str(templates))
    assert_refused(cli, done, 2, f"{template} may be written by everybody")


def test_what_a_run_makes_is_fit_for_the_next_whatever_the_umask(cli: Cli) -> None:
    cli.write_profile()
    backup = ("backup", "--profile", "test")
    deep = cli.here / "some" / "where"
    places = {
        "BACKUP_TASKS_STATE": str(deep / "state"),
        "BACKUP_TASKS_LOGS": str(deep / "logs"),
        "HOME": str(deep / "home"),
    }
    for task in (("keygen",), backup, ("drill", "--profile", "test"), backup):
        command = ["sh", "-c", 'umask 000; exec "$@"', "sh", *cli.command(*task)]
        done = subprocess.run(
            command, capture_output=True, cwd=cli.here, env={**cli.environ, **places}, check=False
        )
        assert (done.returncode, done.stderr) == (0, b""), task
    assert [path for path in deep.rglob("*") if path.stat().st_mode & 0o022] == []


def test_nothing_is_written_to_logs_that_others_may_write(cli: Cli) -> None:
    cli.write_profile()
    cli.logs.mkdir()
    victim = cli.here / "victim"
    victim.write_text("")
    (cli.logs / "backup.log").symlink_to(victim)
    cli.logs.chmod(0o777)
    done = cli.run("backup", "--profile", "test")
    assert (done.code, done.out) == (2, "")
    assert done.err.endswith(f"run: chmod go-w {cli.logs}\n")
    assert victim.read_text() == ""


@needs_root
def test_a_service_cannot_have_a_run_write_elsewhere_than_it_began(
    paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "log" / "ours"
    ours = replace(paths, logs=logs)
    log = open_log(ours)
    log.warning("one")
    os.chown(logs.parent, -1, STAFF)
    logs.parent.chmod(0o775)
    log.warning("two")
    victim = tmp_path / "victim"
    victim.write_text("")
    logs.rename(logs.with_name("aside"))
    logs.mkdir()
    (logs / "backup.log").symlink_to(victim)
    os.chown(logs, NOBODY, NOBODY)
    log.warning("three")
    assert victim.read_text() == ""
    assert len((logs.with_name("aside") / "backup.log").read_text().splitlines()) == 2
    assert f"WARNING: the log cannot be written: {logs}/backup.log: " in capsys.readouterr().err


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, which nobody else may write."""
    project = copy_project(tmp_path / "project")
    for path in (project, *project.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o022)
    return project


def run_in(
    project: Path, *arguments: str, python: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *python, "-m", "invoke", "-r", project, *arguments],
        cwd=project.parent,
        env={"PATH": os.environ["PATH"], "BACKUP_TASKS_STATE": str(project / "state")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "name",
    [
        ".",
        "tasks.py",
        "backup_tasks",
        "backup_tasks/stores",
        "backup_tasks/common/printable.py",
        "rich.py",
        "invoke.yaml",
        "__pycache__",
        "__pycache__/tasks.cpython-311.pyc",
    ],
)
def test_code_that_others_may_write_stops_every_task_and_cron_install(
    project: Path, name: str
) -> None:
    if name.startswith("__pycache__"):
        (project / "__pycache__").mkdir()
    if not (project / name).exists():
        (project / name).write_text("")
    assert run_in(project, "profiles").returncode == 0
    (project / name).chmod(0o777)
    for task in ("profiles", "cron-install"):
        done = run_in(project, task)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.endswith(f"run: chmod go-w {project / name}\n")


def test_data_in_the_projects_folder_may_be_others(project: Path) -> None:
    (project / "dumps").mkdir()
    (project / "dumps").chmod(0o777)
    (project / "notes.txt").write_text("")
    (project / "notes.txt").chmod(0o666)
    assert run_in(project, "profiles").returncode == 0


@needs_root
def test_a_project_in_another_users_folder_is_refused_with_one_line(project: Path) -> None:
    os.chown(project.parent, NOBODY, -1)
    done = run_in(project, "cron-show", python=("-P",))
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.endswith(f"run: chown root: {project.parent}")


def test_compiled_code_is_code(project: Path) -> None:
    run_in(project, "profiles")
    compiled = next(project.glob("backup_tasks/common/__pycache__/printable.*.pyc"))
    compiled.chmod(0o666)
    assert f"{compiled} may be written by everybody" in run_in(project, "profiles").stderr


@needs_root
def test_a_project_of_another_user_is_refused_with_one_line(project: Path) -> None:
    for path in (project, *project.rglob("*")):
        os.chown(path, NOBODY, -1)
    done = run_in(project, "cron-install")
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.endswith(f"run: chown -R root: {project} && chmod -R go-w {project}")
    subprocess.run(line.partition("; run: ")[2], shell=True, check=True)
    assert run_in(project, "profiles").returncode == 0


def test_a_folder_where_python_looks_for_modules_counts(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(modules)])
    check_installation(paths)
    modules.chmod(0o777)
    with pytest.raises(TrustError, match=rf"^Python looks for modules in {modules}, and"):
        check_installation(paths)
    monkeypatch.setattr(sys, "path", sys.path[:-1])
    check_installation(paths)
    monkeypatch.setattr(sys, "pycache_prefix", str(modules))
    with pytest.raises(TrustError, match=rf"^Python looks for modules in {modules}, and"):
        check_installation(paths)
    monkeypatch.chdir(modules)
    with pytest.raises(TrustError, match=rf"start {sys.prefix}/bin/invoke, or start it in another"):
        check_installation(paths)


@pytest.mark.parametrize("name", [".invoke.yaml", ".invoke.py"])
def test_settings_of_invoke_that_others_may_write_stop_every_task(cli: Cli, name: str) -> None:
    settings = cli.here / name
    settings.write_text("{}\n")
    assert cli.run("profiles").code == 0
    settings.chmod(0o666)
    assert_refused(cli, cli.run("profiles"), 2, f"Invoke reads {settings}, and {settings} may be")


def test_a_virtual_environment_that_others_may_write_is_refused(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = tmp_path / "venv"
    package = prefix / "lib" / "invoke"
    package.mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(prefix))
    monkeypatch.setattr(sys, "path", [str(package.parent)])
    check_installation(paths)
    package.chmod(0o777)
    with pytest.raises(TrustError, match=f"{package} may be written by everybody"):
        check_installation(paths)


def test_this_checkout_is_trustworthy(paths: Paths) -> None:
    assert paths.root == PROJECT_ROOT
    check_installation(paths)
