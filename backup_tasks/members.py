"""From chunks to members: headers checked against the manifest, content as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from backup_tasks.chunk_reader import ReadChunk
from backup_tasks.errors import ArchiveError
from backup_tasks.selection import WantedEntry
from backup_tasks.tarstream import Member, decode_headers


@dataclass(slots=True)
class FoundMember:
    """A wanted entry with its headers and its stored bytes.

    `pieces` must be read before the next member is asked for.
    """

    wanted: WantedEntry
    member: Member
    pieces: Iterator[memoryview]


class DamagedChunkError(ArchiveError):
    """A chunk that a wanted entry needs is damaged."""


class MemberStream:
    """Joins wanted entries with the chunks that hold them.

    Args:
        chunks: the chunks of `Selection.chunk_numbers`, in that order.
        on_damage: called with (entry's path, reason) for an entry that a damaged chunk
            costs; None raises DamagedChunkError instead.
    """

    def __init__(
        self,
        chunks: Iterator[ReadChunk],
        on_damage: Callable[[str, str], None] | None = None,
    ) -> None:
        self._chunks = chunks
        self._on_damage = on_damage
        self._current: ReadChunk | None = None

    def members(self, wanted: Iterator[WantedEntry]) -> Iterator[FoundMember]:
        """One member for each wanted entry; damaged ones are left out if that is allowed."""
        for want in wanted:
            try:
                found = self._find(want)
            except DamagedChunkError as error:
                if self._on_damage is None:
                    raise
                self._on_damage(want.restore_as, str(error))
                continue
            yield found

    def _find(self, want: WantedEntry) -> FoundMember:
        entry = want.entry
        chunk = self._advance_to(entry.chunk)
        blocks = memoryview(chunk.raw)
        try:
            member, start = decode_headers(blocks, entry.offset)
        except ArchiveError as error:
            raise DamagedChunkError(f"chunk {chunk.number}: {error}") from error
        expected = (entry.name.encode("utf-8", "surrogateescape"), entry.type, entry.size)
        if (member.path, member.kind, member.size) != expected:
            raise DamagedChunkError(
                f"chunk {chunk.number} holds {member.path!r} where the manifest says otherwise"
            )
        return FoundMember(want, member, self._pieces(member, blocks, start))

    def _pieces(self, member: Member, blocks: memoryview, start: int) -> Iterator[memoryview]:
        left = member.stored
        here = blocks[start : start + left]
        if here:
            yield here
            left -= len(here)
        while left:
            assert self._current is not None
            chunk = self._advance_to(self._current.number + 1)
            piece = memoryview(chunk.raw)[:left]
            yield piece
            left -= len(piece)

    def _advance_to(self, number: int) -> ReadChunk:
        while self._current is None or self._current.number < number:
            following = next(self._chunks, None)
            if following is None:
                raise DamagedChunkError(f"chunk {number} is not in the archive")
            self._current = following
        if self._current.number != number:
            raise DamagedChunkError(f"chunk {number} is not where it should be")
        if self._current.damage:
            raise DamagedChunkError(f"chunk {number} is damaged: {self._current.damage}")
        return self._current
