"""Counts what lies below each source while the walk goes by, at next to no cost."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from backup_tasks.format.manifest import Entry, SourceCount, walk_key


@dataclass(slots=True)
class SourceTotals:
    """Totals of one source: entries of any kind, and content bytes of its files.

    Attributes:
        hole_bytes: content bytes that are holes, counted in files with many.
    """

    entries: int = 0
    bytes: int = 0
    hole_bytes: int = 0

    def add(self, entries: int, content_bytes: int, hole_bytes: int) -> None:
        """Add these numbers."""
        self.entries += entries
        self.bytes += content_bytes
        self.hole_bytes += hole_bytes

    @property
    def count(self) -> SourceCount:
        """The totals as a manifest states them."""
        return SourceCount(self.entries, self.bytes - self.hole_bytes)


class SourceCounter:
    """Counts entries for the sources that they lie below, a batch at a time.

    In the order of a walk, a source's entries come one after the other. So nearly every whole
    batch lies below the same sources, and its entries need not be looked at one by one.

    Args:
        sources: absolute paths; links on the way to them are followed.

    Attributes:
        totals: source -> its totals so far.
    """

    def __init__(self, sources: Iterable[str]) -> None:
        self.totals = {source: SourceTotals() for source in sources}
        self._tops = [(top_of(source), totals) for source, totals in self.totals.items()]
        self._keys = sorted(walk_key(top) for top, _ in self._tops)

    def count(self, batch: Sequence[Entry], content_bytes: int, hole_bytes: int) -> None:
        """Count entries that follow each other in the walk.

        Args:
            content_bytes, hole_bytes: sums over the batch.
        """
        first, last = batch[0], batch[-1]
        above = self._above(first.name)
        if above == self._above(last.name) and not self._begins_between(first, last):
            for number in above:
                self._tops[number][1].add(len(batch), content_bytes, hole_bytes)
            return
        for entry in batch:
            for number in self._above(entry.name):
                holes = entry.size - entry.read_size
                self._tops[number][1].add(1, entry.size, holes)

    def _above(self, name: str) -> list[int]:
        """The numbers of the sources that hold this path."""
        return [
            number
            for number, (top, _) in enumerate(self._tops)
            if name.startswith(top) and (not top or name[len(top) : len(top) + 1] in ("", "/"))
        ]

    def _begins_between(self, first: Entry, last: Entry) -> bool:
        """Whether a source may begin after the first entry and before the last one's end."""
        start, end = first.walk_key, last.walk_key
        return any(start < key <= end for key in self._keys)


def top_of(source: str) -> str:
    """The path of a source with links followed, relative to /."""
    return os.path.realpath(source).lstrip("/")
