"""The Protocol of a store, which S3 and directories implement alike.

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
        modified_at: when the store received it, aware (UTC).
        etag: the store's identity of these very bytes; another one when they are replaced.
    """

    name: str
    size: int
    modified_at: datetime
    etag: str


def bucket_place(endpoint_url: str, url: str) -> str:
    """Text that tells a bucket's prefix from every other; holds no secret.

    Args:
        endpoint_url: "" for AWS.
    """
    server = urlsplit(endpoint_url).netloc.rpartition("@")[2].lower() or "Amazon S3"
    return f"{url} at {server}"


def folder_place(folder: Path) -> str:
    """Text that tells a folder from every other, by its path without symlinks."""
    return f"file://{os.path.realpath(folder)}/"


class Unfinished(Struct, frozen=True):
    """A write that was started and neither committed nor aborted.

    Attributes:
        name: the intended name.
        upload_id: the store's handle for this write.
        started_at: aware (UTC).
    """

    name: str
    upload_id: str
    started_at: datetime


class PartLimits(Struct, frozen=True):
    """The parts that a store accepts: bytes of any part but the last, and the most parts."""

    smallest: int
    largest: int
    count: int


PartBody = bytes | bytearray | mmap.mmap
# An object to copy from, or a pending one, which its writer has yet to commit on another thread.
CopySource = StoredObject | Future[StoredObject]


def settled(source: CopySource) -> StoredObject:
    """The object; waits for one that is pending.

    Raises:
        Exception: the commit of a pending one failed: its error, as it came.
    """
    return source if isinstance(source, StoredObject) else source.result()


class ArchiveWriter(Protocol):
    """One object in the making, from parts in the order of the calls.

    Nothing is visible under the name before `commit` returns. `send` and `copy` may work in the
    background; a later call raises their errors, at the latest `commit`. `abort` may be called at
    any time, also twice, and leaves nothing behind.

    `commit` may run on its own thread, as long as nothing is sent or copied meanwhile. `abort` and
    `leave` then end it soon, unless it is nearly done.
    """

    @property
    def upload_id(self) -> str:
        """The store's handle, as `Store.list_unfinished` shows it."""

    def send(self, body: PartBody) -> None:
        """Append these bytes as a part. The caller must not change `body` afterwards.

        Blocks while the parts under way take all the memory that they may.
        """

    def copy(self, source: CopySource, start: int, length: int) -> None:
        """Append a range of another object, copied on the store's side.

        Args:
            source: may be pending; the range takes its place in the new object now.

        Raises:
            CopyRefused: the store does not copy this range; here or from a later call, as all of
                these errors.
            ObjectChanged: the source was replaced.
            ObjectMissing: the source is gone.
            StoreError: any other failure. If the commit of a pending source failed: its error, as
                it came.
        """

    def withdraw(self, offset: int) -> None:
        """Forget the copies from this offset on, as if they had not been asked for.

        Args:
            offset: where a part ends, or 0. All parts behind it must be copies.
        """

    def check(self) -> None:
        """Look for errors in the background now, instead of in a later call.

        Raises:
            StoreError: a part failed.
        """

    def commit(self, name: str = "") -> StoredObject:
        """Make the object visible under its name, in one atomic step, whole or not at all.

        Args:
            name: "", or another name than at the start, if `Store.can_rename`.

        Raises:
            ObjectExists: the name is taken.
            StoreError: a part or the commit failed.
        """

    def abort(self) -> None:
        """Give up: end the background work and remove what was sent."""

    def leave(self) -> None:
        """Give up as `abort` does, but leave what was sent, for `Store.salvage`."""


class RangeReader(Protocol):
    """The part of a store that reading an archive needs."""

    def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
        """See `Store.read_range`."""


class Store(Protocol):
    """A place where archives lie.

    Attributes:
        url: as shown to people.
        place: tells this store from every other, its server included.
        can_copy: whether writers copy ranges on the store's side, as far as is known.
        can_rename: whether an object gets its name only when it is committed.
        salvage_is_sure: whether `salvage` gives only bytes that surely arrived. If not, a crash of
            the machine may have left other bytes in places, and the object must be read.
        copies_are_sure: whether every copy so far surely came from the object that was meant. If
            not, the copied bytes must be read back.
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
        """Call this first in a forked process; open connections then belong to the parent alone."""

    def list_objects(self) -> list[StoredObject]:
        """Every object directly under the prefix except the claim, sorted by name."""

    def names_in_the_way(self) -> set[str]:
        """Backup names that links, folders or pipes have, so that no object can get them."""

    def store_time(self) -> datetime | None:
        """The time by the store's own clock, aware; None if it has none, or does not tell.

        Raises:
            StoreError: the store cannot be reached.
        """

    def stat(self, name: str) -> StoredObject:
        """The object of that name.

        Raises:
            ObjectMissing: there is none.
        """

    def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
        """Read exactly `length` bytes from `start` of this very object (pinned by its etag).

        Raises:
            ObjectMissing: the object is gone.
            ObjectChanged: it was replaced.
            StoreError: it cannot be read, or fewer bytes came.
        """

    def write(self, name: str, *, in_flight_bytes: int) -> ArchiveWriter:
        """Start an object under that name.

        Args:
            in_flight_bytes: the most memory, about, that sent parts may take; parts of the store's
                other writers count too.

        Raises:
            ObjectExists: the name is taken.
        """

    def read_small(self, name: str, most_bytes: int) -> tuple[bytes, StoredObject]:
        """Read all of a small object; returns its bytes and its identity.

        Raises:
            ObjectMissing: there is no object of that name.
            ReadRefused: the store does not give it, or it is larger than `most_bytes`, or no file.
            StoreError: any other failure.
        """

    def put_small(self, name: str, body: bytes, *, replaces: StoredObject | None) -> StoredObject:
        """Write a small object, whole or not at all. No other call replaces an object.

        Every body put under one name must be different: a writer whose answer was lost recognises
        its own object by the body.

        Args:
            replaces: the very object to be replaced; None if there is none yet.

        Raises:
            ObjectExists: the name is taken, and `replaces` is None.
            ObjectChanged: `replaces` is not there any more.
            StoreError: it may or may not have been written.
        """

    def delete(self, name: str) -> None:
        """Delete the object; a missing one is no error."""

    def list_unfinished(self) -> list[Unfinished]:
        """Writes under the prefix that were neither committed nor aborted."""

    def end_unfinished(self, upload: Unfinished) -> None:
        """Remove what an unfinished write left; one that is gone already is no error."""

    def salvage(self, upload: Unfinished) -> StoredObject | None:
        """Complete an interrupted write from the parts that arrived, under its intended name.

        The object holds the parts from the first on, up to a gap. After a crash, another call
        gives the same object.

        Returns:
            None if nothing can be saved; then nothing is left of the write.

        Raises:
            StoreError: the store cannot be reached.
        """


def taken(url: str, name: str) -> ObjectExists:
    """The error for a name that an object already has."""
    return ObjectExists(f"{url}: {name} exists already, and nothing is ever overwritten")


def changed(url: str, name: str) -> ObjectChanged:
    """The error for a pinned object that was replaced."""
    return ObjectChanged(f"{url}: {name} was replaced by something else in the meantime; run again")
