"""The commands as a user runs them, on a directory store and on a real S3 server."""

from __future__ import annotations

import gzip
import json
import os
import platform
import pty
import re
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_tasks.claim.machine_key import read_own_key
from tests.conftest import S3Bucket
from tests.support.attacks import rewrite
from tests.support.cli import Cli, assert_refused, cli, finish, s3_store
from tests.support.cron_box import CronBox, cron_box
from tests.support.proven import keep_key, proven_archive
from tests.support.s3_server import S3Server
from tests.support.smtp_server import start_smtp_server

__all__ = ["cli", "cron_box"]

NAME = r"\d{4}-\d\d-\d\d_\d{4}"
# What each kind of task may need, and others must not wait for.
HEAVY = {"boto3", "botocore", "rich", "pydantic", "jinja2", "isal", "msgspec", "smtplib", "tomlkit"}


def tree(folder: Path) -> dict[str, str]:
    """The files below a folder with their content."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def restored_source(cli: Cli, target: Path) -> dict[str, str]:
    return tree(target / str(cli.source).lstrip("/"))


def back_up_as(cli: Cli, name: str, text: str) -> None:
    """A backup as of another minute, in which `hello world.txt` holds this text."""
    (cli.source / "hello world.txt").write_text(text)
    made = cli.store / f"{cli.back_up()}-backup.tar.gz"
    renamed = cli.store / f"{name}-backup.tar.gz"
    made.rename(renamed)
    began = datetime.strptime(name, "%Y-%m-%d_%H%M").astimezone().isoformat()
    facts = {"name": renamed.name, "started_at": began}
    renamed.write_bytes(rewrite(renamed.read_bytes(), read_own_key(cli.state), **facts))
    shutil.rmtree(cli.state / "newest")


def days_before_today(count: int) -> list[str]:
    """Ids of backups, the oldest first; with a clock far ahead nothing is deleted."""
    now = datetime.now(UTC)
    return [f"{now - timedelta(days=ago):%Y-%m-%d}_0200" for ago in range(count, 0, -1)]


# --- backup


def test_backup_writes_a_log_line_and_a_record_and_says_nothing_in_a_pipe(cli: Cli) -> None:
    cli.write_profile()
    done = cli.run("backup", "--profile", "test")
    assert done == type(done)(0, "", "")
    [archive] = cli.archives()
    [line] = cli.log()
    assert re.fullmatch(
        r"\[\d{4}(-\d\d){2} \d\d(:\d\d){2}\] SUCCESS: "
        + re.escape(archive)
        + r" uploaded \(\d\.\dkB, \d+s\)",
        line,
    )
    [record] = cli.records()
    assert (record["task"], record["profile"], record["result"]) == ("backup", "test", "success")
    assert (record["archive"], record["exit_code"], record["files"]) == (archive, 0, 3)
    assert record["archive_bytes"] == record["sent_bytes"] == (cli.store / archive).stat().st_size
    assert record["started_at"] <= record["ended_at"]


def test_backup_to_s3_restores_from_s3(cli: Cli, s3_bucket: S3Bucket) -> None:
    cli.write_profile(s3_store(s3_bucket))
    name = cli.back_up()
    assert s3_bucket.keys() == [f"backups/{name}-backup.tar.gz"]
    assert name in cli.run("list", "--profile", "test").out
    assert cli.run("restore", "--profile", "test", "--to", "back").code == 0
    assert restored_source(cli, cli.here / "back") == tree(cli.source)


def test_backup_json_is_the_record_alone(cli: Cli) -> None:
    cli.write_profile()
    done = cli.run("backup", "--profile", "test", "--json")
    assert done.err == ""
    told, [recorded] = json.loads(done.out), cli.records()
    for key in ("task", "profile", "store", "archive", "result", "exit_code", "files", "raw_bytes"):
        assert told[key] == recorded[key]
    assert told["ended_at"][:19] == recorded["ended_at"][:19]


def test_backup_tells_the_outcome_on_a_terminal(cli: Cli) -> None:
    cli.write_profile()
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        cli.command("backup", "--profile", "test"),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        cwd=cli.here,
        env={**cli.environ, "TERM": "xterm"},
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:  # how Linux says that the other end was closed
            pass
    os.close(ours)
    assert process.returncode == 0
    assert cli.archives()[0] + " uploaded (" in shown.decode()


def test_backup_dry_run_says_what_would_be_read_and_leaves_no_trace(cli: Cli) -> None:
    cli.write_profile()
    done = cli.run("backup", "--profile", "test", "--dry-run")
    assert (done.code, done.err) == (0, "")
    # the folder, two below it, three files
    assert re.search(rf"^{re.escape(str(cli.source))} +6 +\d+B$", done.out, re.MULTILINE)
    told = json.loads(cli.run("backup", "--profile", "test", "--dry-run", "--json").out)
    assert told["content_bytes"] == sum(len(text) for text in tree(cli.source).values())
    assert list(cli.store.iterdir()) == []
    assert cli.log() == cli.records() == []


def test_backup_runs_under_the_bare_environment_of_cron(cli: Cli) -> None:
    cli.write_profile()
    (cli.source / "naïve ☃.txt").write_text("x")
    bare = {name: value for name, value in cli.environ.items() if name.startswith("BACKUP_TASKS")}
    done = subprocess.run(
        cli.command("backup", "--profile", "test"), cwd="/", env=bare, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert "naïve ☃.txt" in cli.run("files", "--profile", "test", LC_ALL="C").out


def test_two_backups_in_one_minute_both_get_a_name(cli: Cli) -> None:
    cli.write_profile()
    names = [cli.back_up() for _ in range(3)]
    assert len(set(names)) == 3
    assert names == sorted(names)
    assert [f"{name}-backup.tar.gz" for name in names] == cli.archives()


def test_default_profile_comes_from_the_environment_and_is_local_without(cli: Cli) -> None:
    cli.write_profile(name="local")
    cli.write_profile(name="other", store=f'url = "file://{cli.here}/elsewhere/"')
    (cli.here / "elsewhere").mkdir()
    assert cli.run("backup").code == 0
    assert cli.run("backup", BACKUP_PROFILE="other").code == 0
    assert [record["profile"] for record in cli.records()] == ["local", "other"]


def test_profile_may_be_a_path(cli: Cli) -> None:
    path = cli.write_profile()
    path.rename(cli.here / "mine.toml")
    assert cli.run("backup", "--profile", "./mine.toml").code == 0
    assert cli.records()[0]["profile"] == "mine"


# --- list and files


def test_list_shows_name_age_size_files_duration_and_result(cli: Cli) -> None:
    cli.write_profile(sources=[cli.source, cli.here / "gone"])
    assert cli.run("backup", "--profile", "test").code == 3
    name = cli.archives()[0].removesuffix("-backup.tar.gz")
    foreign = gzip.compress(b"made by somebody else" * 99)
    (cli.store / "2025-06-12_0200-backup.tar.gz").write_bytes(foreign)
    (cli.store / "2025-06-12_0300-backup.tar.gz").write_bytes(b"no archive at all" * 99)
    (cli.store / "2025-06-13_0200-backup.tar.gz").write_bytes(b"")
    (cli.store / "readme.txt").write_text("no backup")
    done = cli.run("list", "--profile", "test")
    assert (done.code, done.err) == (0, "")
    head, *rows = [re.split(r" {2,}", line.strip()) for line in done.out.splitlines()]
    assert head == ["name", "age", "size", "new", "files", "duration", "result"]
    assert [row[0] for row in rows] == [
        "2025-06-12_0200",
        "2025-06-12_0300",
        "2025-06-13_0200",
        name,
    ]
    assert re.fullmatch(r"\d+d( \d+h)?", rows[0][1])
    assert rows[0][2:] == [f"{len(foreign)}B", "-", "-", "-", "plain .tar.gz"]
    assert rows[1][-1] == "unreadable: no .tar.gz: it does not begin as gzip does"
    assert rows[2][-1] == "unreadable: it is empty"
    assert rows[3][2] == rows[3][3]  # all of it is new
    assert rows[3][4] == "3"
    assert rows[3][-1] == "1 file missing"


def test_list_json_is_a_list_with_what_the_manifests_say(cli: Cli) -> None:
    cli.write_profile()
    assert json.loads(cli.run("list", "--profile", "test", "--json").out) == []
    name = cli.back_up()
    done = cli.run("list", "--profile", "test", "--json")
    [told] = json.loads(done.out)
    assert done.err == ""
    assert (told["name"], told["object"]) == (name, f"{name}-backup.tar.gz")
    assert told["manifest"]["files"] == 3
    assert told["taken_at"].endswith("Z")


def test_list_without_backups_says_so_beside_stdout(cli: Cli) -> None:
    cli.write_profile()
    done = cli.run("list", "--profile", "test")
    assert (done.code, done.out) == (0, "")
    assert "no backups yet" in done.err


def test_files_lists_what_is_in_a_backup_one_line_each(cli: Cli) -> None:
    cli.write_profile()
    (cli.source / "two\nlines\x1b[31m").write_text("")
    (cli.source / "link").symlink_to("etc/hosts")
    cli.back_up()
    done = cli.run("files", "--profile", "test")
    assert (done.code, done.err) == (0, "")
    base = str(cli.source).lstrip("/")
    assert "\x1b" not in done.out
    names = [line.split(" ", maxsplit=6)[-1] for line in done.out.splitlines()]
    assert any(name.endswith(f"{base}/etc/nginx/nginx.conf") for name in names)
    assert any(name.endswith(f"{base}/two\\nlines\\x1b[31m") for name in names)
    assert any(name.endswith(f"{base}/link -> etc/hosts") for name in names)
    assert re.search(r"^-rw\S+ \S+ +20B \d{4}-\d\d-\d\d \d\d:\d\d .*/nginx\.conf$", done.out, re.M)


def test_files_searches_with_several_patterns(cli: Cli) -> None:
    cli.write_profile()
    cli.back_up()
    done = cli.run("files", "--profile", "test", "--path", "*.conf", "--path", "hello*")
    assert [line.rsplit("/", 1)[1] for line in done.out.splitlines()] == [
        "nginx.conf",
        "hello world.txt",
    ]


def test_files_json_is_one_list_also_when_it_ends_with_an_error(cli: Cli) -> None:
    cli.write_profile()
    cli.back_up()
    files = ["files", "--profile", "test", "--json"]
    everything = json.loads(cli.run(*files).out)
    assert {entry["type"] for entry in everything} == {"file", "dir"}
    assert sum(len(entry.get("sha256", "")) == 64 for entry in everything) == 3
    done = cli.run(*files, "--path", "hosts", "--path", "nowhere")
    assert done.code == 2
    assert [Path(entry["path"]).name for entry in json.loads(done.out)] == ["hosts"]
    assert "'nowhere' matches nothing" in done.err


@pytest.mark.parametrize("task", [["list"], ["files"], ["files", "--json"]])
def test_reader_that_goes_away_is_no_failure(cli: Cli, task: list[str]) -> None:
    cli.write_profile()
    cli.back_up()
    process = cli.start(*task, "--profile", "test")
    assert process.stdout
    process.stdout.close()
    process.stdout = None
    done = finish(process)
    assert (done.code, done.err) == (141, "")
    assert len(cli.records()) == len(cli.log()) == 1


def test_output_that_cannot_be_written_is_one_line(cli: Cli) -> None:
    cli.write_profile()
    cli.back_up()
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            cli.command("list", "--profile", "test"),
            stdout=full,
            stderr=subprocess.PIPE,
            env=cli.environ,
            text=True,
        )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "No space left on device" in done.stderr


def test_of_an_incomplete_run_too_the_output_comes_first_and_must_be_written(cli: Cli) -> None:
    cli.write_profile(sources=[cli.source, cli.here / "nowhere"])
    backup = ("backup", "--profile", "test", "--json")
    process = cli.start(*backup)
    assert process.stdout
    process.stdout.close()
    process.stdout = None
    done = finish(process)
    assert (done.code, done.err) == (141, "")
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen(
            cli.command(*backup), stdout=full, stderr=subprocess.PIPE, env=cli.environ, text=True
        )
        assert "the output cannot be written" in finish(process).err
    assert process.returncode == 1
    both = subprocess.run(
        cli.command(*backup),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=cli.environ,
        text=True,
    )
    assert both.returncode == 3
    told, _, missing = both.stdout.rpartition("}\n")
    assert json.loads(told + "}")["exit_code"] == 3
    assert "is done, but without 1 file" in missing


# --- restore


def test_restore_brings_back_the_latest_into_a_folder_of_its_name(cli: Cli) -> None:
    cli.write_profile()
    back_up_as(cli, "2025-06-12_0200", "older\n")
    (cli.source / "hello world.txt").write_text("newest\n")
    name = cli.back_up()
    done = cli.run("restore", "--profile", "test")
    assert (done.code, done.err) == (0, "")
    target = cli.here / "restored" / name
    assert re.fullmatch(
        rf"{name}: restored 3 files \(\d+B, \d+ entries, \S+ fetched\) to {target}\n", done.out
    )
    assert restored_source(cli, target) == tree(cli.source)
    assert cli.log()[-1].partition("SUCCESS: ")[2].startswith(f"restore test: {name}-backup.tar.gz")
    assert (cli.records()[-1]["task"], cli.records()[-1]["files"]) == ("restore", 3)


def test_restore_finds_a_backup_by_day_and_by_name(cli: Cli) -> None:
    cli.write_profile()
    for name in ("2025-06-12_0200", "2025-06-12_1400", "2025-06-13_0200"):
        back_up_as(cli, name, name)
    for chosen, expected in (
        (("--date", "2025-06-12"), "2025-06-12_1400"),
        (("--name", "2025-06-12_0200"), "2025-06-12_0200"),
        (("--name", "2025-06-12_0200-backup.tar.gz"), "2025-06-12_0200"),
    ):
        target = cli.here / "-".join(chosen)
        done = cli.run("restore", "--profile", "test", *chosen, "--to", target)
        assert done.code == 0, done
        assert restored_source(cli, target)["hello world.txt"] == expected


def test_restore_of_some_paths_brings_back_those_alone(cli: Cli) -> None:
    cli.write_profile()
    cli.back_up()
    patterns = ("--path", "nginx/", "--path", "hello*")
    done = cli.run("restore", "--profile", "test", *patterns, "--to", "some")
    assert done.code == 0, done
    assert set(restored_source(cli, cli.here / "some")) == {
        "etc/nginx/nginx.conf",
        "hello world.txt",
    }


def test_restore_in_place_brings_back_what_is_lost_and_keeps_what_is_there(cli: Cli) -> None:
    cli.write_profile()
    os.chmod(cli.source / "etc", 0o751)
    cli.back_up()
    before = os.stat(cli.here)
    lost = cli.source / "etc" / "hosts"
    lost.unlink()
    (cli.source / "hello world.txt").write_text("mine by now\n")
    done = cli.run("restore", "--profile", "test", "--in-place")
    assert done.code == 0, done
    assert lost.read_text() == "127.0.0.1 localhost\n"
    assert (cli.source / "hello world.txt").read_text() == "mine by now\n"
    assert "kept 2 that were there" in done.out
    assert stat.S_IMODE((cli.source / "etc").stat().st_mode) == 0o751
    assert os.stat(cli.here).st_mode == before.st_mode


@pytest.mark.parametrize(
    ("rule", "older", "newer"),
    [
        ("never", "from today", "from today"),
        ("older", "hello\n", "from today"),
        ("always", "hello\n", "127.0.0.1 localhost\n"),
    ],
)
def test_restore_overwrites_as_it_is_told(cli: Cli, rule: str, older: str, newer: str) -> None:
    cli.write_profile()
    cli.back_up()
    for name, seconds in (("hello world.txt", -10_000), ("etc/hosts", 10_000)):
        file = cli.source / name
        stored = file.stat().st_mtime
        file.write_text("from today")
        os.utime(file, (stored + seconds, stored + seconds))
    done = cli.run("restore", "--profile", "test", "--in-place", "--overwrite", rule)
    assert done.code == 0, done
    assert (cli.source / "hello world.txt").read_text() == older
    assert (cli.source / "etc" / "hosts").read_text() == newer


def test_restore_dry_run_writes_nothing(cli: Cli) -> None:
    cli.write_profile()
    name = cli.back_up()
    done = cli.run("restore", "--profile", "test", "--dry-run")
    assert done.code == 0
    assert done.out.startswith(f"{name}: would restore 3 files (")
    assert not (cli.here / "restored").exists()
    told = json.loads(cli.run("restore", "--profile", "test", "--dry-run", "--json").out)
    assert (told["dry_run"], told["files"], told["problems"]) == (True, 3, [])
    assert len(cli.records()) == 1


def test_restore_brings_back_an_ordinary_tar_gz(cli: Cli) -> None:
    cli.write_profile()
    cli.store.mkdir(exist_ok=True)
    archive = cli.store / "2025-06-12_0200-backup.tar.gz"
    subprocess.run(["tar", "czf", archive, "-C", cli.source, "."], check=True)
    assert "plain .tar.gz" in cli.run("list", "--profile", "test").out
    assert "nginx.conf" in cli.run("files", "--profile", "test").out
    assert cli.run("restore", "--profile", "test", "--to", "back").code == 0
    assert tree(cli.here / "back") == tree(cli.source)


def test_restore_of_a_damaged_archive_fails_unless_told_to_skip(cli: Cli) -> None:
    cli.write_profile()
    (cli.source / "a big one").write_bytes(os.urandom(3 * 2**20))
    name = cli.back_up()
    archive = cli.store / f"{name}-backup.tar.gz"
    content = bytearray(archive.read_bytes())
    content[2**21] ^= 1
    archive.write_bytes(content)
    restore = ["restore", "--profile", "test", "--to", "back"]
    assert_refused(cli, cli.run(*restore), 1, "is damaged", "--skip-damaged")
    again = cli.run(*restore, "--overwrite", "always", "--skip-damaged")
    assert again.code == 1
    assert "a big one" in again.err
    (cli.source / "a big one").unlink()
    assert restored_source(cli, cli.here / "back") == tree(cli.source)


# --- prune


def test_backup_prunes_what_retention_no_longer_keeps(cli: Cli) -> None:
    cli.write_profile()
    older = days_before_today(3)
    for name in older:
        back_up_as(cli, name, name)
    cli.write_profile(more="[retention]\nkeep_last = 2\n")
    name = cli.back_up()
    assert cli.archives() == [f"{older[2]}-backup.tar.gz", f"{name}-backup.tar.gz"]
    assert cli.records()[-1]["pruned"] == [f"{gone}-backup.tar.gz" for gone in older[:2]]


def test_backup_prunes_nothing_while_a_source_is_missing(cli: Cli) -> None:
    cli.write_profile()
    back_up_as(cli, *days_before_today(1), "holds what was on the missing disk")
    gone = cli.here / "not mounted"
    cli.write_profile(sources=[cli.source, gone], more="[retention]\nkeep_last = 1\n")
    assert cli.run("backup", "--profile", "test").code == 3
    assert len(cli.archives()) == 2
    [reason] = cli.records()[-1]["unpruned"]
    assert reason.endswith(f": {gone}")
    assert f"nothing is deleted: {reason}" in cli.log()[-1]


def test_failed_backup_prunes_nothing(cli: Cli) -> None:
    cli.write_profile()
    for name in ("2025-06-10_0200", "2025-06-11_0200"):
        back_up_as(cli, name, name)
    cli.write_profile(sources=[cli.here / "gone"], more="[retention]\nkeep_last = 1\n")
    assert cli.run("backup", "--profile", "test").code == 1
    assert len(cli.archives()) == 2


def test_prune_deletes_with_reasons_and_dry_run_deletes_nothing(cli: Cli) -> None:
    cli.write_profile(more="[retention]\nkeep_last = 1\n")
    cli.store.mkdir(exist_ok=True)
    names = [f"{day}-backup.tar.gz" for day in days_before_today(2)]
    keep_key(cli.state)
    for name in names:
        (cli.store / name).write_bytes(proven_archive(name, profile="test", host=platform.node()))
    would = cli.run("prune", "--profile", "test", "--dry-run")
    assert (would.code, cli.archives(), cli.records()) == (0, names, [])
    assert "1 would be deleted" in would.out
    done = cli.run("prune", "--profile", "test", "--json")
    told = json.loads(done.out)
    assert told["deleted"] == told["plan"]["delete"] == names[:1]
    assert told["plan"]["keep"] == {names[1]: ["last 1 of 1"]}
    assert cli.archives() == names[1:]
    assert (cli.records()[-1]["task"], cli.records()[-1]["pruned"]) == ("prune", names[:1])
    assert "SUCCESS: prune test: done" in cli.log()[-1]


def test_prune_that_may_not_delete_names_what_stays(
    cli: Cli, s3_server: S3Server, s3_bucket: S3Bucket
) -> None:
    keep_key(cli.state)
    days = days_before_today(2)
    for day in days:
        name = f"{day}-backup.tar.gz"
        archive = proven_archive(name, profile="test", host=platform.node())
        s3_bucket.client.put_object(Bucket=s3_bucket.bucket, Key=f"backups/{name}", Body=archive)
    keys = {"access_key_id": s3_server.reader_key, "secret_access_key": s3_server.reader_secret}
    cli.write_profile(s3_store(s3_bucket, **keys), more="[retention]\nkeep_last = 1\n")
    done = cli.run("prune", "--profile", "test")
    assert done.code == 1
    assert f"FAILED  {days[0]}" in done.out
    assert "no permission" in done.err
    assert cli.records()[-1]["pruned"] == []
    assert len(s3_bucket.keys()) == 2


# --- lifecycle, mail, schedule, profiles


def test_lifecycle_shows_installs_and_then_has_nothing_to_do(cli: Cli, s3_bucket: S3Bucket) -> None:
    cli.write_profile(s3_store(s3_bucket), more='[retention]\nexpire_after = "30d"\n')

    def rules() -> list[dict[str, object]]:
        try:
            answer = s3_bucket.client.get_bucket_lifecycle_configuration(Bucket=s3_bucket.bucket)
        except s3_bucket.client.exceptions.ClientError:
            return []
        return list(answer["Rules"])

    shown = cli.run("lifecycle", "--profile", "test")
    assert (shown.code, shown.err) == (0, "")
    assert "30 days" in shown.out
    assert cli.run("lifecycle", "--profile", "test", "--install", "--dry-run").code == 0
    assert rules() == cli.records() == []
    installed = cli.run("lifecycle", "--profile", "test", "--install")
    assert installed.code == 0, installed
    assert rules()
    assert cli.records()[-1]["task"] == "lifecycle"
    again = cli.run("lifecycle", "--profile", "test", "--json")
    told = json.loads(again.out)
    assert told["found"]["rules"] == told["plan"]["merged"] == rules()


def test_mail_goes_out_after_a_backup_and_for_a_test(cli: Cli) -> None:
    with start_smtp_server() as server:
        cli.write_profile(more=email(server.port))
        tested = cli.run("notify-test", "--profile", "test")
        assert (tested.code, tested.out) == (0, "sent to admin@example.com\n")
        samples = len(server.messages)
        assert samples >= 2
        name = cli.back_up()
        [message] = server.messages[samples:]
    assert f"{name}-backup.tar.gz" in message.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    assert [record["notifications"][0]["error"] for record in cli.records()] == ["", ""]


def email(port: int, more: str = "") -> str:
    return (
        f'[notify.email]\nhost = "127.0.0.1"\nport = {port}\nsecurity = "none"\n'
        f'from = "backup@example.com"\nto = ["admin@example.com"]\n{more}\n'
    )


def test_cron_tasks_install_show_and_remove_a_line(cli: Cli, cron_box: CronBox) -> None:
    cli.write_profile(more='[schedule]\ncron = "0 2 * * *"\n')
    path = os.environ["PATH"]  # with the crontab of this test
    would = cli.run("cron-install", "--dry-run", PATH=path)
    assert (would.code, cron_box.read(), cli.records()) == (0, b"", [])
    assert "would be added" in would.out
    assert cli.run("cron-install", PATH=path).code == 0
    assert b"--profile test" in cron_box.read()
    shown = cli.run("cron-show", PATH=path)
    assert "At 02:00" in shown.out
    assert json.loads(cli.run("cron-show", "--json", PATH=path).out)["entries"]
    assert cli.run("cron-remove", "--profile", "test", PATH=path).code == 0
    assert b"test" not in cron_box.read()
    assert [record["task"] for record in cli.records()] == ["cron-install", "cron-remove"]


def test_profiles_lists_broken_ones_too(cli: Cli) -> None:
    cli.write_profile()
    (cli.profiles / "broken.toml").write_text("[store\n")
    done = cli.run("profiles")
    assert done.code == 0
    rows = {line.split()[0]: line for line in done.out.splitlines()}
    assert rows["test"].endswith("ok")
    assert "broken.toml:1" in rows["broken"]
    narrowed = json.loads(cli.run("profiles", "--profile", "test", "--json").out)
    assert [(found["name"], found["problem"]) for found in narrowed] == [("test", "")]


def test_profile_new_writes_one_and_never_overwrites(cli: Cli) -> None:
    done = cli.run("profile-new", "prod")
    path = cli.profiles / "prod.toml"
    assert (done.code, str(path) in done.out) == (0, True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("mine")
    assert_refused(cli, cli.run("profile-new", "prod"), 2, "prod.toml is there already")
    assert path.read_text() == "mine"
    assert_refused(cli, cli.run("profile-new", "--help"), 2, "invoke profile-new prod")
    assert_refused(cli, cli.run("profile-new", "../evil"), 2, "cannot name a profile")


# --- how the commands are typed


def test_list_of_commands_names_every_task_with_a_line(cli: Cli) -> None:
    done = cli.run("--list")
    assert done.code == 0
    tasks = dict(re.findall(r"^  (\S+) +(\S.*)$", done.out, re.MULTILINE))
    expected = """backup list files restore prune lifecycle notify-test cron-install cron-show
        cron-remove profiles profile-new"""
    assert set(expected.split()) <= set(tasks)


@pytest.mark.parametrize("task", ["backup", "restore", "prune", "cron-install", "notify-test"])
def test_help_never_runs_a_task(cli: Cli, task: str) -> None:
    cli.write_profile(name="local")
    for asked in ((task, "--help"), ("--help", task)):
        done = cli.run(*asked)
        assert (done.code, done.err) == (0, "")
        assert "--profile=STRING" in done.out
    assert cli.records() == []
    assert list(cli.store.iterdir()) == []


@pytest.mark.parametrize("mistake", ["--profle", "-j", "test"])
def test_mistyped_option_is_named_and_nothing_runs(cli: Cli, mistake: str) -> None:
    cli.write_profile()
    cli.write_profile(name="local")
    done = cli.run("backup", mistake)
    assert (done.code, done.out) == (1, "")
    assert f"No idea what '{mistake}' is!" in done.err
    assert "Traceback" not in done.err
    assert cli.records() == []


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["--list"], set()),
        (["--help", "backup"], set()),
        (["profiles"], {"pydantic", "msgspec"}),
        (["cron-show"], {"pydantic", "msgspec"}),
        (["backup", "--profile", "test"], {"pydantic", "isal", "msgspec"}),
        (["list", "--profile", "test"], {"pydantic", "msgspec"}),
        (["prune", "--profile", "test"], {"pydantic", "msgspec"}),
    ],
)
def test_task_imports_only_what_it_needs(
    cli: Cli, cron_box: CronBox, arguments: list[str], needed: set[str]
) -> None:
    cli.write_profile(more="[retention]\nkeep_last = 1\n")
    done = cli.run(*arguments, PYTHONPROFILEIMPORTTIME="1", PATH=os.environ["PATH"])
    assert done.code == 0
    names = {line.rpartition("|")[2].strip() for line in done.err.splitlines()}
    assert "backup_tasks.errors" in names
    assert HEAVY & names == needed


@pytest.mark.parametrize("task", ["list", "prune", "files"])
def test_no_signature_is_looked_at_that_was_looked_at_before(cli: Cli, task: str) -> None:
    """What is loaded for it takes an eighth of a small command's time."""
    cli.write_profile(more="[retention]\nkeep_last = 1\n")
    cli.back_up()
    done = cli.run(task, "--profile", "test", PYTHONPROFILEIMPORTTIME="1", PATH=os.environ["PATH"])
    assert done.code == 0
    assert ("cryptography" in done.err) == (task == "files")


def test_a_marker_in_a_sources_own_folder_is_told_and_nothing_is_left_out(cli: Cli) -> None:
    cli.write_profile(backup='exclude_if_present = [".nobackup"]')
    (cli.source / ".nobackup").touch()
    (cli.source / "etc" / ".nobackup").touch()
    warning = f"WARNING: {cli.source}/.nobackup would leave out a whole source, and is not obeyed"
    done = cli.run("backup", "--profile", "test", "--dry-run")
    assert done.code == 0
    assert warning in done.err
    assert f"left out by a marker: 1 folder: {cli.source}/etc\n" in done.out
    done = cli.run("backup", "--profile", "test")
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith(warning)
    assert done.err.count("\n") == 1
    [record] = cli.records()
    assert (record["result"], record["files"]) == ("success", 3)
    assert cli.log()[-2].endswith("INFO: backup test: 1 folder left out by a marker")
    assert [line in cli.log()[-1] for line in record["warnings"]] == [True]
