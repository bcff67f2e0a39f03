"""Lay out one archive: entries into chunks, manifest, end and footer, in format 1.

Two kinds of chunks. A packed chunk holds whole entries, up to CHUNK_BYTES. An entry that is
larger has a chunk for its headers alone, then chunks of its own bytes cut at fixed offsets, so
that later archives can keep those that did not change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from backup_tasks.compress import CHUNK_BYTES, ChunkCompressor, StoredChunk, compress_chunk
from backup_tasks.footer import END_CHUNK, Footer, encode_footer
from backup_tasks.manifest import MANIFEST_PATH, Chunk
from backup_tasks.stores.base import StoredObject
from backup_tasks.tarstream import Member, encode_headers, padding_bytes
from backup_tasks.upload import PartAssembler

Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Base:
    """An earlier archive that chunks are kept from: the object, and its table of chunks."""

    stored: StoredObject
    chunks: Sequence[Chunk]


class ArchiveBuilder:
    """Appends entries to an archive in the making.

    Args:
        parts: takes the stored bytes.
        level: of compression, 0 to 3.

    Attributes:
        chunks: of every chunk delivered so far.
    """

    def __init__(self, parts: PartAssembler, level: int) -> None:
        self._parts = parts
        self._level = level
        self._base: Base | None = None
        self._compressor = ChunkCompressor(level, self._deliver)
        self.chunks: list[Chunk] = []
        self._submitted = 0
        self._buffer = self._compressor.take_buffer()
        self._used = 0

    def _deliver(self, chunk: StoredChunk, old_number: int) -> None:
        offset = self._parts.offset
        length = len(chunk.stored)
        self.chunks.append(Chunk(offset, length, chunk.sha256, chunk.raw))
        if self._base is not None and old_number >= 0:
            old = self._base.chunks[old_number]
            if (old.sha256, old.length) == (chunk.sha256, length):
                self._parts.add_known(chunk.stored, self._base.stored, old.offset)
                return
        self._parts.add(chunk.stored)

    def keep(self, base: Base, runs: Sequence[range]) -> None:
        """Begin the archive with runs of another one's chunks, copied on the store's side.

        Args:
            base: the other archive; later, `add_large` may keep single chunks of it too.
            runs: chunk numbers, each run at least as long as the store's smallest part.
        """
        self._base = base
        for run in runs:
            first, last = base.chunks[run[0]], base.chunks[run[-1]]
            shift = self._parts.offset - first.offset
            for number in run:
                old = base.chunks[number]
                self.chunks.append(Chunk(old.offset + shift, old.length, old.sha256, old.raw))
            self._parts.copy(base.stored, first.offset, last.offset + last.length - first.offset)
            self._submitted += len(run)

    def reserve(self, length: int) -> memoryview:
        """Room for `length` bytes that stay together in one chunk; `take` makes it final.

        Reserving again without `take` gives the same room anew.
        """
        if self._used and self._used + length > CHUNK_BYTES:
            self.end_chunk()
        if self._used + length > len(self._buffer):
            self._buffer = bytearray(length)
        return memoryview(self._buffer)[self._used : self._used + length]

    def take(self, length: int) -> Place:
        """Make the first `length` reserved bytes final; returns where they begin."""
        place = (self._submitted, self._used)
        self._used += length
        return place

    def end_chunk(self, old_number: int = -1) -> None:
        """Close the chunk in the making, if it holds anything.

        Args:
            old_number: the base's chunk that it may turn out to equal, or -1.
        """
        if self._used:
            self._compressor.submit(self._buffer, self._used, old_number)
            self._submitted += 1
            self._buffer = self._compressor.take_buffer()
            self._used = 0

    def add_headers(self, headers: bytes) -> Place:
        """Append an entry that has no content."""
        self.reserve(len(headers))[:] = headers
        return self.take(len(headers))

    def add_large(
        self,
        headers: bytes,
        size: int,
        fill: Callable[[memoryview], None],
        old_numbers: Sequence[int] = (),
    ) -> Place:
        """Append an entry with chunks of its own.

        Args:
            size: stored bytes, without padding.
            fill: called with views that together take exactly `size` bytes.
            old_numbers: the base's chunks of this file, piece by piece; one whose bytes
                come out the same is copied instead of sent.
        """
        self.end_chunk()
        place = self.add_headers(headers)
        self.end_chunk()
        done = 0
        remaining = iter(old_numbers)
        while done < size:
            length = min(CHUNK_BYTES, size - done)
            padded = length + padding_bytes(length)
            view = self.reserve(padded)
            fill(view[:length])
            view[length:] = bytes(padded - length)
            self.take(padded)
            self.end_chunk(next(remaining, -1))
            done += length
        return place

    def end_entries(self) -> None:
        """Close the last chunk and wait until all are delivered."""
        self.end_chunk()
        self._compressor.drain()
        self._parts.end_run()

    def add_manifest(self, lines: IO[bytes], size: int, copy: IO[bytes]) -> None:
        """Append the manifest, the end mark and the footer.

        Args:
            lines: the manifest, read from its front.
            size: its bytes.
            copy: gets the same bytes as the object.
        """

        def append(stored: bytes) -> None:
            self._parts.add(stored)
            copy.write(stored)

        offset = self._parts.offset
        digest = hashlib.sha256()
        headers = encode_headers(
            Member(MANIFEST_PATH.encode(), "file", size=size, stored=size, mode=0o600)
        )
        raw = headers + lines.read(CHUNK_BYTES)
        padding = padding_bytes(size)
        while raw:
            following = lines.read(CHUNK_BYTES)
            stored = compress_chunk(raw if following else raw + bytes(padding), self._level).stored
            digest.update(stored)
            append(stored)
            raw = following
        length = self._parts.offset - offset
        append(END_CHUNK)
        append(encode_footer(Footer(offset, length, digest.digest())))
        self._parts.flush()

    def close(self) -> None:
        """End the threads."""
        self._compressor.close()
