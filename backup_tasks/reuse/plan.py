"""Which chunks of the previous backup to keep, and which entries to write anew. Pure.

The order of an archive is: reused chunks, new entries, late links, folders. Plain `tar x` lets the
last entry of a name win, so a changed file's earlier entry may stay in a reused chunk. A chunk must
go if it holds an entry that tar would bring back or trip over:

- a path that was deleted, or that became something else;
- a hardlink to a file that is written anew;
- a late link among other entries, as in archives of 0.1.0: tar passes over a second entry of such
  a link.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import msgspec
from msgspec import Struct

from backup_tasks.chunks.compress import CHUNK_BYTES
from backup_tasks.format.manifest import Chunk, Entry, PlacedEntry
from backup_tasks.reuse.copy_ranges import ChunkCosts, RangeRules, choose_ranges, ranges_of
from backup_tasks.reuse.late_links import LateLinks
from backup_tasks.snapshot.private_content import NOTHING_PRIVATE, Private


class PlannedEntry(msgspec.Struct, omit_defaults=True, gc=False):
    """One entry of the walk, with its counterpart in the previous backup.

    Attributes:
        entry: the entry to write; if `is_same`, the entry of the previous backup.
        is_same: the entry is unchanged, and is reused if its chunk is. Or it cannot be read and
            stands for its last version; then `entry.carried` says so.
        old: the file's earlier entry, if the file changed.
        place, end: where the entry's line begins and ends in the previous manifest, if the line
            can stay to the letter; else -1.
    """

    entry: Entry
    is_same: bool = False
    old: Entry | None = None
    place: int = -1
    end: int = -1


@dataclass(slots=True)
class ReuseCounts:
    """Numbers of entries, by how they compare with the previous backup."""

    same: int = 0
    changed: int = 0
    new: int = 0
    gone: int = 0


class Reuse(Struct, frozen=True):
    """The decision which chunks to keep.

    Attributes:
        ranges: ranges of old chunk numbers to copy, in order.
        moved: old chunk number -> number in the new archive, -1 for a chunk that is not reused.
        reused_bytes: stored bytes of the ranges.
        counts: numbers of entries.
        dropped: reason -> number of chunks that are not reused for this reason.
        is_all_reused: every unchanged entry stays in a chunk of the same number.
    """

    ranges: list[range]
    moved: list[int]
    reused_bytes: int
    counts: ReuseCounts
    dropped: dict[str, int]
    is_all_reused: bool = False

    def keeps(self, entry: Entry) -> bool:
        """Whether the chunk in which the old entry begins is reused."""
        return 0 <= entry.chunk < len(self.moved) and self.moved[entry.chunk] >= 0

    def move(self, entry: Entry) -> Entry:
        """Give the old entry its place in the new archive; changes the entry itself."""
        entry.stale = tuple(self.moved[c] for c in entry.stale if self.moved[c] >= 0)
        entry.chunk = self.moved[entry.chunk]
        return entry

    def stale_after(self, old: Entry) -> tuple[int, ...]:
        """The reused chunks that still hold an entry of this path after it is written anew."""
        if not self.moved:
            return ()
        held = {self.moved[c] for c in packed_chunks(old)}
        return tuple(sorted(number for number in held if number >= 0))


NO_REUSE = Reuse([], [], 0, ReuseCounts(), {})


def is_large(entry: Entry) -> bool:
    """Whether the entry has chunks of its own."""
    return entry.type == "file" and entry.raw_span > CHUNK_BYTES


def piece_numbers(entry: Entry, chunks: Sequence[Chunk]) -> range:
    """The chunks with a large entry's own bytes; they follow the chunk of its headers."""
    own_bytes = entry.raw_span - chunks[entry.chunk].raw
    first = entry.chunk + 1
    return range(first, min(first + -(-own_bytes // CHUNK_BYTES), len(chunks)))


def packed_chunks(old: Entry) -> tuple[int, ...]:
    """The chunks that hold entries of this path among others, earlier versions included."""
    return old.stale if is_large(old) else (*old.stale, old.chunk)


# How often ranges are chosen anew because of hardlinks, before all chunks with such links go.
_MOST_TRIES = 8
# Why a chunk must go: an entry in it is gone or retyped; or it holds a late link.
_GONE, _LATE = 1, 2
_NOTHING: tuple[Entry | None, int, int] = (None, -1, -1)


class ReusePlanner:
    """Compares a walk with the previous manifest as two sorted streams, then decides.

    Memory grows with the number of chunks and of hardlinked files, not of entries.

    Args:
        chunks: those of the previous backup.
        settled_before_ns: a file with this ctime or a later one may have changed unseen.
        is_same_content: called when only inode or ctime differ, or when the ctime is too young;
            reads the file and says whether its tar entry would be the same bytes.
        private: content that must not be stored; a chunk that holds it is not reused.
        reads_all: keep nothing; old entries only serve as the earlier versions of files.
        blind: devices of file systems whose ctime does not show every change.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        settled_before_ns: int,
        is_same_content: Callable[[Entry, Entry], bool],
        private: Private = NOTHING_PRIVATE,
        *,
        reads_all: bool = False,
        blind: frozenset[int] = frozenset(),
    ) -> None:
        self._reads_all, self._blind = reads_all, blind
        if reads_all:
            self._pair = self._pair_to_read  # type: ignore[method-assign,assignment]
        elif blind:
            self._is_exact = self._is_exact_and_seen  # type: ignore[method-assign]
        self._private, self._sizes_to_check = private, private.sizes
        self._chunks = chunks
        self._settled_before_ns = settled_before_ns
        self._is_same_content = is_same_content
        self._live = [0] * len(chunks)
        self._must_go = bytearray(len(chunks))
        # Chunks with superseded entries. No folders are in them, so they may stay without a live
        # byte.
        self._known = bytearray(len(chunks))
        # Unchanged files with several names: hash of the first path, which has a secret key -> the
        # chunk of that entry.
        self._first_chunks: dict[int, int] = {}
        # A chunk with such files -> the chunks further back with hardlinks to them.
        self._link_chunks: dict[int, set[int]] = {}
        # Chunks with hardlinks to a file that changed, or that comes after them.
        self._orphaned: set[int] = set()
        self._new_bytes = 0
        self.counts = ReuseCounts()

    def join(
        self, walked: Iterable[Entry], before: Iterable[PlacedEntry]
    ) -> Iterator[PlannedEntry]:
        """Pair the entries of both streams, both in the order of a walk.

        Args:
            walked: today's entries, without folders and late links, which are always written anew.
            before: the old entries, each with the place of its line; -1 if the line must not be
                used.
        """
        leaves = self._without_last(before)
        old, place, end = next(leaves, _NOTHING)
        for entry in walked:
            path, path_b64 = entry.path, entry.path_b64
            is_met = False
            while old is not None:
                is_met = old.path == path and old.path_b64 == path_b64
                if is_met or old.walk_key > entry.walk_key:
                    break
                self._gone(old)
                old, place, end = next(leaves, _NOTHING)
            if old is not None and is_met:
                if entry.carried:
                    yield from self._carry(entry)
                else:
                    yield self._pair(entry, old, place, end)
                old, place, end = next(leaves, _NOTHING)
            elif not entry.carried:
                self.counts.new += 1
                self._new_bytes += entry.raw_span
                yield PlannedEntry(entry)
        while old is not None:
            self._gone(old)
            old, place, end = next(leaves, _NOTHING)

    def _without_last(self, before: Iterable[PlacedEntry]) -> Iterator[PlacedEntry]:
        """The old entries without folders and late links."""
        late = LateLinks()
        for placed in before:
            old = placed[0]
            if old.type == "file":
                yield placed
            elif old.type != "dir":
                if late.has(old):
                    self._take_along(old, _LATE)
                else:
                    yield placed

    def _carry(self, old: Entry) -> Iterator[PlannedEntry]:
        """Keep the earlier entry of a path that cannot be read now, unless it may be private."""
        if old.size in self._sizes_to_check and self._private.may_be_in(old):
            self.counts.gone += 1
            self._take_along(old)
            return
        if not self._reads_all:
            self._count_same(old)
        yield PlannedEntry(old, is_same=True)

    def _pair(self, entry: Entry, old: Entry, place: int, end: int) -> PlannedEntry:
        if old.size in self._sizes_to_check and self._private.may_be_in(old):
            self.counts.changed += 1
            self._new_bytes += entry.raw_span
            self._take_along(old)
            return PlannedEntry(entry)
        if self._is_exact(entry, old):
            self._count_same(old)
            return PlannedEntry(old, is_same=True, place=place, end=end)
        same = self._same(entry, old)
        if same is not None:
            self._count_same(same)
            return PlannedEntry(same, is_same=True)
        self.counts.changed += 1
        self._new_bytes += entry.raw_span
        if entry.type == old.type == "file":
            for number in packed_chunks(old):
                self._known[number] = 1
            return PlannedEntry(entry, old=old)
        self._take_along(old)
        return PlannedEntry(entry)

    def _pair_to_read(self, entry: Entry, old: Entry, *_: int) -> PlannedEntry:
        is_file = entry.type == old.type == "file"
        return PlannedEntry(entry, old=old if is_file else None)

    def _count_same(self, same: Entry) -> None:
        self.counts.same += 1
        span = same.raw_span
        if span > CHUNK_BYTES and is_large(same):
            # A large entry is reused whole or not at all: its chunks lie side by side and hold
            # nothing else, so no rule ends a range between them.
            for number in range(same.chunk, piece_numbers(same, self._chunks).stop):
                self._live[number] = self._chunks[number].raw
        else:
            self._live[same.chunk] += span
        for number in same.stale:
            self._known[number] = 1
        if same.nlink > 1 or same.type == "hardlink":
            self._note_link(same)

    def _is_exact(self, entry: Entry, old: Entry) -> bool:
        """Whether the old entry still holds, to the last letter of its line."""
        return (
            entry.ctime_ns == old.ctime_ns
            and entry.inode == old.inode
            and entry.mtime_ns == old.mtime_ns
            and entry.size == old.size
            and entry.device == old.device
            and entry.type == old.type
            and entry.link == old.link
            and entry.link_b64 == old.link_b64
            and entry.rdev == old.rdev
            and entry.nlink == old.nlink
            and not old.stale
            and 0 < old.ctime_ns < self._settled_before_ns
            # As `not old.lacks_hash`, without a call for each file.
            and (old.sha256 != "" or old.type != "file" or old.sparse_sha256 != "")
        )

    def _is_exact_and_seen(self, entry: Entry, old: Entry) -> bool:
        return entry.device not in self._blind and ReusePlanner._is_exact(self, entry, old)

    def _same(self, entry: Entry, old: Entry) -> Entry | None:
        """The old entry with today's inode and ctime, if it still holds; else None."""
        if (
            entry.type != old.type
            or entry.size != old.size
            or entry.mtime_ns != old.mtime_ns
            or entry.link != old.link
            or entry.link_b64 != old.link_b64
            or entry.rdev != old.rdev
            or old.lacks_hash
        ):
            return None
        is_settled = (
            entry.ctime_ns == old.ctime_ns
            and entry.inode == old.inode
            and 0 < old.ctime_ns < self._settled_before_ns
            and entry.device not in self._blind
        )
        if not is_settled:
            owner = (entry.mode, entry.uid, entry.gid, entry.user, entry.group)
            if owner != (old.mode, old.uid, old.gid, old.user, old.group):
                return None
            # A hardlink has no content of its own: it goes with the name that has the content.
            if entry.type != "hardlink" and not self._is_same_content(entry, old):
                return None
        old.ctime_ns, old.inode, old.device = entry.ctime_ns, entry.inode, entry.device
        old.nlink, old.carried = entry.nlink, ""
        return old

    def _gone(self, old: Entry) -> None:
        self.counts.gone += 1
        self._take_along(old)

    def _take_along(self, old: Entry, why: int = _GONE) -> None:
        if self._reads_all:
            return
        for number in packed_chunks(old):
            self._must_go[number] |= why

    def _note_link(self, same: Entry) -> None:
        if same.type != "hardlink":
            self._first_chunks[hash(same.name)] = same.chunk
            return
        first = self._first_chunks.get(hash(same.link_name), -1)
        if not 0 <= first <= same.chunk:
            # The link lies in the previous archive, and its file in an interrupted run's object.
            self._orphaned.add(same.chunk)
        elif first != same.chunk:
            self._link_chunks.setdefault(first, set()).add(same.chunk)

    def decide(self, smallest_range_bytes: int, most_ranges: int) -> Reuse:
        """Choose the chunks to keep, after `join` was read to its end.

        Args:
            smallest_range_bytes: stored bytes of the shortest range that can be copied.
            most_ranges: the largest number of ranges; beyond it the shortest are given up.
        """
        chunks = self._chunks
        dead = [max(0, c.raw - live) for c, live in zip(chunks, self._live, strict=True)]
        costs = ChunkCosts(self._live, dead, [chunk.length for chunk in chunks])
        # A chunk without a live byte may stay as a bridge between two ranges that are too short.
        may_keep = bytearray(
            (live > 0 or known) and not gone
            for live, known, gone in zip(self._live, self._known, self._must_go, strict=True)
        )
        rules = RangeRules(smallest_range_bytes, most_ranges, self._new_bytes)
        links_lost = 0
        for tries in count(1):
            chosen = choose_ranges(costs, may_keep, rules)
            lost = self._links_to_drop(chosen)
            if not lost:
                break
            if tries == _MOST_TRIES:
                # Links laid out on purpose could make each choice spoil the next one.
                with_links = set().union(*self._link_chunks.values())
                lost |= {number for number in with_links if chosen[number]}
            for number in lost:
                may_keep[number] = 0
            links_lost += len(lost)
        return self._reuse(chosen, may_keep, links_lost)

    def _links_to_drop(self, chosen: bytearray) -> set[int]:
        """The chosen chunks whose links would come before their files.

        Such a file is written anew, or lies in a chunk that is dropped because of its own links.
        """
        lost = {number for number in self._orphaned if chosen[number]}
        waiting = [*lost, *(first for first in self._link_chunks if not chosen[first])]
        while waiting:
            for number in self._link_chunks.get(waiting.pop(), ()):
                if chosen[number] and number not in lost:
                    lost.add(number)
                    waiting.append(number)
        return lost

    def _stored_length(self, span: range) -> int:
        first, last = self._chunks[span[0]], self._chunks[span[-1]]
        return last.end - first.offset

    def _reuse(self, chosen: bytearray, may_keep: bytearray, links_lost: int) -> Reuse:
        ranges = ranges_of(chosen)
        moved = [-1] * len(chosen)
        for following, number in enumerate(number for run in ranges for number in run):
            moved[number] = following
        reused_bytes = sum(self._stored_length(run) for run in ranges)
        is_all_reused = all(
            new == old if self._live[old] else new in (-1, old) for old, new in enumerate(moved)
        )
        dropped = self._why_dropped(chosen, may_keep, links_lost)
        return Reuse(ranges, moved, reused_bytes, self.counts, dropped, is_all_reused)

    def _why_dropped(
        self, chosen: bytearray, may_keep: bytearray, links_lost: int
    ) -> dict[str, int]:
        """Numbers of chunks that hold live bytes but are not reused, by reason."""
        why = [why for live, why in zip(self._live, self._must_go, strict=True) if live and why]
        given_up = [
            number
            for number, allowed in enumerate(may_keep)
            if allowed and self._live[number] and not chosen[number]
        ]
        stale = sum(self._live[number] < self._chunks[number].raw for number in given_up)
        return {
            "deleted or retyped": sum(1 for reasons in why if reasons & _GONE),
            "links that tar must meet last": why.count(_LATE),
            "too many stale bytes": stale,
            "links to what is written anew": links_lost,
            "run too short": len(given_up) - stale,
        }
