"""Puts the entries of a walk into an archive: opens, reads, hashes, and notes where each stands."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from backup_tasks.archive.builder import ArchiveBuilder
from backup_tasks.archive.carry_over import Earlier
from backup_tasks.archive.entry_headers import file_headers, member_of, set_place
from backup_tasks.archive.pending_lines import NO_LINE, reused_lines
from backup_tasks.archive.version_keeper import VersionKeeper
from backup_tasks.chunks.compress import CHUNK_BYTES
from backup_tasks.common.printable import printable
from backup_tasks.common.progress import Progress
from backup_tasks.format.manifest import (
    PADDED,
    STRIPPED,
    TORN,
    Entry,
    decode_entries,
    encode_line,
    name_fields,
)
from backup_tasks.format.tar_headers import encode_headers, hash_xattrs, padding_bytes
from backup_tasks.journal.problems import Problem
from backup_tasks.reuse.plan import NO_REUSE, PlannedEntry, Reuse, is_large, piece_numbers
from backup_tasks.reuse.walk_log import Step
from backup_tasks.snapshot.private_content import NOTHING_PRIVATE, Private
from backup_tasks.snapshot.source_file import SourceFile, explain
from backup_tasks.snapshot.source_tree import GONE
from backup_tasks.snapshot.stat_entry import entry_of
from backup_tasks.snapshot.xattrs import read_xattrs
from backup_tasks.spools.folder_stack import FolderStack, split_path

# A larger file that changed while it was read is not sent a second time.
_READ_AGAIN_BYTES = 64 * 2**20
_IS_PRIVATE = "is private to this program"
# Why an entry is not stored.
_UNREADABLE, _PRIVATE, _VANISHED = range(3)
_ZEROS = "zeros stand for what could not be read"
_WITHOUT_XATTRS = "stored without extended attributes"
_AS_FIRST = "its last version was kept, as of the file that it is a hardlink to"
_FOLDER_TO_READ = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class WriteTotals:
    """Totals of the written entries.

    Attributes:
        files, raw_bytes: regular files, and their content bytes.
        entries: entries of any kind.
        torn: entries that were not stored whole.
        carried: files and hardlinks carried over from an earlier run.
    """

    files: int = 0
    raw_bytes: int = 0
    entries: int = 0
    torn: int = 0
    carried: int = 0


class EntryJournal(Protocol):
    """Records what is written."""

    def begin_large(self, entry: Entry) -> None:
        """Note that the headers of a large file were written; its pieces follow."""

    def add_entry(self, entry: Entry) -> None:
        """Note that an entry was written."""


class _Attempt(NamedTuple):
    """One try to store a file.

    Attributes:
        entry: the stored entry, if any.
        reason: what is wrong with the content, or "".
        is_worth_another: whether to try once more.
        trouble: what is wrong with the extended attributes, or "".
        error: why the file could not be opened.
        is_failed: the system could not read all of it.
    """

    entry: Entry | None
    reason: str
    is_worth_another: bool = True
    trouble: str = ""
    error: OSError | None = None
    is_failed: bool = False


class EntryWriter:
    """Writes entries one after the other; an unreadable entry does not stop the others.

    Args:
        builder: takes the tar bytes.
        report: called for each file that is not stored whole.
        progress: counts bytes and files.
        root: descriptor of the folder that the entries' paths are relative to.
        reuse: the chunks that are reused of the previous backup.
        earlier: all chunks of the previous backup, also in a full run, which keeps none.
        journal: records every entry that is written.
        private: content that is left out although the walk met it.
        holder: name of the previous archive, which may have entries that cannot be read now.
        is_holder_known: whether the entries of `holder` are known, so that a path without an
            earlier entry is not in it.

    Attributes:
        left_out: paths of private files that were left out.
    """

    def __init__(
        self,
        builder: ArchiveBuilder,
        report: Callable[[Problem], None],
        progress: Progress,
        root: int,
        reuse: Reuse = NO_REUSE,
        earlier: Earlier | None = None,
        journal: EntryJournal | None = None,
        private: Private = NOTHING_PRIVATE,
        *,
        holder: str = "",
        is_holder_known: bool = True,
    ) -> None:
        self._is_holder_known = is_holder_known
        self._private = private
        self.left_out: list[str] = []
        self._journal = journal
        self._builder = builder
        self._reuse = reuse
        self._earlier = earlier
        self._report = report
        self._progress = progress
        self._folders = FolderStack(root, _FOLDER_TO_READ)
        # Why the entry that was tried last is not stored, in words and as a kind.
        self._failure, self._failure_kind = "", _UNREADABLE
        # Whether this entry has an earlier version that is better than one padded with zeros; and
        # whether the archive holds part of it in spite of the failure.
        self._has_version = self._was_begun = False
        # First links that did not become what the walk saw: hash of the path, which has a secret
        # key -> the link stored in its place.
        self._broken_links: dict[int, str | None] = {}
        self._versions = VersionKeeper(builder, report, reuse, earlier, holder, self._broken_links)
        self.totals = WriteTotals()

    def write_all(
        self,
        steps: Iterable[Step],
        lines_between: Callable[[int, int], bytes],
        postpone: Callable[[PlannedEntry], bytes],
    ) -> Iterator[bytes]:
        """Write or keep each entry; yields the lines of the manifest in the order of the walk.

        Args:
            lines_between: gives the previous manifest's lines of a run of unchanged entries.
            postpone: called before an entry is written; if the entry is for a later group, see
                `write_group`, returns the stand-in for its line.

        Yields:
            A line for each entry; a stand-in (`archive.pending_lines`) for an entry whose line
            follows later, and for a run whose lines stay unchanged.
        """
        with self._folders:
            for step in steps:
                if step.plan is not None:
                    yield from self._write_plan(step.plan, postpone)
                elif step.stand_in:
                    yield step.stand_in
                elif self._reuse.is_all_reused:
                    self.totals.entries += step.count
                    self.totals.files += step.files
                    self.totals.raw_bytes += step.content_bytes
                    self._progress.advance(0, step.count)
                    yield reused_lines(step.first, step.end)
                else:
                    for entry in decode_entries(lines_between(step.first, step.end)):
                        yield from self._write_plan(PlannedEntry(entry, is_same=True), postpone)

    def write_group(self, plans: Iterable[PlannedEntry]) -> Iterator[bytes]:
        """Write postponed entries, in chunks of their own.

        Yields:
            A line for each entry; NO_LINE for one that failed.
        """
        self._builder.end_chunk()
        with self._folders:
            for plan in plans:
                yield self._write_now(plan) or NO_LINE

    def write_late_links(self, entries: Iterable[Entry]) -> Iterator[bytes]:
        """Write links that tar makes late, in chunks that begin with them and are never reused.

        Args:
            entries: as in `Scan.late_links`. A folder among them is only announced, since tar must
                know it; its own entry follows with the other folders.

        Yields:
            A line for each link; NO_LINE for one that failed.
        """
        self._builder.end_chunk()
        with self._folders:
            for entry in entries:
                if entry.type == "dir":
                    self._builder.add_headers(encode_headers(member_of(entry, {})))
                else:
                    yield self._write_last(entry)

    def write_folders(self, folders: Iterable[Entry]) -> Iterator[bytes]:
        """Write the folders, in chunks that are never reused.

        Yields:
            A line for each folder; NO_LINE for one that failed.
        """
        with self._folders:
            for folder in folders:
                yield self._write_last(folder)

    def _write_last(self, entry: Entry) -> bytes:
        self._has_version = False
        written = self._versions.carry_over(entry) if entry.carried else self._write(entry, ())
        self._progress.advance(0, 1)
        if written is None:
            if not entry.carried:
                self._tell_failure(entry)
            return NO_LINE
        self._count(written)
        return encode_line(written)

    def _write_plan(
        self, plan: PlannedEntry, postpone: Callable[[PlannedEntry], bytes]
    ) -> Iterator[bytes]:
        if plan.is_same and self._reuse.keeps(plan.entry):
            written = self._reuse.move(plan.entry)
            self._progress.advance(0, 1)
            self._count(written)
            yield encode_line(written)
        elif line := postpone(plan) or self._write_now(plan):
            yield line

    def _write_now(self, plan: PlannedEntry) -> bytes:
        """Write an entry; returns its line, or b"" if it could not be written."""
        size = plan.entry.size
        written = self._write_anew(plan)
        self._progress.advance(size, 1)
        if written is None:
            return b""
        if self._journal is not None:
            self._journal.add_entry(written)
        self._count(written)
        return encode_line(written)

    def _count(self, written: Entry) -> None:
        self.totals.entries += 1
        if written.type == "file":
            self.totals.files += 1
            self.totals.raw_bytes += written.size
        if written.torn:
            self.totals.torn += 1
        if written.carried and written.type in ("file", "hardlink"):
            self.totals.carried += 1

    def _write_anew(self, plan: PlannedEntry) -> Entry | None:
        entry, old = plan.entry, plan.entry if plan.is_same else plan.old
        stale = self._reuse.stale_after(old) if old is not None else ()
        if plan.is_same and entry.carried:
            return self._versions.keep(entry, stale)
        self._was_begun = False
        self._has_version = self._versions.has_any and _is_better(old)
        written = self._write(entry, self._known_pieces(entry, old))
        if written is not None:
            written.stale = stale
            return written
        if old is None or not self._may_replace(old):
            self._tell_failure(entry)
            return None
        if self._failure_kind == _PRIVATE:
            self._tell_failure(entry)
            return self._versions.keep(old, stale) if self._versions.has_any else None
        if not self._versions.has_any:
            self._versions.tell_lost(old, self._failure)
            return None
        # A reused chunk may hold an older entry of this path, which tar would restore.
        is_gone, is_begun = self._failure_kind == _VANISHED, self._was_begun
        return self._versions.keep(old, stale, self._failure, is_gone=is_gone, is_begun=is_begun)

    def _may_replace(self, old: Entry) -> bool:
        """Whether an earlier entry may take the place of the one that could not be stored.

        If chunks are reused, a file's earlier entry must, even if the file is gone: a reused chunk
        may hold a still older entry, which tar would restore.
        """
        if self._failure_kind == _VANISHED and not self._reuse.moved:
            return False
        return old.type == "file" or self._failure_kind == _UNREADABLE

    def _tell_failure(self, entry: Entry) -> None:
        path = entry.name
        if self._failure_kind == _PRIVATE:
            self.left_out.append(path)
        elif self._failure_kind == _VANISHED:
            self._report(Problem(printable(path), self._failure, "vanished"))
        else:
            self._versions.tell_lost(entry, self._failure, is_held=not self._is_holder_known)

    def _known_pieces(self, entry: Entry, old: Entry | None) -> Sequence[int]:
        """The base's chunks that may hold a large file's bytes, piece by piece."""
        if self._earlier is None:
            return ()
        if not self._reuse.moved:
            return ()
        base = self._earlier.base
        before = piece_numbers(old, base.chunks) if old and is_large(old) else ()
        arrived = base.arrived.get(entry.name, ())
        return (*arrived, *before[len(arrived) :]) if arrived else before

    def _write(self, entry: Entry, pieces: Sequence[int]) -> Entry | None:
        if entry.type == "dir" and not entry.xattrs:
            return self._add_headers(entry, encode_headers(member_of(entry, {})))
        parent, name = split_path(entry.name)
        try:
            folder = self._folders.enter(parent)
        except OSError as error:
            if entry.type in ("file", "hardlink") or error.errno in GONE:
                self._fail(entry, error)
                return None
            # The walk knows everything else about the entry.
            self._tell_of(entry, f"{_WITHOUT_XATTRS}: {explain(error)}", STRIPPED)
            entry.xattrs = ""
            return self._add_headers(entry, encode_headers(member_of(entry, {})))
        if entry.type == "file":
            return self._write_file(entry, folder, name, pieces)
        if entry.type == "hardlink":
            return self._write_hardlink(entry, folder, name)
        xattrs = read_xattrs(f"/proc/self/fd/{folder}/{name}")
        if xattrs.trouble:
            self._tell_of(entry, xattrs.trouble, STRIPPED)
        entry.xattrs = hash_xattrs(xattrs.values)
        return self._add_headers(entry, encode_headers(member_of(entry, xattrs.values)))

    def _tell_of(self, entry: Entry, trouble: str, kind: str) -> None:
        """Report what an entry lacks, in this run and in every later one until it is whole.

        The entry gets a ctime that no file has, so the next run looks at the file again.
        """
        self._report(Problem(printable(entry.name), trouble, "torn", bytes=entry.size))
        entry.ctime_ns, entry.torn = 0, kind

    def _add_headers(self, entry: Entry, headers: bytes) -> Entry:
        set_place(entry, self._builder.add_headers(headers), len(headers))
        return entry

    def _write_hardlink(self, entry: Entry, folder: int, name: str) -> Entry | None:
        first = entry.link_name
        stand_in = self._broken_links.get(hash(first), first)
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            self._fail(entry, error)
            return None
        same_file = (status.st_ino, status.st_dev) == (entry.inode, entry.device)
        if stand_in is None or not same_file:
            is_carried = same_file and hash(first) in self._versions.kept
            self._has_version |= is_carried
            written = self._write_file(entry, folder, name)
            if written is not None and stand_in is None and written.inode == entry.inode:
                self._broken_links[hash(first)] = entry.name
            if written is not None or not is_carried:
                return written
            # The content cannot be read by either name: this link follows its file, of which the
            # last version was kept.
            self._report(Problem(printable(entry.name), f"{self._failure}; {_AS_FIRST}", "carried"))
            self._versions.mark(entry)
            stand_in = first
        entry.link, entry.link_b64 = name_fields(stand_in)
        return self._add_headers(entry, encode_headers(member_of(entry, {})))

    def _write_file(
        self, entry: Entry, folder: int, name: str, pieces: Sequence[int] = ()
    ) -> Entry | None:
        """Store a regular file; one that changes while it is read is read once more.

        Args:
            pieces: the base's chunks with the file's earlier bytes, if it was large.
        """
        path = entry.name
        attempt = self._read_once(path, folder, name, pieces, is_last_try=False)
        if attempt.reason and attempt.is_worth_another:
            again = self._read_once(path, folder, name, pieces, is_last_try=True)
            if again.entry is not None or attempt.entry is None:
                attempt = again
        stored = attempt.entry
        if stored is not None and attempt.is_failed and self._has_version:
            stored = None  # the earlier version follows, and tar lets it win over the begun entry
        if stored is None:
            self._note_failure(attempt.reason, attempt.error)
        elif attempt.reason or attempt.trouble:
            zeros = _ZEROS if attempt.is_failed else ""
            troubles = filter(None, (attempt.reason, zeros, attempt.trouble))
            self._tell_of(stored, "; ".join(troubles), stored.torn or STRIPPED)
        if stored is None or stored.inode != entry.inode:
            self._note_broken(entry)
        return stored

    def _read_once(
        self, path: str, folder: int, name: str, pieces: Sequence[int], *, is_last_try: bool
    ) -> _Attempt:
        """One try to store a file.

        A small file that changed is stored only at the last try. A large file is stored as it is
        read, because it cannot be held back; another try then follows it in the archive, and tar
        lets the last entry win.
        """
        try:
            source = SourceFile(name, folder)
        except OSError as error:
            return _Attempt(None, explain(error), error=error)
        try:
            entry = entry_of(path, "file", source.status)
            xattrs = source.xattrs()
            entry.xattrs = hash_xattrs(xattrs.values)
            headers = file_headers(entry, source, xattrs.values)
            stored = source.stored_bytes
            fill: Callable[[memoryview], None] = source.fill
            if stored == entry.size and stored in self._private.sizes:
                # Check the very bytes that will be stored: a second read might give others.
                content = bytearray(stored)
                fill(memoryview(content))
                if self._private.holds(path, content):
                    return _Attempt(None, _IS_PRIVATE, is_worth_another=False)
                fill = _feed(content)
            length = len(headers) + stored + padding_bytes(stored)
            if length > CHUNK_BYTES:
                set_place(entry, self._builder.begin_large(headers), length)
                self._was_begun = True
                if self._journal is not None:
                    self._journal.begin_large(entry)
                self._builder.add_pieces(stored, fill, pieces)
                reason = source.what_changed()
            else:
                view = self._builder.reserve(length)
                view[: len(headers)] = headers
                fill(view[len(headers) : len(headers) + stored])
                view[len(headers) + stored :] = bytes(length - len(headers) - stored)
                reason = source.what_changed()
                is_hopeless = source.failure and (not source.read_bytes or self._has_version)
                if reason and (not is_last_try or is_hopeless):
                    return _Attempt(None, reason)
                set_place(entry, self._builder.take(length), length)
            entry.sha256, entry.sparse_sha256 = source.content_hashes()
            if reason:
                entry.torn = PADDED if source.is_padded else TORN
            return _Attempt(
                entry,
                reason,
                stored <= _READ_AGAIN_BYTES,
                xattrs.trouble,
                is_failed=bool(source.failure),
            )
        finally:
            source.close()

    def _fail(self, entry: Entry, error: OSError) -> None:
        self._note_failure(explain(error), error)
        self._note_broken(entry)

    def _note_failure(self, reason: str, error: OSError | None) -> None:
        self._failure, self._failure_kind = reason, _UNREADABLE
        if reason == _IS_PRIVATE:
            self._failure_kind = _PRIVATE
        elif error is not None and error.errno in GONE:
            self._failure_kind = _VANISHED

    def _note_broken(self, entry: Entry) -> None:
        if entry.nlink > 1:  # other files have no links to them, and may be many
            self._broken_links[hash(entry.name)] = None


def _is_better(old: Entry | None) -> bool:
    """Whether an earlier entry is better than today's file padded with zeros."""
    return old is not None and old.type == "file" and old.torn != PADDED


def _feed(content: bytearray) -> Callable[[memoryview], None]:
    """Gives content that was already read, as `SourceFile.fill` would."""
    left = memoryview(content)

    def fill(view: memoryview) -> None:
        nonlocal left
        view[:] = left[: len(view)]
        left = left[len(view) :]

    return fill
