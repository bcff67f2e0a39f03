"""Small, replaceable files of a directory store: read whole, written under a condition."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from backup_tasks.common.paths import sync_folder
from backup_tasks.errors import ObjectChanged, ReadRefused
from backup_tasks.stores.base import StoredObject
from backup_tasks.stores.directory_files import OPEN_FILE, stored_object
from backup_tasks.stores.directory_writer import give_name

# A temporary file older than ours by this much was left by a crash.
_ABANDONED_SECONDS = 24 * 3600


def read_small(folder: Path, name: str, most_bytes: int, url: str) -> tuple[bytes, StoredObject]:
    """See `base.Store.read_small`.

    Raises:
        ReadRefused: it is a link, no file, or larger than `most_bytes`.
        OSError: it cannot be read.
    """
    try:
        descriptor = os.open(folder / name, OPEN_FILE)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise ReadRefused(f"{url}: {name} is a link, and no file") from error
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ReadRefused(f"{url}: {name} is no file")
        content = b""
        while len(content) <= most_bytes and (more := file.read(most_bytes + 1 - len(content))):
            content += more
    if len(content) > most_bytes:
        raise ReadRefused(f"{url}: {name} is larger than {most_bytes:,} bytes")
    return content, stored_object(name, status)


def put_small(
    folder: Path, name: str, body: bytes, replaces: StoredObject | None, url: str
) -> StoredObject:
    """See `base.Store.put_small`.

    A crash leaves the old file or the new one, and perhaps a hidden one that a later call removes.

    Raises:
        ObjectExists: the name is taken, and `replaces` is None.
        ObjectChanged: `replaces` is not there any more.
        OSError: it cannot be written.
    """
    temporary = folder / f".{name}.{secrets.token_hex(8)}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with _alone(folder):
        descriptor = os.open(temporary, flags, 0o600)
        try:
            rest = body
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            if replaces is None:
                status = give_name(descriptor, temporary, folder / name, url)
            else:
                status = _replace(descriptor, temporary, folder / name, replaces, url)
            _remove_abandoned(folder, name, status.st_mtime)
        finally:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    return stored_object(name, status)


def _replace(
    descriptor: int, temporary: Path, final: Path, replaces: StoredObject, url: str
) -> os.stat_result:
    os.fsync(descriptor)
    with contextlib.suppress(FileNotFoundError):
        if stored_object(final.name, os.lstat(final)).etag == replaces.etag:
            os.replace(temporary, final)
            sync_folder(final.parent)
            return os.fstat(descriptor)
    raise ObjectChanged(
        f"{url}: {final.name} was replaced by something else in the meantime; run again"
    )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes of ours from replacing the file between our look at it and our write.

    Some network file systems have no such locks. There, two writers may both succeed at the same
    moment; the next run notices it by the claim's serial.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(folder: Path, name: str, now: float) -> None:
    """Remove temporary files that crashes left. `now` is the file system's own time."""
    for left in folder.glob(f".{name}.*.new"):
        with contextlib.suppress(OSError):
            if now - left.lstat().st_mtime > _ABANDONED_SECONDS:
                left.unlink()
