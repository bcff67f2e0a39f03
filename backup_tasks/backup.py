"""One backup: walk the sources, write one archive, commit it in one atomic step."""

from __future__ import annotations

import heapq
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from backup_tasks import __version__
from backup_tasks.archive import ArchiveBuilder
from backup_tasks.entry_writer import EntryWriter
from backup_tasks.folders import OPEN_FOLDER
from backup_tasks.footer import FORMAT_VERSION
from backup_tasks.journal import Problem, RunRecord
from backup_tasks.leftovers import UploadNote, end_leftovers
from backup_tasks.manifest import MANIFEST_PATH, Entry, Header, write_manifest
from backup_tasks.naming import choose_free_name
from backup_tasks.paths import Paths
from backup_tasks.patterns import PathPatterns
from backup_tasks.profile_model import Profile
from backup_tasks.progress import Progress
from backup_tasks.snapshot import Walk, WalkRules, plan_sources
from backup_tasks.spool import EntrySpool
from backup_tasks.stores.base import ArchiveWriter, Store
from backup_tasks.text import printable
from backup_tasks.upload import IN_FLIGHT_BYTES, PartAssembler, plan_part_bytes

# What an entry's headers and manifest line take, at most, in an estimate.
_ENTRY_OVERHEAD_BYTES = 2048


@dataclass(slots=True)
class SourceTotals:
    """What lies below one source: entries of any kind, and content bytes of its files."""

    entries: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Snapshot:
    """The sources as one walk saw them.

    Attributes:
        leaves: everything but folders, in the order of the walk; folders: those.
        totals: source -> what lies below it.
        sockets: sockets met, which are not stored.
    """

    leaves: EntrySpool = field(default_factory=EntrySpool)
    folders: EntrySpool = field(default_factory=EntrySpool)
    totals: dict[str, SourceTotals] = field(default_factory=dict)
    content_bytes: int = 0
    sockets: int = 0

    @property
    def count(self) -> int:
        """Entries of any kind."""
        return self.leaves.count + self.folders.count

    def close(self) -> None:
        """Free memory and temporary files."""
        self.leaves.close()
        self.folders.close()


def take_snapshot(
    profile: Profile, report: Callable[[str, str], None], progress: Progress
) -> Snapshot:
    """Walk the profile's sources. Raises SourceError when none of them is there."""
    rules = profile.backup
    tree, missing = plan_sources(rules.sources)
    for path, reason in missing.items():
        report(path, reason)
    walk_rules = WalkRules(
        excludes=PathPatterns(rules.exclude),
        exclude_caches=rules.exclude_caches,
        exclude_if_present=rules.exclude_if_present,
        one_file_system=rules.one_file_system,
        skip=frozenset({MANIFEST_PATH, *_own_folder(profile)}),
    )
    walk = Walk(tree, walk_rules, report)
    snapshot = Snapshot(totals={s: SourceTotals() for s in rules.sources if s not in missing})
    prefixes = [(os.path.realpath(s).lstrip("/"), totals) for s, totals in snapshot.totals.items()]
    progress.start("looking", 0, 0)
    for entry in walk.entries():
        (snapshot.folders if entry.type == "dir" else snapshot.leaves).append(entry)
        snapshot.content_bytes += entry.size
        for prefix, totals in prefixes:
            if _is_below(entry.name, prefix):
                totals.entries += 1
                totals.bytes += entry.size
        progress.advance(0, 1)
    snapshot.sockets = walk.sockets
    return snapshot


def _own_folder(profile: Profile) -> list[str]:
    """The folder of a directory store: archives of archives would double with every run."""
    if profile.store.kind != "directory":
        return []
    return [os.path.realpath(profile.store.directory).lstrip("/")]


def _is_below(path: str, prefix: str) -> bool:
    return not prefix or path == prefix or path.startswith(prefix + "/")


def plan_backup(profile: Profile, progress: Progress) -> BackupPlan:
    """What a backup would read now. Touches no store."""
    problems: list[Problem] = []

    def report(path: str, reason: str) -> None:
        problems.append(Problem(printable(path), reason))

    with progress:
        snapshot = take_snapshot(profile, report, progress)
    snapshot.close()
    return BackupPlan(snapshot.totals, snapshot.count, snapshot.content_bytes, problems)


@dataclass(frozen=True, slots=True)
class BackupPlan:
    """What a dry run tells.

    Attributes:
        totals: source -> what lies below it (what two sources share counts in both).
        entries, content_bytes: of all sources together.
        problems: what is missing or cannot be looked at.
    """

    totals: dict[str, SourceTotals]
    entries: int
    content_bytes: int
    problems: list[Problem]


@dataclass(frozen=True, slots=True)
class BackupRun:
    """What one run needs: whose backup, where to, when, and what to call.

    Attributes:
        now: the run's start, aware; it gives the backup its name.
        clock: reads the time, for the moment when the manifest is written.
    """

    profile: Profile
    store: Store
    paths: Paths
    now: datetime
    clock: Callable[[], datetime]
    progress: Progress


def run_backup(run: BackupRun, record: RunRecord) -> None:
    """Back up the profile's sources as one new archive; fills in `record` as it goes.

    A crash, a kill or an exception at any point leaves no backup: at most an upload, which
    the next run ends.

    Raises: SourceError, StoreError, ObjectExists.
    """

    def report(path: str, reason: str) -> None:
        record.problems.append(Problem(printable(path), reason))

    taken = {stored.name for stored in run.store.list_objects()}
    note = UploadNote(run.paths.state, run.profile.name, run.store.url)
    end_leftovers(run.store, note, run.now)
    name = choose_free_name(run.now, run.profile.tzinfo, taken)
    snapshot = take_snapshot(run.profile, report, run.progress)
    try:
        writer = run.store.write(name, in_flight_bytes=IN_FLIGHT_BYTES)
        try:
            note.write(writer.upload_id)
            _write_archive(run, snapshot, writer, record, report)
            stored = writer.commit()
        except BaseException:
            writer.abort()
            raise
        finally:
            note.clear()
    finally:
        snapshot.close()
    record.archive = name
    record.archive_bytes = stored.size
    if record.problems:
        record.result, record.exit_code = "incomplete", 3


def _write_archive(
    run: BackupRun,
    snapshot: Snapshot,
    writer: ArchiveWriter,
    record: RunRecord,
    report: Callable[[str, str], None],
) -> None:
    estimate = snapshot.content_bytes + snapshot.count * _ENTRY_OVERHEAD_BYTES
    limits = run.store.limits
    parts = PartAssembler(writer, limits, plan_part_bytes(estimate, limits))
    builder = ArchiveBuilder(parts, run.profile.backup.compression_level)
    root = os.open("/", OPEN_FOLDER)
    run.progress.start("backing up", snapshot.content_bytes, snapshot.count)
    try:
        with EntrySpool() as leaves, EntrySpool() as folders:
            entry_writer = EntryWriter(builder, report, run.progress, root)
            for entry in entry_writer.write_all(iter(snapshot.leaves)):
                leaves.append(entry)
            builder.end_chunk()
            for entry in entry_writer.write_all(iter(snapshot.folders)):
                folders.append(entry)
            builder.end_entries()
            record.files = entry_writer.totals.files
            record.raw_bytes = entry_writer.totals.raw_bytes
            header = _header_of(run, builder, entry_writer, record)
            _add_manifest(builder, header, leaves, folders)
    finally:
        os.close(root)
        builder.close()
    record.sent_bytes = parts.sent_bytes


def _header_of(
    run: BackupRun, builder: ArchiveBuilder, written: EntryWriter, record: RunRecord
) -> Header:
    return Header(
        format=FORMAT_VERSION,
        profile=run.profile.name,
        host=record.host,
        started_at=_utc(run.now),
        written_at=_utc(run.clock()),
        tool=f"backup-tasks {__version__}",
        sources=run.profile.backup.sources,
        entries=written.totals.entries,
        files=written.totals.files,
        raw_bytes=written.totals.raw_bytes,
        chunks=len(builder.chunks),
        chunk_bytes=sum(chunk.length for chunk in builder.chunks),
        problems=len(record.problems),
    )


def _add_manifest(
    builder: ArchiveBuilder, header: Header, leaves: EntrySpool, folders: EntrySpool
) -> None:
    def key(entry: Entry) -> bytes:
        return entry.walk_key

    with tempfile.TemporaryFile() as lines:
        write_manifest(lines, header, builder.chunks, heapq.merge(leaves, folders, key=key))
        size = lines.tell()
        lines.seek(0)
        builder.add_manifest(lines, size)


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
