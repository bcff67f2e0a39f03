"""What goes wrong outside: one clear line, the right exit code, a log line and a record."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from backup_tasks.common.paths import find_paths
from backup_tasks.journal.locks import hold_lock
from backup_tasks.keys.keygen import default_identity_file
from tests.conftest import S3Bucket
from tests.support.cli import (
    Cli,
    Done,
    assert_recorded_failure,
    assert_refused,
    cli,
    finish,
    s3_store,
)
from tests.support.faulty_proxy import FaultyProxy, refuse
from tests.support.s3_server import S3Server, start_s3_server
from tests.support.smtp_server import USERNAME, start_smtp_server

__all__ = ["cli"]

CANARY = "wJalrXUtnFEMI/K7MDENG-canary"
BACKUP = ("backup", "--profile", "test")
RESTORE = ("restore", "--profile", "test")


# --- profiles


def test_unknown_profile_names_those_that_there_are(cli: Cli) -> None:
    cli.write_profile(name="prod")
    cli.write_profile(name="local")
    told = assert_refused(cli, cli.run("backup", "--profile", "prd"), 2, '"prd"', "local", "prod")
    assert 'did you mean "prod"' in told
    assert_refused(cli, cli.run("profiles", "--profile", "prd"), 2, "prd")


@pytest.mark.parametrize("name", ["a\nb", "a\nb.toml", "x/a\nb.toml", "\x1b[2Jx"])
def test_a_name_that_cannot_be_printed_is_told_on_one_line(cli: Cli, name: str) -> None:
    for command in (("backup", "--profile", name), ("profile-new", name)):
        told = assert_refused(cli, cli.run(*command), 2, '"')
        assert len(told.splitlines()) == 1
        assert "\x1b" not in told


@pytest.mark.parametrize("task", ["list", "files", "restore", "prune", "notify-test", "lifecycle"])
def test_unknown_profile_is_told_by_every_task(cli: Cli, task: str) -> None:
    assert_refused(cli, cli.run(task, "--profile", "nowhere"), 2, '"nowhere"')
    assert cli.records()[-1]["task"] == task


def test_typo_in_a_key_suggests_the_near_one(cli: Cli) -> None:
    cli.write_profile(backup='exclud = ["*.tmp"]')
    told = assert_refused(cli, cli.run(*BACKUP), 2, "test.toml:4: backup:", '"exclude"')
    assert len(told.splitlines()) == 1


def test_all_problems_of_a_profile_are_told_at_once_a_line_each(cli: Cli) -> None:
    cli.write_profile(
        backup='compression_level = "fast"', more='[retention]\nkeep_last = "many"\nkeep = 1\n'
    )
    told = assert_refused(cli, cli.run(*BACKUP), 2, "backup.compression_level")
    assert len([line for line in told.splitlines() if re.search(r"test\.toml:\d+: ", line)]) == 3


def test_cron_expression_that_never_fires_is_refused(cli: Cli) -> None:
    cli.write_profile(more='[schedule]\ncron = "0 0 30 2 *"\n')
    assert_refused(cli, cli.run(*BACKUP), 2, "schedule.cron", "0 0 30 2 *")
    assert "schedule.cron" in cli.run("profiles").out


def test_literal_secret_that_others_can_read_is_refused_and_not_shown(cli: Cli) -> None:
    store = f'url = "s3://bucket/"\naccess_key_id = "key"\nsecret_access_key = "{CANARY}"'
    cli.write_profile(store, mode=0o644)
    told = assert_refused(cli, cli.run(*BACKUP), 2, "store.secret_access_key")
    assert CANARY not in told + "".join(cli.log())


# --- sources


def test_missing_source_is_named_and_the_others_are_backed_up(cli: Cli) -> None:
    gone = cli.here / "gone"
    cli.write_profile(sources=[cli.source, gone])
    done = cli.run(*BACKUP)
    [archive] = cli.archives()
    assert (done.code, done.out) == (3, "")
    assert done.err.splitlines() == [
        f"{archive} is done, but without 1 file:",
        f"  {gone}: source: No such file or directory",
    ]
    [record] = cli.records()
    assert (record["result"], record["exit_code"]) == ("incomplete", 3)
    [problem] = record["problems"]
    assert problem["path"] == str(gone)
    assert problem["reason"] == "source: No such file or directory"
    assert "WARNING: " in cli.log()[0]
    assert str(gone) in cli.log()[0]
    assert "hosts" in cli.run("files", "--profile", "test").out


def test_no_source_at_all_is_a_failure(cli: Cli) -> None:
    gone = [cli.here / "gone", cli.here / "lost"]
    cli.write_profile(sources=gone)
    assert_refused(cli, cli.run(*BACKUP), 1, *map(str, gone))
    assert cli.archives() == []
    dry = cli.run(*BACKUP, "--dry-run")
    assert (dry.code, dry.out) == (1, "")


# --- stores


def test_no_keys_say_where_to_put_them(cli: Cli, s3_bucket: S3Bucket) -> None:
    cli.write_profile(s3_store(s3_bucket, access_key_id="", secret_access_key=""))
    assert_refused(cli, cli.run(*BACKUP), 1, "no keys", "store.access_key_id")


def test_key_whose_variable_is_not_set_is_named(cli: Cli, s3_bucket: S3Bucket) -> None:
    lines = s3_store(s3_bucket, secret_access_key="")
    cli.write_profile(f'{lines}\nsecret_access_key = {{ env = "BACKUP_SECRET" }}')
    assert_refused(cli, cli.run(*BACKUP), 2, "BACKUP_SECRET", "store.secret_access_key")


def test_wrong_key_and_wrong_secret_are_told_apart(cli: Cli, s3_bucket: S3Bucket) -> None:
    cli.write_profile(s3_store(s3_bucket, access_key_id="nobody"))
    assert_refused(cli, cli.run(*BACKUP), 1, "check store.access_key_id")
    cli.write_profile(s3_store(s3_bucket, secret_access_key=CANARY))
    told = assert_refused(cli, cli.run(*BACKUP), 1, "check store.secret_access_key")
    assert CANARY not in told + "".join(cli.log())


def test_wrong_bucket_is_named_and_not_made(cli: Cli, s3_bucket: S3Bucket) -> None:
    cli.write_profile(s3_store(s3_bucket, url="s3://no-such-bucket/backups/"))
    for task in ("backup", "list", "restore", "prune"):
        done = cli.run(task, "--profile", "test")
        assert_refused(cli, done, 1, "no bucket no-such-bucket", "check store.url")
    buckets = s3_bucket.client.list_buckets()["Buckets"]
    assert "no-such-bucket" not in [bucket["Name"] for bucket in buckets]


def test_wrong_region_names_the_right_one(cli: Cli, s3_bucket: S3Bucket) -> None:
    with FaultyProxy(s3_bucket.endpoint) as proxy:
        fault = refuse(400, "AuthorizationHeaderMalformed", more="<Region>eu-north-1</Region>")
        proxy.misbehave("ListObjectsV2", fault, times=9)
        cli.write_profile(s3_store(s3_bucket, endpoint_url=proxy.endpoint))
        assert_refused(cli, cli.run(*BACKUP), 1, "us-east-1", 'store.region = "eu-north-1"')


def test_key_without_permission_names_what_it_lacks(
    cli: Cli, s3_server: S3Server, s3_bucket: S3Bucket
) -> None:
    keys = {"access_key_id": s3_server.reader_key, "secret_access_key": s3_server.reader_secret}
    cli.write_profile(s3_store(s3_bucket, **keys))
    assert_refused(cli, cli.run(*BACKUP), 1, "no permission", "s3:PutObject", s3_bucket.bucket)
    assert cli.run("list", "--profile", "test").code == 0
    assert s3_bucket.keys() == []


def test_permission_lost_in_the_middle_leaves_nothing(cli: Cli, s3_bucket: S3Bucket) -> None:
    with FaultyProxy(s3_bucket.endpoint) as proxy:
        proxy.misbehave("UploadPart", refuse(403, "AccessDenied"), times=9)
        cli.write_profile(s3_store(s3_bucket, endpoint_url=proxy.endpoint))
        assert_refused(cli, cli.run(*BACKUP), 1, "no permission", "s3:PutObject")
    assert_nothing_stored(s3_bucket)


def test_server_that_is_down_is_named(cli: Cli, s3_bucket: S3Bucket) -> None:
    closed = "http://127.0.0.1:9"  # the port "discard", which nobody serves
    cli.write_profile(s3_store(s3_bucket, endpoint_url=closed, max_attempts=2))
    assert_refused(cli, cli.run(*BACKUP), 1, closed, "Connection refused")


def test_server_that_dies_in_the_middle_costs_this_run_only(cli: Cli, tmp_path: Path) -> None:
    with start_s3_server(tmp_path / "server") as server, FaultyProxy(server.endpoint) as proxy:
        client = server.client()
        client.create_bucket(Bucket="bucket")
        bucket = S3Bucket(proxy.endpoint, "bucket", server.access_key, server.secret_key, client)
        cli.write_profile(s3_store(bucket, max_attempts=2))
        first = cli.back_up()

        def die(request: object, pass_on: object) -> None:
            server.kill()

        proxy.misbehave("UploadPart", die)
        assert_refused(cli, cli.run(*BACKUP), 1, proxy.endpoint, "run again")
        server.restart()
        assert bucket.keys() == [f"backups/{first}-backup.tar.gz"]
        second = cli.back_up()
        assert bucket.keys() == [f"backups/{name}-backup.tar.gz" for name in (first, second)]


def test_full_disk_is_one_line_and_leaves_what_was_there(cli: Cli) -> None:
    cli.write_profile()
    (cli.source / "small").write_bytes(os.urandom(300_000))
    big = cli.here / "big"
    big.write_bytes(os.urandom(2_000_000))
    cli.store.mkdir(exist_ok=True)
    # A file system of 1 MB that only these commands see.
    script = (
        'mount -t tmpfs -o size=1m full "$1" && "${@:3}" && mv "$2/big" "$2/source/big" || exit 99;'
        ' "${@:3}"; code=$?; ls -A "$1" >"$2/left"; exit $code'
    )
    alone = ["unshare", "-m" if os.geteuid() == 0 else "-rm", "bash", "-c", script, "bash"]
    done = subprocess.run(
        [*alone, cli.store, cli.here, *cli.command(*BACKUP)],
        capture_output=True,
        cwd=cli.here,
        env=cli.environ,
        text=True,
    )
    told = Done(done.returncode, done.stdout, done.stderr)
    assert_refused(cli, told, 1, "disk full", str(cli.store))
    left = (cli.here / "left").read_text().splitlines()
    assert left == [cli.records()[0]["archive"], "backup-tasks.json"]


def test_store_whose_disk_is_not_mounted_is_named(cli: Cli) -> None:
    cli.write_profile(f'url = "file://{cli.here}/mnt/backups/"')
    assert_refused(cli, cli.run(*BACKUP), 1, f"{cli.here}/mnt", "is the disk mounted?")
    assert not (cli.here / "mnt").exists()


def test_no_command_makes_a_store_folder_outside_the_project(cli: Cli) -> None:
    cli.store.rmdir()
    cli.write_profile(more="[retention]\nkeep_last = 1\n")
    for task in ("list", "files", "restore", "verify", "drill", "prune", "backup"):
        told = assert_refused(cli, cli.run(task, "--profile", "test"), 1, "is the disk mounted?")
        assert f"mkdir -p -m 700 {cli.store}" in told
    dry = cli.run(*BACKUP, "--dry-run")
    assert (dry.code, dry.out) == (1, "")
    assert not cli.store.exists()


def test_state_that_cannot_be_written_is_one_line(cli: Cli) -> None:
    cli.write_profile()
    shutil.rmtree(cli.state)
    cli.state.write_text("in the way")
    assert_refused(cli, cli.run(*BACKUP), 1, f"{cli.here}/state", "BACKUP_TASKS_STATE")


def test_log_that_cannot_be_written_costs_no_backup(cli: Cli) -> None:
    cli.write_profile()
    cli.logs.write_text("in the way")
    done = cli.run(*BACKUP)
    assert done.code == 0
    assert len(cli.archives()) == 1
    assert all(line.startswith("WARNING: ") for line in done.err.splitlines())
    assert len(done.err.splitlines()) == 2


# --- what is asked of a backup


@pytest.mark.parametrize("task", ["files", "restore"])
def test_day_without_a_backup_names_the_nearest(cli: Cli, task: str) -> None:
    cli.write_profile()
    made = cli.back_up()
    names = ["2025-06-01_0200", "2025-06-09_0200", "2025-06-13_0200", "2025-06-14_0200"]
    for name in names:
        os.link(cli.store / f"{made}-backup.tar.gz", cli.store / f"{name}-backup.tar.gz")
    asked = (task, "--profile", "test", "--date")
    told = assert_refused(cli, cli.run(*asked, "2025-06-12"), 2, *names[1:])
    assert names[0] not in told
    assert_refused(cli, cli.run(*asked, "12 June"), 2, "'12 June'", "2025-06-12")


@pytest.mark.parametrize("task", ["files", "restore"])
def test_backup_that_is_not_there_is_named(cli: Cli, task: str) -> None:
    cli.write_profile()
    asked = (task, "--profile", "test")
    assert_refused(cli, cli.run(*asked), 2, "no backup yet", "invoke backup")
    made = cli.back_up()
    assert_refused(cli, cli.run(*asked, "--name", "2025-06-12_0200"), 2, "2025-06-12_0200", made)
    both = cli.run(*asked, "--name", made, "--date", made[:10])
    assert_refused(cli, both, 2, "--name or --date")


@pytest.mark.parametrize("task", ["files", "restore"])
def test_pattern_that_matches_nothing_is_named(cli: Cli, task: str) -> None:
    cli.write_profile()
    cli.back_up()
    done = cli.run(task, "--profile", "test", "--path", "etc/apache2/**")
    assert_refused(cli, done, 2, "'etc/apache2/**' matches nothing", "invoke files")


def test_restore_that_does_not_go_together_is_refused(cli: Cli) -> None:
    cli.write_profile()
    cli.back_up()
    both = cli.run(*RESTORE, "--to", "x", "--in-place")
    assert_refused(cli, both, 2, "--to or --in-place")
    assert_refused(cli, cli.run(*RESTORE, "--overwrite", "yes"), 2, "never, older or always")


def test_target_that_is_not_empty_is_left_as_it_is(cli: Cli) -> None:
    cli.write_profile()
    cli.back_up()
    target = cli.here / "precious"
    target.mkdir()
    (target / "file").write_text("mine")
    told = assert_refused(cli, cli.run(*RESTORE, "--to", target), 1, "is not empty", "--overwrite")
    assert str(target) in told
    assert os.listdir(target) == ["file"]


def test_target_that_cannot_be_made_is_named(cli: Cli) -> None:
    cli.write_profile()
    cli.back_up()
    (cli.here / "file").write_text("mine")
    assert_refused(cli, cli.run(*RESTORE, "--to", "file/below"), 1, f"{cli.here}/file/below")
    assert (cli.here / "file").read_text() == "mine"


# --- mail


def email(port: int, more: str = "") -> str:
    return (
        f'[notify.email]\nhost = "127.0.0.1"\nport = {port}\nsecurity = "none"\n'
        'from = "backup@example.com"\nto = ["admin@example.com"]\ntimeout_seconds = 1\n' + more
    )


@pytest.mark.parametrize("manners", ["silent", "drops", "busy", "refuses", "is down"])
def test_mail_server_of_any_manners_fails_no_backup(cli: Cli, manners: str) -> None:
    polite = manners in ("refuses", "is down")
    refused = ("admin@example.com",) if manners == "refuses" else ()
    with start_smtp_server(
        manners="good" if polite else manners,  # type: ignore[arg-type]
        refuse=refused,
    ) as server:
        port = 9 if manners == "is down" else server.port
        cli.write_profile(more=email(port))
        done = cli.run(*BACKUP)
        assert (done.code, done.out) == (0, "")
        assert len(cli.archives()) == 1
        [record] = cli.records()
        assert (record["result"], record["exit_code"]) == ("success", 0)
        [notification] = record["notifications"]
        assert (notification["channel"], notification["to"]) == ("email", "admin@example.com")
        assert notification["error"]
        assert done.err == f"WARNING: no mail to admin@example.com: {notification['error']}\n"
        success, warning = cli.log()
        assert "SUCCESS: " in success
        assert f"WARNING: backup test: no mail to admin@example.com: {notification['error']}" in (
            warning
        )
        assert_refused(cli, cli.run("notify-test", "--profile", "test"), 1, f"127.0.0.1:{port}")


def test_failure_is_mailed_and_told_whatever_the_mail_server_says(cli: Cli) -> None:
    with start_smtp_server() as server:
        cli.write_profile(sources=[cli.here / "gone"], more=email(server.port))
        assert_refused(cli, cli.run(*BACKUP), 1, "gone")
        [message] = server.messages
    assert "gone" in message.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    done = cli.run(*BACKUP)
    assert done.code == 1
    warning, reason = done.err.splitlines()
    assert warning.startswith("WARNING: no mail to admin@example.com: ")
    assert "gone" in reason
    record = cli.records()[-1]
    assert (record["exit_code"], bool(record["notifications"][0]["error"])) == (1, True)


def test_test_mail_without_mail_settings_is_refused(cli: Cli) -> None:
    cli.write_profile()
    assert_refused(cli, cli.run("notify-test", "--profile", "test"), 2, "[notify.email]")


# --- two at once


def test_second_run_names_the_first_and_ends_with_11(cli: Cli, s3_bucket: S3Bucket) -> None:
    seen: list[Done] = []
    with FaultyProxy(s3_bucket.endpoint) as proxy:
        cli.write_profile(s3_store(s3_bucket, endpoint_url=proxy.endpoint))

        def second_run(request: object, pass_on: Callable[[object], object]) -> object:
            seen.append(cli.run(*BACKUP))
            seen.append(cli.run("list", "--profile", "test"))  # reading is for everybody
            return pass_on(request)

        proxy.misbehave("UploadPart", second_run)  # type: ignore[arg-type]
        assert cli.run(*BACKUP).code == 0
    assert seen[0].code == 11
    assert re.search(r"^backup test \(process \d+\) holds the lock .*; wait", seen[0].err)
    assert seen[1].code == 0
    first, second = cli.records()
    assert (first["exit_code"], first["error"]) == (11, seen[0].err.strip())
    assert second["exit_code"] == 0
    assert len(s3_bucket.keys()) == 1


def test_store_is_not_used_by_two_profiles_at_once(cli: Cli) -> None:
    cli.write_profile(more="[retention]\nkeep_last = 1\n")
    url = f"store file://{cli.store}/"
    with hold_lock([url], find_paths(cli.environ), "prune other"):
        for task in ("backup", "prune"):
            assert_refused(cli, cli.run(task, "--profile", "test"), 11, "prune other (process")
        assert cli.run("prune", "--profile", "test", "--dry-run").code == 0


# --- secrets and tracebacks


def failing_profiles(cli: Cli, bucket: S3Bucket, smtp_port: int) -> list[str]:
    """Profiles that fail in different rooms, each with a literal secret."""
    keys = {"secret_access_key": CANARY, "session_token": CANARY + "-token"}
    closed = s3_store(bucket, endpoint_url="http://127.0.0.1:9", max_attempts=1, **keys)
    cli.write_profile(s3_store(bucket, **keys), name="keys")
    cli.write_profile(closed, name="down")
    login = f'username = "{USERNAME}"\npassword = "{CANARY}"\n'
    cli.write_profile(more=email(smtp_port, login), name="mail")
    cli.write_profile(s3_store(bucket, **keys) + "\nbucket = 1", name="typo")
    return ["keys", "down", "mail", "typo"]


@pytest.mark.parametrize("debug", [(), ("-d",)])
def test_no_secret_and_no_traceback_is_ever_shown(
    cli: Cli, s3_bucket: S3Bucket, debug: tuple[str, ...]
) -> None:
    with start_smtp_server(password="another", manners="echoes credentials") as server:
        names = failing_profiles(cli, s3_bucket, server.port)
        for task, profile in [*(("backup", name) for name in names), ("notify-test", "mail")]:
            done = cli.run(*debug, task, "--profile", profile)
            assert CANARY not in done.out + done.err
            assert "Traceback" not in done.err, done.err
    assert server.logins  # the secret was in use
    assert len(cli.records()) == 5
    for file in [*cli.logs.rglob("*"), *(cli.here / "state").rglob("*")]:
        assert file.is_dir() or CANARY.encode() not in file.read_bytes()


def test_secret_is_in_no_process_list(cli: Cli, s3_bucket: S3Bucket) -> None:
    shown: list[bytes] = []
    with FaultyProxy(s3_bucket.endpoint) as proxy:
        lines = s3_store(s3_bucket, endpoint_url=proxy.endpoint)
        cli.write_profile(lines)

        def look(request: object, pass_on: Callable[[object], object]) -> object:
            shown.extend(
                file.read_bytes() for file in Path("/proc").glob(f"{process.pid}/**/cmdline")
            )
            return pass_on(request)

        proxy.misbehave("UploadPart", look)  # type: ignore[arg-type]
        process = cli.start(*BACKUP)
        assert finish(process).code == 0
    assert shown
    assert not any(s3_bucket.secret_key.encode() in line for line in shown)


def test_debugging_shows_no_traceback_for_what_the_operator_did(cli: Cli) -> None:
    cli.write_profile()
    for arguments in (
        ("backup", "--profile", "nowhere"),
        ("restore", "--profile", "test"),
        ("files", "--profile", "test", "--date", "x"),
        ("profile-new", "NO"),
        ("cron-remove", "--profile", "nowhere"),
    ):
        done = cli.run("-d", *arguments)
        assert done.code in (1, 2)
        assert "Traceback" not in done.err
        assert_recorded_failure(cli, done.code, done.err.splitlines()[-1])


def assert_nothing_stored(bucket: S3Bucket) -> None:
    assert bucket.keys() == []
    assert unfinished(bucket) == []


def unfinished(bucket: S3Bucket) -> list[str]:
    answer = bucket.client.list_multipart_uploads(Bucket=bucket.bucket)
    return [upload["Key"] for upload in answer.get("Uploads", [])]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
def test_names_and_times_that_a_stranger_chose_in_the_store_break_nothing(
    cli: Cli, zone: str
) -> None:
    cli.write_profile(more="[retention]\nkeep_daily = 3\n")
    profile = cli.profiles / "test.toml"
    profile.write_text(profile.read_text().replace('"UTC"', f'"{zone}"'))
    made = cli.back_up()
    for day in ("0001-01-01_0000", "9999-12-31_2359", "0002-01-01_0000", "0000-00-00_0000"):
        for suffix in ("-backup.tar.gz", "-backup.tar.gz.age.tar"):
            planted = cli.store / f"{day}{suffix}"
            planted.write_bytes(b"planted")
            os.utime(planted, (2**33, 2**33))
    for day in ("", "0001-01-01", "9999-12-31"):
        cli.run("files", "--profile", "test", "--date", day)
    listed = cli.run("list", "--profile", "test", "--json")
    assert (listed.code, listed.err) == (0, "")
    assert made in [backup["name"] for backup in json.loads(listed.out)]
    for task in (["list"], ["prune", "--dry-run"], ["prune", "--dry-run", "--json"], ["backup"]):
        done = cli.run(*task, "--profile", "test")
        assert (done.code, done.err) == (0, ""), task


# --- a poor environment


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_cost_what_would_be_printed_alone(cli: Cli, closed: str) -> None:
    cli.write_profile()
    for arguments in (BACKUP, ("list", "--profile", "test"), (*RESTORE, "--to", "back")):
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", *cli.command(*arguments)],
            capture_output=True,
            cwd=cli.here,
            env=cli.environ,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
    assert len(cli.archives()) == 1
    assert [record["result"] for record in cli.records()] == ["success", "success"]


def test_a_backup_does_not_need_the_folder_that_it_was_started_in(cli: Cli) -> None:
    cli.write_profile()
    script = 'mkdir gone; cd gone; rmdir ../gone; exec "$@"'
    for arguments in (BACKUP, ("profiles",)):
        done = subprocess.run(
            ["sh", "-c", script, "sh", *cli.command(*arguments)],
            capture_output=True,
            cwd=cli.here,
            env={**cli.environ, "PYTHONSAFEPATH": "1"},
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b""), arguments
    assert len(cli.archives()) == 1


def test_a_user_without_name_and_home_has_the_root_folder_as_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(number: int) -> NoReturn:
        raise KeyError(number)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert find_paths({}).state == Path("/.local/state/backup-tasks")
    assert default_identity_file({}) == Path("/.config/backup-tasks/key.txt")
