"""Raw chunks to gzip members, on a pool of threads, in order."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from isal import igzip_lib, isal_zlib
from msgspec import Struct

from backup_tasks.common.workers import Workers
from backup_tasks.errors import ArchiveError

# isal's stubs do not say that this is an exception class.
IsalError: type[Exception] = isal_zlib.error  # type: ignore[assignment]

# The raw length of a usual chunk: smaller members cost size (256 KiB: 0.35 %, 1 MiB: 0.05 %),
# larger ones make every small change dearer.
CHUNK_BYTES = 2**20
_GZIP_WINDOW = 31


class StoredChunk(Struct, frozen=True):
    """One gzip member as it will lie in the object, its SHA-256, and its raw length.

    `content` is the SHA-256 of the gzip member once it is encrypted, else "".
    """

    stored: bytes
    sha256: str
    raw: int
    content: str = ""


def compress_chunk(raw: bytes | bytearray | memoryview, level: int) -> StoredChunk:
    """One complete gzip member (RFC 1952) without name or time, so that equal input gives
    equal bytes."""
    stored = isal_zlib.compress(raw, level, _GZIP_WINDOW)
    return StoredChunk(stored, hashlib.sha256(stored).hexdigest(), len(raw))


def compress_bounded(raw: bytes, level: int, ratio: int) -> list[bytes]:
    """Compress to gzip members that unpack to at most `ratio` times their own length.

    If the bytes would shrink further, the last of them go uncompressed into a second member.
    """
    packed = compress_chunk(raw, level).stored
    if len(packed) * ratio >= len(raw):
        return [packed]
    plain_bytes = -(-len(raw) // ratio)
    front, plain = raw[:-plain_bytes], raw[-plain_bytes:]
    return [compress_chunk(front, level).stored, zlib.compress(plain, 0, _GZIP_WINDOW)]


def decompress_chunk(stored: bytes | memoryview, raw_length: int) -> bytes:
    """The raw bytes of one member, which must be exactly `raw_length` and use all of `stored`.

    Unpacks at most one byte more, whatever the member claims.

    Raises:
        ArchiveError: the member is damaged, or has another length.
    """
    # Unlike zlib's, it allocates the expected length at once, instead of in eight steps.
    unpacker = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)
    try:
        raw = unpacker.decompress(stored, raw_length + 1)
    except IsalError as error:
        raise ArchiveError(f"it cannot be decompressed: {error}") from error
    if len(raw) != raw_length or not unpacker.eof or unpacker.unused_data:
        raise ArchiveError(f"it does not hold just the {raw_length} bytes that the manifest says")
    return raw


class ChunkCompressor:
    """Compresses on all cores, and delivers the members in the order of their chunks.

    Args:
        level: isal's, 0 (fastest) to 3.
        deliver: called on the thread that submits, once for each chunk, in order, with the
            chunk's tag.
        workers: number of threads; isal releases the interpreter lock.
        finish: a further step for each member, on the same threads; receives the tag as well.

    Memory is bounded: about three raw chunks a worker.
    """

    def __init__(
        self,
        level: int,
        deliver: Callable[[StoredChunk, int], None],
        workers: int | None = None,
        finish: Callable[[StoredChunk, int], StoredChunk] | None = None,
    ) -> None:
        self._finish = finish
        self._level = level
        self._deliver = deliver
        self._workers = workers or len(os.sched_getaffinity(0))
        self._pool = Workers(self._workers, "compress")
        self._waiting: deque[tuple[Future[StoredChunk], bytearray, int]] = deque()
        self._spare: list[bytearray] = []

    def take_buffer(self) -> bytearray:
        """A buffer of CHUNK_BYTES to fill; used ones are taken again, as fresh memory is slow."""
        return self._spare.pop() if self._spare else bytearray(CHUNK_BYTES)

    def submit(self, buffer: bytearray, length: int, tag: int = -1) -> None:
        """Compress the first `length` bytes; the buffer belongs to the pool from now on."""
        while len(self._waiting) > 2 * self._workers:
            self._deliver_oldest()
        future = self._pool.submit(self._compress, buffer, length, tag)
        self._waiting.append((future, buffer, tag))
        while self._waiting and self._waiting[0][0].done():
            self._deliver_oldest()

    def _compress(self, buffer: bytearray, length: int, tag: int) -> StoredChunk:
        with memoryview(buffer) as whole, whole[:length] as raw:
            chunk = compress_chunk(raw, self._level)
        return chunk if self._finish is None else self._finish(chunk, tag)

    def _deliver_oldest(self) -> None:
        future, buffer, tag = self._waiting.popleft()
        self._deliver(self._pool.result_of(future), tag)
        if len(buffer) == CHUNK_BYTES:
            self._spare.append(buffer)

    def drain(self) -> None:
        """Wait for all submitted chunks and deliver them."""
        while self._waiting:
            self._deliver_oldest()

    def close(self) -> None:
        """End the threads; undelivered chunks are dropped."""
        self._pool.shutdown(cancel_futures=True)
