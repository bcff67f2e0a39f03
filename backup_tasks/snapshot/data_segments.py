"""Where a sparse file holds bytes, as its file system tells."""

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

# The first holes that are given up where there are too many: smaller ones save little.
_FIRST_GAP_BYTES = 2**14
Segment = tuple[int, int]


def extents(descriptor: int, size: int) -> Iterator[Segment]:
    """(offset, length) of each part that holds bytes, in order, up to `size`.

    The rest is one part where the file system does not know, or answers what cannot be.
    """
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # that is: a hole up to the end
                yield position, size - position
            return
        if not position <= start < end:
            yield position, size - position
            return
        if start >= size:  # it grew in this moment
            return
        position = min(end, size)
        yield start, position - start


class SegmentList:
    """Segments of bytes in order, never more than so many: holes between them are given up for
    that, the smallest first.

    Attributes:
        segments: (offset, length), ascending.
        data_bytes: what was added, without what was given up.
    """

    def __init__(self, most: int) -> None:
        self.segments: list[Segment] = []
        self.data_bytes = 0
        self._most = most
        self._gap = 0

    def add(self, offset: int, length: int) -> None:
        """The next part that holds bytes."""
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
        """What the segments take, holes that were given up among it."""
        return sum(length for _, length in self.segments)


def find_segments(descriptor: int, size: int) -> list[Segment]:
    """The segments that are stored of a file of so many bytes; the last one ends where it does.

    Raises OSError (EFBIG) when no archive holds it: too many holes, or too many pieces.
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
