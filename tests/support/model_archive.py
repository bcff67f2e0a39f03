"""A model of tree, archive and `tar x` in memory, so that the policy meets thousands of histories.

`ModelTar.extract` is stricter than GNU tar: it refuses whatever some tar would trip over, such
as a link over a name that is there, or writing through a hardlink.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from backup_tasks.format.manifest import Chunk, Entry, EntryType, PlacedEntry, name_fields, walk_key
from backup_tasks.reuse import plan as plan_room
from backup_tasks.reuse.late_links import LateLinks
from backup_tasks.reuse.plan import PlannedEntry, Reuse, ReusePlanner, is_large, piece_numbers

# Mode, mtime, xattrs, and bytes or the link's target: what extraction must bring back.
State = tuple[str, int, int, str, bytes]


@dataclass
class Inode:
    kind: EntryType
    number: int
    content: bytearray = field(default_factory=bytearray)
    target: str = ""
    mode: int = 0o644
    mtime_ns: int = 0
    ctime_ns: int = 0
    xattrs: str = ""

    @property
    def state(self) -> State:
        return (self.kind, self.mode, self.mtime_ns, self.xattrs, self._bytes())

    @property
    def sha256(self) -> str:
        return f"of {self._bytes().hex()}"

    def _bytes(self) -> bytes:
        return self.target.encode() if self.kind == "symlink" else bytes(self.content)


class ModelTree:
    """See `histories.Tree`. A clock ticks with every change."""

    def __init__(self) -> None:
        self.inodes: dict[str, Inode] = {}
        self._clock = itertools.count(10**18, 10**7)
        self._numbers = itertools.count(1)
        self.now = 10**18

    def _tick(self) -> int:
        self.now = next(self._clock)
        return self.now

    def _changed(self, path: str) -> Inode:
        inode = self.inodes[path]
        inode.ctime_ns = inode.mtime_ns = self._tick()
        return inode

    def _new(self, path: str, kind: EntryType) -> Inode:
        inode = self.inodes[path] = Inode(kind, next(self._numbers))
        return self._changed(path) and inode

    def kind(self, path: str) -> str:
        inode = self.inodes.get(path)
        return "" if inode is None else {"file": "file", "dir": "folder"}.get(inode.kind, "other")

    def size(self, path: str) -> int:
        return len(self.inodes[path].content)

    def remove(self, path: str) -> None:
        for name in list(self.inodes):
            if name == path or name.startswith(path + "/"):
                self.inodes.pop(name).ctime_ns = self._tick()

    def folder(self, path: str) -> None:
        self._new(path, "dir")

    def write(self, path: str, seed: int, start: int, length: int) -> None:
        if path not in self.inodes:
            self._new(path, "file")
        end = start + length
        self._changed(path).content[start:end] = (b"%08d" % seed * (length // 8 + 1))[:length]

    def truncate(self, path: str, size: int) -> None:
        del self._changed(path).content[size:]

    def sneak(self, path: str, seed: int) -> None:
        mtime_ns = self.inodes[path].mtime_ns
        self.write(path, seed, 0, self.size(path))
        self.inodes[path].mtime_ns = mtime_ns

    def touch(self, path: str, seed: int) -> None:
        self._changed(path)

    def chmod(self, path: str, mode: int) -> None:
        self.inodes[path].mode = mode
        self.inodes[path].ctime_ns = self._tick()

    def xattr(self, path: str, seed: int) -> None:
        self.inodes[path].xattrs = str(seed)
        self.inodes[path].ctime_ns = self._tick()

    def rename(self, path: str, other: str) -> None:
        inode = self.inodes[other] = self.inodes.pop(path)
        inode.ctime_ns = self._tick()

    def link(self, path: str, other: str) -> None:
        self.inodes[other] = self.inodes[path]
        self.inodes[path].ctime_ns = self._tick()

    def symlink(self, path: str, target: str) -> None:
        self._new(path, "symlink").target = target

    def fifo(self, path: str) -> None:
        self._new(path, "fifo")

    def move_disk(self) -> None:
        """All as before, on another disk."""
        for inode in {id(i): i for i in self.inodes.values()}.values():
            inode.number += 1000
            inode.ctime_ns = self._tick()

    def walk(self) -> Iterator[Entry]:
        """As `snapshot.Walk` meets the entries, without folders."""
        firsts: dict[int, str] = {}
        for name in sorted(self.inodes, key=walk_key):
            inode = self.inodes[name]
            if inode.kind == "dir":
                continue
            path, path_b64 = name_fields(name)
            entry = Entry(path=path, path_b64=path_b64, type=inode.kind, mode=inode.mode)
            entry.size = len(inode.content)
            entry.mtime_ns, entry.ctime_ns = inode.mtime_ns, inode.ctime_ns
            entry.inode, entry.link = inode.number, inode.target
            entry.nlink = sum(other is inode for other in self.inodes.values())
            if inode.number in firsts:
                entry.type, entry.size = "hardlink", 0
                entry.link, entry.link_b64 = name_fields(firsts[inode.number])
            firsts.setdefault(inode.number, name)
            yield entry


@dataclass(frozen=True)
class _Record:
    """One tar entry, or a piece of the content of the large one before it."""

    name: str
    kind: str
    link: str = ""
    state: State | None = None
    piece: bytes = b""
    has_pieces: bool = False


@dataclass
class ModelArchive:
    """Chunks with what stands in them, and the manifest.

    Attributes:
        stored: bytes that a raw byte takes when stored, at least 1.
    """

    chunks: list[Chunk] = field(default_factory=list)
    records: list[list[_Record]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    started_ns: int = 0

    def add(self, records: list[_Record], raw: int, length: int | None = None) -> None:
        last = self.chunks[-1] if self.chunks else Chunk(0, 0, "", 0)
        # Some chunks shrink to nearly nothing, some not at all.
        stored = length or max(20, raw // (1 + 7 * (hash(tuple(records)) % 2)))
        self.chunks.append(Chunk(last.offset + last.length, stored, "", raw))
        self.records.append(records)

    def live_and_dead_bytes(self) -> tuple[int, int]:
        """Raw bytes of the chunks: of entries that the manifest names, and of others."""
        live = sum(
            sum(self.chunks[n].raw for n in (entry.chunk, *piece_numbers(entry, self.chunks)))
            if is_large(entry)
            else entry.raw_span
            for entry in self.entries
        )
        return live, sum(chunk.raw for chunk in self.chunks) - live


class ModelBackup:
    """Makes archive after archive of a tree, as the writing rooms do."""

    def __init__(self, tree: ModelTree, smallest_run: int, most_ranges: int) -> None:
        self.tree = tree
        self._smallest_run, self._most_runs = smallest_run, most_ranges
        self.archive = ModelArchive()
        self.reuse: Reuse | None = None
        self.read_again: list[str] = []

    def run(self, *, margin_ns: int = 0) -> ModelArchive:
        """One more backup; files changed within the margin before it count as unsettled."""
        last, new = self.archive, ModelArchive(started_ns=self.tree.now + 1)
        self.read_again = []
        planner = ReusePlanner(last.chunks, last.started_ns - margin_ns, self._is_same_content)
        leaves, late = apart(self.tree.walk())
        planned = list(planner.join(leaves, _placed(last.entries)))
        reuse = self.reuse = planner.decide(self._smallest_run, self._most_runs)
        for run in reuse.ranges:
            for number in run:
                old = last.chunks[number]
                new.add(last.records[number], old.raw, old.length)
        written = _Packer(new, self.tree)
        for plan in planned:
            new.entries.append(self._entry(plan, reuse, written))
        written.flush()
        new.entries += [written.write(entry) for entry in late]
        new.entries.sort(key=lambda entry: entry.walk_key)
        written.flush()
        self.archive = new
        return new

    def _entry(self, plan: PlannedEntry, reuse: Reuse, packer: _Packer) -> Entry:
        if plan.is_same and reuse.keeps(plan.entry):
            return reuse.move(plan.entry)
        old = plan.entry if plan.is_same else plan.old
        stale = reuse.stale_after(old) if old is not None else ()
        entry = packer.write(plan.entry)
        entry.stale = stale
        return entry

    def _is_same_content(self, entry: Entry, old: Entry) -> bool:
        self.read_again.append(entry.name)
        inode = self.tree.inodes[entry.name]
        return (inode.sha256, inode.xattrs) == (old.sha256, old.xattrs)


def apart(entries: Iterable[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Entries that may be kept, and late links, which never are."""
    late_links = LateLinks()
    leaves: list[Entry] = []
    late: list[Entry] = []
    for entry in entries:
        (late if late_links.has(entry) else leaves).append(entry)
    return leaves, late


def _placed(entries: Iterable[Entry]) -> Iterator[PlacedEntry]:
    for number, entry in enumerate(entries):
        yield _copy(entry), number, number + 1


def _copy(entry: Entry) -> Entry:
    """What went through a file, as a manifest does, is no longer the same object."""
    import msgspec

    return msgspec.json.decode(msgspec.json.encode(entry), type=Entry)


class _Packer:
    """Puts entries into chunks by the rules of `ArchiveBuilder`."""

    def __init__(self, archive: ModelArchive, tree: ModelTree) -> None:
        self._archive = archive
        self._tree = tree
        self._records: list[_Record] = []
        self._raw = 0

    def write(self, entry: Entry) -> Entry:
        inode = self._tree.inodes[entry.name]
        link = entry.link_name if entry.type == "hardlink" else ""
        # Small, so that a chunk holds many and some may be dead; is_large goes by the size.
        is_file = entry.type == "file"
        entry.span = 0 if is_large(entry) else 200 + entry.size // 8 if is_file else 200
        entry.sha256, entry.xattrs = inode.sha256, inode.xattrs
        record = _Record(entry.name, entry.type, link, inode.state, has_pieces=is_large(entry))
        if is_large(entry):
            self._write_large(entry, record)
            return entry
        if self._raw + entry.raw_span > plan_room.CHUNK_BYTES:
            self.flush()
        entry.chunk, entry.offset = len(self._archive.chunks), self._raw
        self._records.append(record)
        self._raw += entry.raw_span
        return entry

    def _write_large(self, entry: Entry, record: _Record) -> None:
        self.flush()
        entry.chunk, entry.offset = len(self._archive.chunks), 0
        content = bytes(self._tree.inodes[entry.name].content)
        self._archive.add([record], 1536)
        for start in range(0, len(content), plan_room.CHUNK_BYTES):
            piece = content[start : start + plan_room.CHUNK_BYTES]
            padded = len(piece) + -len(piece) % 512
            self._archive.add([_Record(entry.name, "piece", piece=piece)], padded)

    def flush(self) -> None:
        if self._records:
            self._archive.add(self._records, self._raw)
        self._records, self._raw = [], 0


def extract(archive: ModelArchive) -> dict[str, tuple[State, frozenset[str]]]:
    """What plain tar makes of the chunks alone: path -> state and the names of its inode.

    Raises AssertionError for whatever some tar would trip over.
    """
    made: dict[str, list[State]] = {}
    records = [record for chunk in archive.records for record in chunk]
    for place, record in enumerate(records):
        if record.kind == "piece":
            continue
        _check_pieces(record, records[place + 1 :])
        assert not any(name.startswith(record.name + "/") for name in made), "over a folder"
        parts = record.name.split("/")
        uppers = {"/".join(parts[:end]) for end in range(1, len(parts))}
        assert not uppers & made.keys(), "below what is no folder"
        if record.kind == "hardlink":
            assert record.link in made, "a link to what is not there yet"
            assert record.name not in made, "a link over a name that is there"
            made[record.name] = made[record.link]
            continue
        if record.name in made:
            assert record.kind == made[record.name][0][0] == "file", "over another type"
            sharing = [name for name, inode in made.items() if inode is made[record.name]]
            assert len(sharing) == 1, "through a hardlink"
        assert record.state is not None
        made[record.name] = [record.state]
    return _states(made)


def _check_pieces(record: _Record, following: list[_Record]) -> None:
    pieces = itertools.takewhile(lambda r: r.kind == "piece", following)
    found = [(piece.name, piece.piece) for piece in pieces]
    if not record.has_pieces:
        assert not found, "pieces of nothing"
        return
    assert record.state is not None
    assert {name for name, _ in found} <= {record.name}, "pieces of another file"
    assert b"".join(piece for _, piece in found) == record.state[4], "other pieces"


def expected(tree: ModelTree) -> dict[str, tuple[State, frozenset[str]]]:
    """What the tree is, in the words of `extract`."""
    leaves = {name: inode for name, inode in tree.inodes.items() if inode.kind != "dir"}
    return {
        name: (inode.state, frozenset(n for n, other in leaves.items() if other is inode))
        for name, inode in leaves.items()
    }


def _states(made: dict[str, list[State]]) -> dict[str, tuple[State, frozenset[str]]]:
    return {
        name: (inode[0], frozenset(n for n, other in made.items() if other is inode))
        for name, inode in made.items()
    }
