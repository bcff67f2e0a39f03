"""Reading one source file that may change, lie or fail while it is read."""

from __future__ import annotations

import errno
import os
import stat

from backup_tasks.format.content_hash import PlainHash, SparseHash
from backup_tasks.format.limits import SPARSE_FROM_BYTES
from backup_tasks.snapshot.data_segments import Segment, find_segments
from backup_tasks.snapshot.xattrs import Xattrs, read_xattrs

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# A dying disk may take seconds for each failing read; after this many, the rest is given up.
_MOST_FAILURES = 16


def explain(error: OSError) -> str:
    """Why a file cannot be opened or read, in words that suit a running backup."""
    if error.errno == errno.ENOENT:
        return "vanished before it could be read"
    if error.errno == errno.ELOOP:
        return "became a symlink while the backup ran; it was not followed"
    if error.errno == errno.ENOTDIR:
        return "a folder above it was replaced while the backup ran"
    return error.strerror or str(error)


class SourceFile:
    """An open regular file, read once from front to end.

    Holes are not read. `segments` names the parts that hold bytes, and `fill` gives only these,
    one after the other. The hash covers the whole content.

    Attributes:
        status: of the moment of opening.
        segments: (offset, length) of the stored bytes; one segment unless the file is sparse.
        is_sparse: whether holes are left out.
        read_bytes: bytes that `fill` has read so far.
        shortened: the file ended before its size; zeros stand for the rest.
        failure: the system's message when a read failed, or ""; zeros stand for the rest of the
            megabyte in which it failed.

    Raises:
        OSError: the file cannot be opened, has more holes than an archive holds, or is not (or
            no longer) a regular file. A symlink is not followed, and a FIFO does not block.
    """

    def __init__(self, name: str, folder: int) -> None:
        self._descriptor = os.open(name, _OPEN_FILE, dir_fd=folder)
        try:
            self.status = os.fstat(self._descriptor)
            if not stat.S_ISREG(self.status.st_mode):
                raise OSError(errno.ESTALE, "is no longer a regular file; it was not read")
            self.segments = self._find_segments()
        except BaseException:
            self.close()
            raise
        self.is_sparse = self.segments != [(0, self.status.st_size)] and self.status.st_size > 0
        self.stored_bytes = sum(length for _, length in self.segments)
        self._pending = [segment for segment in self.segments if segment[1]]
        self._pending.reverse()
        size = self.status.st_size
        self._is_hashed_sparse = size - self.stored_bytes > SPARSE_FROM_BYTES
        self._hash = SparseHash(size) if self._is_hashed_sparse else PlainHash(size)
        self.read_bytes = 0
        self.shortened = False
        self.failure = ""
        self._failures = 0

    def _find_segments(self) -> list[Segment]:
        size = self.status.st_size
        if self.status.st_blocks * 512 >= size:
            return [(0, size)]
        return find_segments(self._descriptor, size)

    def fill(self, view: memoryview) -> None:
        """Fill the whole view with the next stored bytes; with zeros for unreadable ones."""
        done = 0
        while done < len(view):
            offset, length = self._pending.pop()
            wanted = view[done : done + length]
            self._read_at(offset, wanted)
            self._hash.add(offset, wanted)
            done += len(wanted)
            if len(wanted) < length:
                self._pending.append((offset + len(wanted), length - len(wanted)))

    def _read_at(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view) and not self.shortened and self._failures < _MOST_FAILURES:
            try:
                count = os.preadv(self._descriptor, [view[done:]], offset + done)
            except OSError as error:
                self.failure = error.strerror or str(error)
                self._failures += 1
                break
            if count == 0:
                self.shortened = True
            done += count
        self.read_bytes += done
        if done < len(view):
            view[done:] = bytes(len(view) - done)

    def content_hashes(self) -> tuple[str, str]:
        """`sha256` and `sparse_sha256` of the content as stored; one of the two is "". Call this
        once, after the last `fill`."""
        found = self._hash.finish()
        return ("", found) if self._is_hashed_sparse else (found, "")

    @property
    def is_padded(self) -> bool:
        """Whether zeros stand for some of the file's bytes."""
        return bool(self.failure) or self.shortened

    def what_changed(self) -> str:
        """Why the bytes read are not the file's content at any one moment; "" if they are."""
        if self.failure:
            return self.failure
        if self.shortened:
            return "became shorter while it was read; the rest is zeros"
        try:
            now = os.fstat(self._descriptor)
        except OSError as error:
            return f"{error.strerror or error}; whether it changed while it was read is not known"
        before = self.status
        if now.st_size != before.st_size:
            return "changed its size while it was read; stored up to the size at the start"
        if (now.st_mtime_ns, now.st_ctime_ns) != (before.st_mtime_ns, before.st_ctime_ns):
            return "changed while it was read"
        if self._has_more():
            return f"says it has {before.st_size} bytes but holds more; stored what it says"
        return ""

    def _has_more(self) -> bool:
        """Whether more bytes follow than `st_size` says, as in many files of /proc."""
        try:
            return bool(os.pread(self._descriptor, 1, self.status.st_size))
        except OSError:
            return False

    def xattrs(self) -> Xattrs:
        """Extended attributes, ACLs and capabilities among them."""
        return read_xattrs(self._descriptor)

    def close(self) -> None:
        # A file server may report here that others' writes failed; our reads are not affected.
        try:  # noqa: SIM105 - for every file, and suppress takes longer than closing it
            os.close(self._descriptor)
        except OSError:
            pass
