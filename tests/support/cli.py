"""The command line as somebody uses it: `invoke` in a process of its own, in folders of a test.

def test_it(cli: Cli) -> None:
    cli.write_profile(sources=[cli.source])
    done = cli.run("backup", "--profile", "test")
    assert done.code == 0
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backup_tasks.claim.machine_key import open_own_key
from backup_tasks.common.paths import PROJECT_ROOT
from tests.conftest import S3Bucket

# For a hang alone; a busy machine must not reach it.
_HANGS_SECONDS = 120
_LOG_LINE = re.compile(
    r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] (SUCCESS|WARNING|FAILURE): (.+ \([^()]*\d+[smhd]\).*)"
)


@dataclass(frozen=True)
class Done:
    """A command that has ended: exit code (negative for a signal), stdout, stderr."""

    code: int
    out: str
    err: str


@dataclass
class Cli:
    """A project of one's own: its profiles, log, state, a source and a directory store.

    Attributes:
        here: the folder in which commands are given, with everything else below it.
        environ: all that a command gets to see of the environment.
    """

    here: Path
    environ: dict[str, str]

    @property
    def source(self) -> Path:
        return self.here / "source"

    @property
    def store(self) -> Path:
        return self.here / "store"

    @property
    def profiles(self) -> Path:
        return self.here / "profiles"

    @property
    def state(self) -> Path:
        return self.here / "state"

    @property
    def logs(self) -> Path:
        return self.here / "logs"

    def write_profile(
        self,
        store: str = "",
        more: str = "",
        *,
        name: str = "test",
        sources: Sequence[Path | str] = (),
        backup: str = "",
        mode: int = 0o600,
    ) -> Path:
        """Write a profile of `sources` (the source of this test by default) and return its path.

        Args:
            store: the lines of [store]; by default those of the directory store.
            more: further tables; backup: further lines of [backup].
        """
        named = json.dumps([str(source) for source in sources or [self.source]])
        path = self.profiles / f"{name}.toml"
        path.write_text(
            f'[backup]\nsources = {named}\ntimezone = "UTC"\n{backup}\n'
            f"[store]\n{store or self.directory_store()}\n{more}",
            encoding="utf-8",
        )
        path.chmod(mode)
        return path

    def directory_store(self) -> str:
        """The lines of [store] for the directory store of this test."""
        return f'url = "file://{self.store}/"'

    def command(self, *arguments: str | Path) -> list[str]:
        """The whole command line, for whoever starts it in a way of their own."""
        return [sys.executable, "-m", "invoke", "-r", str(PROJECT_ROOT), *map(str, arguments)]

    def run(self, *arguments: str | Path, **environ: str) -> Done:
        """Run `invoke` with these arguments to its end. `environ` adds to the environment."""
        done = subprocess.run(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=self.here,
            env={**self.environ, **environ},
            timeout=_HANGS_SECONDS,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: str | Path, **environ: str) -> subprocess.Popen[str]:
        """Start `invoke` and go on; `finish` waits for its end."""
        return subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.here,
            env={**self.environ, **environ},
            text=True,
            start_new_session=True,
        )

    def log(self) -> list[str]:
        """The lines of logs/backup.log."""
        return _lines(self.logs / "backup.log")

    def records(self) -> list[dict[str, Any]]:
        """What logs/runs.jsonl holds."""
        return [json.loads(line) for line in _lines(self.logs / "runs.jsonl")]

    def archives(self) -> list[str]:
        """The names of the backups in the directory store, oldest first."""
        return sorted(path.name for path in self.store.glob("*-backup.tar.gz"))

    def back_up(self, *arguments: str | Path) -> str:
        """Make a backup of the profile `test` that must succeed; returns its id."""
        done = self.run("backup", "--profile", "test", *arguments)
        assert (done.code, done.err) == (0, ""), done
        return str(self.records()[-1]["archive"]).removesuffix("-backup.tar.gz")


def finish(process: subprocess.Popen[str]) -> Done:
    """Wait for the end of what `Cli.start` started."""
    try:
        out, err = process.communicate(timeout=_HANGS_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Done(process.returncode, out, err)


def assert_refused(cli: Cli, done: Done, code: int, *words: str) -> str:
    """What every failure owes the operator; returns what was said on stderr.

    One clear line, or one for each problem, on stderr and nothing on stdout; the exit code;
    the same reason in the log and in a run record.
    """
    assert done.code == code, done
    assert done.out == ""
    _assert_clear(done.err)
    for word in words:
        assert word in done.err, f"{word!r} is not in {done.err!r}"
    assert_recorded_failure(cli, code, done.err)
    return done.err


def assert_recorded_failure(cli: Cli, code: int, told: str) -> None:
    """The last log line and the last record tell of this failure."""
    record = cli.records()[-1]
    assert (record["result"], record["exit_code"]) == ("failure", code)
    assert record["error"] == told.rstrip("\n")
    last = _LOG_LINE.fullmatch(cli.log()[-1])
    assert last, cli.log()[-1]
    assert last[1] == "FAILURE"
    assert told.splitlines()[0].strip() in last[2]


def _assert_clear(told: str) -> None:
    assert told.endswith("\n")
    assert "Traceback" not in told
    assert "  File " not in told
    for line in told.splitlines():
        assert 10 < len(line) < 500, f"no clear line: {line!r}"


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def s3_store(bucket: S3Bucket, **others: str | int) -> str:
    """The lines of [store] for a bucket of the test server; `others` replace single keys."""
    keys = {
        "url": f"s3://{bucket.bucket}/backups/",
        "region": bucket.region,
        "endpoint_url": bucket.endpoint,
        "access_key_id": bucket.access_key,
        "secret_access_key": bucket.secret_key,
        "addressing_style": "path",
        **others,
    }
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items() if value)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """A project of one's own with a small source tree, and a signing key that is not new."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        **{f"BACKUP_TASKS_{name.upper()}": str(tmp_path / name) for name in _FOLDERS},
        # What conftest.py sets to keep the operator's own keys out.
        **{name: value for name, value in os.environ.items() if name.startswith("AWS_")},
    }
    cli = Cli(tmp_path, environ)
    cli.profiles.mkdir()
    cli.store.mkdir()
    (cli.source / "etc" / "nginx").mkdir(parents=True)
    (cli.source / "etc" / "nginx" / "nginx.conf").write_text("worker_processes 1;\n")
    (cli.source / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    (cli.source / "hello world.txt").write_text("hello\n")
    open_own_key(cli.state)
    return cli


_FOLDERS = ("profiles", "logs", "state")
