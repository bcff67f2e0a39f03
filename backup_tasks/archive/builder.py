"""Lays out one archive in format 1: entries in chunks, manifest, end mark, signature and footer.

There are two kinds of chunks. A packed chunk holds whole entries, up to CHUNK_BYTES. A larger entry
has a chunk for its headers alone, then chunks of its own bytes, cut at fixed offsets, so that later
archives can keep the unchanged ones.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import IO

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from backup_tasks.chunks.compress import CHUNK_BYTES, ChunkCompressor, StoredChunk, compress_bounded
from backup_tasks.chunks.encrypt import Sealer
from backup_tasks.errors import SourceError
from backup_tasks.format.encrypted_footer import encode_encrypted_footer
from backup_tasks.format.footer import END_CHUNK, Footer, encode_footer
from backup_tasks.format.limits import CHUNKS_LIMIT, WRITTEN_RATIO
from backup_tasks.format.manifest import MANIFEST_PATH, Chunk
from backup_tasks.format.signature_member import encode_signature
from backup_tasks.format.tar_headers import Member, encode_headers, padding_bytes
from backup_tasks.keys.signing import SigningKey
from backup_tasks.stores.base import StoredObject
from backup_tasks.upload.part_assembler import PartAssembler

Position = tuple[int, int]


# Stands between the chunk tables of two objects, so that no run of chunks crosses their border.
_GAP = Chunk(0, 0, "", 0)


class Base(Struct, frozen=True):
    """Earlier objects whose chunks may be reused, numbered as if they were one archive.

    Attributes:
        objects: (number of its first chunk, object), ascending.
        chunks: the chunk tables of all objects in order, with a gap of one number between two.
        arrived: path -> chunks with the first bytes of a large file that arrived only in part.
    """

    objects: Sequence[tuple[int, StoredObject]]
    chunks: Sequence[Chunk]
    arrived: Mapping[str, Sequence[int]] = msgspec.field(default_factory=dict)

    def source_of(self, number: int) -> StoredObject:
        """The object in which a chunk lies."""
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


# Called with every delivered chunk, and with its place in the object that takes it.
Delivered = Callable[[Chunk, int], None]
# Reads a chunk's stored bytes from an earlier object.
ReadStored = Callable[[StoredObject, Chunk], bytes]


class ArchiveBuilder:
    """Appends entries to an archive in the making.

    Args:
        parts: takes the stored bytes.
        level: compression level, 0 to 3.
        sealer: encrypts every chunk; None leaves them plain.

    Attributes:
        chunks: all chunks delivered so far.
    """

    def __init__(self, parts: PartAssembler, level: int, sealer: Sealer | None = None) -> None:
        self._sealer = sealer
        self._read: ReadStored | None = None
        self._parts = self._main = parts
        self._begins_at = 0
        self._delivered: Delivered | None = None
        self._level = level
        self._base: Base | None = None
        finish = self._seal if sealer is not None else None
        self._compressor = ChunkCompressor(level, self._deliver, finish=finish)
        self.chunks: list[Chunk] = []
        self._submitted = 0
        self._buffer = self._compressor.take_buffer()
        self._used = 0

    def _is_known(self, chunk: StoredChunk, old_number: int) -> bool:
        """Whether the base's chunk holds the same bytes; never so for an encrypted new chunk."""
        base = self._base
        return (
            base is not None
            and old_number >= 0
            and base.chunks[old_number].gzip_sha256 == chunk.sha256
        )

    def _seal(self, chunk: StoredChunk, old_number: int) -> StoredChunk:
        """Encrypt a new chunk; a known one already lies encrypted in the base."""
        assert self._sealer is not None
        return chunk if self._is_known(chunk, old_number) else self._sealer.seal_chunk(chunk)

    def _deliver(self, chunk: StoredChunk, old_number: int) -> None:
        if self._is_known(chunk, old_number):
            self._add_known(old_number, None if self._sealer else chunk.stored)
            return
        place = self._parts.offset
        self._parts.add(chunk.stored)
        length = len(chunk.stored)
        self._note(Chunk(place, length, chunk.sha256, chunk.raw, chunk.content))

    def _add_known(self, old_number: int, stored: bytes | None) -> None:
        """Append a chunk of the base as it is.

        Args:
            stored: its stored bytes; None reads them from the store, if they are needed at all.
        """
        base, read = self._base, self._read
        assert base is not None
        assert read is not None
        source, old = base.source_of(old_number), base.chunks[old_number]
        place = self._parts.offset
        known = stored if stored is not None else partial(read, source, old)
        self._parts.add_known(known, old.length, source, old.offset)
        self._note(old.at(place))

    def _note(self, placed: Chunk) -> None:
        """List a delivered chunk, whose offset is in the object that took it.

        Raises:
            SourceError: there are more chunks than an archive can hold.
        """
        written = placed.at(self._begins_at + placed.offset)
        if len(self.chunks) >= CHUNKS_LIMIT:
            raise SourceError(
                f"the sources fill more than {CHUNKS_LIMIT:,} chunks, as many as an archive can "
                "hold; divide them among several profiles"
            )
        self.chunks.append(written)
        if self._delivered is not None:
            self._delivered(written, placed.offset)

    def record(self, delivered: Delivered, aside: PartAssembler | None) -> None:
        """Report every chunk from now on, until `end_entries`.

        Args:
            delivered: called for every chunk.
            aside: a separate object that takes these chunks. After `end_entries` the caller must
                append its bytes to the archive.
        """
        self._delivered = delivered
        if aside is not None:
            self._parts, self._begins_at = aside, self._main.offset

    def keep(self, base: Base, runs: Sequence[range], read: ReadStored) -> None:
        """Begin the archive with runs of earlier chunks, copied on the store's side.

        Args:
            base: the earlier objects; `add_pieces` may keep single chunks of them later.
            runs: ranges of chunk numbers, each at least as long as the store's smallest part.
            read: reads single chunks later, if they must be sent.
        """
        self._base, self._read = base, read
        for run in runs:
            first, last = base.chunks[run[0]], base.chunks[run[-1]]
            shift = self._parts.offset - first.offset
            for number in run:
                old = base.chunks[number]
                self.chunks.append(old.at(old.offset + shift))
            length = last.end - first.offset
            self._parts.copy(base.source_of(run[0]), first.offset, length)
            self._submitted += len(run)

    def reserve(self, length: int) -> memoryview:
        """Room for `length` bytes that stay together in one chunk; `take` makes them final.

        Reserving again without `take` gives the same room.
        """
        if self._used and self._used + length > CHUNK_BYTES:
            self.end_chunk()
        if self._used + length > len(self._buffer):
            self._buffer = bytearray(length)
        return memoryview(self._buffer)[self._used : self._used + length]

    def take(self, length: int) -> Position:
        """Make the first `length` reserved bytes final; returns where they begin."""
        place = (self._submitted, self._used)
        self._used += length
        return place

    def end_chunk(self, old_number: int = -1) -> None:
        """Close the chunk in the making, if it holds anything.

        Args:
            old_number: the base's chunk that may hold the same bytes, or -1.
        """
        if self._used:
            self._compressor.submit(self._buffer, self._used, old_number)
            self._submitted += 1
            self._buffer = self._compressor.take_buffer()
            self._used = 0

    def add_headers(self, headers: bytes) -> Position:
        """Append an entry that has no content."""
        self.reserve(len(headers))[:] = headers
        return self.take(len(headers))

    def begin_large(self, headers: bytes) -> Position:
        """Append the headers of an entry with chunks of its own; `add_pieces` must follow."""
        self.end_chunk()
        place = self.add_headers(headers)
        self.end_chunk()
        return place

    def add_pieces(
        self, size: int, fill: Callable[[memoryview], None], old_numbers: Sequence[int] = ()
    ) -> None:
        """Append the bytes of the entry that `begin_large` began.

        Args:
            size: stored bytes, without padding.
            fill: called with views that together take exactly `size` bytes.
            old_numbers: the base's chunks of this file, piece by piece; a piece whose bytes are
                the same is copied instead of sent.
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

    def keep_again(self, numbers: Sequence[int]) -> Position:
        """Append chunks of the base as they are; returns where the first begins."""
        self.end_chunk()
        self._compressor.drain()
        place = (self._submitted, 0)
        for number in numbers:
            self._add_known(number, None)
            self._submitted += 1
        return place

    def send_again(self, base: Base, numbers: Sequence[int], read: ReadStored) -> Position:
        """As `keep_again`, but from any earlier objects: the chunks are read and sent."""
        self.end_chunk()
        self._compressor.drain()
        place = (self._submitted, 0)
        for number in numbers:
            chunk, begin = base.chunks[number], self._parts.offset
            self._parts.add(read(base.source_of(number), chunk))
            self._note(chunk.at(begin))
            self._submitted += 1
        return place

    def end_entries(self) -> None:
        """Close the last chunk and wait until all are delivered. Later bytes go to the archive."""
        self.end_chunk()
        self._compressor.drain()
        self._parts.end_range()
        self._parts, self._begins_at, self._delivered = self._main, 0, None

    def add_manifest(self, lines: IO[bytes], size: int, key: SigningKey, copy: IO[bytes]) -> Footer:
        """Append the manifest, the end mark, the signature and the footer, which is returned.

        Args:
            lines: the manifest, read from its front.
            size: bytes of the manifest.
            key: signs the footer's statement.
            copy: gets the same bytes as the object, but never encrypted.
        """
        end = _ArchiveEnd(self._parts, self._sealer, key, copy)
        headers = encode_headers(
            Member(MANIFEST_PATH.encode(), "file", size=size, stored=size, mode=0o600)
        )
        raw = headers + lines.read(CHUNK_BYTES)
        padding = padding_bytes(size)
        while raw:
            following = lines.read(CHUNK_BYTES)
            whole = raw if following else raw + bytes(padding)
            for member in compress_bounded(whole, self._level, WRITTEN_RATIO):
                end.append(member)
            raw = following
        return end.close()

    def close(self) -> None:
        """End the threads."""
        self._compressor.close()


class _ArchiveEnd:
    """Writes the end of an archive, behind its chunks, into the object and into a plain copy."""

    def __init__(
        self, parts: PartAssembler, sealer: Sealer | None, key: SigningKey, copy: IO[bytes]
    ) -> None:
        self._parts, self._sealer, self._key, self._copy = parts, sealer, key, copy
        self._offset = parts.offset
        self._digest, self._copy_digest = hashlib.sha256(), hashlib.sha256()
        self._copy_length = 0

    def append(self, member: bytes) -> None:
        """Append one gzip member of the manifest."""
        stored = self._stored(member)
        self._digest.update(stored)
        self._parts.add(stored)
        self._copy_digest.update(member)
        self._copy_length += len(member)
        self._copy.write(member)

    def _stored(self, member: bytes) -> bytes:
        return member if self._sealer is None else self._sealer.seal(member)

    def close(self) -> Footer:
        """Append end mark, signature and footer, and send the last part; returns the footer."""
        offset, length = self._offset, self._parts.offset - self._offset
        footer = Footer(offset, length, self._digest.digest())
        signature = self._key.sign(footer.statement)
        footer = replace(footer, signature=signature)
        if self._sealer is None:
            end = END_CHUNK + encode_signature(signature) + encode_footer(footer)
            self._parts.add(end)
            self._copy.write(end)
        else:
            self._parts.add(self._stored(END_CHUNK))
            self._parts.add(encode_encrypted_footer(footer))
            plain = Footer(offset, self._copy_length, self._copy_digest.digest())
            self._copy.write(END_CHUNK + encode_footer(plain))
        self._parts.flush()
        return footer
