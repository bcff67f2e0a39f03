"""Numbers collected in any order and read back sorted, in bounded memory."""

from __future__ import annotations

import heapq
import os
from array import array
from collections.abc import Iterator
from typing import IO

from backup_tasks.common.temporary import temporary_file

# How many numbers lie in memory before they are sorted and moved to a temporary file.
RUN_NUMBERS = 2**18
# How many numbers of a run in the file are read at once.
_READ_NUMBERS = 2**12
_BYTES = 8


class NumberSpool:
    """Add numbers of 64 bits in any order; iterate over them in ascending order, at any time.

    Beyond RUN_NUMBERS they lie in an unlinked temporary file, in sorted runs.
    """

    def __init__(self) -> None:
        self._last: array[int] = array("Q")
        self._is_sorted = False
        self._file: IO[bytes] | None = None
        self._runs = 0

    def __len__(self) -> int:
        return self._runs * RUN_NUMBERS + len(self._last)

    def add(self, number: int) -> None:
        """Add a number."""
        self._last.append(number)
        if len(self._last) == RUN_NUMBERS:
            self._spill()
        self._is_sorted = False

    def _spill(self) -> None:
        if self._file is None:
            self._file = temporary_file()
        self._file.write(array("Q", sorted(self._last)).tobytes())
        self._file.flush()
        self._runs += 1
        self._last = array("Q")

    def __iter__(self) -> Iterator[int]:
        if not self._is_sorted:
            self._last = array("Q", sorted(self._last))
            self._is_sorted = True
        if not self._runs:
            return iter(self._last)
        return heapq.merge(self._last, *(self._run(number) for number in range(self._runs)))

    def _run(self, number: int) -> Iterator[int]:
        assert self._file is not None
        start, end = (one * RUN_NUMBERS * _BYTES for one in (number, number + 1))
        for place in range(start, end, _READ_NUMBERS * _BYTES):
            length = min(_READ_NUMBERS * _BYTES, end - place)
            yield from array("Q", os.pread(self._file.fileno(), length, place))

    def close(self) -> None:
        """Free the file."""
        if self._file is not None:
            self._file.close()
