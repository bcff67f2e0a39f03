"""Chunks are gzip members of their own, in order, and unpack to just what was packed."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_tasks.chunks.compress import (
    CHUNK_BYTES,
    ChunkCompressor,
    StoredChunk,
    compress_chunk,
    decompress_chunk,
)
from backup_tasks.errors import ArchiveError


@given(st.binary(min_size=1, max_size=5000), st.integers(0, 3))
def test_a_chunk_is_one_gzip_member_that_everybody_unpacks(raw: bytes, level: int) -> None:
    chunk = compress_chunk(raw, level)
    assert (chunk.raw, chunk.sha256) == (len(raw), hashlib.sha256(chunk.stored).hexdigest())
    assert gzip.decompress(chunk.stored) == raw
    unpacker = zlib.decompressobj(31)
    assert unpacker.decompress(chunk.stored) == raw
    assert unpacker.eof
    assert unpacker.unused_data == b""
    assert decompress_chunk(chunk.stored, len(raw)) == raw


def test_equal_bytes_make_equal_chunks_at_any_time() -> None:
    raw = os.urandom(1000) * 10
    assert compress_chunk(raw, 1) == compress_chunk(bytearray(raw), 1)
    assert compress_chunk(raw, 1).stored[4:8] == bytes(4)  # no time


@given(st.binary(min_size=2, max_size=500), st.data())
@settings(max_examples=60)
def test_a_chunk_that_unpacks_to_anything_else_is_refused(raw: bytes, data: st.DataObject) -> None:
    stored = compress_chunk(raw, 1).stored
    length = data.draw(st.integers(0, 1000).filter(lambda length: length != len(raw)))
    with pytest.raises(ArchiveError):
        decompress_chunk(stored, length)
    for wrong in (stored[:-1], stored + b"\0", stored + stored, b"", b"no gzip"):
        with pytest.raises(ArchiveError):
            decompress_chunk(wrong, len(raw))


@given(st.binary(min_size=1, max_size=2000), st.data())
@settings(max_examples=60)
def test_a_flipped_byte_is_refused_or_changes_nothing(raw: bytes, data: st.DataObject) -> None:
    stored = bytearray(compress_chunk(raw, 1).stored)
    stored[data.draw(st.integers(0, len(stored) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        assert decompress_chunk(bytes(stored), len(raw)) == raw
    except ArchiveError:
        return


def test_a_bomb_makes_no_more_than_it_may() -> None:
    bomb = compress_chunk(bytes(200 * 2**20), 1).stored
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(ArchiveError, match="does not hold just the 512 bytes"):
        decompress_chunk(bomb, 512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_chunks_are_delivered_in_the_order_they_came(workers: int) -> None:
    delivered: list[tuple[StoredChunk, int]] = []
    compressor = ChunkCompressor(1, lambda chunk, tag: delivered.append((chunk, tag)), workers)
    expected = []
    source = random.Random(5)
    for number in range(40):
        buffer = compressor.take_buffer()
        length = source.randrange(1, 60_000) if number % 3 else CHUNK_BYTES
        content = source.randbytes(length // 2) + bytes(length - length // 2)
        buffer[:length] = content
        expected.append((hashlib.sha256(content).hexdigest(), number))
        compressor.submit(buffer, length, number)
    compressor.drain()
    compressor.close()
    told = [(hashlib.sha256(gzip.decompress(c.stored)).hexdigest(), tag) for c, tag in delivered]
    assert told == expected


def test_what_goes_wrong_in_a_thread_is_raised_where_chunks_are_submitted() -> None:
    def refuse(chunk: StoredChunk, tag: int) -> None:
        raise OSError("the store is gone")

    compressor = ChunkCompressor(1, refuse, 2)

    def submit_all() -> None:
        for _ in range(20):
            compressor.submit(compressor.take_buffer(), 10)
        compressor.drain()

    with pytest.raises(OSError, match="the store is gone"):
        submit_all()
    compressor.close()
