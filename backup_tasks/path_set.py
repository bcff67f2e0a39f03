"""A set of very many paths in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Container

_FIRST_SLOTS = 1024


class PathSet(Container[str]):
    """Paths by a hash of 64 bits, which is another in every process: 12 to 24 bytes a path.

    That two of a million paths have the same is less likely than a broken disk.
    """

    def __init__(self) -> None:
        # Open addressing; 0 is a free slot.
        self._slots = array("q", bytes(8 * _FIRST_SLOTS))
        self._count = 0

    def add(self, path: str) -> None:
        """Put a path in; it may be there already."""
        key = hash(path) or 1
        place = self._place_of(key)
        if self._slots[place]:
            return
        self._slots[place] = key
        self._count += 1
        if self._count * 3 > len(self._slots) * 2:
            self._grow()

    def __contains__(self, path: object) -> bool:
        return bool(self._slots[self._place_of(hash(path) or 1)])

    def _place_of(self, key: int) -> int:
        """Where a key stands, or would."""
        slots = self._slots
        last = len(slots) - 1
        place = key & last
        while slots[place] and slots[place] != key:
            place = (place + 1) & last
        return place

    def _grow(self) -> None:
        before, self._slots = self._slots, array("q", bytes(16 * len(self._slots)))
        for key in before:
            if key:
                self._slots[self._place_of(key)] = key
