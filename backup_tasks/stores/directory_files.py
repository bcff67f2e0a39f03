"""Files of a directory store: described as objects, opened pinned, their errors explained."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backup_tasks.common.units import moment_of
from backup_tasks.errors import ObjectMissing, ReadRefused, StoreError
from backup_tasks.stores.base import StoredObject, changed

# O_NONBLOCK: if somebody puts a FIFO in the place of the file, opening it does not wait.
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
    """A file as a StoredObject; a replaced file has another etag."""
    etag = f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
    return StoredObject(name, status.st_size, moment_of(status.st_mtime), etag)


def open_pinned(folder: Path, source: StoredObject, url: str) -> int:
    """Open this very object; returns its descriptor.

    Raises:
        ObjectChanged: the file was replaced.
        OSError: it cannot be opened.
    """
    descriptor = os.open(folder / source.name, OPEN_FILE)
    if stored_object(source.name, os.fstat(descriptor)).etag != source.etag:
        os.close(descriptor)
        raise changed(url, source.name)
    return descriptor


def partial_path(folder: Path, name: str, upload_id: str) -> Path:
    """The path of an archive under way."""
    return folder / f".{name}.{upload_id}.partial"


@contextmanager
def explained(url: str, doing: str, name: str = "") -> Iterator[None]:
    """Turn an OSError inside the block into a StoreError that says what was being done.

    Args:
        doing: ends the sentence "could not ...".
        name: of the object, if one is read.

    Raises:
        ObjectMissing: there is no object called `name`.
        ReadRefused: no permission to read it, or the disk reports an error.
        StoreError: any other OSError.
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
