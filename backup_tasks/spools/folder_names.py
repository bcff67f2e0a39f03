"""The names in one folder, sorted as bytes, in bounded memory."""

from __future__ import annotations

import heapq
import os
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import IO

from backup_tasks.common.temporary import temporary_file

# Up to this many names are sorted in memory, some 25 MB; more go to a temporary file, in sorted
# runs. Anybody who may write to a folder decides how many names it holds.
RUN_NAMES = 2**17
_READ_BYTES = 2**15


def sorted_names(found: Iterable[str]) -> Iterator[str]:
    """Sort the names of a folder by their bytes.

    Reads `found` to its end before it returns, so that its errors are raised here.

    Raises:
        BackupError: the temporary file cannot be written.
    """
    if isinstance(found, list) and len(found) < RUN_NAMES:
        found.sort(key=None if "".join(found).isascii() else os.fsencode)
        return iter(found)
    names = iter(found)
    first = list(islice(names, RUN_NAMES))
    if len(first) < RUN_NAMES:
        return iter(_sorted(first))
    file = temporary_file()
    try:
        ends = array("Q")
        while first:
            # No name holds a zero byte.
            file.writelines(os.fsencode(name) + b"\0" for name in _sorted(first))
            ends.append(file.tell())
            first = list(islice(names, RUN_NAMES))
        file.flush()
    except BaseException:
        file.close()
        raise
    return _merged(file, ends)


def _sorted(names: list[str]) -> list[str]:
    # ASCII names sort alike as text and as bytes.
    return sorted(names, key=None if "".join(names).isascii() else os.fsencode)


def _merged(file: IO[bytes], ends: array[int]) -> Iterator[str]:
    with file:
        starts = [0, *ends[:-1]]
        runs = (_run(file, start, end) for start, end in zip(starts, ends, strict=True))
        yield from map(os.fsdecode, heapq.merge(*runs))


def _run(file: IO[bytes], start: int, end: int) -> Iterator[bytes]:
    rest = b""
    for place in range(start, end, _READ_BYTES):
        piece = os.pread(file.fileno(), min(_READ_BYTES, end - place), place)
        *whole, rest = (rest + piece).split(b"\0")
        yield from whole
