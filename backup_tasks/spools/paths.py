"""Paths stored once and read back by their place, in bounded memory."""

from __future__ import annotations

import os
import struct

from backup_tasks.common.temporary import TemporarySpool

# Beyond this the paths lie in an unlinked temporary file.
_IN_MEMORY_BYTES = 2**20
_LENGTH = struct.Struct("<I")


class PathSpool:
    """Add paths, and read back any of them by its place."""

    def __init__(self) -> None:
        self._file = TemporarySpool(_IN_MEMORY_BYTES)

    def add(self, path: str) -> int:
        """Add a path; returns its place."""
        raw = os.fsencode(path)
        place = self._file.seek(0, os.SEEK_END)
        self._file.write(_LENGTH.pack(len(raw)) + raw)
        return place

    def at(self, place: int) -> str:
        """The path at the place that `add` returned."""
        self._file.seek(place)
        (length,) = _LENGTH.unpack(self._file.read(_LENGTH.size))
        return os.fsdecode(self._file.read(length))

    def close(self) -> None:
        """Free the memory or the file."""
        self._file.close()
