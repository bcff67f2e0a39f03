"""Paths that may be asked for again, each by its place: small in memory at any number of them."""

from __future__ import annotations

import os
import struct

from backup_tasks.common.temporary import TemporarySpool

# Beyond it they lie in an unlinked temporary file.
_IN_MEMORY_BYTES = 2**20
_LENGTH = struct.Struct("<I")


class PathSpool:
    """Add paths, then ask for any of them."""

    def __init__(self) -> None:
        self._file = TemporarySpool(_IN_MEMORY_BYTES)

    def add(self, path: str) -> int:
        """Add one; returns its place."""
        raw = os.fsencode(path)
        place = self._file.seek(0, os.SEEK_END)
        self._file.write(_LENGTH.pack(len(raw)) + raw)
        return place

    def at(self, place: int) -> str:
        """The path that was added there."""
        self._file.seek(place)
        (length,) = _LENGTH.unpack(self._file.read(_LENGTH.size))
        return os.fsdecode(self._file.read(length))

    def close(self) -> None:
        """Free the memory or the file."""
        self._file.close()
