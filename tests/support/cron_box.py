"""The machine's real cron and crontab programs, in a mount namespace with a spool of its own.

Neither the machine's crontabs nor its jobs are seen or touched. Needs root, or sudo without
a password.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# Everything that the daemon would read or write, covered; then whatever holds the namespace.
# PAM is let through because containers often refuse what Debian's own rules ask for.
_SET_UP = """
set -e
mount -t tmpfs -o "mode=1730,gid=$(getent group crontab | cut -d: -f3)" spool "$1"
mount -t tmpfs run /run
mount -t tmpfs jobs /etc/cron.d
: >/etc/cron.d/.empty
mount --bind /etc/cron.d/.empty /etc/crontab
printf '%s required pam_permit.so\\n' auth account session >/run/pam
mount --bind /run/pam /etc/pam.d/cron
echo $$
exec cat
"""
_SPOOL = "/var/spool/cron/crontabs"
_SUDO = [] if os.geteuid() == 0 else ["sudo", "-n"]


@dataclass(frozen=True)
class CronBox:
    """A crontab of one's own, reached with the real program."""

    programs: Path
    pid: int

    def read(self) -> bytes:
        """What `crontab -l` prints; empty when there is none."""
        return subprocess.run(
            [self.programs / "crontab", "-l"], capture_output=True, check=False
        ).stdout

    def write(self, content: bytes) -> None:
        """Install a crontab, as its user would."""
        subprocess.run([self.programs / "crontab", "-"], input=content, check=True)

    def spool(self, content: bytes) -> None:
        """Put a file into the spool, also one that `crontab -` would refuse."""
        subprocess.run(
            [*_enter(self.pid), "tee", f"{_SPOOL}/root"],
            input=content,
            stdout=subprocess.DEVNULL,
            check=True,
        )

    @contextlib.contextmanager
    def daemon(self, starts_at: str = "") -> Iterator[None]:
        """The cron daemon, while the block runs.

        Args:
            starts_at: what its clock shows first, as `2025-06-12 01:59:58` of local time. Its jobs
                see the true time.

        Install the crontab before: cron compares the spool's mtime in whole seconds, and passes
        over what is installed in the second in which it starts.
        """
        clock = [f"LD_PRELOAD={_find_faketime()}", f"FAKETIME=@{starts_at}"] if starts_at else []
        cron = subprocess.Popen([*_enter(self.pid), "env", *clock, "cron", "-f"])
        try:
            yield
        finally:
            cron.terminate()
            cron.wait(timeout=30)


@contextlib.contextmanager
def _open_box(folder: Path) -> Iterator[CronBox]:
    # cat ends by itself with our end of the pipe, whatever happens to us.
    holding = subprocess.Popen(
        [*_SUDO, "unshare", "-m", "sh", "-c", _SET_UP, "sh", _SPOOL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holding.stdout
    try:
        first_line = holding.stdout.readline()
        assert first_line, "the namespace for cron could not be made"
        pid = int(first_line)
        real = shutil.which("crontab")
        assert real, "the program crontab is missing: apt install cron"
        program = folder / "crontab"
        program.write_text(f'#!/bin/sh\nexec {shlex.join([*_enter(pid), real])} "$@"\n')
        program.chmod(0o755)
        yield CronBox(folder, pid)
    finally:
        holding.terminate()
        holding.communicate(timeout=30)


def _find_faketime() -> Path:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    assert found, "libfaketime is missing: apt install libfaketime"
    return found[0]


def _enter(pid: int) -> list[str]:
    return [*_SUDO, "nsenter", f"--mount=/proc/{pid}/ns/mnt", "--"]


@pytest.fixture
def cron_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CronBox]:
    """A private crontab that `crontab` on the PATH reads and writes."""
    folder = tmp_path / "cron-box"
    folder.mkdir()
    with _open_box(folder) as box:
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        yield box
