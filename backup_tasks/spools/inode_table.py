"""What belongs to a path, an inode or a number: some 24 bytes a path, at any number."""

from __future__ import annotations

from array import array
from collections.abc import Container, Hashable

_FIRST_SLOTS = 1024
_WORD = 2**64 - 1


class _PathTable(Container[str]):
    """A hash table that forgets the paths and keeps fingerprints of 64 bits, and as much of what
    belongs to them.

    Hashes have a secret key, new in each process, so that nobody can look for two that are alike.
    """

    def __init__(self) -> None:
        self._keys = array("Q", bytes(8 * _FIRST_SLOTS))
        self._values = array("Q", bytes(8 * _FIRST_SLOTS))
        self._used = 0

    def __contains__(self, path: object) -> bool:
        return self._used != 0 and self._keys[self._slot_of(_key_of(path))] != 0

    def _set(self, path: str, value: int) -> bool:
        """Whether the path is a new one."""
        key = _key_of(path)
        slot = self._slot_of(key)
        is_new = not self._keys[slot]
        self._keys[slot], self._values[slot] = key, value
        if is_new:
            self._used += 1
            if 2 * self._used >= len(self._keys):
                self._grow()
        return is_new

    def _slot_of(self, key: int) -> int:
        """Where the key is, or the free slot where it would be."""
        keys = self._keys
        last = len(keys) - 1
        slot = key & last
        while (found := keys[slot]) and found != key:
            slot = slot + 1 & last
        return slot

    def _grow(self) -> None:
        before = self._keys, self._values
        size = bytes(8 * 2 * len(self._keys))
        self._keys, self._values = array("Q", size), array("Q", size)
        for key, value in zip(*before, strict=True):
            if key:
                slot = self._slot_of(key)
                self._keys[slot], self._values[slot] = key, value


class InodeTable(_PathTable):
    """Which inode a path had when it was written."""

    def add(self, path: str, inode: Hashable) -> bool:
        """Remember it; a path that is added again counts as it was last.

        Returns:
            Whether it was not there before.
        """
        return self._set(path, hash((path, inode)) & _WORD)

    def has(self, path: str, inode: Hashable) -> bool:
        """Whether this path was added, and with this inode."""
        slot = self._slot_of(key := _key_of(path))
        return self._keys[slot] == key and self._values[slot] == hash((path, inode)) & _WORD


class NumberTable(_PathTable):
    """A number of 64 bits for each path. Where it matters, look whether two paths are alike in
    their fingerprints."""

    def __len__(self) -> int:
        return self._used

    def set(self, path: str, number: int) -> None:
        """Remember it in the place of an earlier one."""
        self._set(path, number)

    def get(self, path: str) -> int | None:
        """The number of a path; None if it has none."""
        slot = self._slot_of(_key_of(path))
        return self._values[slot] if self._keys[slot] else None


def _key_of(path: object) -> int:
    return hash(path) & _WORD or 1
