"""One archive on its way into a directory: a hidden file that gets its name at the commit."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backup_tasks.common.paths import sync_folder
from backup_tasks.errors import ObjectExists, StoreError
from backup_tasks.stores.base import CopySource, PartBody, StoredObject, settled, taken
from backup_tasks.stores.directory_files import (
    explained,
    open_pinned,
    partial_path,
    stored_object,
)

_BUFFER_BYTES = 2**20
# Errors by which file systems and old kernels say that they cannot link, or copy.
_CANNOT_LINK = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
_CANNOT_COPY = {errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF}


class DirectoryWriter:
    """See `base.ArchiveWriter` for the contract.

    A crash leaves the hidden file, which `list_unfinished` finds. A crash at the end of a commit
    may leave it as a second link to the whole archive; `end_unfinished` removes that without harm.
    """

    def __init__(self, folder: Path, name: str, upload_id: str, url: str) -> None:
        self._folder = folder
        self._name = name
        self._upload_id = upload_id
        self._url = url
        self._partial = partial_path(folder, name, upload_id)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with explained(url, f"start {name}"):
            self._descriptor = os.open(self._partial, flags, 0o600)

    @property
    def upload_id(self) -> str:
        return self._upload_id

    def send(self, body: PartBody) -> None:
        with self._whole_or_nothing(f"write {self._name}"), memoryview(body) as view:
            self._write(view)

    def copy(self, source: CopySource, start: int, length: int) -> None:
        found = settled(source)
        with (
            self._whole_or_nothing(f"copy from {found.name}"),
            explained(self._url, f"copy from {found.name}", found.name),
        ):
            origin = open_pinned(self._folder, found, self._url)
            try:
                copied = self._clone(origin, start, length)
                self._copy_through_memory(origin, start + copied, length - copied)
            finally:
                os.close(origin)

    def withdraw(self, offset: int) -> None:
        with self._whole_or_nothing(f"cut {self._name}"):
            os.ftruncate(self._descriptor, offset)
            os.lseek(self._descriptor, offset, os.SEEK_SET)

    def check(self) -> None:
        pass  # nothing happens in the background

    def commit(self, name: str = "") -> StoredObject:
        name = name or self._name
        with self._whole_or_nothing(f"complete {name}"):
            status = give_name(self._descriptor, self._partial, self._folder / name, self._url)
        self._close()
        return stored_object(name, status)

    def abort(self) -> None:
        if self._descriptor >= 0:
            self._close()
            # The next run finds what cannot be removed now.
            with contextlib.suppress(OSError):
                self._partial.unlink(missing_ok=True)

    def leave(self) -> None:
        if self._descriptor >= 0:
            self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)

    @contextmanager
    def _whole_or_nothing(self, doing: str) -> Iterator[None]:
        """Abort after an error, so that nothing is left and the space is free again."""
        if self._descriptor < 0:
            raise StoreError(f"{self._url}: the writing of {self._name} has ended")
        try:
            with explained(self._url, doing):
                yield
        except ObjectExists:
            raise  # the file is whole, and may be committed under another name
        except StoreError:
            self.abort()
            raise

    def _write(self, view: memoryview) -> None:
        while view:
            view = view[os.write(self._descriptor, view) :]

    def _clone(self, origin: int, start: int, length: int) -> int:
        """Let the kernel copy, sharing blocks where it can; returns the number of bytes copied."""
        copied = 0
        try:
            while copied < length:
                count = os.copy_file_range(
                    origin, self._descriptor, length - copied, offset_src=start + copied
                )
                if not count:
                    break
                copied += count
        except OSError as error:
            if error.errno not in _CANNOT_COPY:
                raise
        return copied

    def _copy_through_memory(self, origin: int, start: int, length: int) -> None:
        while length:
            content = os.pread(origin, min(length, _BUFFER_BYTES), start)
            if not content:
                raise StoreError(f"{self._url}: the range to copy lies beyond the archive's end")
            self._write(memoryview(content))
            start, length = start + len(content), length - len(content)


def give_name(descriptor: int, partial: Path, final: Path, url: str) -> os.stat_result:
    """Give a written file its name, atomically, and so that it survives a power cut.

    Returns:
        The file's status.

    Raises:
        ObjectExists: the name is taken.
        OSError: the file cannot be synced, or not be named.
    """
    # The bytes must be on disk before the name is, or a power cut leaves a name without content.
    os.fsync(descriptor)
    status = os.fstat(descriptor)
    try:
        os.link(partial, final, follow_symlinks=False)
    except FileNotFoundError:
        # Another host may have ended this write because the name is taken already.
        if os.path.lexists(final):
            raise taken(url, final.name) from None
        raise
    except FileExistsError:
        # The link may be ours: a network file system repeats a request whose answer was lost.
        if not os.path.samestat(os.lstat(final), status):
            raise taken(url, final.name) from None
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        _rename(partial, final, url)
    partial.unlink(missing_ok=True)
    sync_folder(final.parent)
    return status


def _rename(partial: Path, final: Path, url: str) -> None:
    """Rename, for file systems without hard links; a lock keeps two of us from taking one name."""
    folder = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if os.path.lexists(final):
            raise taken(url, final.name)
        os.rename(partial, final)
    finally:
        os.close(folder)
