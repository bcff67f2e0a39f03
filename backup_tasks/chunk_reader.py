"""Read any chunks of an archive, fetched and unpacked ahead, each checked against its hash."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from backup_tasks.compress import decompress_chunk
from backup_tasks.encrypt import open_sealed_chunk
from backup_tasks.errors import ArchiveError
from backup_tasks.identities import NO_KEYS, Keyring, NoKeyFits
from backup_tasks.manifest import Chunk
from backup_tasks.stores.base import RangeReader, StoredObject

# Each request costs the server something besides its bytes, and each range lies in memory.
RANGE_BYTES = 12 * 2**20
# Reading over a gap costs less than another request.
_GAP_BYTES = 128 * 2**10
# What waits in memory: so many requests and one, and so many unpacked chunks and one.
_RANGES_AHEAD = 2
_CHUNKS_AHEAD = 6
# The consumer works meanwhile; more than one core seldom is left for unpacking.
_UNPACKERS = 2
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class ReadChunk:
    """One chunk as read: its raw bytes, or what is wrong with it."""

    number: int
    raw: bytes | memoryview
    damage: str = ""


@dataclass(frozen=True, slots=True)
class ChunkRange:
    """Chunks that one request fetches: their numbers, and the bytes from `start` to `end`."""

    numbers: tuple[int, ...]
    start: int
    end: int


def plan_ranges(chunks: Sequence[Chunk], numbers: Sequence[int]) -> list[ChunkRange]:
    """Join wanted chunks into requests of `RANGE_BYTES` at most, unless one chunk is longer, over
    small gaps too.

    Args:
        chunks: all of the archive.
        numbers: the wanted ones, ascending.
    """
    ranges: list[ChunkRange] = []
    group: list[int] = []
    start = end = 0
    for number in numbers:
        chunk = chunks[number]
        is_far = chunk.offset - end > _GAP_BYTES
        if group and (is_far or chunk.end - start > RANGE_BYTES):
            ranges.append(ChunkRange(tuple(group), start, end))
            group = []
        if not group:
            start = chunk.offset
        group.append(number)
        end = chunk.end
    if group:
        ranges.append(ChunkRange(tuple(group), start, end))
    return ranges


def read_chunks(
    store: RangeReader,
    stored: StoredObject,
    chunks: Sequence[Chunk],
    numbers: Sequence[int],
    keys: Keyring = NO_KEYS,
    is_known: Callable[[int], bool] = lambda _: False,
) -> Generator[ReadChunk, None, None]:
    """The wanted chunks in order, fetched and unpacked a few ahead, side by side.

    Whoever keeps it closes it: it waits for its threads then, and if that were left to the garbage
    collector, it could be while another thread starts, which would never end.

    A damaged chunk comes with `damage` set and no bytes; whether that is an error is the
    caller's decision. Raises StoreError when the store fails; IdentityError when chunks are
    encrypted and `keys` cannot be read.

    Args:
        is_known: asked for each number in order, on the thread that iterates, some ahead; of
            chunks that are, only the stored bytes are checked, which takes no key, and `raw` is
            empty.
    """

    def fetch(wanted: ChunkRange) -> tuple[ChunkRange, bytes]:
        return wanted, store.read_range(stored, wanted.start, wanted.end - wanted.start)

    # No more than this is done there: work in small steps would make the threads wait for the
    # interpreter lock and each other, which costs more than it brings.
    def unpack(number: int, block: bytes, block_start: int, known: bool) -> ReadChunk:
        chunk = chunks[number]
        begin = chunk.offset - block_start
        stored_bytes = memoryview(block)[begin : begin + chunk.length]
        if hashlib.sha256(stored_bytes).hexdigest() != chunk.sha256:
            return ReadChunk(number, b"", "its hash is wrong")
        if known:
            return ReadChunk(number, b"")
        return _unpack(number, chunk, stored_bytes, keys)

    def unpacks(fetched: Iterator[tuple[ChunkRange, bytes]]) -> Iterator[Callable[[], ReadChunk]]:
        for wanted, block in fetched:
            for number in wanted.numbers:
                yield partial(unpack, number, block, wanted.start, is_known(number))

    fetchers = ThreadPoolExecutor(_RANGES_AHEAD, thread_name_prefix="read")
    unpackers = ThreadPoolExecutor(_UNPACKERS, thread_name_prefix="unpack")
    fetches = (partial(fetch, wanted) for wanted in plan_ranges(chunks, numbers))
    try:
        fetched = _called_ahead(fetchers, fetches, _RANGES_AHEAD)
        yield from _called_ahead(unpackers, unpacks(fetched), _CHUNKS_AHEAD)
    finally:
        for pool in (fetchers, unpackers):
            pool.shutdown(cancel_futures=True)


def _unpack(number: int, chunk: Chunk, stored_bytes: memoryview, keys: Keyring) -> ReadChunk:
    try:
        if not chunk.content:
            return ReadChunk(number, decompress_chunk(stored_bytes, chunk.raw))
        packed = open_sealed_chunk(bytes(stored_bytes), chunk.content, keys)
        return ReadChunk(number, decompress_chunk(packed, chunk.raw))
    except (ArchiveError, NoKeyFits) as error:
        return ReadChunk(number, b"", str(error))


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


def read_ahead(
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
