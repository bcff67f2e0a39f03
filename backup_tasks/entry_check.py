"""Hold the entries of a manifest against the chunks: headers in their places, contents by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from backup_tasks.chunk_reader import ReadChunk
from backup_tasks.errors import ArchiveError
from backup_tasks.findings import Findings
from backup_tasks.manifest import Entry
from backup_tasks.tarstream import Member, decode_headers

_ZEROS = bytes(2**20)


class ContentHash:
    """SHA-256 of a file's content as its stored bytes come in, with its holes as zeros."""

    def __init__(self, member: Member) -> None:
        self._hash = hashlib.sha256()
        self._size = member.size
        self._position = 0
        runs = member.sparse if member.sparse is not None else [(0, member.stored)]
        self._runs = [run for run in reversed(runs) if run[1]]

    def add(self, piece: memoryview) -> None:
        """Take the next stored bytes, never more than the header says are stored."""
        while piece:
            offset, length = self._runs.pop()
            part = piece[:length]
            self._add_zeros(offset)
            self._hash.update(part)
            self._position = offset + len(part)
            if len(part) < length:
                self._runs.append((self._position, length - len(part)))
            piece = piece[len(part) :]

    def _add_zeros(self, up_to: int) -> None:
        while self._position < up_to:
            step = min(up_to - self._position, len(_ZEROS))
            self._hash.update(memoryview(_ZEROS)[:step])
            self._position += step

    def hexdigest(self) -> str:
        """Of the whole content; call it once, after the last byte."""
        self._add_zeros(self._size)
        return self._hash.hexdigest()


@dataclass(slots=True)
class _OpenFile:
    """A file whose content goes on in the next chunk."""

    entry: Entry
    content: ContentHash
    left: int
    next_chunk: int


@dataclass(slots=True)
class EntryCheck:
    """Takes chunks in ascending order and compares what they hold with the manifest.

    Args:
        pending: the entries in the order of the archive.

    Attributes:
        lost: entries that do not stand whole where the manifest says.
        entries: entries whose headers were right.
        files, bytes: regular files whose content was right, and their content bytes.
    """

    pending: Iterator[Entry]
    lost: Findings = field(default_factory=Findings)
    entries: int = 0
    files: int = 0
    bytes: int = 0
    _next: Entry | None = None
    _open: _OpenFile | None = None
    _lost_files: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._next = next(self.pending, None)

    def take(self, chunk: ReadChunk) -> None:
        """Check what begins or goes on in this chunk; numbers may be left out in between."""
        self._go_on(chunk)
        while self._next is not None and self._next.chunk <= chunk.number:
            entry, self._next = self._next, next(self.pending, None)
            if entry.chunk == chunk.number:
                self._check(entry, chunk)

    def finish(self) -> None:
        """Call it when every chunk of the archive was taken; entries left over are lost."""
        self._break_off("the archive ends before its content does")
        while self._next is not None:
            self._lose(self._next, f"chunk {self._next.chunk} is not in the archive")
            self._next = next(self.pending, None)

    def add_hardlinks(self, entries: Iterable[Entry]) -> None:
        """Count hardlinks to lost files as lost too: their content stood there.

        Args:
            entries: all of the manifest.
        """
        if not self._lost_files:
            return
        for entry in entries:
            if entry.type == "hardlink" and hash(entry.link_name) in self._lost_files:
                self.lost.add(entry.name, "it is a link to a file that is lost")

    def _go_on(self, chunk: ReadChunk) -> None:
        file = self._open
        if file is None:
            return
        if chunk.number != file.next_chunk:
            self._open = None  # its chunks are not among those that are looked at
        elif chunk.damage:
            self._break_off(f"chunk {chunk.number} is damaged: {chunk.damage}")
        else:
            self._feed(file, memoryview(chunk.raw))

    def _check(self, entry: Entry, chunk: ReadChunk) -> None:
        self._break_off("another entry begins before its content ends")
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
        if entry.type == "file":
            opened = _OpenFile(entry, ContentHash(member), member.stored, chunk.number)
            self._feed(opened, blocks[start:])

    def _feed(self, file: _OpenFile, blocks: memoryview) -> None:
        piece = blocks[: file.left]
        file.content.add(piece)
        file.left -= len(piece)
        file.next_chunk += 1
        self._open = file if file.left else None
        if file.left:
            return
        if file.content.hexdigest() != file.entry.sha256:
            self._lose(file.entry, "its content does not have the hash that the manifest says")
            return
        self.files += 1
        self.bytes += file.entry.size

    def _break_off(self, reason: str) -> None:
        if self._open is not None:
            self._lose(self._open.entry, reason)
            self._open = None

    def _lose(self, entry: Entry, reason: str) -> None:
        self.lost.add(entry.name, reason)
        if entry.type == "file":
            self._lost_files.add(hash(entry.name))


def differing_fields(entry: Entry, member: Member) -> list[str]:
    """The names of what an entry and the headers in its place say differently."""
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
