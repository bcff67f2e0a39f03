"""From chunks to members: headers checked against the manifest, content as a stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from backup_tasks.chunks.reader import ReadChunk
from backup_tasks.common.units import render_count
from backup_tasks.errors import ArchiveError
from backup_tasks.format.tar_headers import Member, decode_headers
from backup_tasks.read.selection import WantedEntry


class FoundMember(NamedTuple):
    """A wanted entry with its headers.

    Attributes:
        chunk: number of the chunk in which the entry begins.
        here: those of the entry's stored bytes that lie in that chunk.
    """

    wanted: WantedEntry
    member: Member
    chunk: int
    here: memoryview


class LostMember(NamedTuple):
    """A wanted entry that is not where the manifest says, with the reason."""

    wanted: WantedEntry
    reason: str


class DamagedChunkError(ArchiveError):
    """A chunk that a wanted entry needs is damaged."""


class MemberStream:
    """Joins wanted entries with the chunks that hold them.

    Args:
        chunks: the chunks of `Selection.chunk_numbers`, in that order; the bytes of a chunk are
            used only until the next chunk is requested.
        begin_in: gives the wanted entries that begin in a chunk.
        on_damage: called with (entry's path, reason) for each entry lost to a damaged chunk;
            None raises DamagedChunkError instead.
        passed: called with the length of each piece that was read.

    Attributes:
        fetched_again: number of chunks that came damaged at first.
    """

    def __init__(
        self,
        chunks: Iterator[ReadChunk],
        begin_in: Callable[[int], Sequence[WantedEntry]],
        on_damage: Callable[[str, str], None] | None = None,
        passed: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._chunks = chunks
        self._begin_in = begin_in
        self._on_damage = on_damage
        self._passed = passed
        self._current: ReadChunk | None = None
        self.fetched_again = 0
        self._waiting: deque[FoundMember | LostMember] = deque()

    def members(self) -> Iterator[FoundMember]:
        """Yield one member for each wanted entry; with `on_damage`, leave out damaged ones.

        Raises:
            DamagedChunkError: an entry is damaged, and there is no `on_damage`.
        """
        while self._advance():
            while self._waiting:
                found = self._waiting.popleft()
                if isinstance(found, FoundMember):
                    yield found
                    del found  # its headers may be long, and the next are read meanwhile
                elif self._on_damage is None:
                    raise DamagedChunkError(found.reason)
                else:
                    self._on_damage(found.wanted.restore_as, found.reason)

    def pieces(self, found: FoundMember) -> Iterable[memoryview]:
        """The member's stored bytes; read them before asking for the next member.

        Raises:
            DamagedChunkError: the bytes go on in a damaged chunk; or they lie inside another
                member, so that their chunk is gone by now. Raised here or while reading.
        """
        if not found.member.stored:
            return ()
        if self._current is None or found.chunk != self._current.number:
            raise DamagedChunkError(f"chunk {found.chunk} holds one file inside of another")
        if len(found.here) < found.member.stored:
            return self._pieces_of_many_chunks(found)
        self._passed(len(found.here))
        return (found.here,)

    def _pieces_of_many_chunks(self, found: FoundMember) -> Iterator[memoryview]:
        piece, number = found.here, found.chunk
        left = found.member.stored
        while True:
            yield piece
            self._passed(len(piece))
            left -= len(piece)
            if not left:
                return
            number += 1
            piece = memoryview(self._following(number).raw)[:left]

    def _following(self, number: int) -> ReadChunk:
        while self._current is None or self._current.number < number:
            if not self._advance():
                raise DamagedChunkError(f"chunk {number} is not in the archive")
        if self._current.number != number:
            raise DamagedChunkError(f"chunk {number} is not where it should be")
        if self._current.damage:
            raise DamagedChunkError(f"chunk {number} is damaged: {self._current.damage}")
        return self._current

    def _advance(self) -> bool:
        """Take the next chunk, and find all members that begin in it.

        A processor does this faster for a whole chunk than in turns with writing.
        """
        self._current = None  # it may be long
        chunk = next(self._chunks, None)
        if chunk is None:
            return False
        self._current = chunk
        self.fetched_again += chunk.fetched_again
        self._waiting += _find_members(chunk, self._begin_in(chunk.number))
        return True


def _find_members(chunk: ReadChunk, begin: Sequence[WantedEntry]) -> list[FoundMember | LostMember]:
    """Find these entries in a chunk, where the manifest says that they begin."""
    if chunk.damage:
        reason = f"chunk {chunk.number} is damaged: {chunk.damage}"
        return [LostMember(want, reason) for want in begin]
    blocks = memoryview(chunk.raw)
    return [_find(want, chunk.number, blocks) for want in begin]


def _find(want: WantedEntry, number: int, blocks: memoryview) -> FoundMember | LostMember:
    entry = want.entry
    try:
        member, start = decode_headers(blocks, entry.offset)
    except ArchiveError as error:
        return LostMember(want, f"chunk {number}: {error}")
    expected = (entry.name.encode("utf-8", "surrogateescape"), entry.type, entry.size)
    if (member.path, member.kind, member.size) != expected:
        return LostMember(
            want, f"chunk {number} holds {member.path!r} where the manifest says otherwise"
        )
    return FoundMember(want, member, number, blocks[start : start + member.stored])


def render_fetched_again(count: int) -> str:
    """The note about chunks that came damaged at first."""
    return (
        f"{render_count(count, 'chunk')} came damaged and, fetched again, whole: look for what "
        "changes bytes between here and the store"
    )
