"""Reading chunks ahead: in order, and never more of them in memory than was agreed."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest

from backup_tasks.chunks import reader
from backup_tasks.chunks.reader import RANGE_BYTES, plan_ranges, read_chunks
from backup_tasks.stores.base import StoredObject
from tests.support.chunks import laid_out

STORED = StoredObject("x.tar.gz", 10**6, datetime(2025, 6, 12, tzinfo=UTC), "etag")


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
    unpack = reader.decompress_chunk

    def counted(stored_bytes: bytes, raw_length: int) -> bytes:
        unpacked.append(raw_length)
        return unpack(stored_bytes, raw_length)

    monkeypatch.setattr(reader, "decompress_chunk", counted)
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


def test_what_comes_damaged_is_fetched_again_a_bounded_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a store that is damaged everywhere is read twice, byte for byte."""
    packed, chunks = laid_out([bytes([number]) * 3000 for number in range(20)])
    monkeypatch.setattr(reader, "_FETCHED_AGAIN", 5)
    asked: list[int] = []

    class Damaged:
        def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
            asked.append(start)
            return bytes(length)

    read = list(read_chunks(Damaged(), STORED, chunks, range(20)))
    assert [chunk.damage for chunk in read] == ["its hash is wrong"] * 20
    assert len(asked) == 1 + 5
    assert len(packed) == chunks[-1].end


def test_a_chunk_that_came_damaged_once_is_whole_and_says_so() -> None:
    packed, chunks = laid_out([bytes([number]) * 3000 for number in range(4)])

    class Flips:
        def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
            content = bytearray(packed[start : start + length])
            if length > chunks[2].length:  # the request for all of them
                content[chunks[2].offset + 20] ^= 1
            return bytes(content)

    read = list(read_chunks(Flips(), STORED, chunks, range(4)))
    assert [chunk.raw for chunk in read] == [bytes([number]) * 3000 for number in range(4)]
    assert [chunk.fetched_again for chunk in read] == [False, False, True, False]
