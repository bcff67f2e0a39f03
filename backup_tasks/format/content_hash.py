"""The hash of a file's content, taken from the bytes between its holes.

For most files this is the SHA-256 of all bytes, holes as zeros, as `sha256sum` prints it. For a
file with more than a gigabyte of holes, hashing the zeros would take too long. Such a file gets the
sparse hash: it covers the same bytes, but takes time only for blocks that are not zero.
docs/format.md describes it.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

_ZEROS = bytes(2**20)
BLOCK_BYTES = 4096
_ZERO_BLOCK = bytes(BLOCK_BYTES)
# How many bytes are searched for blocks of zeros at once.
_STRETCH_BYTES = 2**18
_TITLE = b"backup-tasks sparse 1\n%d\n"


class ContentHash(Protocol):
    """Takes a file's bytes in ascending order; gaps between them are holes."""

    def add(self, offset: int, piece: memoryview) -> None:
        """Add the bytes at `offset`, which lies at or beyond the end of the bytes added before."""

    def finish(self) -> str:
        """The hash of the whole content, hex; call it once, after the last byte."""


def content_hash(size: int, *, is_sparse: bool) -> ContentHash:
    """Begin the hash of a file of this size.

    Args:
        is_sparse: hash map and data, as for `sparse_sha256`; else all bytes, as for `sha256`.
    """
    return SparseHash(size) if is_sparse else PlainHash(size)


class PlainHash:
    """SHA-256 of all bytes, holes as zeros."""

    __slots__ = ("_hash", "_position", "_size")

    def __init__(self, size: int) -> None:
        self._hash = hashlib.sha256()
        self._position = 0
        self._size = size

    def add(self, offset: int, piece: memoryview) -> None:
        """As `ContentHash.add`."""
        if offset > self._position:
            self._add_zeros(offset)
        self._hash.update(piece)
        self._position = offset + len(piece)

    def _add_zeros(self, up_to: int) -> None:
        while self._position < up_to:
            step = min(up_to - self._position, len(_ZEROS))
            self._hash.update(memoryview(_ZEROS)[:step])
            self._position += step

    def finish(self) -> str:
        """As `ContentHash.finish`."""
        if self._position < self._size:
            self._add_zeros(self._size)
        return self._hash.hexdigest()


class SparseHash:
    """SHA-256 of a map and of the bytes that it names.

    Both follow from the content alone, wherever a file system or an archive has holes: the file
    is cut into blocks of 4,096 bytes (the last may be shorter), and blocks of zeros are left out.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._map = hashlib.sha256(_TITLE % size)
        self._data = hashlib.sha256()
        self._segment_start = self._segment_end = 0
        # A block of which only some bytes have come, and where it begins.
        self._block = bytearray(BLOCK_BYTES)
        self._block_start = -1

    def add(self, offset: int, piece: memoryview) -> None:
        """As `ContentHash.add`."""
        while piece:
            within = offset % BLOCK_BYTES
            whole = len(piece) - len(piece) % BLOCK_BYTES
            if not within and whole:
                self._end_block()
                taken = min(whole, _STRETCH_BYTES)
                self._add_blocks(offset, bytes(piece[:taken]))
            else:
                taken = min(BLOCK_BYTES - within, len(piece))
                self._add_part(offset - within, within, piece[:taken])
            offset += taken
            piece = piece[taken:]

    def _add_part(self, start: int, within: int, part: memoryview) -> None:
        if start != self._block_start:
            self._end_block()
            self._block_start = start
        self._block[within : within + len(part)] = part

    def _end_block(self) -> None:
        if self._block_start >= 0:
            start, self._block_start = self._block_start, -1
            self._add_blocks(start, bytes(self._block[: max(0, self._size - start)]))
            self._block[:] = _ZERO_BLOCK

    def _add_blocks(self, start: int, blocks: bytes) -> None:
        """Take whole blocks; the file's last one may be shorter."""
        if _ZERO_BLOCK not in blocks and len(blocks) % BLOCK_BYTES == 0:
            self._take(start, blocks)
            return
        for place in range(0, len(blocks), BLOCK_BYTES):
            block = blocks[place : place + BLOCK_BYTES]
            if block.strip(b"\0"):
                self._take(start + place, block)

    def _take(self, start: int, blocks: bytes) -> None:
        if start != self._segment_end:
            self._end_segment()
            self._segment_start = start
        self._data.update(blocks)
        self._segment_end = start + len(blocks)

    def _end_segment(self) -> None:
        if self._segment_end > self._segment_start:
            self._map.update(
                b"%d %d\n" % (self._segment_start, self._segment_end - self._segment_start)
            )

    def finish(self) -> str:
        """As `ContentHash.finish`."""
        self._end_block()
        self._end_segment()
        self._map.update(self._data.hexdigest().encode("ascii") + b"\n")
        return self._map.hexdigest()
