"""A run that its profile's problems stop is told by mail, as far as the profile says to whom."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

from backup_tasks.common.paths import PROJECT_ROOT, Paths
from backup_tasks.profile.broken_profile import find_told
from backup_tasks.schedule.crontab_block import split_crontab
from tests.support.cli import Cli, cli
from tests.support.cron_box import CronBox, cron_box
from tests.support.other_process import IS_ROOT, NOBODY
from tests.support.smtp_server import SmtpServer, start_smtp_server

__all__ = ["cli", "cron_box"]

TYPO = "[retention]\nkeep_lst = 7\n"
NAMED = 'retention: unknown key "keep_lst"; did you mean "keep_last"?'


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    with start_smtp_server() as running:
        yield running


def email(port: int, more: str = "") -> str:
    return (
        f'[notify.email]\nhost = "127.0.0.1"\nport = {port}\nsecurity = "none"\n'
        f'from = "backup@example.com"\nto = ["admin@example.com"]\n{more}\n'
    )


def text_of(message: EmailMessage) -> str:
    """All that the mail says, in every form of it."""
    parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
    return "\n".join(str(part.get_content()) for part in parts)


def mailed(cli: Cli, server: SmtpServer, *arguments: str | Path) -> str:
    """Run a task that must fail with 2 and send one mail; returns what that says."""
    before = len(server.messages)
    done = cli.run(*arguments)
    assert done.code == 2, done
    [message] = server.messages[before:]
    assert message["X-Backup-Result"] == "failure"
    assert message["To"] == "admin@example.com"
    record = cli.records()[-1]
    assert (record["result"], record["exit_code"]) == ("failure", 2)
    assert record["error"] == done.err.rstrip("\n")
    assert record["notifications"] == [{"channel": "email", "to": "admin@example.com", "error": ""}]
    assert "FAILURE" in cli.log()[-1]
    return text_of(message)


@pytest.mark.parametrize("task", ["backup", "verify", "drill"])
def test_a_profile_with_a_typo_still_tells_by_mail(cli: Cli, server: SmtpServer, task: str) -> None:
    cli.write_profile(more=email(server.port) + TYPO)
    told = mailed(cli, server, task, "--profile", "test")
    assert f"profiles/test.toml:15: {NAMED}" in told.replace("\n", " ").replace("&#34;", '"')
    assert f"file://{cli.store}/" in told
    assert cli.records()[-1]["profile"] == "test"
    assert cli.archives() == []


def test_a_profile_that_is_named_by_its_path_tells_by_mail(cli: Cli, server: SmtpServer) -> None:
    path = cli.write_profile(more=email(server.port) + TYPO).rename(cli.here / "mine.toml")
    told = mailed(cli, server, "backup", "--profile", path)
    assert f"--profile {path}" in told


def test_the_line_of_cron_mails_what_is_wrong_with_the_profile(
    cli: Cli, server: SmtpServer, cron_box: CronBox
) -> None:
    good = email(server.port) + '[schedule]\ncron = "0 2 * * *"\n'
    cli.write_profile(more=good)
    assert cli.run("cron-install", PATH=os.environ["PATH"]).code == 0
    cli.write_profile(more=good + TYPO)
    [line] = split_crontab(cron_box.read(), PROJECT_ROOT).lines
    command = re.sub(r"\\([\\%])", r"\1", line.text.decode().split(" ", 5)[5])
    ended = subprocess.run(
        ["/bin/sh", "-c", command], env={}, cwd="/", capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert NAMED in ended.stderr
    [message] = server.messages
    assert "keep_lst" in text_of(message)


def with_a_typo_in_the_base(cli: Cli, mail: str) -> None:
    write_base(cli, TYPO)
    inherit(cli, mail)


def with_the_mail_in_the_base(cli: Cli, mail: str) -> None:
    write_base(cli, mail)
    inherit(cli, TYPO)


def with_a_base_that_is_no_toml(cli: Cli, mail: str) -> None:
    write_base(cli, "[retention\nkeep_lst")
    inherit(cli, mail)


def with_a_base_that_is_missing(cli: Cli, mail: str) -> None:
    inherit(cli, mail)


def with_a_base_that_others_may_write(cli: Cli, mail: str) -> None:
    write_base(cli, '[notify.email]\nto = ["thief@example.com"]\n').chmod(0o666)
    inherit(cli, mail)


def write_base(cli: Cli, text: str) -> Path:
    path = cli.profiles / "base.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def inherit(cli: Cli, more: str) -> None:
    path = cli.write_profile(more=more)
    path.write_text('inherit = "base"\n' + path.read_text())


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (with_a_typo_in_the_base, "base.toml:2"),
        (with_the_mail_in_the_base, "test.toml:9"),
        (with_a_base_that_is_no_toml, "base.toml:1"),
        (with_a_base_that_is_missing, "there is no profile"),
        (with_a_base_that_others_may_write, "may be written by"),
    ],
    ids=lambda value: getattr(value, "__name__", "named"),
)
def test_what_is_wrong_with_a_base_is_mailed_too(
    cli: Cli, server: SmtpServer, harm: Callable[[Cli, str], None], named: str
) -> None:
    harm(cli, email(server.port))
    assert named in mailed(cli, server, "backup", "--profile", "test")


def test_no_value_of_a_broken_profile_gets_into_its_mail(cli: Cli, server: SmtpServer) -> None:
    """Also none that stands under a wrong key, where nothing tells that it is a secret."""
    canaries = [f"canary-secret-{number}" + "x" * (number * 20) for number in range(7)]
    cli.write_profile(
        f'url = "s3://{canaries[0]}@bucket/"\nregion = "{canaries[1]}!"\n'
        f'access_key_id = "{canaries[2]}"\nsecret_access_key = ["{canaries[3]}"]\n'
        f'max_attempts = "{canaries[4]}"\naddressing_style = "{canaries[5]}"\n',
        more=email(server.port) + f'[encryption]\nrecipients = ["AGE-SECRET-KEY-{canaries[6]}"]\n',
    )
    told = mailed(cli, server, "backup", "--profile", "test")
    for key in ("store.url", "store.region", "store.max_attempts", "store.addressing_style"):
        assert key in told
    assert "canary" not in told


def test_a_mail_that_cannot_be_sent_is_told_where_cron_passes_it_on(cli: Cli) -> None:
    with start_smtp_server() as server:
        port = server.port
    cli.write_profile(more=email(port) + TYPO)
    done = cli.run("backup", "--profile", "test")
    assert done.code == 2
    assert "WARNING: no mail to admin@example.com" in done.err
    assert NAMED in done.err


# Whom nothing is mailed to


def write(paths: Paths, text: str, name: str = "prod", mode: int = 0o600) -> Path:
    path = paths.profiles / f"{name}.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def program_of_others(paths: Paths) -> Path:
    program = paths.logs / "pass"
    program.write_text(f"#!/bin/sh\ntouch {paths.logs}/ran\necho secret\n")
    program.chmod(0o777)
    return program


def test_a_mail_table_is_believed_only_where_all_of_it_is_right(paths: Paths) -> None:
    whole = email(25)
    write(paths, whole + TYPO)
    assert find_told("prod", paths)
    for text in (
        TYPO,
        "[notify\n" + whole,
        whole.replace("host", "hots") + TYPO,
        whole + 'unknown = "x"\n',
        whole + "[notify.mail]\n",
        whole.replace("port = 25", 'port = "25"'),
        'notify = "admin@example.com"\n',
        whole + 'username = "me"\n',
    ):
        write(paths, text)
        assert find_told("prod", paths) is None, text
    assert find_told("nobody", paths) is None


def test_a_profile_that_others_may_write_directs_no_mail(paths: Paths) -> None:
    path = write(paths, email(25) + TYPO, mode=0o666)
    assert find_told("prod", paths) is None
    path.chmod(0o600)
    assert find_told("prod", paths)
    if IS_ROOT:
        os.chown(path, NOBODY, NOBODY)
        assert find_told("prod", paths) is None


def test_a_base_that_others_may_write_directs_no_mail(paths: Paths) -> None:
    base = write(paths, email(25), "base", mode=0o666)
    write(paths, 'inherit = "base"\n' + TYPO)
    assert find_told("prod", paths) is None
    base.chmod(0o600)
    assert find_told("prod", paths)


def test_no_secret_comes_from_what_others_may_write(paths: Paths) -> None:
    program = program_of_others(paths)
    login = 'username = "me"\n'
    secret_file = write(paths, "secret", "secret", mode=0o666)
    for password in (f'{{ command = ["{program}"] }}', f'{{ file = "{secret_file}" }}'):
        write(paths, email(25, f"{login}password = {password}") + TYPO)
        assert find_told("prod", paths) is None
    authority = write(paths, "a certificate", "ca", mode=0o666)
    write(paths, email(25, f'ca_file = "{authority}"') + TYPO)
    assert find_told("prod", paths) is None
    assert not (paths.logs / "ran").exists()


def test_a_password_that_others_can_read_is_not_sent(paths: Paths) -> None:
    text = email(25, 'username = "me"\npassword = "secret"') + TYPO
    write(paths, text)
    assert find_told("prod", paths)
    write(paths, text, mode=0o644)
    assert find_told("prod", paths) is None


def test_what_a_broken_profile_says_of_itself_is_used_where_it_can_be(paths: Paths) -> None:
    head = 'description = "Web"\n[backup]\ntimezone = "{}"\n[store]\nurl = "{}"\n'
    write(paths, head.format("Europe/Stockholm", "file:///mnt//nas/") + email(25) + TYPO)
    told = find_told("prod", paths)
    assert told
    assert (told.name, told.description, str(told.tzinfo)) == ("prod", "Web", "Europe/Stockholm")
    assert told.store_url == "file:///mnt/nas/"
    write(paths, head.format("Mars/Base", "ftp://x").replace("Web", "a\\nb") + email(25) + TYPO)
    told = find_told("prod", paths)
    assert told
    assert (told.description, told.store_url) == ("", "")
