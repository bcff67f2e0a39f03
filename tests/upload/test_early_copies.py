"""Copies that begin before it is known what is kept: the archive is as if they had waited."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from backup_tasks.format.manifest import Chunk
from backup_tasks.reuse.copy_ranges import ranges_of
from backup_tasks.stores.base import CopySource, PartBody, PartLimits, StoredObject
from backup_tasks.upload.early_copies import CopiesAhead, plan_ahead
from backup_tasks.upload.part_assembler import PartAssembler

LIMITS = PartLimits(smallest=5, largest=12, count=10_000)
SOURCE = StoredObject("before", 10_000, datetime(2025, 6, 12, tzinfo=UTC), "etag")


class Copies:
    """A writer that keeps which ranges it was asked to copy."""

    upload_id = ""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []
        self.withdrawn = 0

    def copy(self, source: CopySource, start: int, length: int) -> None:
        assert source == SOURCE
        self.ranges.append((start, length))

    def withdraw(self, offset: int) -> None:
        ends = [0, *itertools.accumulate(length for _, length in self.ranges)]
        kept = ends.index(offset)
        self.withdrawn += len(self.ranges) - kept
        del self.ranges[kept:]

    def send(self, body: PartBody) -> None: ...
    def check(self) -> None: ...
    def commit(self, name: str = "") -> StoredObject: ...  # type: ignore[empty-body]
    def abort(self) -> None: ...
    def leave(self) -> None: ...


def chunks_of(lengths: list[int]) -> list[Chunk]:
    starts = itertools.accumulate(lengths, initial=0)
    return [Chunk(start, length, "", 1) for start, length in zip(starts, lengths, strict=False)]


def stored(chunks: list[Chunk], numbers: range) -> tuple[int, int]:
    """Where a range of chunks begins and ends."""
    return chunks[numbers[0]].offset, chunks[numbers[-1]].offset + chunks[numbers[-1]].length


@st.composite
def kept_runs(draw: st.DrawFn, chunks: list[Chunk]) -> list[range]:
    """Runs of chunks that are long enough to be copied."""
    dropped = draw(st.sets(st.integers(0, len(chunks)), max_size=4))
    runs = ranges_of(bytearray(number not in dropped for number in range(len(chunks))))
    return [run for run in runs if stored(chunks, run)[1] - stored(chunks, run)[0] >= 5]


@settings(deadline=None)
@given(st.data(), st.lists(st.integers(1, 9), max_size=40))
def test_whatever_is_kept_the_same_bytes_follow_in_legal_parts(
    data: st.DataObject, lengths: list[int]
) -> None:
    chunks = chunks_of(lengths)
    runs = data.draw(kept_runs(chunks))
    writer = Copies()
    ahead = CopiesAhead(writer, SOURCE, chunks, plan_ahead(chunks, LIMITS), LIMITS)
    ahead.begin()
    assert all(5 <= length <= 12 for _, length in writer.ranges)
    parts = PartAssembler(writer, LIMITS, 5, ahead=ahead.settle(runs))
    for run in runs:
        start, end = stored(chunks, run)
        parts.copy(SOURCE, start, end - start)
    assert all(5 <= length <= 12 for _, length in writer.ranges)
    copied = [byte for start, length in writer.ranges for byte in range(start, start + length)]
    wanted = [byte for run in runs for byte in range(*stored(chunks, run))]
    assert copied == wanted
    assert parts.offset == parts.copied_bytes == len(wanted)


def test_what_stays_as_it_was_is_copied_once_though_folders_follow() -> None:
    chunks = chunks_of([4] * 10)
    writer = Copies()
    ahead = CopiesAhead(writer, SOURCE, chunks, plan_ahead(chunks, LIMITS), LIMITS)
    ahead.begin()
    asked = list(writer.ranges)
    assert asked == [(0, 12), (12, 12), (24, 12)]
    PartAssembler(writer, LIMITS, 5, ahead=ahead.settle([range(9)])).copy(SOURCE, 0, 36)
    assert (writer.ranges, writer.withdrawn) == (asked, 0)


def test_a_dropped_chunk_costs_the_copies_from_there_on_alone() -> None:
    chunks = chunks_of([4] * 10)
    writer = Copies()
    ahead = CopiesAhead(writer, SOURCE, chunks, plan_ahead(chunks, LIMITS), LIMITS)
    ahead.begin()
    settled = ahead.settle([range(5), range(6, 10)])
    assert (settled.bytes, settled.parts, writer.withdrawn) == (12, 1, 2)
