"""Read an archive back: footer, manifest, and any of its chunks, each checked against its hash."""

from __future__ import annotations

import hashlib
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import IO

from isal import igzip, isal_zlib

from backup_tasks.compress import IsalError, decompress_chunk
from backup_tasks.cut_off import refuse_cut_off
from backup_tasks.errors import ArchiveError
from backup_tasks.footer import FOOTER_BYTES, Footer, decode_footer
from backup_tasks.manifest import MANIFEST_PATH, Chunk, Header, Manifest, decode_header
from backup_tasks.signature_member import MEMBER_BYTES, decode_signature
from backup_tasks.stores.base import RangeReader, StoredObject
from backup_tasks.tarstream import BLOCK_BYTES, decode_headers

RANGE_BYTES = 8 * 2**20
# Reading over a gap costs less than another request.
_GAP_BYTES = 128 * 2**10
# What one request may unpack to: chunks of zeros would otherwise fill the memory.
_RANGE_RAW_BYTES = 12 * 2**20
_AHEAD = 3
# A manifest of a million equal entries shrinks to about a thirtieth.
_MANIFEST_RATIO = 200
_MANIFEST_RAW_BYTES = 64 * 2**20
_HEADER_PROBE_BYTES = 64 * 2**10


@dataclass(frozen=True, slots=True)
class ReadChunk:
    """One chunk as read: its raw bytes, or what is wrong with it."""

    number: int
    raw: bytes
    damage: str = ""


def read_footer(store: RangeReader, stored: StoredObject) -> Footer | None:
    """The archive's footer, with its signature if it has one; None for an ordinary .tar.gz
    that we did not write.

    Raises ArchiveError when a footer is there but cannot be true, and for an archive of ours
    that lost it.
    """
    if stored.size == 0:
        raise ArchiveError(f"{stored.name}: empty")
    length = min(stored.size, MEMBER_BYTES + FOOTER_BYTES)
    end = store.read_range(stored, stored.size - length, length)
    tail = end[-FOOTER_BYTES:]
    footer = decode_footer(tail)
    if footer is None:
        refuse_cut_off(store, stored, tail)
        return None
    if footer.offset + footer.length + FOOTER_BYTES > stored.size:
        raise ArchiveError(f"{stored.name}: the footer points beyond the object's end")
    return replace(footer, signature=decode_signature(end[:-FOOTER_BYTES]))


def read_header(store: RangeReader, stored: StoredObject) -> Header | None:
    """The manifest's first line alone, with two small requests; None as for `read_footer`.

    The hash of a large manifest is not checked, so decide nothing by it that matters.
    """
    footer = read_footer(store, stored)
    if footer is None:
        return None
    front = store.read_range(stored, footer.offset, min(footer.length, _HEADER_PROBE_BYTES))
    if len(front) == footer.length and hashlib.sha256(front).digest() != footer.sha256:
        raise ArchiveError(f"{stored.name}: the manifest is damaged: its hash is wrong")
    try:
        raw = isal_zlib.decompressobj(31).decompress(front, 2**20)
        _, start = decode_headers(memoryview(raw), 0)
        return decode_header(raw[start:].split(b"\n", 1)[0])
    except (IsalError, ArchiveError) as error:
        raise ArchiveError(f"{stored.name}: the manifest cannot be read: {error}") from error


def read_manifest(store: RangeReader, stored: StoredObject) -> Manifest | None:
    """The whole manifest, checked against the footer; None as for `read_footer`.

    Its lines lie in an unlinked temporary file until `Manifest.close`.

    Raises ArchiveError when hash, order or totals are wrong.
    """
    footer = read_footer(store, stored)
    if footer is None:
        return None
    with tempfile.TemporaryFile() as packed:
        digest = hashlib.sha256()
        for start in range(footer.offset, footer.offset + footer.length, RANGE_BYTES):
            length = min(RANGE_BYTES, footer.offset + footer.length - start)
            piece = store.read_range(stored, start, length)
            digest.update(piece)
            packed.write(piece)
        if digest.digest() != footer.sha256:
            raise ArchiveError(f"{stored.name}: the manifest is damaged: its hash is wrong")
        packed.seek(0)
        try:
            most = _MANIFEST_RAW_BYTES + _MANIFEST_RATIO * footer.length
            manifest = Manifest(_unpack_manifest(packed, most), footer)
        except (OSError, EOFError, IsalError, ArchiveError) as error:
            raise ArchiveError(f"{stored.name}: the manifest cannot be read: {error}") from error
    if manifest.header.chunk_bytes != footer.offset:
        manifest.close()
        raise ArchiveError(f"{stored.name}: the chunks do not end where the manifest begins")
    return manifest


def _unpack_manifest(packed: IO[bytes], most_bytes: int) -> IO[bytes]:
    lines = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        with igzip.IGzipFile(fileobj=packed, mode="rb") as unpacked:  # type: ignore[no-untyped-call]
            head = unpacked.read(BLOCK_BYTES)
            if head[156:157] == b"x":  # from 8 GiB on its size stands in a pax header
                head += unpacked.read(2 * BLOCK_BYTES)
            member, _ = decode_headers(memoryview(head), 0)
            if member.path != MANIFEST_PATH.encode():
                raise ArchiveError(f"there is {member.path!r} where it should be")
            if member.size > most_bytes:
                raise ArchiveError(f"it would unpack to {member.size:,} bytes, which none does")
            left = member.size
            while left:
                piece = unpacked.read(min(left, 2**20))
                if not piece:
                    raise ArchiveError("it ends too early")
                lines.write(piece)
                left -= len(piece)
    except BaseException:
        lines.close()
        raise
    return lines


@dataclass(frozen=True, slots=True)
class ChunkRange:
    """Chunks that one request fetches: their numbers, and the bytes from `start` to `end`."""

    numbers: tuple[int, ...]
    start: int
    end: int


def plan_ranges(chunks: Sequence[Chunk], numbers: Sequence[int]) -> list[ChunkRange]:
    """Join wanted chunks into requests of bounded size, packed and unpacked, over small gaps too.

    Args:
        chunks: all of the archive.
        numbers: the wanted ones, ascending.
    """
    ranges: list[ChunkRange] = []
    group: list[int] = []
    start = end = raw = 0
    for number in numbers:
        chunk = chunks[number]
        chunk_end = chunk.offset + chunk.length
        raw += chunk.raw
        is_far = chunk.offset - end > _GAP_BYTES
        if group and (is_far or chunk_end - start > RANGE_BYTES or raw > _RANGE_RAW_BYTES):
            ranges.append(ChunkRange(tuple(group), start, end))
            group = []
        if not group:
            start, raw = chunk.offset, chunk.raw
        group.append(number)
        end = chunk_end
    if group:
        ranges.append(ChunkRange(tuple(group), start, end))
    return ranges


def read_chunks(
    store: RangeReader, stored: StoredObject, chunks: Sequence[Chunk], numbers: Sequence[int]
) -> Iterator[ReadChunk]:
    """The wanted chunks in order, fetched and unpacked a few ranges ahead, side by side.

    A damaged chunk comes with `damage` set and no bytes; whether that is an error is the
    caller's decision. Raises StoreError when the store fails.
    """
    ranges = iter(plan_ranges(chunks, numbers))
    pool = ThreadPoolExecutor(_AHEAD, thread_name_prefix="read")
    waiting: deque[Future[list[ReadChunk]]] = deque()

    def fetch(wanted: ChunkRange) -> list[ReadChunk]:
        block = store.read_range(stored, wanted.start, wanted.end - wanted.start)
        return [_unpack(number, chunks[number], block, wanted.start) for number in wanted.numbers]

    try:
        for wanted in ranges:
            waiting.append(pool.submit(fetch, wanted))
            if len(waiting) > _AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _unpack(number: int, chunk: Chunk, block: bytes, block_start: int) -> ReadChunk:
    begin = chunk.offset - block_start
    packed = block[begin : begin + chunk.length]
    if hashlib.sha256(packed).hexdigest() != chunk.sha256:
        return ReadChunk(number, b"", "its hash is wrong")
    try:
        return ReadChunk(number, decompress_chunk(packed, chunk.raw))
    except ArchiveError as error:
        return ReadChunk(number, b"", str(error))
