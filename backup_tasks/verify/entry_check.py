"""Check the entries of a manifest against the chunks: headers by place, contents by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from backup_tasks.chunks.reader import ReadChunk
from backup_tasks.errors import ArchiveError
from backup_tasks.format.content_hash import ContentHash, content_hash
from backup_tasks.format.limits import HOLES_LIMIT, TOO_MANY_HOLES
from backup_tasks.format.manifest import Entry
from backup_tasks.format.tar_headers import Member, decode_headers
from backup_tasks.read.findings import Findings

_NO_END = "another entry begins before its content ends"


class StoredContent:
    """Hashes a file's content while its stored bytes come in.

    Args:
        member: the file's decoded headers; is_sparse: whether to take the sparse hash.
    """

    def __init__(self, member: Member, *, is_sparse: bool) -> None:
        self._hash: ContentHash = content_hash(member.size, is_sparse=is_sparse)
        runs = member.sparse if member.sparse is not None else [(0, member.stored)]
        self._runs = (run for run in runs if run[1])
        self._rest: tuple[int, int] | None = None

    def add(self, piece: memoryview) -> None:
        """Take the next stored bytes, never more than the header says are stored."""
        while piece:
            offset, length = self._rest or next(self._runs)
            self._rest = None
            part = piece[:length]
            self._hash.add(offset, part)
            if len(part) < length:
                self._rest = (offset + len(part), length - len(part))
            piece = piece[len(part) :]

    def finish(self) -> str:
        """The hash of the whole content; call it once, after the last byte."""
        return self._hash.finish()


@dataclass(slots=True)
class _OpenFile:
    """A file whose content goes on in the next chunk."""

    entry: Entry
    content: StoredContent
    left: int
    next_chunk: int


@dataclass(slots=True)
class _KnownFile:
    """A file whose content is known to be right, if its chunks up to `last_chunk` are undamaged."""

    entry: Entry
    next_chunk: int
    last_chunk: int


class EntryCheck:
    """Checks the entries of an archive against its chunks, taken in ascending order.

    Attributes:
        lost: entries that are not whole in the place that the manifest names.
        entries: number of entries whose headers were right.
        files, bytes: regular files whose content was right, and their content bytes.
    """

    def __init__(self) -> None:
        self.lost = Findings()
        self.entries = self.files = self.bytes = 0
        self._open: _OpenFile | _KnownFile | None = None
        self._lost_files: set[int] = set()

    @property
    def is_open(self) -> bool:
        """Whether a file goes on in the next chunk."""
        return self._open is not None

    def check(self, chunk: ReadChunk, begin: Sequence[Entry]) -> None:
        """Check the entries that begin in a chunk, and the file that goes on from the chunk before.

        The chunks between two calls may be left out.
        """
        self._go_on(chunk)
        for entry in begin:
            self._break_off(_NO_END)
            self._check(entry, chunk)

    def accept(self, chunk: ReadChunk, begin: Sequence[Entry], last_chunk: int) -> None:
        """As `check`, for entries that are known to be right: the chunk was not unpacked.

        Args:
            last_chunk: the last chunk of the file that goes on from here, if there is one.
        """
        if chunk.damage:
            self.check(chunk, begin)
            return
        self._go_on(chunk)
        self.entries += len(begin)
        for entry in begin:
            self._break_off(_NO_END)
            if entry.type == "file":
                end = last_chunk if entry is begin[-1] else chunk.number
                self._accept(_KnownFile(entry, chunk.number + 1, end))

    def finish(self) -> None:
        """Count a file that still goes on as lost; call this after the archive's last chunk."""
        self._break_off("the archive ends before its content does")

    def add_hardlinks(self, entries: Iterable[Entry]) -> None:
        """Count hardlinks to lost files as lost, too: their content is that of the file.

        Args:
            entries: all entries of the manifest.
        """
        if not self._lost_files:
            return
        for entry in entries:
            if entry.type == "hardlink" and hash(entry.link_name) in self._lost_files:
                self.lost.add(entry.name, "it is a link to a file that is lost")

    def _check(self, entry: Entry, chunk: ReadChunk) -> None:
        """Check an entry that begins in this chunk."""
        if chunk.damage:
            self._lose(entry, f"chunk {chunk.number} is damaged: {chunk.damage}")
            return
        blocks = memoryview(chunk.raw)
        try:
            member, start = decode_headers(blocks, entry.offset)
        except ArchiveError as error:
            self._lose(entry, f"chunk {chunk.number}, byte {entry.offset}: {error}")
            return
        if wrong := differing_fields(entry, member):
            self._lose(entry, f"its headers and the manifest differ in {', '.join(wrong)}")
            return
        self.entries += 1
        if entry.type != "file":
            return
        end = start + member.stored
        # The way of nearly all files, and by far the cheapest.
        if entry.sha256 and member.sparse is None and end <= len(blocks):
            self._compare(entry, hashlib.sha256(blocks[start:end]).hexdigest())
            return
        is_sparse = entry.is_hashed_sparse
        if not entry.content_hash:
            self._lose(entry, "the manifest has no hash of its content")
        elif not is_sparse and member.size - member.stored > HOLES_LIMIT:
            self._lose(entry, TOO_MANY_HOLES)
        else:
            content = StoredContent(member, is_sparse=is_sparse)
            self._feed(_OpenFile(entry, content, member.stored, chunk.number), blocks[start:])

    def _go_on(self, chunk: ReadChunk) -> None:
        """Check what this chunk holds of the open file, if there is one."""
        file = self._open
        if file is None:
            return
        if chunk.number != file.next_chunk:
            self._open = None  # the file's next chunk is not among the chunks to check
        elif chunk.damage:
            self._break_off(f"chunk {chunk.number} is damaged: {chunk.damage}")
        elif isinstance(file, _KnownFile):
            file.next_chunk += 1
            self._accept(file)
        else:
            self._feed(file, memoryview(chunk.raw))

    def _accept(self, file: _KnownFile) -> None:
        """Count a file's content as right, once its last chunk has come."""
        is_met = file.next_chunk > file.last_chunk
        self._open = None if is_met else file
        if is_met:
            self._count(file.entry)

    def _break_off(self, reason: str) -> None:
        """Count the open file, if there is one, as lost."""
        if self._open is not None:
            self._lose(self._open.entry, reason)
            self._open = None

    def _feed(self, file: _OpenFile, blocks: memoryview) -> None:
        piece = blocks[: file.left]
        file.content.add(piece)
        file.left -= len(piece)
        file.next_chunk += 1
        self._open = file if file.left else None
        if not file.left:
            self._compare(file.entry, file.content.finish())

    def _compare(self, entry: Entry, found: str) -> None:
        if found != entry.content_hash:
            self._lose(entry, "its content does not have the hash that the manifest says")
        else:
            self._count(entry)

    def _count(self, entry: Entry) -> None:
        self.files += 1
        self.bytes += entry.size

    def _lose(self, entry: Entry, reason: str) -> None:
        self.lost.add(entry.name, reason)
        if entry.type == "file":
            self._lost_files.add(hash(entry.name))


def differing_fields(entry: Entry, member: Member) -> list[str]:
    """The names of the fields in which an entry and the headers in its place differ."""
    encode = "utf-8", "surrogateescape"
    expected = (
        entry.name.encode(*encode),
        entry.type,
        entry.size if entry.type == "file" else 0,
        entry.mode,
        (entry.uid, entry.gid),
        entry.mtime_ns,
        entry.link_name.encode(*encode),
    )
    found = (
        member.path,
        member.kind,
        member.size,
        member.mode,
        (member.uid, member.gid),
        member.mtime_ns,
        member.link,
    )
    if expected == found:
        return []
    names = ("path", "type", "size", "mode", "owner", "time", "link")
    return [name for name, one, other in zip(names, expected, found, strict=True) if one != other]
