"""Reading chunks ahead: in order, and never more of them in memory than was agreed."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest

from backup_tasks import chunk_reader
from backup_tasks.chunk_reader import RANGE_BYTES, plan_ranges, read_chunks
from backup_tasks.stores.base import StoredObject
from tests.chunks import laid_out


class Memory:
    """A store of one object; counts the ranges that were asked for."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.ranges = 0

    def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
        self.ranges += 1
        return self.content[start : start + length]


def test_chunks_come_in_their_order_and_few_wait_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    raw_chunks = [bytes([number]) * 2**16 for number in range(200)]
    packed, chunks = laid_out(raw_chunks)
    stored = StoredObject("x.tar.gz", len(packed), datetime.now(UTC), "etag")
    unpacked: list[int] = []
    unpack = chunk_reader.decompress_chunk

    def counted(stored_bytes: bytes, raw_length: int) -> bytes:
        unpacked.append(raw_length)
        return unpack(stored_bytes, raw_length)

    monkeypatch.setattr(chunk_reader, "decompress_chunk", counted)
    for taken, chunk in enumerate(read_chunks(Memory(packed), stored, chunks, range(200)), start=1):
        assert (chunk.number, chunk.raw, chunk.damage) == (taken - 1, raw_chunks[taken - 1], "")
        assert len(unpacked) <= taken + 7
    assert taken == 200


def test_few_ranges_are_fetched_before_the_first_chunk_is_used() -> None:
    noise = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(2**15))
    packed, chunks = laid_out([noise] * 130)
    store = Memory(packed)
    stored = StoredObject("x.tar.gz", len(packed), datetime.now(UTC), "etag")
    ranges = list(plan_ranges(chunks, range(130)))
    assert all(wanted.end - wanted.start <= RANGE_BYTES for wanted in ranges)
    assert len(ranges) > 10
    reading = read_chunks(store, stored, chunks, range(130))
    next(reading)
    assert store.ranges <= 4
    assert sum(1 for _ in reading) == 129
    assert store.ranges == len(ranges)
