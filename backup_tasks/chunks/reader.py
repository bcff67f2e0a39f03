"""Read any chunks of an archive: fetch and unpack them ahead, and check each one's hash."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import groupby
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from backup_tasks.chunks.compress import decompress_chunk
from backup_tasks.chunks.encrypt import open_encrypted_chunk
from backup_tasks.common.workers import Workers
from backup_tasks.errors import ArchiveError
from backup_tasks.format.manifest import Chunk
from backup_tasks.keys.identities import NO_KEYS, Keyring, NoKeyFits
from backup_tasks.stores.base import RangeReader, StoredObject

# Each request costs the server something besides its bytes, and each range lies in memory.
RANGE_BYTES = 12 * 2**20
# Fetching a gap of this length costs less than another request.
_GAP_BYTES = 128 * 2**10
# How many requests and how many unpacked chunks wait in memory, besides one of each.
_RANGES_AHEAD = 2
_CHUNKS_AHEAD = 6
# Waiting unpacked chunks hold at most _BYTES_AHEAD together. A chunk beyond ALONE_BYTES is read
# while no other waits: 64 MiB of headers, packed and unpacked, are much for one machine.
_BYTES_AHEAD = 16 * 2**20
ALONE_BYTES = 8 * 2**20
# The most chunks in a request: each takes some memory, however short it is.
_RANGE_CHUNKS = 2**12
# How many damaged chunks are fetched again, at most.
_FETCHED_AGAIN = 64
# The consumer works meanwhile, and seldom leaves more than one core for unpacking.
_UNPACKERS = 2
_Result = TypeVar("_Result")
# How many bytes the result will hold, and the function that makes it.
_Call = tuple[int, Callable[[], _Result]]


class ReadChunk(Struct, frozen=True):
    """One chunk as read: its raw bytes, or the damage that was found.

    Attributes:
        fetched_again: the chunk came damaged at first.
    """

    number: int
    raw: bytes | memoryview
    damage: str = ""
    fetched_again: bool = False


class ChunkRange(Struct, frozen=True):
    """Chunks that one request fetches: their numbers, and the bytes from `start` to `end`."""

    numbers: tuple[int, ...]
    start: int
    end: int


def plan_ranges(chunks: Sequence[Chunk], numbers: Iterable[int]) -> Iterator[ChunkRange]:
    """Join wanted chunks, also across small gaps, into requests of at most `RANGE_BYTES`.

    A longer chunk has a request of its own, and so has a chunk beyond ALONE_BYTES.

    Args:
        chunks: all chunks of the archive.
        numbers: those of the wanted chunks, ascending.
    """
    group: list[int] = []
    start = end = 0
    is_alone = False
    for number in numbers:
        chunk = chunks[number]
        is_far = chunk.offset - end > _GAP_BYTES
        was_alone, is_alone = is_alone, chunk.raw > ALONE_BYTES
        is_full = chunk.end - start > RANGE_BYTES or len(group) == _RANGE_CHUNKS
        if group and (is_far or is_full or is_alone or was_alone):
            yield ChunkRange(tuple(group), start, end)
            group = []
        if not group:
            start = chunk.offset
        group.append(number)
        end = chunk.end
    if group:
        yield ChunkRange(tuple(group), start, end)


def read_chunks(
    store: RangeReader,
    stored: StoredObject,
    chunks: Sequence[Chunk],
    numbers: Sequence[int],
    keys: Keyring = NO_KEYS,
    is_known: Callable[[int], bool] = lambda _: False,
) -> Generator[ReadChunk, None, None]:
    """Yield the wanted chunks in order; threads fetch and unpack a few chunks ahead.

    The caller closes the generator, which then waits for its threads. Left to the garbage
    collector, this could happen while another thread starts, and would never end.

    A damaged chunk comes with `damage` set and no bytes; the caller decides whether that is an
    error.

    Args:
        is_known: called for each number in order, some chunks ahead, on the thread that iterates.
            Of a known chunk only the stored bytes are checked, without a key, and `raw` is empty.

    Raises:
        StoreError: the store fails.
        IdentityError: chunks are encrypted, and `keys` cannot be read.
    """

    tries = iter(range(_FETCHED_AGAIN))

    def fetch(wanted: ChunkRange) -> tuple[ChunkRange, bytes]:
        return wanted, store.read_range(stored, wanted.start, wanted.end - wanted.start)

    # The threads do no more than this: work in small steps would make them wait for the interpreter
    # lock and for each other, which costs more than it saves.
    def unpack(number: int, chunk: Chunk, block: bytes, block_start: int, known: bool) -> ReadChunk:
        begin = chunk.offset - block_start
        stored_bytes: bytes | memoryview = memoryview(block)[begin : begin + chunk.length]
        again = hashlib.sha256(stored_bytes).hexdigest() != chunk.sha256
        if again:  # perhaps only the transfer damaged it
            if next(tries, None) is not None:
                stored_bytes = store.read_range(stored, chunk.offset, chunk.length)
            if hashlib.sha256(stored_bytes).hexdigest() != chunk.sha256:
                return ReadChunk(number, b"", "its hash is wrong")
        read = ReadChunk(number, b"") if known else _unpack(number, chunk, stored_bytes, keys)
        return replace(read, fetched_again=True) if again else read

    # On return the packed bytes are freed.
    def read_alone(number: int) -> ReadChunk:
        chunk = chunks[number]
        block = store.read_range(stored, chunk.offset, chunk.length)
        return unpack(number, chunk, block, chunk.offset, is_known(number))

    def unpacks(fetched: Iterable[tuple[ChunkRange, bytes]]) -> Iterator[_Call[ReadChunk]]:
        for wanted, block in fetched:
            for number in wanted.numbers:
                chunk = chunks[number]
                call = partial(unpack, number, chunk, block, wanted.start, is_known(number))
                yield chunk.raw, call

    fetchers = Workers(_RANGES_AHEAD, "read")
    unpackers = Workers(_UNPACKERS, "unpack")
    try:
        for is_alone, ranges in groupby(
            plan_ranges(chunks, numbers), lambda one: chunks[one.numbers[0]].raw > ALONE_BYTES
        ):
            if is_alone:
                for one in ranges:
                    yield read_alone(one.numbers[0])
                continue
            fetches = ((one.end - one.start, partial(fetch, one)) for one in ranges)
            fetched = _called_ahead(fetchers, fetches, _RANGES_AHEAD, 3 * RANGE_BYTES)
            yield from _called_ahead(unpackers, unpacks(fetched), _CHUNKS_AHEAD, _BYTES_AHEAD)
    finally:
        for pool in (fetchers, unpackers):
            pool.shutdown(cancel_futures=True)


def _unpack(
    number: int, chunk: Chunk, stored_bytes: bytes | memoryview, keys: Keyring
) -> ReadChunk:
    try:
        if not chunk.content:
            return ReadChunk(number, decompress_chunk(stored_bytes, chunk.raw))
        packed = open_encrypted_chunk(bytes(stored_bytes), chunk.content, keys)
        return ReadChunk(number, decompress_chunk(packed, chunk.raw))
    except (ArchiveError, NoKeyFits) as error:
        return ReadChunk(number, b"", str(error))


def _called_ahead(
    pool: Workers, calls: Iterable[_Call[_Result]], count: int, most_bytes: int
) -> Iterator[_Result]:
    """Yield the results of the calls in order, while up to `count` later calls are under way.

    Together they hold at most `most_bytes`, unless one alone holds more.
    """
    waiting: deque[tuple[int, Future[_Result]]] = deque()
    held = 0
    for size, call in calls:
        while waiting and held + size > most_bytes:
            held -= waiting[0][0]
            yield pool.result_of(waiting.popleft()[1])
        waiting.append((size, pool.submit(call)))
        held += size
        if len(waiting) > count:
            held -= waiting[0][0]
            yield pool.result_of(waiting.popleft()[1])
    while waiting:
        yield pool.result_of(waiting.popleft()[1])


def read_ahead(
    store: RangeReader, stored: StoredObject, offset: int, length: int
) -> Iterator[bytes]:
    """Read a long range in pieces, several of them fetched at once.

    Raises:
        StoreError: the store fails.
    """
    end = offset + length
    reads = (
        (RANGE_BYTES, partial(store.read_range, stored, start, min(RANGE_BYTES, end - start)))
        for start in range(offset, end, RANGE_BYTES)
    )
    pool = Workers(_RANGES_AHEAD, "read")
    try:
        yield from _called_ahead(pool, reads, _RANGES_AHEAD, 3 * RANGE_BYTES)
    finally:
        pool.shutdown(cancel_futures=True)
