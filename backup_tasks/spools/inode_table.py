"""Tables of paths with an inode or a number each, in about 24 bytes a path."""

from __future__ import annotations

from array import array
from collections.abc import Container, Hashable

_FIRST_SLOTS = 1024
_WORD = 2**64 - 1


class _PathTable(Container[str]):
    """A hash table that keeps a fingerprint of 64 bits and a value of 64 bits for each path.

    The paths themselves are forgotten. The hash has a secret key, new in each process, so that
    nobody can construct two paths with the same fingerprint.
    """

    def __init__(self) -> None:
        self._keys = array("Q", bytes(8 * _FIRST_SLOTS))
        self._values = array("Q", bytes(8 * _FIRST_SLOTS))
        self._used = 0

    def __contains__(self, path: object) -> bool:
        return self._used != 0 and self._keys[self._slot_of(_key_of(path))] != 0

    def _set(self, path: str, value: int) -> bool:
        """Store a value; returns whether the path is new."""
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
        """The slot that holds the key, or the free slot for it."""
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
    """The inode that each path had when it was written."""

    def add(self, path: str, inode: Hashable) -> bool:
        """Remember a path with its inode; a later inode of the same path replaces the earlier.

        Returns:
            Whether the path is new.
        """
        return self._set(path, hash((path, inode)) & _WORD)

    def has(self, path: str, inode: Hashable) -> bool:
        """Whether this path was last added with this inode."""
        slot = self._slot_of(key := _key_of(path))
        return self._keys[slot] == key and self._values[slot] == hash((path, inode)) & _WORD


class NumberTable(_PathTable):
    """A number of 64 bits for each path.

    Two paths may share a fingerprint; where that matters, the caller must check.
    """

    def __len__(self) -> int:
        return self._used

    def set(self, path: str, number: int) -> None:
        """Remember the number of a path, in place of an earlier one."""
        self._set(path, number)

    def get(self, path: str) -> int | None:
        """The number of a path; None if it has none."""
        slot = self._slot_of(_key_of(path))
        return self._values[slot] if self._keys[slot] else None


def _key_of(path: object) -> int:
    return hash(path) & _WORD or 1
