"""Parts: legal for the store, in order, and sent only when they cannot be copied."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_tasks.stores.base import CopySource, PartBody, PartLimits, StoredObject, settled
from backup_tasks.upload.part_assembler import (
    PartAssembler,
    part_bytes_at,
    plan_copies,
    plan_part_bytes,
)

MIB, GIB = 2**20, 2**30
S3 = PartLimits(smallest=5 * MIB, largest=5 * 1024 * MIB, count=10_000)
SMALL = PartLimits(smallest=5, largest=50, count=10_000)
BODIES = {name: bytes((i * 7 + seed) % 251 for i in range(400)) for seed, name in enumerate("ab")}
SOURCES = {
    name: StoredObject(name, len(body), datetime(2025, 6, 12, tzinfo=UTC), name)
    for name, body in BODIES.items()
}


@dataclass
class Parts:
    """A writer that keeps what it is given: each part's bytes, and whether it was copied."""

    upload_id: str = ""
    parts: list[tuple[bytes, bool]] = field(default_factory=list)

    def send(self, body: PartBody) -> None:
        self.parts.append((bytes(body), False))

    def copy(self, source: CopySource, start: int, length: int) -> None:
        body = BODIES[settled(source).name][start : start + length]
        assert len(body) == length
        self.parts.append((body, True))

    def check(self) -> None: ...
    def commit(self, name: str = "") -> StoredObject: ...  # type: ignore[empty-body]
    def abort(self) -> None: ...
    def leave(self) -> None: ...


# What is appended: bytes, or a range of another object that the next bytes are known to equal.
steps = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=40),
        st.tuples(st.sampled_from("ab"), st.integers(0, 350), st.integers(1, 40)),
    ),
    max_size=40,
)


@given(steps, st.integers(5, 50))
def test_parts_are_legal_and_hold_the_bytes_in_their_order(
    steps: list[bytes | tuple[str, int, int]], planned_bytes: int
) -> None:
    writer = Parts()
    assembler = PartAssembler(writer, SMALL, planned_bytes)
    expected = b""
    for step in steps:
        if isinstance(step, bytes):
            assembler.add(step)
            expected += step
        else:
            name, start, length = step
            known = BODIES[name][start : start + length]
            # Those at hand, and those that would have to be read from there.
            at_hand = known if start % 2 else partial(bytes, known)
            assembler.add_known(at_hand, length, SOURCES[name], start)
            expected += known
        assert assembler.offset == len(expected)
    assembler.flush()
    assert b"".join(body for body, _ in writer.parts) == expected
    for body, _ in writer.parts[:-1]:
        assert SMALL.smallest <= len(body) <= SMALL.largest
    sent = sum(len(body) for body, copied in writer.parts if not copied)
    assert (assembler.sent_bytes, assembler.copied_bytes) == (sent, len(expected) - sent)


@pytest.mark.parametrize("planned_bytes", [5, 16])
def test_known_bytes_in_a_row_are_copied_but_for_what_fills_up_a_part(planned_bytes: int) -> None:
    writer = Parts()
    assembler = PartAssembler(writer, SMALL, planned_bytes)
    assembler.add(b"h")
    for start in range(0, 300, 3):
        assembler.add_known(BODIES["a"][start : start + 3], 3, SOURCES["a"], start)
    assembler.flush()
    assert assembler.sent_bytes == SMALL.smallest
    assert b"".join(body for body, _ in writer.parts) == b"h" + BODIES["a"][:300]


def test_known_bytes_are_read_only_where_they_must_be_sent() -> None:
    read: list[int] = []

    def reader(start: int) -> Callable[[], bytes]:
        return lambda: read.append(start) or BODIES["a"][start : start + 3]

    writer = Parts()
    assembler = PartAssembler(writer, SMALL, 16)
    assembler.add(b"h")
    for start in (*range(0, 30, 3), 99):
        assembler.add_known(reader(start), 3, SOURCES["a"], start)
    assembler.flush()
    assert b"".join(body for body, _ in writer.parts) == (
        b"h" + BODIES["a"][:30] + BODIES["a"][99:102]
    )
    assert read == [0, 3, 99], "what fills up a part, and a run that stays short"


def test_known_bytes_of_two_objects_are_not_taken_for_one_range() -> None:
    writer = Parts()
    assembler = PartAssembler(writer, SMALL, 16)
    assembler.add_known(BODIES["a"][:20], 20, SOURCES["a"], 0)
    assembler.add_known(BODIES["b"][20:40], 20, SOURCES["b"], 20)
    assembler.flush()
    assert writer.parts == [(BODIES["a"][:20], True), (BODIES["b"][20:40], True)]


@given(st.binary(max_size=4))
def test_what_is_too_short_for_a_part_can_be_taken_back(body: bytes) -> None:
    writer = Parts()
    assembler = PartAssembler(writer, SMALL, 5)
    assembler.add(body)
    assert assembler.take_back() == body
    assert (assembler.offset, assembler.sent_bytes, writer.parts) == (0, 0, [])
    assembler.flush()
    assert writer.parts == []


@given(st.integers(0, 48 * 2**40))
def test_planned_parts_are_legal_and_enough(estimated_bytes: int) -> None:
    part_bytes = plan_part_bytes(estimated_bytes, S3)
    assert S3.smallest <= part_bytes <= S3.largest
    # Nine tenths of the parts suffice, but for the largest archives that S3 takes at all.
    assert part_bytes * S3.count * (0.9 if part_bytes < S3.largest else 1) >= estimated_bytes


def parts_for(size: int, planned_bytes: int) -> list[int]:
    """The bytes of each part of an archive that turned out to have this size."""
    parts: list[int] = []
    while size > 0:
        parts.append(min(size, part_bytes_at(len(parts), planned_bytes, S3)))
        size -= parts[-1]
    return parts


@given(st.integers(0, 2**40) | st.integers(2**40, 43 * 2**40), st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_parts_are_legal_for_every_size_also_if_the_source_grows(
    estimated_bytes: int, share: float
) -> None:
    most = 3 if estimated_bytes <= 2**40 else 1.1
    size = int(estimated_bytes * (1 + (most - 1) * share))
    parts = parts_for(size, plan_part_bytes(estimated_bytes, S3))
    assert len(parts) <= S3.count
    assert all(S3.smallest <= part <= S3.largest for part in parts[:-1])
    if size <= estimated_bytes:
        assert len(set(parts[:-1])) <= 1  # all but the last are equal: one store insists


def test_48_tib_fit() -> None:
    parts = parts_for(48 * 2**40, plan_part_bytes(48 * 2**40, S3))
    assert len(parts) <= S3.count
    assert all(S3.smallest <= part <= S3.largest for part in parts[:-1])


@given(st.integers(0, 10 * 2**40), st.integers(5 * MIB, 48 * 2**40))
def test_copies_are_legal_and_leave_no_gap(start: int, length: int) -> None:
    copies = plan_copies(start, length, S3)
    assert len(copies) <= S3.count
    assert all(S3.smallest <= size <= S3.largest for _, size in copies)
    place = start
    for low, size in copies:
        assert low == place
        place += size
    assert place == start + length


def test_large_parts_wait_on_disk_instead_of_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[tuple[type, int]] = []
    writer = Parts()
    monkeypatch.setattr(writer, "send", lambda body: kinds.append((type(body), len(body))))
    assembler = PartAssembler(writer, S3, 40 * MIB)
    for _ in range(45):
        assembler.add(bytes(MIB))
    assembler.flush()
    assert kinds == [(mmap.mmap, 40 * MIB), (mmap.mmap, 5 * MIB)]


@pytest.mark.parametrize(
    ("estimated_bytes", "mebibytes"),
    [(0, 5), (320 * MIB, 5), (321 * MIB, 6), (512 * MIB, 8), (70 * GIB, 8), (140 * GIB, 16)],
)
def test_a_small_archive_has_small_parts_so_that_a_kill_loses_little(
    estimated_bytes: int, mebibytes: int
) -> None:
    assert plan_part_bytes(estimated_bytes, S3) == mebibytes * MIB
