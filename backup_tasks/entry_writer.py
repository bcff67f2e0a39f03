"""Put the entries of a walk into an archive: open, read, hash, and note where each one stands."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from backup_tasks.archive import ArchiveBuilder, Place
from backup_tasks.compress import CHUNK_BYTES
from backup_tasks.content import SourceFile, read_xattrs
from backup_tasks.folders import FolderStack, split_path
from backup_tasks.manifest import Entry, name_fields
from backup_tasks.progress import Progress
from backup_tasks.snapshot import entry_of
from backup_tasks.tarstream import (
    Member,
    SparseMap,
    encode_headers,
    encode_sparse_map,
    padding_bytes,
)

_FOLDER_TO_READ = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class WriteTotals:
    """What was written: regular files, their content bytes, entries of any kind."""

    files: int = 0
    raw_bytes: int = 0
    entries: int = 0


class EntryWriter:
    """Writes entries one after the other; one that cannot be read costs only itself.

    Args:
        builder: takes the tar bytes.
        report: called with (path, reason) for each file that is not stored whole.
        progress: told about bytes and files.
        root: descriptor of the folder that the entries' paths are relative to.
    """

    def __init__(
        self,
        builder: ArchiveBuilder,
        report: Callable[[str, str], None],
        progress: Progress,
        root: int,
    ) -> None:
        self._builder = builder
        self._report = report
        self._progress = progress
        self._folders = FolderStack(root, _FOLDER_TO_READ)
        # First links that did not become what the walk saw -> the link stored in their place.
        self._broken_links: dict[str, str | None] = {}
        self.totals = WriteTotals()

    def write_all(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        """Write each entry and yield it with its place; those that failed are left out."""
        with self._folders:
            for entry in entries:
                written = self._write(entry)
                self._progress.advance(entry.size, 1)
                if written is not None:
                    self.totals.entries += 1
                    yield written

    def _write(self, entry: Entry) -> Entry | None:
        parent, name = split_path(entry.name)
        try:
            folder = self._folders.enter(parent)
        except OSError as error:
            self._fail(entry, error)
            return None
        if entry.type == "file":
            return self._write_file(entry, folder, name)
        if entry.type == "hardlink":
            return self._write_hardlink(entry, folder, name)
        xattrs = read_xattrs(f"/proc/self/fd/{folder}/{name}")
        _set_place(entry, self._builder.add_headers(encode_headers(_member_of(entry, xattrs))))
        return entry

    def _write_hardlink(self, entry: Entry, folder: int, name: str) -> Entry | None:
        first = entry.link_name
        stand_in = self._broken_links.get(first, first)
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            self._fail(entry, error)
            return None
        same_file = (status.st_ino, status.st_dev) == (entry.inode, entry.device)
        if stand_in is None or not same_file:
            written = self._write_file(entry, folder, name)
            if written is not None and stand_in is None and written.inode == entry.inode:
                self._broken_links[first] = entry.name
            return written
        entry.link, entry.link_b64 = name_fields(stand_in)
        _set_place(entry, self._builder.add_headers(encode_headers(_member_of(entry, {}))))
        return entry

    def _write_file(self, entry: Entry, folder: int, name: str) -> Entry | None:
        """Store a regular file; a small one that changes while it is read is read once more."""
        path = entry.name
        for is_last_try in (False, True):
            try:
                source = SourceFile(name, folder)
            except OSError as error:
                self._fail(entry, error)
                return None
            try:
                written = self._store(path, source, is_last_try)
            finally:
                source.close()
            if written is not None:
                break
        if written is None or written.inode != entry.inode:
            self._broken_links[path] = None
        return written

    def _store(self, path: str, source: SourceFile, is_last_try: bool) -> Entry | None:
        """Returns None when the file is to be read again, or could not be read at all."""
        entry = entry_of(path, "file", source.status)
        sparse = source.runs if source.is_sparse else None
        headers = encode_headers(_member_of(entry, source.xattrs(), source.stored_bytes, sparse))
        if sparse is not None:
            headers += encode_sparse_map(sparse)
        stored = source.stored_bytes
        length = len(headers) + stored + padding_bytes(stored)
        if length > CHUNK_BYTES:
            _set_place(entry, self._builder.add_large(headers, stored, source.fill))
            changed = source.what_changed()
        else:
            view = self._builder.reserve(length)
            view[: len(headers)] = headers
            source.fill(view[len(headers) : len(headers) + stored])
            view[len(headers) + stored :] = bytes(padding_bytes(stored))
            changed = source.what_changed()
            if changed and not is_last_try:
                return None
            if source.failure and source.read_bytes == 0:
                self._report(path, changed)
                return None
            _set_place(entry, self._builder.take(length))
        if changed:
            self._report(path, changed)
        entry.sha256 = source.sha256()
        self.totals.files += 1
        self.totals.raw_bytes += entry.size
        return entry

    def _fail(self, entry: Entry, error: OSError) -> None:
        self._report(entry.name, error.strerror or str(error))
        self._broken_links[entry.name] = None


def _set_place(entry: Entry, place: Place) -> None:
    entry.chunk, entry.offset = place


def _member_of(
    entry: Entry,
    xattrs: dict[str, bytes],
    stored_bytes: int = 0,
    sparse: SparseMap | None = None,
) -> Member:
    """The tar member of an entry; `stored_bytes` without the sparse map, which is added."""
    map_bytes = len(encode_sparse_map(sparse)) if sparse is not None else 0
    return Member(
        path=entry.name.encode("utf-8", "surrogateescape"),
        kind=entry.type,
        size=entry.size,
        stored=stored_bytes + map_bytes,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        user=entry.user.encode("utf-8", "surrogateescape"),
        group=entry.group.encode("utf-8", "surrogateescape"),
        mtime_ns=entry.mtime_ns,
        link=entry.link_name.encode("utf-8", "surrogateescape"),
        rdev_major=os.major(entry.rdev),
        rdev_minor=os.minor(entry.rdev),
        xattrs=xattrs,
        sparse=sparse,
    )
