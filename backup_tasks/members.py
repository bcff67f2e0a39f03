"""From chunks to members: headers checked against the manifest, content as a stream."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from backup_tasks.chunk_reader import ReadChunk
from backup_tasks.errors import ArchiveError
from backup_tasks.selection import WantedEntry
from backup_tasks.tarstream import Member, decode_headers, padding_bytes


@dataclass(slots=True)
class FoundMember:
    """A wanted entry with its headers and its stored bytes.

    `pieces` must be read before the next member is asked for.

    Attributes:
        is_checked: whether the bytes that will come are known to have the entry's hash.
    """

    wanted: WantedEntry
    member: Member
    pieces: Iterator[memoryview]
    is_checked: bool = False


class DamagedChunkError(ArchiveError):
    """A chunk that a wanted entry needs is damaged."""


class HashesAhead:
    """Hashes the contents that lie whole in a chunk on the thread that unpacked it.

    Where they lie is taken from the manifest alone. So a hash may be of other bytes than the
    entry's, and is of use only if the headers say the same place and it is the right one.

    Args:
        wanted: as for `MemberStream.members`.
    """

    def __init__(self, wanted: Iterator[WantedEntry]) -> None:
        self._wanted = wanted
        self._next = next(wanted, None)

    def prepare(self, number: int) -> Callable[[ReadChunk], ReadChunk]:
        """For `map_chunks`: what adds the hashes to this chunk; ask in ascending order."""
        places = []
        while self._next is not None and self._next.entry.chunk <= number:
            entry = self._next.entry
            if entry.type == "file" and entry.chunk == number:
                end = entry.offset + entry.raw_span - padding_bytes(entry.size)
                places.append((end - entry.size, end))
            self._next = next(self._wanted, None)
        return partial(_with_hashes, places)


def _with_hashes(places: list[tuple[int, int]], chunk: ReadChunk) -> ReadChunk:
    raw, hashes, hashed_to = memoryview(chunk.raw), {}, 0
    for start, end in places:
        # A manifest could name the same bytes any number of times.
        if hashed_to <= start <= end <= len(raw):
            hashes[start, end] = hashlib.sha256(raw[start:end]).hexdigest()
            hashed_to = end
    return replace(chunk, hashes=hashes)


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
        found = chunk.hashes.get((start, start + member.stored))
        is_checked = member.sparse is None and found == entry.sha256
        return FoundMember(want, member, self._pieces(member, blocks, start), is_checked)

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
