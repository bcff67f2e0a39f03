"""Staging objects: new chunks go there first, and are copied from there into the archive.

An interrupted run leaves them for the next one. Each is copied into the archive as soon as it is
large enough, so that the store copies while the next one is being sent, instead of all at the end.
Nobody waits for this: its last parts, its commit and the copying go on in the background.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from msgspec import Struct

from backup_tasks.archive.builder import ArchiveBuilder
from backup_tasks.format.manifest import Chunk, Entry
from backup_tasks.staging.journal import StagingJournal
from backup_tasks.stores.base import ArchiveWriter, PartLimits, StoredObject
from backup_tasks.upload.part_assembler import PartAssembler

# The store copies one object while the next is sent. Smaller ones would only cost requests.
STAGING_OBJECT_BYTES = 256 * 2**20
# At most about this many objects, since each takes parts of the archive.
_MOST_OBJECTS = 250


class StagingObject(Struct, frozen=True):
    """One staging object in the making, and its journal."""

    journal: StagingJournal
    writer: ArchiveWriter

    def leave(self) -> None:
        """Write no more, and leave object and journal to the next run."""
        self.writer.leave()
        self.journal.close()


@dataclass(slots=True)
class StagingObjects:
    """The staging objects of one run, of which one is open.

    Attributes:
        open_next: opens the next object, given the number of its first chunk; returns None if that
            is not possible.
        current: the open object.
    """

    open_next: Callable[[int], StagingObject | None]
    current: StagingObject | None
    _full: list[tuple[Future[StoredObject], StagingObject]] = field(
        default_factory=list, init=False
    )
    _committer: ThreadPoolExecutor = field(
        default_factory=partial(ThreadPoolExecutor, 1, "commit"), init=False
    )

    def commit_current(self) -> Future[StoredObject]:
        """Close the open object, and commit it on another thread.

        Returns:
            A future of the object; it raises the error of the commit.
        """
        object_ = self.current
        assert object_ is not None
        object_.journal.close()
        coming = self._committer.submit(object_.writer.commit)
        self._full = [one for one in self._full if not one[0].done()] + [(coming, object_)]
        self.current = None
        return coming

    def abort_current(self) -> None:
        """Give up the open object, because nothing in it is needed."""
        object_, self.current = self.current, None
        assert object_ is not None
        object_.writer.abort()
        object_.journal.close()

    def leave(self) -> None:
        """Give up: leave what was sent where it is, and end the work in the background."""
        self._committer.shutdown(wait=False, cancel_futures=True)
        try:
            for _, object_ in self._full:
                object_.leave()
            if self.current is not None:
                self.current.leave()
        finally:
            self.close()

    def close(self) -> None:
        """End the thread, once all objects are committed."""
        self._committer.shutdown()


class RecordingWriter(Struct, frozen=True):
    """Records chunks, and raises errors of copies into the archive now instead of at the end."""

    archive: ArchiveWriter
    journal: StagingJournal

    def delivered(self, chunk: Chunk, place: int) -> None:
        """Record a chunk that was delivered to this place in its object."""
        self.archive.check()
        self.journal.add_chunk(chunk, place)


class Detour:
    """Sends what a builder writes through staging objects. An `entry_writer.EntryJournal`.

    Args:
        staging_objects: one of them is open.
        archive: takes the archive.
        parts: makes the archive's parts.
        assembler: opens an assembler for a staging object's parts.
        limits: the store's limits.
        expected_bytes: about the size of the whole archive.

    Attributes:
        sent_bytes: bytes sent to staging objects so far.
    """

    def __init__(
        self,
        staging_objects: StagingObjects,
        builder: ArchiveBuilder,
        archive: ArchiveWriter,
        parts: PartAssembler,
        assembler: Callable[[ArchiveWriter], PartAssembler],
        limits: PartLimits,
        expected_bytes: int,
    ) -> None:
        self._objects = staging_objects
        self._builder = builder
        self._archive = archive
        self._parts = parts
        self._assembler = assembler
        self._smallest_bytes = max(1, limits.smallest)
        self._enough_bytes = max(
            STAGING_OBJECT_BYTES, expected_bytes // _MOST_OBJECTS, self._smallest_bytes
        )
        self._aside: PartAssembler | None = None
        self.sent_bytes = 0
        self._begin()

    def _begin(self) -> None:
        object_ = self._objects.current
        self._aside = self._assembler(object_.writer) if object_ is not None else None
        if object_ is not None:
            self._builder.record(
                RecordingWriter(self._archive, object_.journal).delivered, self._aside
            )

    def begin_large(self, entry: Entry) -> None:
        """As `EntryJournal.begin_large`."""
        if self._objects.current is not None:
            self._objects.current.journal.begin_large(entry)

    def add_entry(self, entry: Entry) -> None:
        """As `EntryJournal.add_entry`."""
        if self._objects.current is not None:
            self._objects.current.journal.add_entry(entry)

    def go_on(self) -> None:
        """Change to the next staging object if this one is large enough; call between entries."""
        if self._aside is not None and self._aside.offset >= self._enough_bytes:
            self.end()
            self._objects.current = self._objects.open_next(len(self._builder.chunks))
            self._begin()

    def end(self) -> None:
        """Append the staging object to the archive, copied on the store's side."""
        self._builder.end_entries()
        aside = self._aside
        if aside is None:
            return
        if aside.offset < self._smallest_bytes:  # too short to be copied, and not sent yet
            self._parts.add(aside.take_back())
            self._objects.abort_current()
        else:
            aside.flush()
            self._parts.copy(self._objects.commit_current(), 0, aside.offset)
        self.sent_bytes += aside.sent_bytes
        self._aside = None
