"""Uses what interrupted runs left, and removes it when the next run is done.

A staging object that arrived in part is completed as an object, checked against its journal, and
put behind the previous backup, as if both were one archive whose chunks can be reused. If both hold
an entry of one path, the later one counts, as it does for tar.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial

import msgspec
from msgspec import Struct

from backup_tasks.archive.builder import Base, join_bases
from backup_tasks.chunks.reader import read_chunks
from backup_tasks.errors import ObjectChanged, ObjectMissing
from backup_tasks.filesystem.writeback import LEAST_MARGIN_NS
from backup_tasks.format.manifest import Chunk, Entry, PlacedEntry, encode_line
from backup_tasks.previous.archive import PreviousBackup, settled_before_ns
from backup_tasks.reuse.plan import is_large, packed_chunks, piece_numbers
from backup_tasks.spools.records import LineSpool
from backup_tasks.staging.journal import StagedRun, Staging
from backup_tasks.staging.leftovers import do_each
from backup_tasks.stores.base import Store, StoredObject, Unfinished

# No file has this ctime, so an entry with it is compared by content.
_NO_CTIME = -1
_ALWAYS_NS = 2**63 - 1


def discard_runs(
    store: Store, runs: Iterable[StagedRun], unfinished: Collection[Unfinished] | None = None
) -> None:
    """Remove what these runs left in the store, then their journals.

    After an error, the remaining journals still say what must be removed.

    Args:
        unfinished: uploads under way, as listed; None if the runs committed theirs.

    Raises:
        StoreError: the store cannot be reached, or refuses to remove something.
        OSError: a journal cannot be removed.
    """
    do_each(partial(_discard_run, store, run, unfinished) for run in runs)


def _discard_run(store: Store, run: StagedRun, unfinished: Collection[Unfinished] | None) -> None:
    staging = run.staging
    if staging is not None and staging.store == store.url:
        uploads = _uploads_of(run, staging, unfinished) if unfinished is not None else []
        ends = [partial(store.end_unfinished, upload) for upload in uploads]
        do_each([*ends, partial(store.delete, staging.name)])
    run.forget()


def _uploads_of(
    run: StagedRun, staging: Staging, unfinished: Collection[Unfinished]
) -> list[Unfinished]:
    """The uploads that may hold the staging object; the noted one even if it is not listed."""
    found = [upload for upload in unfinished if upload.name == staging.name]
    if not found and run.upload_id:
        started_at = datetime.fromisoformat(staging.started_at)
        found = [Unfinished(staging.name, run.upload_id, started_at)]
    return found


class Salvaged(Struct, frozen=True):
    """What the store has of an interrupted run.

    Attributes:
        stored: its staging object.
        chunks: the checked chunks in the object.
    """

    run: StagedRun
    staging: Staging
    stored: StoredObject
    chunks: Sequence[Chunk]

    def entries(self, first_number: int, margin_ns: int) -> Iterator[Entry]:
        """The entries that arrived whole, with chunks numbered from `first_number` on.

        Args:
            margin_ns: as in `settled_before_ns`.
        """
        settled_ns = settled_before_ns(self.staging.started_at, margin_ns)
        for entry in self.run.entries():
            entry.chunk -= self.staging.first_chunk
            entry.stale = ()
            if not self._is_whole(entry):
                continue
            if entry.ctime_ns >= settled_ns:
                entry.ctime_ns = _NO_CTIME
            entry.chunk += first_number
            yield entry

    def _is_whole(self, entry: Entry) -> bool:
        chunks = self.chunks
        if not (0 <= entry.chunk < len(chunks) and entry.offset >= 0 and entry.size >= 0):
            return False
        stop = piece_numbers(entry, chunks).stop if is_large(entry) else entry.chunk + 1
        raw_bytes = sum(chunk.raw for chunk in chunks[entry.chunk : stop])
        return entry.offset + entry.raw_span <= raw_bytes

    def pieces(self, first_number: int) -> dict[str, range]:
        """Large file -> the chunks with its first bytes, numbered from `first_number` on."""
        found = {}
        for entry in self.run.begun:
            entry.chunk -= self.staging.first_chunk
            if 0 <= entry.chunk < len(self.chunks) and is_large(entry):
                there = piece_numbers(entry, self.chunks)
                found[entry.name] = range(there.start + first_number, there.stop + first_number)
        return found


def salvage_runs(
    store: Store, runs: Sequence[StagedRun], unfinished: Collection[Unfinished]
) -> list[Salvaged]:
    """What the store has of interrupted runs, as far as it is worth copying from.

    A crash in the middle loses nothing: the next run finds the same.

    Raises:
        StoreError: the store fails.
    """
    found = []
    for run in runs:
        staging = run.staging
        if staging is None or staging.store != store.url:
            continue
        stored = _object_of(store, run, staging, unfinished)
        chunks = _sound_chunks(store, run, stored) if stored is not None else []
        if stored and sum(chunk.length for chunk in chunks) >= max(1, store.limits.smallest):
            found.append(Salvaged(run, staging, stored, chunks))
    return found


def _object_of(
    store: Store, run: StagedRun, staging: Staging, unfinished: Collection[Unfinished]
) -> StoredObject | None:
    try:
        stored: StoredObject | None = store.stat(staging.name)
    except ObjectMissing:
        stored = None
    for upload in _uploads_of(run, staging, unfinished):
        if stored is None:
            stored = store.salvage(upload)
        else:
            store.end_unfinished(upload)
    return stored


def _sound_chunks(store: Store, run: StagedRun, stored: StoredObject) -> list[Chunk]:
    """The chunks that the object holds for certain.

    If parts arrive whole or not at all, the hash of the last chunk shows whether the journal is
    about these very bytes. Otherwise every chunk is read.
    """
    chunks = [chunk for chunk in run.chunks if chunk.end <= stored.size]
    numbers = range(len(chunks))[-1:] if store.salvage_is_sure else range(len(chunks))
    try:
        for read in read_chunks(store, stored, chunks, numbers, is_known=lambda _: True):
            if read.damage:
                return [] if store.salvage_is_sure else chunks[: read.number]
    except (ObjectMissing, ObjectChanged):
        return []
    return chunks


def build_on(
    last: PreviousBackup | None, found: Sequence[Salvaged], margin_ns: int = LEAST_MARGIN_NS
) -> PreviousBackup:
    """Join the previous backup, if any, and what interrupted runs left, for the next to build on.

    The interrupted runs had read everything that they wrote. So without a previous backup, the next
    one counts as full from the start of the first of these runs.

    Args:
        last: used up; close the returned backup instead.
        found: the earliest run first, at least one.
        margin_ns: as in `settled_before_ns`.
    """
    before = [(last.base.objects[0][1], last.base.chunks)] if last else []
    base = join_bases([*before, *((run.stored, run.chunks) for run in found)])
    firsts = [first for first, _ in base.objects[len(before) :]]
    arrived: dict[str, Sequence[int]] = {}
    entries: Iterator[Entry] = _entries_of(last) if last else iter(())
    for run, first in zip(found, firsts, strict=True):
        entries = _merged(run.entries(first, margin_ns), entries)
        for path, numbers in run.pieces(first).items():
            arrived[path] = (*numbers, *arrived.get(path, ())[len(numbers) :])
    lines = LineSpool()
    try:
        for entry in entries:
            lines.append(encode_line(entry))
    except BaseException:
        lines.close()
        raise
    finally:
        if last:
            last.close()
    started_at = found[0].staging.started_at
    return PreviousBackup(
        base=Base(base.objects, base.chunks, arrived),
        index=_MergedEntries(lines),
        name=last.name if last else "",
        started_at=last.started_at if last else started_at,
        full_at=last.full_at if last else started_at,
        settled_before_ns=_ALWAYS_NS,
        recipients=last.recipients if last else (),
        needed=last.needed if last else (),
    )


def _entries_of(last: PreviousBackup) -> Iterator[Entry]:
    for entry, _, _ in last.index.placed_entries():
        if entry.type != "dir" and entry.ctime_ns >= last.settled_before_ns:
            entry.ctime_ns = _NO_CTIME
        yield entry


def _merged(newer: Iterator[Entry], older: Iterator[Entry]) -> Iterator[Entry]:
    """Join two streams in the order of the walk; if both have a path, the newer entry is first."""
    new, old = next(newer, None), next(older, None)
    while new is not None and old is not None:
        new_key, old_key = new.walk_key, old.walk_key
        if new_key < old_key:
            yield new
            new = next(newer, None)
        elif old_key < new_key:
            yield old
            old = next(older, None)
        else:
            yield from _one_path(new, old)
            new, old = next(newer, None), next(older, None)
    if new is not None:
        yield new
    if old is not None:
        yield old
    yield from newer
    yield from older


def _one_path(new: Entry, old: Entry) -> Iterator[Entry]:
    """The newer entry, which notes the chunks that still hold the older one.

    If tar would trip over the older entry, it follows as well. Nothing in the walk is left to match
    it, so it counts as deleted, and its chunk must go.
    """
    if new.type == old.type == "file":
        new.stale = tuple(sorted({*new.stale, *packed_chunks(old)}))
        yield new
    elif old.type == "dir":
        yield new
    else:
        yield new
        yield old


class _MergedEntries:
    """The entries of several objects. An `EntryIndex`."""

    def __init__(self, lines: LineSpool) -> None:
        self._lines = lines
        self._decode = msgspec.json.Decoder(Entry).decode_lines

    def placed_entries(self) -> Iterator[PlacedEntry]:
        # No manifest has these lines, so none can be taken over unchanged.
        for block in self._lines.blocks():
            for entry in self._decode(block):
                yield entry, -1, -1

    def lines_between(self, start: int, end: int) -> bytes:
        raise AssertionError(f"no entry here has a place, so none from {start} to {end}")

    def close(self) -> None:
        self._lines.close()
