"""Puts chunks and copies together into legal parts, in order, in bounded memory."""

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
# Small enough to keep several parts under way, so that a server that is slow to take one holds up
# little; large enough that the cost of a request itself is small. An interrupted run loses the
# parts under way, so a smaller archive has smaller parts.
_USUAL_PART = 8 * MIB
_SMALL_PART = 5 * MIB
_USUAL_COUNT = 64
# Larger parts wait in an unlinked temporary file instead of in memory.
_LARGEST_IN_MEMORY = 32 * MIB
IN_FLIGHT_BYTES = 48 * MIB
# The share of S3's 10,000 parts that a plan uses; the rest is for sources that grow.
_PLANNED_SHARE = 0.9
_GROWTH_STEP = 100


def plan_part_bytes(sent_bytes: int, limits: PartLimits, copies: int = 0) -> int:
    """Bytes of each sent part.

    All parts but the last are equal (Cloudflare R2 insists). A part has 5 MiB if up to 320 MiB are
    to be sent; up to 512 MiB there are about 64 parts; up to about 70 GiB a part has 8 MiB. Beyond
    that parts are larger, so that 90 % of the parts suffice.

    Args:
        sent_bytes: about how much is to be sent.
        copies: how many parts are copies.
    """
    usual = min(max(_SMALL_PART, _mebibytes(sent_bytes, _USUAL_COUNT)), _USUAL_PART)
    needed = _mebibytes(sent_bytes, max(1, int(limits.count * _PLANNED_SHARE) - copies))
    return min(max(usual, needed, limits.smallest), limits.largest)


def _mebibytes(estimated_bytes: int, count: int) -> int:
    """Bytes of each of `count` parts, rounded up to whole mebibytes."""
    return -(-estimated_bytes // (count * MIB)) * MIB


def part_bytes_at(number: int, planned_bytes: int, limits: PartLimits) -> int:
    """Bytes of the part with this number (from 0). Beyond the plan, each hundred parts double."""
    beyond = number - int(limits.count * _PLANNED_SHARE)
    doublings = max(0, beyond // _GROWTH_STEP + 1) if beyond >= 0 else 0
    return min(planned_bytes << min(doublings, 16), limits.largest)


# Copies of this size, several at once, are fastest.
_COPY_BYTES = 128 * MIB


# Beyond this share of all parts, a copy must be long enough to be worth a part.
_PLENTY_SHARE = 0.5
# At most this many known bytes wait in memory until they are enough for a copy.
_MOST_HELD_BYTES = 32 * MIB


def most_ranges(limits: PartLimits) -> int:
    """How many ranges of the previous archive may be reused; parts are left for the rest."""
    return int(limits.count * 0.4)


def copy_bytes(expected_bytes: int, limits: PartLimits) -> int:
    """Bytes of each copy, so large that cutting ranges takes at most a tenth of all parts."""
    return min(max(_COPY_BYTES, expected_bytes * 10 // limits.count), limits.largest)


def count_copies(ranges: int, reused_bytes: int, expected_bytes: int, limits: PartLimits) -> int:
    """How many parts the copies of this many ranges take, at most."""
    return ranges + reused_bytes // copy_bytes(expected_bytes, limits)


def plan_copies(
    start: int, length: int, limits: PartLimits, expected_bytes: int = 0
) -> list[tuple[int, int]]:
    """Cut a range into copies of equal size, about 128 MiB each, all legal as parts.

    Args:
        expected_bytes: size of the whole object, if that is more; beyond 1.2 TiB copies are larger.
    """
    count = max(1, -(-length // copy_bytes(max(length, expected_bytes), limits)))
    bounds = [start + length * number // count for number in range(count + 1)]
    return [(low, high - low) for low, high in itertools.pairwise(bounds)]


# Bytes that another object holds; or a function that reads them from there, if they are needed.
Known = bytes | Callable[[], bytes]


def _read_known(known: Known) -> bytes:
    return known if isinstance(known, bytes) else known()


@dataclass(slots=True)
class _Range:
    """Consecutive bytes of another object to append next; `held` until they are `enough`."""

    source: StoredObject
    start: int
    length: int
    held: list[Known]
    enough: int


class Ahead(Struct, frozen=True):
    """The bytes that an object already has at its front, and the parts that they were copied in."""

    bytes: int
    parts: int


NOTHING_AHEAD = Ahead(0, 0)


class PartAssembler:
    """Makes legal parts out of bytes to send and ranges to copy.

    Args:
        writer: takes the parts; its errors are raised here.
        limits: the store's limits.
        planned_bytes: the size of a part, from `plan_part_bytes`.
        expected_bytes: about the size of the whole object.
        ahead: the front of the first copy, which `writer` was already asked for.

    Attributes:
        offset: bytes of the object so far, collected ones included.
        sent_bytes, copied_bytes: bytes of the object sent and copied, as far as that is decided.
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
        """Append bytes to the object; they are sent."""
        self.end_range()
        self.offset += len(data)
        self._collect(data)

    def add_known(self, known: Known, length: int, source: StoredObject, start: int) -> None:
        """Append bytes that another object holds at `start`; copied if all parts stay legal.

        A part must not be too small. So the first known bytes may fill up the part that is being
        collected, and a range that stays short is sent. Known bytes are read only in these cases.
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
        """The fewest known bytes that are worth a copy; 0 when no parts are left for copies.

        As long as parts are plentiful, the store's smallest part. Then more, so that the parts last
        for all expected bytes, copied and sent.
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
        """Take out everything so far, to go elsewhere. It must be less than the store's smallest
        part."""
        self.end_range()
        assert self.offset < max(1, self._limits.smallest)
        buffer, self._buffer = self._buffer, None
        self.offset = self.sent_bytes = 0
        return bytes(buffer.finish()) if buffer is not None else b""

    def flush(self) -> None:
        """Send the collected bytes as a part; only the last part may be below the smallest size."""
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
