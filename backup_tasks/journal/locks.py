"""Allow one run at a time for each profile and store, by flock on files in the state directory.

The kernel frees a lock when its holder ends, however it ends. The files stay: that a file exists
means nothing, and its text only says who holds, or last held, the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from backup_tasks.common.paths import Paths, make_private
from backup_tasks.common.printable import printable
from backup_tasks.common.state_files import parse_note
from backup_tasks.errors import BackupError, LockedError


@contextlib.contextmanager
def hold_lock(names: Sequence[str], paths: Paths, what: str) -> Iterator[None]:
    """Hold the locks with these names until the block ends; all of them or none.

    Args:
        names: things that only one run may use at a time, for example "profile prod" and
            "store s3://bucket/backups/".
        what: the holder in words, for example "backup prod", shown to the run that comes second.

    Raises:
        LockedError: another run holds one of them; raised at once, and names the holder.
        BackupError: the state directory cannot be written.
    """
    folder = paths.state / "locks"
    with contextlib.ExitStack() as held:
        # Every run locks in the same order: of two that start together, one gets all its locks.
        for name in sorted(set(names)):
            file = folder / _file_name(name)
            try:
                make_private(folder)
                descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
                held.callback(os.close, descriptor)
                _take(descriptor, name, what)
            except OSError as error:
                place = printable(str(file))
                raise BackupError(
                    f"cannot take the lock {place}: {error.strerror}; "
                    "BACKUP_TASKS_STATE names another folder for it"
                ) from error
        yield


def _take(descriptor: int, name: str, what: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LockedError(_describe_holder(descriptor, name)) from None
    # The file's mtime tells the time, so that this needs no clock.
    holder = json.dumps({"pid": os.getpid(), "what": what, "lock": name})
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, holder.encode("utf-8", "backslashreplace") + b"\n", 0)


def _describe_holder(descriptor: int, name: str) -> str:
    since = datetime.fromtimestamp(os.fstat(descriptor).st_mtime, UTC).astimezone()
    try:
        holder = parse_note(os.pread(descriptor, 4096, 0))
        who = f"{printable(holder['what'])} (process {int(holder['pid'])})"
    except (ValueError, KeyError, TypeError):  # the holder has not written its text yet
        who = "another run"
    return (
        f"{who} holds the lock on {printable(name)} since {since:%Y-%m-%d %H:%M:%S}; "
        "wait until it is done, or end that process"
    )


def _file_name(name: str) -> str:
    """A readable part, and a hash that tells apart names that read alike."""
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{readable}-{digest}.lock"
