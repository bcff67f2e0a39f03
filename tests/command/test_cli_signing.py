"""Signatures as an operator meets them: one line, the right exit code, log, record and mail."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup_tasks.claim.machine_key import key_file, read_own_key
from backup_tasks.keys.signing import make_signing_key, render_public_key
from tests.conftest import S3Bucket
from tests.support.attacks import rewrite
from tests.support.cli import Cli, assert_refused, cli, s3_store
from tests.support.smtp_server import SmtpServer, start_smtp_server

__all__ = ["cli"]

TEST = ("--profile", "test")
ATTACKER = make_signing_key()


def own_key(cli: Cli) -> str:
    key = read_own_key(cli.state)
    assert key
    return render_public_key(key.public_key)


def trusting(cli: Cli) -> str:
    return f'[signing]\npublic_key = "{own_key(cli)}"\n'


def archive(cli: Cli) -> Path:
    return cli.store / cli.archives()[-1]


def forge(cli: Cli) -> None:
    archive(cli).write_bytes(rewrite(archive(cli).read_bytes(), ATTACKER))


# The key


def test_the_public_key_is_printed_as_lines_for_a_profile(cli: Cli) -> None:
    profile = cli.write_profile()
    done = cli.run("signing-key")
    assert (done.code, done.err) == (0, "")
    assert done.out == trusting(cli)
    profile.write_text(profile.read_text() + done.out)
    cli.back_up()
    assert cli.run("verify", *TEST).out.endswith(f"; signed by {own_key(cli)}\n")
    told = json.loads(cli.run("signing-key", "--json").out)
    assert told == {"public_key": own_key(cli), "file": str(key_file(cli.state)), "is_new": False}


def test_the_first_key_is_made_where_there_is_none(cli: Cli) -> None:
    key_file(cli.state).unlink()
    done = cli.run("signing-key")
    assert (done.code, done.err) == (0, f"made a new key: {key_file(cli.state)}\n")
    assert done.out == trusting(cli)
    assert cli.run("signing-key").err == ""


def test_the_log_tells_of_a_new_key_and_what_to_do_with_it(cli: Cli) -> None:
    key_file(cli.state).unlink()
    cli.write_profile()
    cli.back_up()
    first, second = cli.log()
    assert "INFO: backup test: archives are signed from now on with this machine's new key" in first
    assert first.endswith(f'set in the profile: [signing] public_key = "{own_key(cli)}"')
    assert "SUCCESS" in second
    cli.back_up()
    assert len(cli.log()) == 3


def test_a_broken_key_is_one_line(cli: Cli) -> None:
    cli.write_profile()
    key_file(cli.state).write_text("no key")
    done = cli.run("backup", *TEST)
    assert_refused(cli, done, 1, f"{key_file(cli.state)} is no signing key", "move it away")
    assert cli.archives() == []


def test_a_key_that_the_profile_does_not_name_is_a_warning_in_log_and_record(cli: Cli) -> None:
    cli.write_profile(more=f'[signing]\npublic_key = "{render_public_key(ATTACKER.public_key)}"\n')
    assert cli.run("backup", *TEST).code == 0
    (warning,) = cli.records()[-1]["warnings"]
    assert own_key(cli) in warning
    assert "which [signing] public_key does not name" in cli.log()[-1]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('"age1xyz"', "signing.public_key: holds no public signing key"),
        ("7", "signing.public_key: should be"),
        ('["ed25519:x"]', "signing.public_key: holds no public signing key"),
        ("[7]", "signing.public_key"),
    ],
)
def test_what_is_no_key_in_a_profile_is_named_with_its_place(
    cli: Cli, value: str, words: str
) -> None:
    cli.write_profile(more=f"[signing]\npublic_key = {value}\n")
    done = cli.run("profiles")
    assert words in done.out
    assert_refused(cli, cli.run("backup", *TEST), 2, "test.toml:8: ", "signing.public_key")


# A forged archive


def test_a_forged_archive_is_one_line_and_exit_code_1_everywhere(cli: Cli) -> None:
    cli.write_profile(more=trusting(cli))
    cli.back_up()
    forge(cli)
    name = archive(cli).name
    reason = f"it is signed by {render_public_key(ATTACKER.public_key)}, where [signing] public_key"
    for task, words in (
        ("verify", f"{name} is not to be believed: {reason}"),
        ("restore", f"{name} is refused: {reason}"),
        ("drill", f"{name} is refused: {reason}"),
        ("files", f"{name} is refused: {reason}"),
    ):
        done = cli.run(task, *TEST)
        assert_refused(cli, done, 1, words, own_key(cli))
        assert done.err.count("\n") == 1
    assert list((cli.here / "restored").rglob("*.*")) == []


def test_who_insists_is_warned_on_stderr_and_in_the_record(cli: Cli) -> None:
    cli.write_profile(more=trusting(cli))
    cli.back_up()
    forge(cli)
    done = cli.run("restore", *TEST, "--unproven", "--json", "--to", "back")
    assert done.code == 0
    assert done.err.startswith(f"WARNING: {archive(cli).name}: it is signed by ed25519:")
    assert json.loads(done.out)["signature"]["state"] == "another key"
    assert [w for w in cli.records()[-1]["warnings"] if w.endswith("as --unproven asks")]
    assert "as --unproven asks" in cli.log()[-1]
    listed = cli.run("files", *TEST, "--unproven")
    assert (listed.code, "hello world.txt" in listed.out) == (0, True)


def test_what_was_proven_stands_in_the_json_of_every_look(cli: Cli) -> None:
    cli.write_profile(more=trusting(cli))
    cli.back_up()
    trusted = {"state": "trusted", "public_key": own_key(cli), "doubts": []}
    (verified,) = json.loads(cli.run("verify", *TEST, "--json").out)
    assert verified["signature"] == trusted
    assert json.loads(cli.run("restore", *TEST, "--json").out)["signature"] == trusted
    assert json.loads(cli.run("drill", *TEST, "--json").out)["signature"] == trusted


@pytest.fixture
def mails() -> Iterator[SmtpServer]:
    with start_smtp_server("none") as server:
        yield server


def test_the_mails_of_verify_and_drill_say_who_signed(cli: Cli, mails: SmtpServer) -> None:
    cli.write_profile(
        more=trusting(cli)
        + f'[notify.email]\nhost = "127.0.0.1"\nport = {mails.port}\nsecurity = "none"\n'
        'from = "backup@example.com"\nto = ["admin@example.com"]\n'
    )
    cli.back_up()
    for task in ("verify", "drill"):
        assert cli.run(task, *TEST).code == 0
        text = mails.messages[-1].get_body(("plain",)).get_content()
        assert f"signed by {own_key(cli)}" in re.sub(r"\s+", " ", text)
    forge(cli)
    assert cli.run("verify", *TEST).code == 1
    text = re.sub(r"\s+", " ", mails.messages[-1].get_body(("plain",)).get_content())
    assert "is not to be believed" in text


# Newer ones that vanish


@pytest.mark.parametrize("task", ["list", "verify", "restore", "drill"])
def test_vanished_backups_are_a_warning_on_stderr(cli: Cli, task: str) -> None:
    cli.write_profile()
    cli.back_up()
    cli.back_up()
    gone = archive(cli)
    gone.unlink()
    done = cli.run(task, *TEST)
    assert done.code == 0
    assert done.err.startswith(f"WARNING: {gone.name} of ")
    assert "newer backups have vanished" in done.err
    if task != "list":
        assert "newer backups have vanished" in cli.log()[-1]
        assert len(cli.records()[-1]["warnings"]) == 1


@pytest.mark.parametrize("task", ["list", "restore", "verify", "drill"])
def test_an_empty_store_that_was_not_empty_is_an_error(cli: Cli, task: str) -> None:
    cli.write_profile()
    cli.back_up()
    gone = archive(cli)
    gone.unlink()
    done = cli.run(task, *TEST)
    assert done.code == 1
    assert f"the store lists no backup, and {gone.name}, which was seen there, is gone" in done.err


# In a bucket


def test_in_a_bucket_a_copied_and_a_hidden_backup_are_told(cli: Cli, s3_bucket: S3Bucket) -> None:
    cli.write_profile(s3_store(s3_bucket), trusting(cli))
    cli.back_up()
    (cli.source / "hello world.txt").write_text("changed\n")
    cli.back_up()
    older, newer = s3_bucket.keys()
    s3_bucket.client.copy_object(
        Bucket=s3_bucket.bucket, Key=newer, CopySource={"Bucket": s3_bucket.bucket, "Key": older}
    )
    told = f"it holds another backup's bytes: those of {older.rpartition('/')[2]}"
    for task in ("verify", "restore", "files", "drill"):
        name = newer.rpartition("/")[2].removesuffix("-backup.tar.gz")
        assert_refused(cli, cli.run(task, *TEST, "--name", name), 1, told)
        done = cli.run(task, *TEST, *(("--to", f"{cli.here}/back") if task == "restore" else ()))
        assert done.code == 0
        assert f"{name} is newer by name, but nothing proves it: {told}" in done.err
        assert "newer backups have vanished" in done.err
    # It is not built on either, but the one that it is a copy of is.
    assert cli.run("backup", *TEST).code == 0
    assert cli.run("verify", *TEST).code == 0
    for key in s3_bucket.keys()[1:]:
        s3_bucket.client.delete_object(Bucket=s3_bucket.bucket, Key=key)
    done = cli.run("verify", *TEST)
    assert done.code == 0
    assert "newer backups have vanished" in done.err
