"""Chunks and copies to legal parts, in order, in bounded memory."""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Callable
from dataclasses import dataclass

from msgspec import Struct

from backup_tasks.common.temporary import temporary_file
from backup_tasks.stores.base import (
    ArchiveWriter,
    CopySource,
    PartBody,
    PartLimits,
    StoredObject,
)

MIB = 2**20
# Small enough to keep several under way, so that one that a server is slow to take holds up
# little; large enough that a request's own cost is little. An interrupted run loses the parts
# that were under way, so a smaller archive has smaller ones.
_USUAL_PART = 8 * MIB
_SMALL_PART = 5 * MIB
_USUAL_COUNT = 64
# Larger parts wait in an unlinked temporary file instead of in memory.
_LARGEST_IN_MEMORY = 32 * MIB
IN_FLIGHT_BYTES = 48 * MIB
# Of S3's 10,000 parts, what the estimate plans with; the rest is for sources that grow.
_PLANNED_SHARE = 0.9
_GROWTH_STEP = 100


def plan_part_bytes(sent_bytes: int, limits: PartLimits, copies: int = 0) -> int:
    """Bytes of each sent part, when about so much is to be sent and there are so many copies.

    All parts but the last are equal (Cloudflare R2 insists): 5 MiB up to 320 MiB, then about 64
    of them up to 512 MiB, 8 MiB up to about 70 GiB, beyond that larger, so that 90 % of the parts
    suffice.
    """
    usual = min(max(_SMALL_PART, _mebibytes(sent_bytes, _USUAL_COUNT)), _USUAL_PART)
    needed = _mebibytes(sent_bytes, max(1, int(limits.count * _PLANNED_SHARE) - copies))
    return min(max(usual, needed, limits.smallest), limits.largest)


def _mebibytes(estimated_bytes: int, count: int) -> int:
    """Bytes of each of so many parts, rounded up to whole mebibytes."""
    return -(-estimated_bytes // (count * MIB)) * MIB


def part_bytes_at(number: int, planned_bytes: int, limits: PartLimits) -> int:
    """Bytes of the part with this number (from 0): beyond the plan each hundred doubles."""
    beyond = number - int(limits.count * _PLANNED_SHARE)
    doublings = max(0, beyond // _GROWTH_STEP + 1) if beyond >= 0 else 0
    return min(planned_bytes << min(doublings, 16), limits.largest)


# Copies of this size are fastest, side by side.
_COPY_BYTES = 128 * MIB


# Beyond this half of all parts, a copy must be worth its part.
_PLENTY_SHARE = 0.5
# Known bytes that wait in memory until they are enough for a copy.
_MOST_HELD_BYTES = 32 * MIB


def most_ranges(limits: PartLimits) -> int:
    """How many ranges may be kept of the archive before, so that the parts last for the rest."""
    return int(limits.count * 0.4)


def copy_bytes(expected_bytes: int, limits: PartLimits) -> int:
    """Bytes of each copy: so many that cutting ranges takes no more than a tenth of all parts."""
    return min(max(_COPY_BYTES, expected_bytes * 10 // limits.count), limits.largest)


def count_copies(ranges: int, reused_bytes: int, expected_bytes: int, limits: PartLimits) -> int:
    """How many parts the copies of so many ranges take, at most."""
    return ranges + reused_bytes // copy_bytes(expected_bytes, limits)


def plan_copies(
    start: int, length: int, limits: PartLimits, expected_bytes: int = 0
) -> list[tuple[int, int]]:
    """Cut a range into copies of equal size, about 128 MiB each, all legal as parts.

    Args:
        expected_bytes: of the whole object, if that is more: beyond 1.2 TiB copies are larger.
    """
    count = max(1, -(-length // copy_bytes(max(length, expected_bytes), limits)))
    bounds = [start + length * number // count for number in range(count + 1)]
    return [(low, high - low) for low, high in itertools.pairwise(bounds)]


# Bytes that another object holds; or what reads them from there, if they are needed.
Known = bytes | Callable[[], bytes]


def _read_known(known: Known) -> bytes:
    return known if isinstance(known, bytes) else known()


@dataclass(slots=True)
class _Range:
    """Consecutive bytes of another object that are to follow; `held` until they are `enough`."""

    source: StoredObject
    start: int
    length: int
    held: list[Known]
    enough: int


class Ahead(Struct, frozen=True):
    """What an object holds already: so many bytes at its front, copied in so many parts."""

    bytes: int
    parts: int


NOTHING_AHEAD = Ahead(0, 0)


class PartAssembler:
    """Makes legal parts out of bytes to send and ranges to copy.

    Args:
        writer: takes the parts; what goes wrong there is raised here.
        limits: of the store.
        planned_bytes: of `plan_part_bytes`.
        expected_bytes: of the whole object, about.
        ahead: of what is to be copied first, what `writer` was asked to copy already.

    Attributes:
        offset: bytes of the object so far, collected ones included.
        sent_bytes, copied_bytes: what of it went which way, as far as that is decided.
    """

    def __init__(
        self,
        writer: ArchiveWriter,
        limits: PartLimits,
        planned_bytes: int,
        expected_bytes: int = 0,
        ahead: Ahead = NOTHING_AHEAD,
    ) -> None:
        self._expected_bytes = expected_bytes
        self._ahead = ahead
        self._writer = writer
        self._limits = limits
        self._planned_bytes = planned_bytes
        self._number = 0
        self._buffer: _PartBuffer | None = None
        self._range: _Range | None = None
        self.offset = 0
        self.sent_bytes = 0
        self.copied_bytes = 0

    def add(self, data: bytes) -> None:
        """Append bytes to the object, to be sent."""
        self.end_range()
        self.offset += len(data)
        self._collect(data)

    def add_known(self, known: Known, length: int, source: StoredObject, start: int) -> None:
        """Append bytes that another object holds at `start`: copied if that gives legal parts.

        A part must not be too small, so the first of such bytes may fill up the part that is
        being collected, and a range of them that stays short is sent. Only then are they read.
        """
        self.offset += length
        span = self._range
        if span is not None and span.source == source and span.start + span.length == start:
            span.length += length
            if span.held:
                span.held.append(known)
                if span.length >= span.enough:
                    span.held = []
            return
        self.end_range()
        if self._buffer is not None and self._buffer.length < self._limits.smallest:
            missing = self._limits.smallest - self._buffer.length
            data = _read_known(known)
            self._collect(data[:missing])
            start, length, known = start + missing, length - missing, data[missing:]
            if length <= 0:
                return
        enough = self._shortest_copy()
        if not enough:
            self._collect(_read_known(known))
            return
        self._range = _Range(source, start, length, [] if length >= enough else [known], enough)

    def _shortest_copy(self) -> int:
        """Known bytes that are worth a copy: the smallest part, as long as parts are plentiful.

        Then so many that copies, and what is sent between them, last for all that is expected.
        0 when no more copies can be had.
        """
        limits = self._limits
        if self._number < limits.count * _PLENTY_SHARE:
            return limits.smallest
        left = int(limits.count * _PLANNED_SHARE) - self._number
        if left <= 0:
            return 0
        needed = 2 * max(0, self._expected_bytes - self.offset) // left
        return max(limits.smallest, min(needed, _MOST_HELD_BYTES))

    def copy(self, source: CopySource, start: int, length: int) -> None:
        """Append a range of another object, at least as long as the smallest part."""
        self.flush()
        ahead, self._ahead = self._ahead, NOTHING_AHEAD
        self._number += ahead.parts
        left = length - ahead.bytes
        if left:
            first = start + ahead.bytes
            for low, size in plan_copies(first, left, self._limits, self._expected_bytes):
                self._writer.copy(source, low, size)
                self._number += 1
        self.offset += length
        self.copied_bytes += length

    def take_back(self) -> bytes:
        """Everything so far, if it is less than the store's smallest part, to go elsewhere."""
        self.end_range()
        assert self.offset < max(1, self._limits.smallest)
        buffer, self._buffer = self._buffer, None
        self.offset = self.sent_bytes = 0
        return bytes(buffer.finish()) if buffer is not None else b""

    def flush(self) -> None:
        """Send what is collected as a part; only the last may be below the store's smallest."""
        self.end_range()
        self._send()

    def end_range(self) -> None:
        """Decide whether the known bytes so far are copied or sent."""
        span, self._range = self._range, None
        if span is None:
            return
        if span.held:
            for known in span.held:
                self._collect(_read_known(known))
            return
        self._send()
        self.offset -= span.length
        self.copy(span.source, span.start, span.length)

    def _collect(self, data: bytes | bytearray) -> None:
        self.sent_bytes += len(data)
        view = memoryview(data)
        while view:
            if self._buffer is None:
                size = part_bytes_at(self._number, self._planned_bytes, self._limits)
                self._buffer = _PartBuffer(size)
            view = view[self._buffer.fill(view) :]
            if self._buffer.room == 0:
                self._send()

    def _send(self) -> None:
        if self._buffer is not None:
            self._writer.send(self._buffer.finish())
            self._buffer = None
            self._number += 1


class _PartBuffer:
    """One part being filled, in memory or, if it is large, in an unlinked file."""

    def __init__(self, size: int) -> None:
        self._in_memory = size <= _LARGEST_IN_MEMORY
        self._bytes = bytearray()
        self.room = size
        self.length = 0
        if not self._in_memory:
            self._file = temporary_file()

    def fill(self, view: memoryview) -> int:
        """Take as much as fits; returns how much."""
        taken = view[: self.room]
        if self._in_memory:
            self._bytes += taken
        else:
            self._file.write(taken)
        self.room -= len(taken)
        self.length += len(taken)
        return len(taken)

    def finish(self) -> PartBody:
        if self._in_memory:
            return self._bytes
        self._file.flush()
        with self._file:
            return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
