"""Files of a directory store: one as an object, pinned while it is read, errors explained."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backup_tasks.common.units import moment_of
from backup_tasks.errors import ObjectMissing, ReadRefused, StoreError
from backup_tasks.stores.base import StoredObject, changed

# A FIFO that somebody puts in its place is not waited for.
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_REASONS = {
    errno.ENOSPC: "disk full; free some space, or keep fewer backups",
    errno.EDQUOT: "disk quota used up; free some space, or keep fewer backups",
    errno.EFBIG: "the file system does not take files as large as this",
    errno.EROFS: "the file system is mounted read-only",
    errno.EACCES: "no permission; check owner and mode of the folder",
    errno.EPERM: "no permission; check owner and mode of the folder",
    errno.EIO: "the disk reports an error; see dmesg",
    errno.ESTALE: "the network file system lost it; mount it again",
    errno.EEXIST: "there is something else of that name; check store.url",
    errno.ENOTDIR: "this is not a folder; check store.url",
}


def stored_object(name: str, status: os.stat_result) -> StoredObject:
    """A file as the contract describes an object; a replaced file gets another etag."""
    etag = f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
    return StoredObject(name, status.st_size, moment_of(status.st_mtime), etag)


def open_pinned(folder: Path, source: StoredObject, url: str) -> int:
    """A descriptor of this very object. Raises ObjectChanged, OSError."""
    descriptor = os.open(folder / source.name, OPEN_FILE)
    if stored_object(source.name, os.fstat(descriptor)).etag != source.etag:
        os.close(descriptor)
        raise changed(url, source.name)
    return descriptor


def partial_path(folder: Path, name: str, upload_id: str) -> Path:
    """Where an archive under way lies."""
    return folder / f".{name}.{upload_id}.partial"


@contextmanager
def explained(url: str, doing: str, name: str = "") -> Iterator[None]:
    """Turn an OSError inside into a StoreError that says what was being done.

    Args:
        name: of the object, where one is read; if it is missing, ObjectMissing is raised.
    """
    try:
        yield
    except FileNotFoundError as error:
        if name:
            raise ObjectMissing(f"{url}: there is no {name}") from error
        raise StoreError(f"{url}: could not {doing}: it was removed in the meantime") from error
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        if name and error.errno in (errno.EACCES, errno.EPERM, errno.EIO):
            raise ReadRefused(f"{url}: could not {doing}: {reason}") from error
        raise StoreError(f"{url}: could not {doing}: {reason}") from error
