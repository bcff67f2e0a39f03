"""Chunks and copies to legal parts, in order, in bounded memory."""

from __future__ import annotations

import mmap
import tempfile

from backup_tasks.stores.base import ArchiveWriter, PartBody, PartLimits, StoredObject

MIB = 2**20
# Small enough to keep several under way, large enough that a request's own cost is little.
_USUAL_PART = 16 * MIB
# Larger parts wait in an unlinked temporary file instead of in memory.
_LARGEST_IN_MEMORY = 32 * MIB
IN_FLIGHT_BYTES = 64 * MIB
# Of S3's 10,000 parts, what the estimate plans with; the rest is for sources that grow.
_PLANNED_SHARE = 0.9
_GROWTH_STEP = 100


def plan_part_bytes(estimated_bytes: int, limits: PartLimits) -> int:
    """Bytes of each sent part for an archive of about this size.

    All parts but the last are equal (Cloudflare R2 insists), 16 MiB up to about 140 GiB,
    beyond that larger, so that 90 % of the parts suffice.
    """
    planned_count = max(1, int(limits.count * _PLANNED_SHARE))
    needed = -(-estimated_bytes // planned_count)
    rounded = -(-needed // MIB) * MIB
    return min(max(_USUAL_PART, rounded, limits.smallest), limits.largest)


def part_bytes_at(number: int, planned_bytes: int, limits: PartLimits) -> int:
    """Bytes of the part with this number (from 0): beyond the plan each hundred doubles."""
    beyond = number - int(limits.count * _PLANNED_SHARE)
    doublings = max(0, beyond // _GROWTH_STEP + 1) if beyond >= 0 else 0
    return min(planned_bytes << min(doublings, 16), limits.largest)


class PartAssembler:
    """Collects bytes into parts and hands full ones to the writer.

    Args:
        writer: takes the parts; what goes wrong there is raised here.
        limits: of the store.
        planned_bytes: of `plan_part_bytes`.

    Attributes:
        offset: bytes of the object so far, collected ones included.
        sent_bytes: of these, those not copied on the store's side.
    """

    def __init__(self, writer: ArchiveWriter, limits: PartLimits, planned_bytes: int) -> None:
        self._writer = writer
        self._limits = limits
        self._planned_bytes = planned_bytes
        self._number = 0
        self._buffer: _PartBuffer | None = None
        self.offset = 0
        self.sent_bytes = 0

    def add(self, data: bytes) -> None:
        """Append bytes to the object."""
        self.offset += len(data)
        self.sent_bytes += len(data)
        view = memoryview(data)
        while view:
            if self._buffer is None:
                size = part_bytes_at(self._number, self._planned_bytes, self._limits)
                self._buffer = _PartBuffer(size)
            taken = self._buffer.fill(view)
            view = view[taken:]
            if self._buffer.room == 0:
                self.flush()

    def flush(self) -> None:
        """Send what is collected as a part; only the last may be below the store's smallest."""
        if self._buffer is not None:
            self._writer.send(self._buffer.finish())
            self._buffer = None
            self._number += 1

    def copy(self, source: StoredObject, start: int, length: int) -> None:
        """Append a range of another object as a part; legal sizes are the plan's business."""
        self.flush()
        self._writer.copy(source, start, length)
        self._number += 1
        self.offset += length


class _PartBuffer:
    """One part being filled, in memory or, if it is large, in an unlinked file."""

    def __init__(self, size: int) -> None:
        self._in_memory = size <= _LARGEST_IN_MEMORY
        self._bytes = bytearray()
        self.room = size
        if not self._in_memory:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115

    def fill(self, view: memoryview) -> int:
        """Take as much as fits; returns how much."""
        taken = view[: self.room]
        if self._in_memory:
            self._bytes += taken
        else:
            self._file.write(taken)
        self.room -= len(taken)
        return len(taken)

    def finish(self) -> PartBody:
        if self._in_memory:
            return self._bytes
        self._file.flush()
        with self._file:
            return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
