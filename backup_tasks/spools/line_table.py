"""Records in a file, one a line, decoded on demand, so that few are in memory."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import IO, Generic, TypeVar, overload

# Lines read and decoded together, and the blocks of lines that stay decoded: some 2 MB.
BLOCK_LINES = 64
_KEPT_BLOCKS = 128
_PROBE_BYTES = 2**12
_Record = TypeVar("_Record")


class LineFile:
    """Reads lines by position; threads and forked processes may do so at the same time.

    Args:
        file: holds the lines; the caller closes it.
        longest: bytes of the longest line to read.
    """

    def __init__(self, file: IO[bytes], longest: int) -> None:
        file.flush()
        self._file = file
        self._longest = longest
        self.size = os.fstat(file.fileno()).st_size

    def between(self, start: int, end: int) -> bytes:
        """The bytes from one position to another; fewer at the end of the file."""
        return os.pread(self._file.fileno(), end - start, start)

    def line_at(self, place: int) -> bytes:
        """The line that begins at a position, with its newline; a longer line is cut."""
        step = _PROBE_BYTES
        while True:
            line = self.between(place, place + step)
            end = line.find(b"\n") + 1
            if end:
                return line[:end]
            if len(line) < step or step >= self._longest:
                return line[: self._longest]
            step = min(16 * step, self._longest)


class LineTable(Sequence[_Record], Generic[_Record]):
    """A sequence of records whose lines follow each other in a file.

    Args:
        read: returns the bytes from one position to another.
        decode: decodes lines to records.
        places: where each BLOCK_LINES-th line begins, and where the last line ends.
        count: the number of records.
    """

    def __init__(
        self,
        read: Callable[[int, int], bytes],
        decode: Callable[[bytes], list[_Record]],
        places: array[int],
        count: int,
    ) -> None:
        def block(number: int) -> list[_Record]:
            return decode(read(places[number], places[number + 1]))

        self._count = count
        # Its C implementation is safe to call from several threads.
        self._block = lru_cache(_KEPT_BLOCKS)(block)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, number: int) -> _Record: ...

    @overload
    def __getitem__(self, number: slice) -> list[_Record]: ...

    def __getitem__(self, number: int | slice) -> _Record | list[_Record]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(self._count))]
        if number < 0:
            number += self._count
        if not 0 <= number < self._count:
            raise IndexError(number)
        return self._block(number // BLOCK_LINES)[number % BLOCK_LINES]

    def __iter__(self) -> Iterator[_Record]:
        for number in range(0, self._count, BLOCK_LINES):
            yield from self._block(number // BLOCK_LINES)
