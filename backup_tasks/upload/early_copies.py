"""Copies from the previous backup that begin before it is known which of its chunks are reused.

On most days nearly all are reused. So the store may copy while the sources are still being walked.
Copies of chunks that are not reused are withdrawn, which costs the store some work and nothing
else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from backup_tasks.format.manifest import Chunk
from backup_tasks.stores.base import ArchiveWriter, PartLimits, StoredObject
from backup_tasks.upload.part_assembler import NOTHING_AHEAD, Ahead, copy_bytes

_Writer = TypeVar("_Writer", bound=ArchiveWriter)


def plan_ahead(chunks: Sequence[Chunk], limits: PartLimits) -> list[range]:
    """Cut an archive's chunks into ranges, from the front, each of a legal part's size.

    The last chunks are left out: they hold folders, which are always written anew.
    """
    most_bytes = copy_bytes(chunks[-1].end if chunks else 0, limits)
    ranges: list[range] = []
    first, length = 0, 0
    for number, chunk in enumerate(chunks):
        if length + chunk.length > most_bytes:
            if length < max(1, limits.smallest):
                break
            ranges.append(range(first, number))
            first, length = number, 0
        length += chunk.length
    return ranges


@dataclass(frozen=True, slots=True)
class CopiesAhead(Generic[_Writer]):
    """An archive in the making that consists of copies only so far.

    Args:
        source: the object to copy from.
        chunks: the chunks of `source`.
        ranges: ranges of chunk numbers, one after the other, from the front.
    """

    writer: _Writer
    source: StoredObject
    chunks: Sequence[Chunk]
    ranges: Sequence[range]
    limits: PartLimits

    def begin(self) -> None:
        """Ask the store for all copies.

        Raises:
            StoreError: the store refuses to copy or fails, as in `ArchiveWriter.copy`; a later
                call may raise it instead.
        """
        for numbers in self.ranges:
            start = self.chunks[numbers[0]].offset
            self.writer.copy(self.source, start, self._end(numbers) - start)

    def settle(self, runs: Sequence[range]) -> Ahead:
        """Keep the early copies that the plan confirms; withdraw the rest.

        Args:
            runs: ranges of the chunk numbers that are reused.
        """
        reused = runs[0] if runs and runs[0].start == 0 else range(0)
        stay = [numbers for numbers in self.ranges if numbers.stop <= reused.stop]
        while stay and 0 < self._end(reused) - self._end(stay[-1]) < self.limits.smallest:
            stay.pop()  # the rest of the run could not be copied
        ahead = NOTHING_AHEAD
        if stay:
            ahead = Ahead(self._end(stay[-1]) - self.chunks[0].offset, len(stay))
        self.writer.withdraw(ahead.bytes)
        return ahead

    def _end(self, numbers: range) -> int:
        return self.chunks[numbers[-1]].end
