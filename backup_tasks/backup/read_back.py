"""Reads a backup back right after its commit: does the store give what was sent?

A store may answer "done" and have something else, or nothing, or show the object only later.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import Struct

from backup_tasks.chunks.reader import read_ahead, read_chunks
from backup_tasks.common.printable import one_line
from backup_tasks.errors import (
    ArchiveError,
    NotAsSent,
    ObjectChanged,
    ObjectMissing,
    ReadRefused,
    StoreError,
)
from backup_tasks.format.archive_names import is_encrypted_name
from backup_tasks.format.footer import Footer
from backup_tasks.format.manifest import Chunk
from backup_tasks.read.manifest_reader import find_fault_at_end, read_footer
from backup_tasks.stores.base import ArchiveWriter, CopySource, PartBody, Store, StoredObject

# At most this many chunks are read, about 16 MiB, however large the archive is.
_MOST_CHUNKS = 16
# Pauses between the tries, in seconds; a minute together. By then a store shows what it has.
_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 29.5)
_PATIENCE_SECONDS = 60.0
# More than end mark, signature and footer take together, also if they are encrypted.
_TAIL_BYTES = 2**16
_REPLACED = "another object has its name"


class NotedCopies:
    """A writer that remembers which ranges of its object were copied. An `ArchiveWriter`.

    Attributes:
        copied: offset and length of each copied range, in order.
    """

    def __init__(self, inner: ArchiveWriter) -> None:
        self._inner = inner
        self._offset = 0
        self.copied: list[tuple[int, int]] = []

    @property
    def upload_id(self) -> str:
        """As `ArchiveWriter.upload_id`."""
        return self._inner.upload_id

    def send(self, body: PartBody) -> None:
        """As `ArchiveWriter.send`."""
        self._offset += len(body)
        self._inner.send(body)

    def copy(self, source: CopySource, start: int, length: int) -> None:
        """As `ArchiveWriter.copy`."""
        self.copied.append((self._offset, length))
        self._offset += length
        self._inner.copy(source, start, length)

    def withdraw(self, offset: int) -> None:
        """As `ArchiveWriter.withdraw`."""
        self._offset = offset
        self.copied = [one for one in self.copied if one[0] < offset]
        self._inner.withdraw(offset)

    def check(self) -> None:
        """As `ArchiveWriter.check`."""
        self._inner.check()

    def commit(self, name: str = "") -> StoredObject:
        """As `ArchiveWriter.commit`."""
        return self._inner.commit(name)

    def abort(self) -> None:
        """As `ArchiveWriter.abort`."""
        self._inner.abort()

    def leave(self) -> None:
        """As `ArchiveWriter.leave`."""
        self._inner.leave()


class Sent(Struct, frozen=True):
    """An archive as it was sent.

    Attributes:
        footer: the footer, with its signature.
        chunks: all chunks; at least one.
        copied: offset and length of each range that the store copied from another object.
    """

    footer: Footer
    chunks: Sequence[Chunk]
    copied: Sequence[tuple[int, int]]


def read_back(
    store: Store,
    stored: StoredObject,
    sent: Sent,
    *,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Compare the stored archive with what was sent: size, footer, manifest, and some chunks.

    A wrong or missing object is looked at again for a minute, since some stores show a new object
    late. Stored bytes are compared, which takes no key.

    Raises:
        NotAsSent: the object stays wrong or missing, or its disk reports an error.
        ReadRefused: the store does not give the object: permission is missing, or it lies in an
            archive class.
        StoreError: the store cannot be reached.
    """
    give_up_at = monotonic() + _PATIENCE_SECONDS
    pauses = iter(_PAUSES)
    while True:
        try:
            _look(store, stored, sent)
            return
        except ReadRefused as error:
            if not _is_bad_disk(error):
                raise
            raise _told(store, stored, NotAsSent("the disk reports an error; see dmesg")) from error
        except (StoreError, NotAsSent) as error:
            pause = next(pauses, None)
            if pause is None or monotonic() + pause > give_up_at:
                if isinstance(error, (NotAsSent, ObjectMissing, ObjectChanged)):
                    raise _told(store, stored, error) from error
                raise
            sleep(pause)


def _is_bad_disk(error: ReadRefused) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO


def _told(store: Store, stored: StoredObject, error: Exception) -> NotAsSent:
    if isinstance(error, ObjectMissing):
        found = "it is not there"
    else:
        found = str(error) if isinstance(error, NotAsSent) else _REPLACED
    return NotAsSent(
        f"{store.url}: {stored.name} was committed, but read back it is not what was sent: "
        f"{found}; it does not count as a backup; check the store, and run the backup again"
    )


def _look(store: Store, stored: StoredObject, sent: Sent) -> None:
    found = store.stat(stored.name)
    if found.size != stored.size:
        raise NotAsSent(f"it has {found.size:,} bytes instead of {stored.size:,}")
    if found.etag != stored.etag:
        raise NotAsSent(_REPLACED)
    digest, end = _read_end(store, found, sent.footer)
    try:
        footer = read_footer(end, found)
    except ArchiveError as error:
        raise NotAsSent(one_line(str(error)).removeprefix(f"{stored.name}: ")) from error
    if footer != sent.footer:
        raise NotAsSent("its footer is another one")
    if digest != sent.footer.sha256:
        raise NotAsSent("the manifest has another hash")
    # In an encrypted archive, the bytes behind the manifest could only be checked with a key.
    if not is_encrypted_name(found.name) and (fault := find_fault_at_end(end, found, footer)):
        raise NotAsSent(fault)
    numbers = choose_chunks(sent)
    with contextlib.closing(
        read_chunks(store, found, sent.chunks, numbers, is_known=lambda _: True)
    ) as sample:
        if wrong := next((read for read in sample if read.damage), None):
            raise NotAsSent(f"chunk {wrong.number}: {wrong.damage}")


class _ReadEnd(Struct, frozen=True):
    """An object whose last bytes, from `start` on, were read already."""

    store: Store
    start: int
    tail: bytes

    def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
        """As `Store.read_range`."""
        if start < self.start:
            return self.store.read_range(source, start, length)
        return self.tail[start - self.start : start - self.start + length]


def _read_end(store: Store, found: StoredObject, footer: Footer) -> tuple[bytes, _ReadEnd]:
    """The hash of the manifest, and the bytes behind it; one request reads both."""
    left, tail, digest = footer.length, b"", hashlib.sha256()
    for piece in read_ahead(store, found, footer.offset, found.size - footer.offset):
        digest.update(memoryview(piece)[:left])
        left = max(0, left - len(piece))
        tail = (tail + piece[-_TAIL_BYTES:])[-_TAIL_BYTES:]
    return digest.digest(), _ReadEnd(store, found.size - len(tail), tail)


def choose_chunks(sent: Sent) -> list[int]:
    """Numbers of the chunks to read, ascending.

    These are the first and the last chunk, the first and the last that were sent, and those at both
    ends of copied ranges, or as many of the latter as fit.
    """
    chunks = sent.chunks
    end = chunks[-1].end
    sent_ranges = list(_between(sent.copied, end))
    places = [0, end - 1]
    if sent_ranges:
        places += [sent_ranges[0][0], sent_ranges[-1][1] - 1]
    wanted = {_chunk_at(chunks, place) for place in places}
    borders = {
        _chunk_at(chunks, place)
        for start, length in sent.copied
        for place in (start, start + length - 1)
        if place < end
    }
    others = sorted(borders - wanted)
    room = _MOST_CHUNKS - len(wanted)
    if len(others) > room:
        others = [others[number * (len(others) - 1) // (room - 1)] for number in range(room)]
    return sorted({*wanted, *others})


def _chunk_at(chunks: Sequence[Chunk], place: int) -> int:
    return bisect.bisect_right(chunks, place, key=lambda chunk: chunk.offset) - 1


def _between(copied: Iterable[tuple[int, int]], end: int) -> Iterator[tuple[int, int]]:
    """Start and end of each range that was not copied, up to the end of all chunks."""
    place = 0
    for start, length in [*copied, (end, 0)]:
        if start > place:
            yield place, min(start, end)
        place = max(place, start + length)
