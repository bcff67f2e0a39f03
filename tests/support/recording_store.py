"""A store in front of another one that keeps a list of what was asked, and may set limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from backup_tasks.stores.base import (
    ArchiveWriter,
    CopySource,
    PartBody,
    PartLimits,
    Store,
    StoredObject,
    settled,
)


@dataclass
class Parts:
    """One object that was written, part by part.

    Attributes:
        parts: "sent" or "copied", and bytes, in their order.
    """

    name: str
    parts: list[tuple[str, int]] = field(default_factory=list)
    committed: bool = False

    @property
    def sent_bytes(self) -> int:
        return sum(size for how, size in self.parts if how == "sent")

    @property
    def copied_bytes(self) -> int:
        return sum(size for how, size in self.parts if how == "copied")

    def check(self, limits: PartLimits) -> None:
        """Raises AssertionError for parts that the store would refuse."""
        assert len(self.parts) <= limits.count, f"{len(self.parts)} parts"
        for how, size in self.parts[:-1]:
            assert limits.smallest <= size <= limits.largest, f"{how} {size}"
        for how, size in self.parts[-1:]:
            assert 0 < size <= limits.largest, f"{how} {size}"
            assert how == "sent" or size >= limits.smallest, "S3 copies no shorter range"


@dataclass
class RecordingStore:
    """Passes everything on.

    Attributes:
        limits: in place of the store's own.
        on_write: called when an object is begun: after the sources were looked at, and before
            they are read.
        written: every object, in the order of `write`.
        reads: (name, bytes) of each range that was read.
        on_copy: called before each copy; may raise, or change the world.
    """

    inner: Store
    limits: PartLimits
    can_copy: bool = True
    written: list[Parts] = field(default_factory=list)
    reads: list[tuple[str, int]] = field(default_factory=list)
    on_write: Callable[[], None] = lambda: None
    on_copy: Callable[[StoredObject], None] = lambda source: None

    def reads_but_of(self, name: str) -> list[tuple[str, int]]:
        """What was read of other objects than this one."""
        return [read for read in self.reads if read[0] != name]

    def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
        self.reads.append((source.name, length))
        return self.inner.read_range(source, start, length)

    def write(self, name: str, *, in_flight_bytes: int) -> ArchiveWriter:
        self.on_write()
        parts = Parts(name)
        self.written.append(parts)
        writer = self.inner.write(name, in_flight_bytes=in_flight_bytes)
        return _RecordingWriter(self, writer, parts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class _RecordingWriter:
    def __init__(self, store: RecordingStore, inner: ArchiveWriter, parts: Parts) -> None:
        self._store, self._inner, self._parts = store, inner, parts

    def send(self, body: PartBody) -> None:
        self._parts.parts.append(("sent", len(body)))
        self._inner.send(body)

    def copy(self, source: CopySource, start: int, length: int) -> None:
        found = settled(source)
        self._store.on_copy(found)
        self._parts.parts.append(("copied", length))
        self._inner.copy(found, start, length)

    def withdraw(self, offset: int) -> None:
        while sum(size for _, size in self._parts.parts) > offset:
            self._parts.parts.pop()
        self._inner.withdraw(offset)

    def commit(self, *arguments: Any) -> StoredObject:
        stored = self._inner.commit(*arguments)
        self._parts.committed = True
        return stored

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
