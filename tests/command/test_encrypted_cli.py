"""Encryption as an operator meets it: keygen, key-check, what is refused, and who is asked."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from pathlib import Path

import pytest

from tests.command.test_cli import email
from tests.support.cli import Cli, assert_refused, cli
from tests.support.keys import KINDS, KeyPair, make_key, on_terminal, protect, run
from tests.support.smtp_server import start_smtp_server

__all__ = ["cli"]

BACKUP = ("backup", "--profile", "test")


def encrypted(cli: Cli, *recipients: str, more: str = "") -> None:
    """Write a profile that encrypts for these."""
    cli.write_profile(more=f"[encryption]\nrecipients = {json.dumps(recipients)}\n{more}")


@pytest.fixture
def pair(cli: Cli) -> KeyPair:
    """A key outside the server, in a profile that believes in it."""
    made = make_key(cli.here)
    encrypted(cli, made.recipient)
    assert cli.run("key-check", "--profile", "test", "--skip").code == 0
    return made


# --- keygen


def test_keygen_writes_a_key_for_its_owner_alone_that_age_takes(cli: Cli) -> None:
    done = cli.run("keygen")
    file = cli.here / ".config" / "backup-tasks" / "key.txt"
    assert (done.code, done.err) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    recipient = run("age-keygen", "-y", file).decode().strip()
    assert f"public key: {recipient}\n" in done.out
    assert f'recipients = ["{recipient}"]' in done.out
    assert "these backups are lost" in done.out
    text = file.read_text()
    assert re.fullmatch(
        rf"# created: \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ\n# public key: {recipient}\n"
        r"AGE-SECRET-KEY-1[0-9A-Z]+\n",
        text,
    )
    assert "AGE-SECRET-KEY" not in done.out + "".join(cli.log()) + json.dumps(cli.records())


def test_keygen_never_overwrites(cli: Cli) -> None:
    assert cli.run("keygen", "--output", "mine.txt").code == 0
    before = (cli.here / "mine.txt").read_text()
    assert_refused(cli, cli.run("keygen", "--output", "mine.txt"), 2, "is there already")
    (cli.here / "link").symlink_to("nowhere")
    assert_refused(cli, cli.run("keygen", "--output", "link"), 2, "is there already")
    assert (cli.here / "mine.txt").read_text() == before
    (cli.here / "file").touch()
    assert_refused(cli, cli.run("keygen", "--output", "file/key.txt"), 2, "cannot be written")


# --- key-check


@pytest.mark.parametrize("kind", KINDS)
def test_backup_is_refused_until_a_key_has_opened_a_probe(cli: Cli, kind: str) -> None:
    made = make_key(cli.here, kind)
    encrypted(cli, made.recipient)
    told = assert_refused(cli, cli.run(*BACKUP), 12, "no recipient of this profile")
    assert "invoke key-check --profile test --identity FILE" in told
    assert cli.archives() == []
    dry = cli.run(*BACKUP, "--dry-run")
    assert dry.code == 0
    assert "a backup would be refused: no recipient" in dry.err
    checked = cli.run("key-check", "--profile", "test", "--identity", made.file)
    recipient = " ".join(made.recipient.split()[:2])
    assert (checked.code, checked.out) == (0, f"opened: {recipient}\n")
    proven = cli.here / "state" / "proven-recipients.json"
    assert stat.S_IMODE(proven.stat().st_mode) == 0o600
    assert cli.run(*BACKUP).code == 0
    proven.unlink()
    assert_refused(cli, cli.run(*BACKUP), 12, "on this machine", "key-check")


def test_one_proven_recipient_is_enough_and_the_others_are_named(cli: Cli) -> None:
    mine, safe = make_key(cli.here, name="mine"), make_key(cli.here, name="safe")
    encrypted(cli, mine.recipient, safe.recipient)
    checked = cli.run("key-check", "--profile", "test", "--identity", mine.file)
    assert sorted(checked.out.splitlines()) == sorted(
        [f"opened: {mine.recipient}", f"not opened by this key: {safe.recipient}"]
    )
    assert cli.run(*BACKUP).code == 0
    encrypted(cli, safe.recipient)
    assert_refused(cli, cli.run(*BACKUP), 12, "no recipient")


def test_a_key_that_opens_nothing_proves_nothing(cli: Cli) -> None:
    mine, other = make_key(cli.here, name="mine"), make_key(cli.here, name="other")
    encrypted(cli, mine.recipient)
    done = cli.run("key-check", "--profile", "test", "--identity", other.file)
    assert_refused(cli, done, 12, "this key opens nothing", mine.recipient)
    assert_refused(cli, cli.run("key-check", "--profile", "test"), 12, "--identity FILE")
    both = cli.run("key-check", "--profile", "test", "--skip", "--identity", mine.file)
    assert_refused(cli, both, 2, "not both")
    assert_refused(cli, cli.run(*BACKUP), 12, "no recipient")
    skipped = cli.run("key-check", "--profile", "test", "--skip")
    assert skipped.out == f"skipped: {mine.recipient}\n"
    assert cli.run(*BACKUP).code == 0


def test_a_profile_without_encryption_has_nothing_to_check(cli: Cli) -> None:
    cli.write_profile()
    assert_refused(cli, cli.run("key-check", "--profile", "test"), 2, "has no [encryption]")


# --- with and without the key


def test_the_key_of_another_machine_brings_everything_back(cli: Cli, pair: KeyPair) -> None:
    assert cli.run(*BACKUP).code == 0
    keyed = ("--profile", "test", "--identity", pair.file)
    listed = cli.run("list", *keyed)
    assert listed.out.splitlines()[-1].endswith("complete")
    assert "etc/hosts" in cli.run("files", *keyed).out
    assert "whole" in cli.run("verify", *keyed).out
    assert "drill passed" in cli.run("drill", *keyed).out
    restored = cli.run("restore", *keyed, "--to", "back")
    assert restored.code == 0, restored
    twin = cli.here / "back" / str(cli.source).lstrip("/") / "etc" / "hosts"
    assert twin.read_text() == "127.0.0.1 localhost\n"


def test_the_profile_may_name_the_key(cli: Cli, pair: KeyPair) -> None:
    encrypted(cli, pair.recipient, more=f'identity_file = "{pair.file}"\n')
    assert cli.run(*BACKUP).code == 0
    for task in ("files", "verify", "drill", "restore"):
        assert cli.run(task, "--profile", "test").code == 0


@pytest.mark.parametrize("task", ["files", "verify", "drill", "restore"])
def test_a_missing_or_wrong_key_is_exit_12_and_one_line(cli: Cli, pair: KeyPair, task: str) -> None:
    assert cli.run(*BACKUP).code == 0
    done = cli.run(task, "--profile", "test")
    told = assert_refused(cli, done, 12, "it is encrypted, and no key was named: use --identity")
    assert len(told.splitlines()) == 1
    wrong = make_key(cli.here, name="wrong")
    done = cli.run(task, "--profile", "test", "--identity", wrong.file)
    told = assert_refused(cli, done, 12, "no key in", "it was encrypted for one X25519 key")
    assert pair.recipient in told, "the profile's recipients are named"
    assert len(told.splitlines()) == 1
    assert not [path for path in (cli.here / "restored").rglob("*") if path.is_file()]


def test_a_backup_that_is_not_encrypted_is_told_where_all_should_be(
    cli: Cli, pair: KeyPair
) -> None:
    assert cli.run(*BACKUP).code == 0
    profile = cli.profiles / "test.toml"
    text = profile.read_text()
    cli.write_profile()
    assert cli.run(*BACKUP).code == 0
    profile.write_text(text)
    restored = cli.run("restore", "--profile", "test")
    assert restored.code == 0
    assert "is not encrypted, although backups of this profile are" in restored.err


def test_list_without_a_key_still_lists(cli: Cli, pair: KeyPair) -> None:
    assert cli.run(*BACKUP).code == 0
    listed = cli.run("list", "--profile", "test")
    assert listed.out.split()[-1] == "complete", "as the run has noted it"
    shutil.rmtree(cli.state / "proofs")
    listed = cli.run("list", "--profile", "test")
    assert (listed.code, listed.err) == (0, "")
    row = listed.out.splitlines()[-1].split()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d{4}", row[0])
    assert row[3:] == ["-", "-", "-", "encrypted"]
    (found,) = json.loads(cli.run("list", "--profile", "test", "--json").out)
    assert found["is_locked"] is True
    assert "no key was named" in found["trouble"]
    done = cli.run("list", "--profile", "test", "--identity", "nowhere.txt")
    assert_refused(cli, done, 12, "nowhere.txt cannot be read: No such file")


def test_a_passphrase_is_asked_on_a_terminal_and_nowhere_else(cli: Cli, pair: KeyPair) -> None:
    assert cli.run(*BACKUP).code == 0
    protected = protect(pair.file, "correct horse")
    arguments = ("files", "--profile", "test", "--identity", str(protected))
    process = cli.start(*arguments)  # in a session of its own, without a terminal
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (12, "")
    assert "protected by a passphrase, and there is no terminal to ask on" in err
    for passphrase, code, told in (
        ("correct horse", 0, "etc/hosts"),
        ("wrong", 12, "the passphrase is wrong"),
    ):
        done, said = on_terminal(
            cli.command(*arguments),
            [("Passphrase for ", passphrase)],
            cwd=cli.here,
            environ=cli.environ,
        )
        assert (done, told in said) == (code, True), said
        assert "horse" not in said, "what is typed is not shown"


def test_the_mail_says_how_to_recover(cli: Cli, pair: KeyPair) -> None:
    with start_smtp_server() as server:
        encrypted(cli, pair.recipient, more=email(server.port))
        assert cli.run(*BACKUP).code == 0
        (message,) = server.messages
    body = message.get_body(("plain",))
    assert body is not None
    text = " ".join(body.get_content().split())
    (line,) = re.findall(r"cat \S+ \| tar x --to-command='age -d -i key\.txt' \| tar xz", text)
    os.rename(pair.file, cli.here / "key.txt")
    assert run("bash", "-c", f"cd '{cli.here}'; {line}; echo done") == b"done\n"
    twin = cli.here / str(cli.source).lstrip("/") / "etc" / "hosts"
    assert Path(twin).read_text() == "127.0.0.1 localhost\n"
