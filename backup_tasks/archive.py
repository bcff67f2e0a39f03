"""Lay out one archive: entries into chunks, manifest, end and footer, in format 1.

Two kinds of chunks. A packed chunk holds whole entries, up to CHUNK_BYTES. An entry that is
larger has a chunk for its headers alone, then chunks of its own bytes cut at fixed offsets, so
that later archives can keep those that did not change.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

from backup_tasks.compress import CHUNK_BYTES, ChunkCompressor, StoredChunk, compress_chunk
from backup_tasks.footer import END_CHUNK, Footer, encode_footer
from backup_tasks.manifest import MANIFEST_PATH, Chunk
from backup_tasks.signature_member import encode_signature
from backup_tasks.signing import SigningKey
from backup_tasks.stores.base import StoredObject
from backup_tasks.tarstream import Member, encode_headers, padding_bytes
from backup_tasks.upload import PartAssembler

Place = tuple[int, int]


# Stands between the tables of two objects, so that no run of chunks crosses from one to the other.
_GAP = Chunk(0, 0, "", 0)


@dataclass(frozen=True, slots=True)
class Base:
    """Earlier objects that chunks are kept from, numbered as if they were one archive.

    Attributes:
        objects: each with the number of its first chunk, ascending.
        chunks: the tables of all, one after the other, with a gap of one number between.
        arrived: path -> chunks with the first bytes of a large file that is not there whole.
    """

    objects: Sequence[tuple[int, StoredObject]]
    chunks: Sequence[Chunk]
    arrived: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def source_of(self, number: int) -> StoredObject:
        """The object that a chunk lies in."""
        place = bisect.bisect_right(self.objects, number, key=lambda first: first[0])
        return self.objects[place - 1][1]


def join_bases(tables: Sequence[tuple[StoredObject, Sequence[Chunk]]]) -> Base:
    """Several objects as one base; the first one's chunks keep their numbers."""
    objects: list[tuple[int, StoredObject]] = []
    chunks: list[Chunk] = []
    for stored, table in tables:
        if objects:
            chunks.append(_GAP)
        objects.append((len(chunks), stored))
        chunks += table
    return Base(objects, chunks)


# Told of every chunk that is delivered, and where in the object that is being written.
Delivered = Callable[[Chunk, int], None]


class ArchiveBuilder:
    """Appends entries to an archive in the making.

    Args:
        parts: takes the stored bytes.
        level: of compression, 0 to 3.

    Attributes:
        chunks: of every chunk delivered so far.
    """

    def __init__(self, parts: PartAssembler, level: int) -> None:
        self._parts = self._main = parts
        self._begins_at = 0
        self._delivered: Delivered | None = None
        self._level = level
        self._base: Base | None = None
        self._compressor = ChunkCompressor(level, self._deliver)
        self.chunks: list[Chunk] = []
        self._submitted = 0
        self._buffer = self._compressor.take_buffer()
        self._used = 0

    def _deliver(self, chunk: StoredChunk, old_number: int) -> None:
        place, length = self._parts.offset, len(chunk.stored)
        base = self._base
        old = base.chunks[old_number] if base is not None and old_number >= 0 else None
        if base and old and (old.sha256, old.length) == (chunk.sha256, length):
            self._parts.add_known(chunk.stored, base.source_of(old_number), old.offset)
        else:
            self._parts.add(chunk.stored)
        self._note(Chunk(place, length, chunk.sha256, chunk.raw))

    def _note(self, placed: Chunk) -> None:
        """List a chunk that was delivered; its offset is that in the object that took it."""
        offset = self._begins_at + placed.offset
        written = Chunk(offset, placed.length, placed.sha256, placed.raw)
        self.chunks.append(written)
        if self._delivered is not None:
            self._delivered(written, placed.offset)

    def record(self, delivered: Delivered, aside: PartAssembler | None) -> None:
        """Tell of every chunk from now on, until `end_entries`.

        Args:
            aside: an object of its own that takes these chunks. Afterwards its bytes are to
                follow what the archive holds by now.
        """
        self._delivered = delivered
        if aside is not None:
            self._parts, self._begins_at = aside, self._main.offset

    def keep(self, base: Base, runs: Sequence[range]) -> None:
        """Begin the archive with runs of another one's chunks, copied on the store's side.

        Args:
            base: what was written earlier; later, `add_large` may keep single chunks of it too.
            runs: chunk numbers, each run at least as long as the store's smallest part.
        """
        self._base = base
        for run in runs:
            first, last = base.chunks[run[0]], base.chunks[run[-1]]
            shift = self._parts.offset - first.offset
            for number in run:
                old = base.chunks[number]
                self.chunks.append(Chunk(old.offset + shift, old.length, old.sha256, old.raw))
            length = last.offset + last.length - first.offset
            self._parts.copy(base.source_of(run[0]), first.offset, length)
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

    def begin_large(self, headers: bytes) -> Place:
        """Append the headers of an entry with chunks of its own; `add_pieces` must follow."""
        self.end_chunk()
        place = self.add_headers(headers)
        self.end_chunk()
        return place

    def add_pieces(
        self, size: int, fill: Callable[[memoryview], None], old_numbers: Sequence[int] = ()
    ) -> None:
        """Append the bytes of an entry that was begun.

        Args:
            size: stored bytes, without padding.
            fill: called with views that together take exactly `size` bytes.
            old_numbers: the base's chunks of this file, piece by piece; one whose bytes
                come out the same is copied instead of sent.
        """
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

    def keep_again(
        self, numbers: Sequence[int], read: Callable[[StoredObject, Chunk], bytes]
    ) -> Place:
        """Append chunks of the base as they are; returns where the first begins.

        Args:
            read: gives a chunk's stored bytes; asked only for those that must be sent.
        """
        assert self._base is not None
        self.end_chunk()
        self._compressor.drain()
        place = (self._submitted, 0)
        for number in numbers:
            source, old = self._base.source_of(number), self._base.chunks[number]
            offset = self._parts.offset
            if self._parts.extend_known(source, old.offset, old.length):
                self._note(Chunk(offset, old.length, old.sha256, old.raw))
            else:
                self._deliver(StoredChunk(read(source, old), old.sha256, old.raw), number)
            self._submitted += 1
        return place

    def end_entries(self) -> None:
        """Close the last chunk and wait until all are delivered; what follows is the archive's."""
        self.end_chunk()
        self._compressor.drain()
        self._parts.end_run()
        self._parts, self._begins_at, self._delivered = self._main, 0, None

    def add_manifest(self, lines: IO[bytes], size: int, key: SigningKey, copy: IO[bytes]) -> None:
        """Append the manifest, the end mark, the signature and the footer.

        Args:
            lines: the manifest, read from its front.
            size: its bytes.
            key: signs.
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
        footer = Footer(offset, length, digest.digest())
        append(END_CHUNK)
        append(encode_signature(key.sign(footer.statement)))
        append(encode_footer(footer))
        self._parts.flush()

    def close(self) -> None:
        """End the threads."""
        self._compressor.close()
