"""What every store can do: the Protocol that S3 and directories implement alike.

Names are always relative to the store's prefix and hold no slash, for example
`2025-06-12_0200-backup.tar.gz`. All sizes and offsets are in bytes.
"""

from __future__ import annotations

import mmap
import os
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from msgspec import Struct

from backup_tasks.errors import ObjectChanged, ObjectExists


class StoredObject(Struct, frozen=True):
    """One object as the store listed it.

    Attributes:
        name: relative to the store's prefix.
        size: bytes.
        modified_at: when the store took it, aware (UTC).
        etag: the store's identity of these very bytes; changes when they are replaced.
    """

    name: str
    size: int
    modified_at: datetime
    etag: str


def bucket_place(endpoint_url: str, url: str) -> str:
    """What tells a bucket's prefix from every other; holds no secret.

    Args:
        endpoint_url: "" for AWS.
    """
    server = urlsplit(endpoint_url).netloc.rpartition("@")[2].lower() or "Amazon S3"
    return f"{url} at {server}"


def folder_place(folder: Path) -> str:
    """What tells a folder from every other, whatever links lead there."""
    return f"file://{os.path.realpath(folder)}/"


class Unfinished(Struct, frozen=True):
    """A write that was started and neither committed nor aborted.

    Attributes:
        name: the name that it would have got.
        upload_id: the store's handle for it.
        started_at: aware (UTC).
    """

    name: str
    upload_id: str
    started_at: datetime


class PartLimits(Struct, frozen=True):
    """What parts a store accepts: bytes of any part but the last, and their number."""

    smallest: int
    largest: int
    count: int


PartBody = bytes | bytearray | mmap.mmap
# An object to copy from; or one whose writer is still to commit it, on another thread.
CopySource = StoredObject | Future[StoredObject]


def settled(source: CopySource) -> StoredObject:
    """The object, once it is there. Raises what its commit raised."""
    return source if isinstance(source, StoredObject) else source.result()


class ArchiveWriter(Protocol):
    """One object in the making, out of parts in the order of the calls.

    Nothing is visible under the name before `commit` returns. `send` and `copy` may work
    in the background; whatever goes wrong there is raised by a later call, at the latest by
    `commit`. `abort` may be called at any time, also twice, and leaves nothing behind.

    `commit` may run on a thread of its own, as long as nothing is sent or copied meanwhile;
    `abort` and `leave` then end it soon, unless it was nearly done.
    """

    @property
    def upload_id(self) -> str:
        """The store's handle, as `Store.list_unfinished` would show it."""

    def send(self, body: PartBody) -> None:
        """Append these bytes as a part. The caller must not change `body` afterwards.

        Blocks while as many parts are under way as memory allows.
        """

    def copy(self, source: CopySource, start: int, length: int) -> None:
        """Append a range of another object, copied on the store's side.

        Args:
            source: of one that is still to come, the range has its place by now.

        Raises (here or later): CopyRefused, ObjectChanged, ObjectMissing, StoreError; and
        whatever the commit of a source that was still to come raised.
        """

    def withdraw(self, offset: int) -> None:
        """Forget the copies from this place on, as if they had not been asked for.

        Args:
            offset: where one of the parts ends, or 0. None of those behind it may have been sent.
        """

    def check(self) -> None:
        """Raises what has gone wrong in the background so far, as a later call would."""

    def commit(self, name: str = "") -> StoredObject:
        """Make the object visible under its name, in one atomic step, whole or not at all.

        Args:
            name: another one than it was started under, where `Store.can_rename`.

        Raises: ObjectExists when the name is taken; StoreError.
        """

    def abort(self) -> None:
        """Give up: end the background work and remove what was sent."""

    def leave(self) -> None:
        """Give up, but leave what was sent, for `Store.salvage`; as `abort` in all else."""


class RangeReader(Protocol):
    """What reading an archive needs of a store."""

    def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
        """As `Store.read_range`."""


class Store(Protocol):
    """A place where archives lie.

    Attributes:
        url: as shown to people.
        place: what tells this store from every other, its server included.
        can_copy: whether writers copy ranges on the store's side, as far as is known.
        can_rename: whether an object gets its name only when it is committed.
        salvage_is_sure: whether what `salvage` finds has arrived for certain; otherwise a
            crash of the machine may have left other bytes in places, and they must be read.
        copies_are_sure: whether all that was copied so far surely came out of the object that
            was meant; otherwise it is to be read where it came to.
    """

    url: str
    limits: PartLimits
    can_copy: bool
    can_rename: bool
    salvage_is_sure: bool

    @property
    def place(self) -> str: ...

    @property
    def copies_are_sure(self) -> bool: ...

    def after_fork(self) -> None:
        """To be called first in a forked process: what is open remains the parent's alone."""

    def list_objects(self) -> list[StoredObject]:
        """Every object directly under the prefix but for the claim, sorted by name."""

    def names_in_the_way(self) -> set[str]:
        """Names that no object can get although none has them: of links, folders and pipes.

        Only what is called like a backup, and so might be in the way of one.
        """

    def store_time(self) -> datetime | None:
        """What the store's own clock says now, aware; None where it has none, or tells nothing.

        Raises StoreError when the store cannot be reached.
        """

    def stat(self, name: str) -> StoredObject:
        """The object of that name. Raises ObjectMissing."""

    def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start`, of this very object (pinned by its etag).

        Raises: ObjectMissing, ObjectChanged, StoreError (also when fewer bytes come).
        """

    def write(self, name: str, *, in_flight_bytes: int) -> ArchiveWriter:
        """Start an object under that name, keeping at most about `in_flight_bytes` of
        sent parts in memory, those of the store's other writers included. Raises
        ObjectExists if the name is already taken.
        """

    def read_small(self, name: str, most_bytes: int) -> tuple[bytes, StoredObject]:
        """All of a small object, and which one it was.

        Raises: ObjectMissing; ReadRefused, also for one that is larger or no file; StoreError.
        """

    def put_small(self, name: str, body: bytes, *, replaces: StoredObject | None) -> StoredObject:
        """Write a small object, whole or not at all: the only way to replace one.

        No two bodies that are put under one name may be equal: by that a writer whose answer was
        lost knows its own.

        Args:
            replaces: the very object that this one takes the place of; None: there is none yet.

        Raises:
            ObjectExists: there is one, and `replaces` is None.
            ObjectChanged: `replaces` is not there any more.
            StoreError: it may or may not have been written.
        """

    def delete(self, name: str) -> None:
        """Remove the object; one that is not there is no error."""

    def list_unfinished(self) -> list[Unfinished]:
        """Writes under the prefix that were never committed or aborted."""

    def end_unfinished(self, upload: Unfinished) -> None:
        """Remove what such a write left; one that is gone already is no error."""

    def salvage(self, upload: Unfinished) -> StoredObject | None:
        """Make what such a write left an object under the name that it would have got.

        The object holds what was sent or copied first and arrived, without a gap. Repeating
        it after a crash gives the same object.

        Returns:
            None when nothing can be had of it; then nothing of it is left.

        Raises StoreError when the store cannot be reached.
        """


def taken(url: str, name: str) -> ObjectExists:
    """The error for a name that has an object already."""
    return ObjectExists(f"{url}: {name} exists already, and nothing is ever overwritten")


def changed(url: str, name: str) -> ObjectChanged:
    """The error for an object that is no longer the one that was pinned."""
    return ObjectChanged(f"{url}: {name} was replaced by something else in the meantime; run again")
