"""Parts of incremental archives of any size: legal for S3, and never too many."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_tasks.stores.base import CopySource, PartBody, PartLimits, StoredObject
from backup_tasks.stores.s3.store import LIMITS as S3
from backup_tasks.upload.part_assembler import (
    PartAssembler,
    count_copies,
    most_ranges,
    plan_part_bytes,
)
from tests.support.recording_store import Parts

MIB, GIB, TIB = 2**20, 2**30, 2**40
# S3's limits with a byte for a mebibyte, so that terabytes can be played through.
MEBIBYTES = PartLimits(smallest=5, largest=5 * 1024, count=10_000)
BEFORE = StoredObject("before", 48 * TIB, datetime(2025, 6, 12, tzinfo=UTC), "etag")


class Recorder:
    """A writer that keeps the sizes of its parts."""

    upload_id = ""

    def __init__(self) -> None:
        self.made = Parts("archive")

    def send(self, body: PartBody) -> None:
        self.made.parts.append(("sent", len(body)))

    def copy(self, source: CopySource, start: int, length: int) -> None:
        self.made.parts.append(("copied", length))

    def withdraw(self, offset: int) -> None: ...
    def check(self) -> None: ...
    def commit(self, name: str = "") -> StoredObject: ...  # type: ignore[empty-body]
    def abort(self) -> None: ...
    def leave(self) -> None: ...


@settings(deadline=None)
@given(
    st.lists(st.integers(5 * MIB, 40 * GIB), max_size=300),
    st.sampled_from((1, 3, 100)),
    st.integers(0, 30 * MIB),
)
def test_kept_runs_of_any_length_and_number_are_legal(
    lengths: list[int], times: int, sent_bytes: int
) -> None:
    lengths = (lengths * times)[: most_ranges(S3)]
    reused_bytes = sum(lengths)
    expected = reused_bytes + sent_bytes
    copies = count_copies(len(lengths), reused_bytes, expected, S3)
    recorder = Recorder()
    planned = plan_part_bytes(sent_bytes, S3, copies)
    parts = PartAssembler(recorder, S3, planned, expected)
    start = 0
    for length in lengths:
        parts.copy(BEFORE, start, length)
        start += length + 1
    assert len(recorder.made.parts) <= copies
    parts.add(bytes(sent_bytes))
    parts.flush()
    recorder.made.check(S3)


def test_forty_tebibytes_in_thousands_of_runs_leave_parts_for_what_is_new() -> None:
    recorder = Recorder()
    parts = PartAssembler(recorder, S3, 16 * MIB, 40 * TIB)
    for number in range(most_ranges(S3)):
        parts.copy(BEFORE, number * 11 * GIB, 10 * GIB)
    parts.add(bytes(20 * MIB))
    parts.flush()
    recorder.made.check(S3)


patterns = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 5)), min_size=1, max_size=20
).filter(lambda pattern: sum(map(sum, pattern)) > 0)


def play_large_file(mebibytes: int, pattern: list[tuple[int, int]]) -> Parts:
    """A file, known and changed by turns, a byte for each mebibyte of it."""
    recorder = Recorder()
    parts = PartAssembler(
        recorder, MEBIBYTES, max(16, -(-mebibytes // 9000)), expected_bytes=mebibytes
    )
    place = 0
    while place < mebibytes:
        for known, changed in pattern:
            for _ in range(known):
                parts.add_known(b"k", 1, BEFORE, place)
                place += 1
            for _ in range(changed):
                parts.add(b"c")
                place += 1
    parts.flush()
    return recorder.made


@settings(deadline=None, max_examples=15)
@given(st.sampled_from((50_000, 200_000, 400_000)), patterns)
def test_a_huge_file_changed_here_and_there_never_needs_too_many_parts(
    mebibytes: int, pattern: list[tuple[int, int]]
) -> None:
    play_large_file(mebibytes, pattern).check(MEBIBYTES)


@pytest.mark.parametrize("mebibytes", [1_000, 40_000])
def test_as_long_as_parts_are_plentiful_every_run_of_five_mebibytes_is_copied(
    mebibytes: int,
) -> None:
    made = play_large_file(mebibytes, [(29, 1)])
    made.check(MEBIBYTES)
    assert made.sent_bytes <= mebibytes / 30 * 5 + 5


def test_a_file_of_two_hundred_gibibytes_is_copied_as_far_as_parts_last() -> None:
    made = play_large_file(200 * 1024, [(39, 1)])
    made.check(MEBIBYTES)
    assert made.copied_bytes > 0.4 * 200 * 1024
