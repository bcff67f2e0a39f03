"""Which chunks of the last archive to keep, and which entries to write anew. Pure.

The order of an archive is: kept chunks, new entries, folders. Plain `tar x` lets the last
entry of a name win, so a changed file's earlier entry may stay in a kept chunk. Whatever tar
would bring back or trip over may not: a deleted path and a path that became something else take
the chunks that hold them along, and a file that is written anew those of the hardlinks to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from backup_tasks.compress import CHUNK_BYTES
from backup_tasks.manifest import Chunk, Entry

# A kept chunk may hold this share of entries that no longer count.
DEAD_SHARE = 0.25
# A file changed so shortly before it was stored may have changed once more within the
# grain of the clock, unseen.
CTIME_MARGIN_NS = 2 * 10**9


class PlannedEntry(msgspec.Struct, omit_defaults=True, gc=False):
    """One entry of the walk with what the last archive knows of it.

    Attributes:
        entry: to be written, or, if `is_same`, as the last archive has it.
        is_same: unchanged: kept, if its chunk is.
        old: the file's earlier entry, if it changed.
        place: if not a letter of the last manifest's line needs to change, its number among
            the lines of leaves there; else -1.
    """

    entry: Entry
    is_same: bool = False
    old: Entry | None = None
    place: int = -1


@dataclass(slots=True)
class ReuseCounts:
    """Why what is kept or written: numbers of entries."""

    same: int = 0
    changed: int = 0
    new: int = 0
    gone: int = 0


@dataclass(frozen=True, slots=True)
class Reuse:
    """The decision.

    Attributes:
        runs: consecutive chunk numbers that are copied, in order.
        moved: old chunk number -> number in the new archive, -1 for those not kept.
        kept_bytes: stored bytes of the runs.
        counts: of entries; `dropped` of chunks: reason -> number.
        is_all_kept: every unchanged entry stays in a chunk of the same number.
    """

    runs: list[range]
    moved: list[int]
    kept_bytes: int
    counts: ReuseCounts
    dropped: dict[str, int]
    is_all_kept: bool = False

    def keeps(self, entry: Entry) -> bool:
        """Whether the chunk that the old entry begins in is kept."""
        return 0 <= entry.chunk < len(self.moved) and self.moved[entry.chunk] >= 0

    def move(self, entry: Entry) -> Entry:
        """The old entry as it stands in the new archive; changes it in place."""
        entry.stale = tuple(self.moved[c] for c in entry.stale if self.moved[c] >= 0)
        entry.chunk = self.moved[entry.chunk]
        return entry

    def stale_after(self, old: Entry) -> tuple[int, ...]:
        """The kept chunks in which an entry of this path stays behind when it is written anew."""
        held = old.stale if is_large(old) else (*old.stale, old.chunk)
        return tuple(sorted({self.moved[c] for c in held if self.moved[c] >= 0}))


NO_REUSE = Reuse([], [], 0, ReuseCounts(), {})


def is_large(entry: Entry) -> bool:
    """Whether the entry has chunks of its own."""
    return entry.type == "file" and entry.raw_span > CHUNK_BYTES


def piece_numbers(entry: Entry, chunks: Sequence[Chunk]) -> range:
    """The chunks with a large entry's own bytes, after that of its headers."""
    own_bytes = entry.raw_span - chunks[entry.chunk].raw
    first = entry.chunk + 1
    return range(first, min(first + -(-own_bytes // CHUNK_BYTES), len(chunks)))


@dataclass(slots=True)
class _LinkGroup:
    """The unchanged entries that are one inode.

    Attributes:
        first_chunk: where the first name stands, with the content; -1 if it is not unchanged.
        link_chunks: where the hardlinks to it stand, further back in the archive.
    """

    first_chunk: int = -1
    link_chunks: set[int] = field(default_factory=set)


_NOTHING: tuple[int, Entry | None] = (-1, None)


class ReusePlanner:
    """Compares a walk with the last manifest as two sorted streams, then decides.

    Args:
        chunks: of the last archive.
        settled_before_ns: files whose ctime is not older than this may have changed unseen.
        is_same_content: asked when only inode or ctime differ, or ctime is too young:
            reads the file and says whether its tar entry would be the same bytes.

    Memory grows with the number of chunks and of hardlinked files, not of entries.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        settled_before_ns: int,
        is_same_content: Callable[[Entry, Entry], bool],
    ) -> None:
        self._chunks = chunks
        self._settled_before_ns = settled_before_ns
        self._is_same_content = is_same_content
        self._live = [0] * len(chunks)
        self._must_go = bytearray(len(chunks))
        self._groups: dict[str, _LinkGroup] = {}
        self.counts = ReuseCounts()

    def join(self, walked: Iterable[Entry], before: Iterable[Entry]) -> Iterator[PlannedEntry]:
        """Pair the entries of both streams, folders left out, both in the order of a walk."""
        leaves = enumerate(entry for entry in before if entry.type != "dir")
        place, old = next(leaves, _NOTHING)
        for entry in walked:
            while old is not None and not _same_path(old, entry):
                if old.walk_key > entry.walk_key:
                    break
                self._gone(old)
                place, old = next(leaves, _NOTHING)
            if old is not None and _same_path(old, entry):
                yield self._pair(entry, old, place)
                place, old = next(leaves, _NOTHING)
            else:
                self.counts.new += 1
                yield PlannedEntry(entry)
        while old is not None:
            self._gone(old)
            place, old = next(leaves, _NOTHING)

    def _pair(self, entry: Entry, old: Entry, place: int) -> PlannedEntry:
        is_exact = self._is_exact(entry, old)
        same = old if is_exact else self._same(entry, old)
        if same is not None:
            self.counts.same += 1
            self._count_live(same)
            if same.nlink > 1 or same.type == "hardlink":
                self._note_link(same)
            return PlannedEntry(same, is_same=True, place=place if is_exact else -1)
        self.counts.changed += 1
        if entry.type == old.type == "file":
            return PlannedEntry(entry, old=old)
        self._take_along(old)
        return PlannedEntry(entry)

    def _is_exact(self, entry: Entry, old: Entry) -> bool:
        """Whether the old entry still holds to the last letter."""
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
            and old.ctime_ns < self._settled_before_ns
        )

    def _same(self, entry: Entry, old: Entry) -> Entry | None:
        """The old entry if it still holds, with the inode and ctime of today."""
        if (
            entry.type != old.type
            or entry.size != old.size
            or entry.mtime_ns != old.mtime_ns
            or entry.link != old.link
            or entry.link_b64 != old.link_b64
            or entry.rdev != old.rdev
        ):
            return None
        is_settled = (
            entry.ctime_ns == old.ctime_ns
            and entry.inode == old.inode
            and old.ctime_ns < self._settled_before_ns
        )
        if not is_settled:
            owner = (entry.mode, entry.uid, entry.gid, entry.user, entry.group)
            if owner != (old.mode, old.uid, old.gid, old.user, old.group):
                return None
            # A hardlink has no content of its own: it goes with the name that has it.
            if entry.type != "hardlink" and not self._is_same_content(entry, old):
                return None
        old.ctime_ns, old.inode, old.device = entry.ctime_ns, entry.inode, entry.device
        old.nlink = entry.nlink
        return old

    def _gone(self, old: Entry) -> None:
        self.counts.gone += 1
        self._take_along(old)

    def _take_along(self, old: Entry) -> None:
        for number in (*old.stale, *(() if is_large(old) else (old.chunk,))):
            self._must_go[number] = 1

    def _count_live(self, old: Entry) -> None:
        if is_large(old):
            # All of it or nothing: these chunks lie side by side and hold nothing else, so
            # that no rule ends a run between them.
            for number in range(old.chunk, piece_numbers(old, self._chunks).stop):
                self._live[number] = self._chunks[number].raw
        else:
            self._live[old.chunk] += old.raw_span

    def _note_link(self, same: Entry) -> None:
        if same.type == "hardlink":
            group = self._groups.setdefault(same.link_name, _LinkGroup())
            group.link_chunks.add(same.chunk)
        else:
            self._groups.setdefault(same.name, _LinkGroup()).first_chunk = same.chunk

    def decide(self, smallest_run_bytes: int, most_runs: int) -> Reuse:
        """Choose the chunks to keep, after `join` was read to its end.

        Args:
            smallest_run_bytes: stored bytes of the shortest run that can be copied.
            most_runs: how many runs there may be; beyond that the shortest are given up.
        """
        dropped = {
            "deleted or retyped": 0,
            "too many stale bytes": 0,
            "links to what is written anew": 0,
            "run too short": 0,
        }
        keep = bytearray(len(self._chunks))
        for number, chunk in enumerate(self._chunks):
            if not self._live[number]:
                continue
            if self._must_go[number]:
                dropped["deleted or retyped"] += 1
            elif chunk.raw - self._live[number] > DEAD_SHARE * chunk.raw:
                dropped["too many stale bytes"] += 1
            else:
                keep[number] = 1
        while True:
            before = sum(keep)
            self._drop_links(keep)
            tied = sum(keep)
            runs = _legal_runs(keep, self._stored_length, smallest_run_bytes, most_runs)
            after = sum(keep)
            dropped["links to what is written anew"] += before - tied
            dropped["run too short"] += tied - after
            if after == before:
                return self._reuse(runs, keep, dropped)

    def _drop_links(self, keep: bytearray) -> None:
        """Give up links whose file would come after them: because it is written anew, or because
        it lies in what an interrupted run left, and the link in the archive before."""
        for group in self._groups.values():
            first = group.first_chunk
            for number in group.link_chunks:
                if first < 0 or not keep[first] or number < first:
                    keep[number] = 0

    def _stored_length(self, run: range) -> int:
        first, last = self._chunks[run[0]], self._chunks[run[-1]]
        return last.offset + last.length - first.offset

    def _reuse(self, runs: list[range], keep: bytearray, dropped: dict[str, int]) -> Reuse:
        moved = [-1] * len(keep)
        following = 0
        for run in runs:
            for number in run:
                moved[number] = following
                following += 1
        kept_bytes = sum(self._stored_length(run) for run in runs)
        is_all_kept = all(
            new == old if self._live[old] else new in (-1, old) for old, new in enumerate(moved)
        )
        return Reuse(runs, moved, kept_bytes, self.counts, dropped, is_all_kept)


def _same_path(one: Entry, other: Entry) -> bool:
    return one.path == other.path and one.path_b64 == other.path_b64


def _legal_runs(
    keep: bytearray, length_of: Callable[[range], int], smallest_bytes: int, most: int
) -> list[range]:
    """The runs of what is kept, without those too short and without the shortest of too many;
    these are taken out of `keep`."""
    longest = sorted(_runs_of(keep), key=length_of, reverse=True)
    for place, run in enumerate(longest):
        if place >= most or length_of(run) < smallest_bytes:
            keep[run.start : run.stop] = bytes(len(run))
    return _runs_of(keep)


def _runs_of(keep: bytearray) -> list[range]:
    runs: list[range] = []
    start = keep.find(1)
    while start >= 0:
        end = keep.find(0, start)
        end = len(keep) if end < 0 else end
        runs.append(range(start, end))
        start = keep.find(1, end)
    return runs
