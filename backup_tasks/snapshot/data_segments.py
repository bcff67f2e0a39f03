"""Where a sparse file holds bytes, as its file system reports."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from backup_tasks.format.limits import (
    HOLES_LIMIT,
    MOST_EXTENTS,
    MOST_SEGMENTS,
    MOST_ZEROS,
    SPARSE_FROM_BYTES,
    TOO_MANY_HOLES,
)

# Where there are too many holes, those up to this size go first: they save little.
_FIRST_GAP_BYTES = 2**14
Segment = tuple[int, int]


def extents(descriptor: int, size: int) -> Iterator[Segment]:
    """(offset, length) of each part that holds bytes, in order, up to `size`.

    Where the file system fails to answer, or gives an impossible answer, the rest counts as
    one part.
    """
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO means: a hole up to the end
                yield position, size - position
            return
        if not position <= start < end:
            yield position, size - position
            return
        if start >= size:  # the file grew just now
            return
        position = min(end, size)
        yield start, position - start


class SegmentList:
    """Segments of bytes in order, at most `most`: beyond that, the smallest holes between them
    are stored as zeros.

    Attributes:
        segments: (offset, length), ascending.
        data_bytes: bytes added, without the stored holes.
    """

    def __init__(self, most: int) -> None:
        self.segments: list[Segment] = []
        self.data_bytes = 0
        self._most = most
        self._gap = 0

    def add(self, offset: int, length: int) -> None:
        """Add the next part that holds bytes."""
        self.data_bytes += length
        self._append(offset, length)
        while len(self.segments) > self._most:
            self._gap = max(2 * self._gap, _FIRST_GAP_BYTES)
            before, self.segments = self.segments, []
            for segment in before:
                self._append(*segment)

    def _append(self, offset: int, length: int) -> None:
        if self.segments:
            start, there = self.segments[-1]
            if offset - (start + there) <= self._gap:
                self.segments[-1] = start, offset + length - start
                return
        self.segments.append((offset, length))

    @property
    def segment_bytes(self) -> int:
        """Bytes of all segments, stored holes included."""
        return sum(length for _, length in self.segments)


def find_segments(descriptor: int, size: int) -> list[Segment]:
    """The segments to store of a file of `size` bytes; the last one ends where the file ends.

    Raises:
        OSError: EFBIG; the file has more holes, or more pieces, than an archive holds.
    """
    found = SegmentList(MOST_SEGMENTS)
    for number, (offset, length) in enumerate(extents(descriptor, size)):
        if number == MOST_EXTENTS:
            raise OSError(errno.EFBIG, f"it is torn into more than {MOST_EXTENTS:,} pieces")
        found.add(offset, length)
    stored = found.segment_bytes
    if size - stored > HOLES_LIMIT:
        raise OSError(errno.EFBIG, f"{TOO_MANY_HOLES}; exclude it")
    if stored - found.data_bytes > MOST_ZEROS * found.data_bytes + SPARSE_FROM_BYTES:
        raise OSError(
            errno.EFBIG,
            f"it is torn into more than {MOST_SEGMENTS:,} pieces, too far apart to store what lies "
            "between them; copy it to a new file, or exclude it",
        )
    segments = found.segments
    if not segments or sum(segments[-1]) < size:
        # GNU tar makes the file only as long as its map reaches.
        segments.append((size, 0))
    return segments
