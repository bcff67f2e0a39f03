"""Read an archive back: footer, manifest, and any of its chunks, each checked against its hash."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import IO, TypeVar

from isal import igzip, isal_zlib

from backup_tasks.compress import IsalError, decompress_chunk
from backup_tasks.cut_off import refuse_cut_off, refuse_without_sealed_footer
from backup_tasks.encrypt import open_sealed, open_sealed_chunk, open_sealed_file
from backup_tasks.errors import ArchiveError, IdentityError
from backup_tasks.footer import END_CHUNK, FOOTER_BYTES, Footer, decode_footer
from backup_tasks.identities import NO_KEYS, Keyring, NoKeyFits
from backup_tasks.manifest import MANIFEST_PATH, Chunk, Header, Manifest, decode_header
from backup_tasks.naming import is_encrypted_name
from backup_tasks.outer_tar import measure_member
from backup_tasks.sealed_footer import SEALED_FOOTER_BYTES, SealedFooter, decode_sealed_footer
from backup_tasks.stores.base import RangeReader, StoredObject
from backup_tasks.tarstream import BLOCK_BYTES, decode_headers

RANGE_BYTES = 4 * 2**20
# Reading over a gap costs less than another request.
_GAP_BYTES = 128 * 2**10
# What waits in memory: so many requests and one, and so many unpacked chunks and one.
_RANGES_AHEAD = 3
_CHUNKS_AHEAD = 3
# The consumer works meanwhile; more than one core seldom is left for unpacking.
_UNPACKERS = 2
# A manifest of a million equal entries shrinks to about a thirtieth.
_MANIFEST_RATIO = 200
_MANIFEST_RAW_BYTES = 64 * 2**20
_HEADER_PROBE_BYTES = 64 * 2**10
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class ReadChunk:
    """One chunk as read: its raw bytes, or what is wrong with it."""

    number: int
    raw: bytes
    damage: str = ""


def read_footer(store: RangeReader, stored: StoredObject) -> Footer | None:
    """The archive's footer; None for an ordinary .tar.gz that we did not write.

    Raises ArchiveError when a footer is there but cannot be true, for an archive of ours that
    lost it, and for what has the name of an encrypted archive and is none of ours.
    """
    if stored.size == 0:
        raise ArchiveError(f"{stored.name}: empty")
    is_encrypted = is_encrypted_name(stored.name)
    length = min(stored.size, footer_length(stored))
    tail = store.read_range(stored, stored.size - length, length)
    footer = decode_sealed_footer(tail) if is_encrypted else decode_footer(tail)
    if footer is None:
        refuse = refuse_without_sealed_footer if is_encrypted else refuse_cut_off
        refuse(store, stored, tail)
    if footer and footer.offset + footer.length + length > stored.size:
        raise ArchiveError(f"{stored.name}: the footer points beyond the object's end")
    return footer


def footer_length(stored: StoredObject) -> int:
    """Bytes of the footer that ends an object of this name."""
    return SEALED_FOOTER_BYTES if is_encrypted_name(stored.name) else FOOTER_BYTES


def read_header(store: RangeReader, stored: StoredObject, keys: Keyring = NO_KEYS) -> Header | None:
    """The manifest's first line alone, with two or three small requests; None as for
    `read_footer`.

    The hash of a large manifest is not checked, so decide nothing by it that matters.

    Raises: ArchiveError; IdentityError when it is encrypted and `keys` do not open it.
    """
    footer = read_footer(store, stored)
    if footer is None:
        return None
    front = store.read_range(stored, footer.offset, min(footer.length, _HEADER_PROBE_BYTES))
    if is_encrypted_name(stored.name):
        front = _open_first_member(store, stored, footer, front, keys)
    elif len(front) == footer.length and hashlib.sha256(front).digest() != footer.sha256:
        raise ArchiveError(f"{stored.name}: the manifest is damaged: its hash is wrong")
    try:
        raw = isal_zlib.decompressobj(31).decompress(front, 2**20)
        _, start = decode_headers(memoryview(raw), 0)
        return decode_header(raw[start:].split(b"\n", 1)[0])
    except (IsalError, ArchiveError) as error:
        raise ArchiveError(f"{stored.name}: the manifest cannot be read: {error}") from error


def _open_first_member(
    store: RangeReader, stored: StoredObject, footer: Footer, front: bytes, keys: Keyring
) -> bytes:
    """The gzip member that an encrypted manifest begins with; `front` is what is at hand of it."""
    try:
        length = measure_member(front)
        if length > footer.length:
            raise ArchiveError("it is longer than the footer says")
        if length > len(front):
            more = footer.offset + len(front)
            front += store.read_range(stored, more, length - len(front))
        return open_sealed(front[:length], keys)
    except ArchiveError as error:
        raise ArchiveError(f"{stored.name}: the manifest cannot be read: {error}") from error
    except IdentityError as error:
        raise type(error)(f"{stored.name}: {error}") from None


def read_manifest(
    store: RangeReader, stored: StoredObject, keys: Keyring = NO_KEYS
) -> Manifest | None:
    """The whole manifest, checked against the footer; None as for `read_footer`.

    Its lines lie in an unlinked temporary file until `Manifest.close`.

    Raises:
        ArchiveError: hash, order or totals are wrong.
        IdentityError: it is encrypted, and `keys` do not open it.
    """
    footer = read_footer(store, stored)
    if footer is None:
        return None
    with contextlib.ExitStack() as opened:
        packed: IO[bytes] = opened.enter_context(tempfile.TemporaryFile())
        digest = hashlib.sha256()
        for piece in _read_ahead(store, stored, footer.offset, footer.length):
            digest.update(piece)
            packed.write(piece)
        if digest.digest() != footer.sha256:
            raise ArchiveError(f"{stored.name}: the manifest is damaged: its hash is wrong")
        packed.seek(0)
        try:
            if is_encrypted_name(stored.name):
                packed = opened.enter_context(open_sealed_file(packed, footer.length, keys))
            most = _MANIFEST_RAW_BYTES + _MANIFEST_RATIO * footer.length
            manifest = Manifest(_unpack_manifest(packed, most))
        except IdentityError as error:
            raise type(error)(f"{stored.name}: {error}") from None
        except (OSError, EOFError, IsalError, ArchiveError) as error:
            raise ArchiveError(f"{stored.name}: the manifest cannot be read: {error}") from error
    if is_encrypted_name(stored.name) and not all(chunk.content for chunk in manifest.chunks):
        manifest.close()
        raise ArchiveError(f"{stored.name}: the manifest lists chunks that are not encrypted")
    if manifest.header.chunk_bytes != footer.offset:
        manifest.close()
        raise ArchiveError(f"{stored.name}: the chunks do not end where the manifest begins")
    return manifest


def _read_ahead(
    store: RangeReader, stored: StoredObject, offset: int, length: int
) -> Iterator[bytes]:
    """A long range in pieces, several of them fetched side by side."""
    end = offset + length
    reads = (
        partial(store.read_range, stored, start, min(RANGE_BYTES, end - start))
        for start in range(offset, end, RANGE_BYTES)
    )
    pool = ThreadPoolExecutor(_RANGES_AHEAD, thread_name_prefix="read")
    try:
        yield from _called_ahead(pool, reads, _RANGES_AHEAD)
    finally:
        pool.shutdown(cancel_futures=True)


def find_fault_at_end(
    store: RangeReader, stored: StoredObject, footer: Footer, keys: Keyring = NO_KEYS
) -> str:
    """What is wrong between manifest and footer, or "": there is nothing but tar's end mark."""
    if isinstance(footer, SealedFooter) and (any(footer.public_key) or any(footer.signature)):
        return "there is something in the footer's room for a signature, and it is none"
    start = footer.offset + footer.length
    length = stored.size - footer_length(stored) - start
    if is_encrypted_name(stored.name):
        if length > _HEADER_PROBE_BYTES:
            return f"{length:,} bytes lie between manifest and footer, where tar's end mark belongs"
        try:
            end = open_sealed(store.read_range(stored, start, length), keys)
        except (ArchiveError, NoKeyFits) as error:
            return f"tar's end mark after the manifest is damaged: {error}"
    elif length != len(END_CHUNK):
        return (
            f"{length:,} bytes lie between manifest and footer, where tar's end mark takes "
            f"{len(END_CHUNK)}"
        )
    else:
        end = store.read_range(stored, start, length)
    return "" if end == END_CHUNK else "tar's end mark after the manifest is damaged"


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
    """Join wanted chunks into requests of bounded size, over small gaps too.

    Args:
        chunks: all of the archive.
        numbers: the wanted ones, ascending.
    """
    ranges: list[ChunkRange] = []
    group: list[int] = []
    start = end = 0
    for number in numbers:
        chunk = chunks[number]
        chunk_end = chunk.offset + chunk.length
        is_far = chunk.offset - end > _GAP_BYTES
        if group and (is_far or chunk_end - start > RANGE_BYTES):
            ranges.append(ChunkRange(tuple(group), start, end))
            group = []
        if not group:
            start = chunk.offset
        group.append(number)
        end = chunk_end
    if group:
        ranges.append(ChunkRange(tuple(group), start, end))
    return ranges


def read_chunks(
    store: RangeReader,
    stored: StoredObject,
    chunks: Sequence[Chunk],
    numbers: Sequence[int],
    keys: Keyring = NO_KEYS,
) -> Iterator[ReadChunk]:
    """The wanted chunks in order, fetched and unpacked a few ahead, side by side.

    A damaged chunk comes with `damage` set and no bytes; whether that is an error is the
    caller's decision. Raises StoreError when the store fails; IdentityError when chunks are
    encrypted and `keys` cannot be read.
    """

    def unpack(number: int, packed: bytes) -> ReadChunk:
        chunk = chunks[number]
        try:
            if chunk.content:
                packed = open_sealed_chunk(packed, chunk.content, keys)
            return ReadChunk(number, decompress_chunk(packed, chunk.raw))
        except (ArchiveError, NoKeyFits) as error:
            return ReadChunk(number, b"", str(error))

    return _read_stored(store, stored, chunks, numbers, unpack)


def check_chunks(
    store: RangeReader, stored: StoredObject, chunks: Sequence[Chunk], numbers: Sequence[int]
) -> Iterator[ReadChunk]:
    """As `read_chunks`, but only the stored bytes are checked, which takes no key; `raw` is
    empty."""
    return _read_stored(store, stored, chunks, numbers, lambda number, _: ReadChunk(number, b""))


def _read_stored(
    store: RangeReader,
    stored: StoredObject,
    chunks: Sequence[Chunk],
    numbers: Sequence[int],
    unpack: Callable[[int, bytes], ReadChunk],
) -> Iterator[ReadChunk]:
    def fetch(wanted: ChunkRange) -> tuple[ChunkRange, bytes]:
        return wanted, store.read_range(stored, wanted.start, wanted.end - wanted.start)

    def check(number: int, block: bytes, block_start: int) -> ReadChunk:
        chunk = chunks[number]
        begin = chunk.offset - block_start
        packed = block[begin : begin + chunk.length]
        if hashlib.sha256(packed).hexdigest() != chunk.sha256:
            return ReadChunk(number, b"", "its hash is wrong")
        return unpack(number, packed)

    def checks(fetched: Iterator[tuple[ChunkRange, bytes]]) -> Iterator[Callable[[], ReadChunk]]:
        for wanted, block in fetched:
            for number in wanted.numbers:
                yield partial(check, number, block, wanted.start)

    fetchers = ThreadPoolExecutor(_RANGES_AHEAD, thread_name_prefix="read")
    unpackers = ThreadPoolExecutor(_UNPACKERS, thread_name_prefix="unpack")
    fetches = (partial(fetch, wanted) for wanted in plan_ranges(chunks, numbers))
    try:
        fetched = _called_ahead(fetchers, fetches, _RANGES_AHEAD)
        yield from _called_ahead(unpackers, checks(fetched), _CHUNKS_AHEAD)
    finally:
        for pool in (fetchers, unpackers):
            pool.shutdown(cancel_futures=True)


def _called_ahead(
    pool: ThreadPoolExecutor, calls: Iterable[Callable[[], _Result]], count: int
) -> Iterator[_Result]:
    """The results of the calls, in their order; so many are under way while one is used."""
    waiting: deque[Future[_Result]] = deque()
    for call in calls:
        waiting.append(pool.submit(call))
        if len(waiting) > count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
