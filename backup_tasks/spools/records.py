"""Records written once and read back in the same order, in bounded memory.

Lines are kept compressed, in memory up to `SPILL_BYTES`, beyond that in an unlinked temporary
file (0600, as `tempfile` makes it). A million entries take about 60 MB.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec
from isal import isal_zlib

from backup_tasks.common.closes import Closes
from backup_tasks.common.temporary import TemporarySpool

SPILL_BYTES = 24 * 2**20
_BLOCK_BYTES = 2**18
_LENGTH = struct.Struct("<I")


class LineSpool(Closes):
    """Append lines, then iterate over them in the same order, as often as needed."""

    def __init__(self) -> None:
        self._file = TemporarySpool(SPILL_BYTES)
        self._block = bytearray()
        self._places: list[int] = []

    def append(self, line: bytes) -> None:
        """Add one line, with its newline, at the end."""
        self._block += line
        if len(self._block) >= _BLOCK_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._block:
            packed = isal_zlib.compress(bytes(self._block), 1)
            self._places.append(self._file.seek(0, os.SEEK_END))
            self._file.write(_LENGTH.pack(len(packed)) + packed)
            self._block.clear()

    def blocks(self, *, backwards: bool = False) -> Iterator[bytes]:
        """The lines in blocks of many; `backwards` begins with the last block."""
        self._flush()
        for place in reversed(self._places) if backwards else self._places:
            self._file.seek(place)
            (length,) = _LENGTH.unpack(self._file.read(_LENGTH.size))
            yield isal_zlib.decompress(self._file.read(length))

    def __iter__(self) -> Iterator[bytes]:
        for block in self.blocks():
            yield from block.splitlines(keepends=True)

    def __reversed__(self) -> Iterator[bytes]:
        for block in self.blocks(backwards=True):
            yield from reversed(block.splitlines(keepends=True))

    def close(self) -> None:
        """Free the memory or the file."""
        self._file.close()


Record = TypeVar("Record", bound=msgspec.Struct)


class Spool(Generic[Record]):
    """Append records of one kind, then iterate over them in the same order, as often as needed."""

    def __init__(self, kind: type[Record]) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(kind).decode_lines
        self._lines = LineSpool()
        self.count = 0

    def append(self, record: Record) -> None:
        """Add a record at the end."""
        self._lines.append(self._encode(record) + b"\n")
        self.count += 1

    def __iter__(self) -> Iterator[Record]:
        for block in self._lines.blocks():
            yield from self._decode(block)

    def __reversed__(self) -> Iterator[Record]:
        for block in self._lines.blocks(backwards=True):
            yield from reversed(self._decode(block))

    def close(self) -> None:
        """Free the memory or the file."""
        self._lines.close()
