"""Reads and writes the user's crontab through the program `crontab`, as bytes of any kind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from backup_tasks.common.printable import one_line
from backup_tasks.errors import ScheduleError, TrustError
from backup_tasks.permissions.trusted_paths import check_program

_TIMEOUT_SECONDS = 30


def read_crontab() -> bytes:
    """Read the crontab of the user who runs this; empty if there is none.

    Raises:
        ScheduleError: the program `crontab` is missing, fails, or gives no answer in 30 s.
        TrustError: others may change the program `crontab`.
    """
    listing = _run_crontab("-l")
    if listing.returncode == 0:
        return listing.stdout
    # The words of Debian's cron, cronie and busybox for a user without a crontab.
    if b"no crontab for" in listing.stderr or b"No such file" in listing.stderr:
        return b""
    raise ScheduleError(f"the crontab cannot be read: {_reason(listing)}")


def write_crontab(content: bytes) -> None:
    """Replace the crontab as a whole.

    Raises:
        ScheduleError: the program `crontab` refuses; holds the program's own words, and the
            crontab is unchanged. Or it gives no answer in 30 s, and nobody knows. Also as
            `read_crontab`.
        TrustError: as `read_crontab`.
    """
    written = _run_crontab("-", content)
    if written.returncode != 0:
        raise ScheduleError(
            f"the crontab was not changed: the program crontab refused: {_reason(written)}"
        )


def _run_crontab(argument: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        check_program("crontab", Path("/"), os.environ.get("PATH"))
    except TrustError as error:
        what = f"the program crontab is looked for in $PATH, and {error.what}"
        raise TrustError(what, "set PATH") from None
    try:
        return subprocess.run(
            ["crontab", argument],
            input=stdin,
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
            env={**os.environ, "LC_ALL": "C"},  # its messages are parsed
        )
    except FileNotFoundError:
        raise ScheduleError(
            "the program crontab is missing; install it (Debian and Ubuntu: apt install cron)"
        ) from None
    except subprocess.TimeoutExpired as error:
        changed = " whether the crontab was changed is not known; look with `crontab -l`"
        raise ScheduleError(
            f"the program crontab gave no answer in {_TIMEOUT_SECONDS} s;"
            + (changed if stdin else " try it by hand: crontab -l")
        ) from error
    except OSError as error:
        raise ScheduleError(f"the program crontab cannot be run: {one_line(str(error))}") from error


def _reason(ended: subprocess.CompletedProcess[bytes]) -> str:
    lines = ended.stderr.decode("utf-8", "surrogateescape").splitlines()
    return "; ".join(one_line(line) for line in lines) or f"it ended with {ended.returncode}"
