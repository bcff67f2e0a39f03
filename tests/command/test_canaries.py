"""No secret appears where others look: logs, mails, records, tracebacks, process lists.

Canaries stand wherever a secret can: the S3 keys, the mail password, the signing key, an identity
file and its passphrase. Every task is run, with and without `invoke -d`, while the command lines of
all processes are read; then again with everything that can be wrong with a key.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from invoke.collection import Collection

import tasks
from backup_tasks.claim.machine_key import key_file, open_own_key
from tests.conftest import S3Bucket
from tests.support.cli import Cli, cli, s3_store
from tests.support.cron_box import CronBox, cron_box
from tests.support.keys import make_key, on_terminal, protect
from tests.support.smtp_server import USERNAME, SmtpServer, make_certificates, start_smtp_server

__all__ = ["cli", "cron_box"]

PASSPHRASE = "canary-passphrase-correct-horse"
PASSWORD = "canary-smtp-password"


@dataclass
class ProcessList:
    """The command lines that were seen, of all processes."""

    seen: set[bytes] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)

    def supervision(self) -> None:
        while not self._over.wait(0.002):
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    self.seen.add((process / "cmdline").read_bytes())

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self.supervision)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()


@dataclass
class Scene:
    """A server with secrets everywhere; `said` is all that its commands printed."""

    cli: Cli
    mails: SmtpServer
    key: Path
    protected: Path
    path: str
    canaries: dict[str, str]
    said: list[str] = field(default_factory=list)

    def run(self, *arguments: str | Path) -> int:
        done = self.cli.run(*arguments, PATH=self.path)
        self.said += [done.out, done.err]
        return done.code

    def run_on_terminal(self, passphrase: str, *arguments: str | Path) -> int:
        code, said = on_terminal(
            self.cli.command(*arguments),
            [("Passphrase", passphrase)],
            cwd=self.cli.here,
            environ=self.cli.environ | {"PATH": self.path},
        )
        self.said.append(said)
        return code

    def find(self, seen: Sequence[bytes]) -> list[str]:
        """Where canaries came to light; what is not encrypted is read as well."""
        places = {
            "terminal": "".join(self.said),
            "logs": "".join(file.read_text() for file in self.cli.logs.rglob("*")),
            "mails": "".join(self._texts()),
            "process list": b"\n".join(seen).decode(errors="replace"),
            "state": "".join(
                file.read_bytes().decode(errors="replace")
                for file in (self.cli.here / "state").rglob("*")
                if file.is_file() and file != key_file(self.cli.state)
            ),
        }
        assert all(places.values()), "something is looked at"
        return [
            f"{what} in {where}"
            for what, canary in self.canaries.items()
            for where, text in places.items()
            if canary.lower() in text.lower()
        ]

    def _texts(self) -> Iterator[str]:
        for message in self.mails.messages:
            yield str(message["subject"])
            for part in message.walk():
                if part.get_content_maintype() == "text":
                    yield part.get_content()


@pytest.fixture
def scene(cli: Cli, s3_bucket: S3Bucket, cron_box: CronBox) -> Iterator[Scene]:
    pair = make_key(cli.here)
    (secret,) = re.findall(r"AGE-SECRET-KEY-1(\w+)", pair.file.read_text())
    files = {"key-id": s3_bucket.access_key, "secret": s3_bucket.secret_key, "mail": PASSWORD}
    for name, text in files.items():
        (cli.here / name).write_text(text)
        (cli.here / name).chmod(0o600)
    certificates = make_certificates(cli.here)
    with start_smtp_server("starttls", certificates=certificates, password=PASSWORD) as mails:
        keys = dict.fromkeys(("access_key_id", "secret_access_key"), "")
        store = s3_store(s3_bucket, **keys) + (
            f'\naccess_key_id = {{ file = "{cli.here}/key-id" }}'
            f'\nsecret_access_key = {{ file = "{cli.here}/secret" }}'
        )
        cli.write_profile(
            store,
            f"[encryption]\nrecipients = {json.dumps([pair.recipient])}\n"
            f'identity_file = "{pair.file}"\n[schedule]\ncron = "0 2 * * *"\n'
            '[retention]\nkeep_last = 1\nexpire_after = "9d"\n'
            '[drill]\ncommand = ["env"]\n'
            f'[notify.email]\nhost = "127.0.0.1"\nport = {mails.port}\nusername = "{USERNAME}"\n'
            f'password = {{ file = "{cli.here}/mail" }}\nca_file = "{certificates.authority}"\n'
            'from = "backup@example.com"\nto = ["admin@example.com"]\n',
        )
        open_own_key(cli.state)
        canaries = {
            "the signing key": key_file(cli.state).read_text().splitlines()[1],
            "the identity": secret,
            "the passphrase": PASSPHRASE,
            "the S3 secret": s3_bucket.secret_key,
            "the mail password": PASSWORD,
        }
        path = os.environ["PATH"]
        yield Scene(cli, mails, pair.file, protect(pair.file, PASSPHRASE), path, canaries)


def every_task(scene: Scene) -> dict[str, list[str | Path]]:
    """Each task with arguments that let it do its work."""
    told: list[str | Path] = ["--profile", "test"]
    return {
        "signing-key": [],
        "key-check": told,
        "keygen": ["--output", scene.cli.here / "new.txt"],
        "backup": told,
        "list": told,
        "files": told,
        "verify": told,
        "drill": told,
        "restore": [*told, "--overwrite", "always", "--to", "back"],
        "prune": told,
        "lifecycle": [*told, "--install"],
        "notify-test": told,
        "cron-install": [],
        "cron-show": [],
        "cron-remove": [],
        "profiles": [],
        "profile-new": ["another"],
    }


def test_no_secret_comes_to_light_over_a_run_of_every_task(scene: Scene) -> None:
    arguments = every_task(scene)
    assert set(arguments) == set(Collection.from_module(tasks).task_names)
    processes = ProcessList()
    with processes.watching():
        for debug in ([], ["-d"]):
            for task, given in arguments.items():
                code = scene.run(*debug, task, *given)
                assert code == 0 or (debug and task in ("keygen", "profile-new")), (task, code)
        for passphrase, code in ((PASSPHRASE, 0), (f"not-{PASSPHRASE}", 12)):
            keyed = ("--profile", "test", "--identity", scene.protected)
            assert scene.run_on_terminal(passphrase, "-d", "files", *keyed) == code
    assert any(b"verify" in line for line in processes.seen), "the process list was looked at"
    assert scene.mails.messages
    assert PASSWORD in {password for _, password in scene.mails.logins}
    assert scene.find(sorted(processes.seen)) == []


def test_no_secret_comes_to_light_when_it_is_wrong(scene: Scene) -> None:
    profile = scene.cli.profiles / "test.toml"
    sound = profile.read_text()
    key = scene.key.read_text()
    assert scene.run("key-check", "--profile", "test") == 0
    assert scene.run("backup", "--profile", "test") == 0
    processes = ProcessList()
    secret = f"AGE-SECRET-KEY-1{scene.canaries['the identity']}"
    signing_key = key_file(scene.cli.state).read_text()
    with processes.watching():
        for debug in ([], ["-d"]):
            # A signing key that is cut off, or that others can read.
            key_file(scene.cli.state).write_text(signing_key[:-40])
            assert scene.run(*debug, "signing-key") == 1
            assert scene.run(*debug, "backup", "--profile", "test") == 1
            key_file(scene.cli.state).write_text(signing_key)
            key_file(scene.cli.state).chmod(0o644)
            assert scene.run(*debug, "backup", "--profile", "test") == 1
            key_file(scene.cli.state).chmod(0o600)
            # An identity file that is damaged, and one that stands where a public key should.
            scene.key.write_text(key.rstrip() + "X\n")
            assert scene.run(*debug, "verify", "--profile", "test") == 12
            scene.key.write_text(key)
            for wrong in (
                re.sub(r"recipients = .*", f'recipients = ["{secret}"]', sound),
                re.sub(r"recipients = .*", f'recipients = "{secret}"', sound),
                re.sub(r"identity_file = .*", f'identity_file = "{secret}"', sound),
                f"{sound}[signing]\npublic_key = {signing_key!r}\n",
                f"{sound}[signing]\npublic_key = [{scene.canaries['the signing key']!r}]\n",
            ):
                profile.write_text(wrong)
                assert scene.run(*debug, "backup", "--profile", "test") == 2
                scene.run(*debug, "profiles")
            profile.write_text(sound)
            # Keys that the servers refuse.
            for name in ("secret", "mail"):
                before = (scene.cli.here / name).read_text()
                (scene.cli.here / name).write_text(before + "x")
                task = "verify" if name == "secret" else "notify-test"
                assert scene.run(*debug, task, "--profile", "test") == 1
                (scene.cli.here / name).write_text(before)
    assert scene.find(sorted(processes.seen)) == []
