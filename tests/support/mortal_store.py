"""A store whose user dies in the middle: as after kill -9, nothing gets through any more."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from backup_tasks.stores.base import (
    ArchiveWriter,
    CopySource,
    PartBody,
    PartLimits,
    Store,
    StoredObject,
    settled,
)

_Answer = TypeVar("_Answer")
_CHANGES = {"end_unfinished", "salvage", "list_objects", "list_unfinished", "stat"}


class Killed(BaseException):
    """No Exception, so that nothing takes it for an error that can be dealt with."""


@dataclass
class MortalStore:
    """Passes everything on until the fuse burns down.

    Attributes:
        limits, can_rename: in place of the store's own.
        fuse: how many steps are left: parts, commits, and what else asks or changes the store.
        after: whether the last step still reaches the store.
        steps: how many there were.
        sent_bytes: what was sent.
        on_copy, on_send, on_delete, on_commit: called before each; may raise, or change the world.
        is_late: whether nobody waits for what is to be copied: as in S3, what follows is taken
            meanwhile.
        written: names that a writing was started under; copies: what was copied from;
            starts: from where.
    """

    inner: Store
    limits: PartLimits
    can_rename: bool
    fuse: int = 2**62
    after: bool = False
    steps: int = 0
    sent_bytes: int = 0
    salvage_is_sure: bool = False
    on_copy: Callable[[StoredObject], None] = field(default=lambda source: None)
    on_send: Callable[[], None] = field(default=lambda: None)
    on_delete: Callable[[str], None] = field(default=lambda name: None)
    on_commit: Callable[[str], None] = field(default=lambda name: None)
    is_late: bool = False
    written: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    starts: list[tuple[str, int]] = field(default_factory=list)

    def step(self, do: Callable[[], _Answer]) -> _Answer:
        self.steps += 1
        if self.steps > self.fuse:
            raise Killed
        if self.steps == self.fuse and not self.after:
            raise Killed
        answer = do()
        if self.steps == self.fuse:
            raise Killed
        return answer

    def write(self, name: str, *, in_flight_bytes: int) -> ArchiveWriter:
        self.written.append(name)
        return self.step(
            lambda: _MortalWriter(
                self, name, self.inner.write(name, in_flight_bytes=in_flight_bytes)
            )
        )

    def delete(self, name: str) -> None:
        self.on_delete(name)
        self.step(lambda: self.inner.delete(name))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if name in _CHANGES:
            return lambda *arguments: self.step(lambda: found(*arguments))
        return found


class _MortalWriter:
    def __init__(self, store: MortalStore, name: str, inner: ArchiveWriter) -> None:
        self._store, self._name, self._inner = store, name, inner
        self._waiting: deque[tuple[CopySource | None, Callable[[], None]]] = deque()

    @property
    def upload_id(self) -> str:
        return self._inner.upload_id

    def send(self, body: PartBody) -> None:
        self._take(None, lambda: self._send(body))

    def _send(self, body: PartBody) -> None:
        self._store.on_send()
        self._store.step(lambda: self._inner.send(body))
        self._store.sent_bytes += len(body)

    def copy(self, source: CopySource, start: int, length: int) -> None:
        self._take(source, lambda: self._copy(settled(source), start, length))

    def _copy(self, found: StoredObject, start: int, length: int) -> None:
        self._store.on_copy(found)
        self._store.copies.append(found.name)
        self._store.starts.append((found.name, start))
        self._store.step(lambda: self._inner.copy(found, start, length))

    def withdraw(self, offset: int) -> None:
        self._catch_up(wait=True)
        self._store.step(lambda: self._inner.withdraw(offset))

    def _take(self, source: CopySource | None, do: Callable[[], None]) -> None:
        self._waiting.append((source, do))
        self._catch_up(wait=not self._store.is_late)

    def _catch_up(self, *, wait: bool) -> None:
        while self._waiting:
            source, do = self._waiting[0]
            if isinstance(source, Future) and not source.done() and not wait:
                return
            self._waiting.popleft()
            do()

    def check(self) -> None:
        self._catch_up(wait=False)
        self._inner.check()

    def commit(self, name: str = "") -> StoredObject:
        self._catch_up(wait=True)
        self._store.on_commit(self._name)
        return self._store.step(lambda: self._inner.commit(name))

    def abort(self) -> None:
        self._store.step(self._inner.abort)

    def leave(self) -> None:
        self._store.step(self._inner.leave)
