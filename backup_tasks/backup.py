"""One backup: compare the sources with the last archive, write one that stands alone, commit it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO

from backup_tasks import __version__
from backup_tasks.archive import ArchiveBuilder
from backup_tasks.entry_writer import FOLDER_LINE, EntryWriter
from backup_tasks.errors import CopyRefused, CopyUnsupported, ObjectChanged, ObjectMissing
from backup_tasks.folders import OPEN_FOLDER
from backup_tasks.footer import FORMAT_VERSION
from backup_tasks.journal import Problem, RunRecord, open_log
from backup_tasks.last_archive import FIRST_ARCHIVE, CopyMemory, LastArchive, find_last_archive
from backup_tasks.leftovers import UploadNote, end_leftovers
from backup_tasks.manifest import Header, write_manifest
from backup_tasks.manifest_cache import ManifestCache
from backup_tasks.naming import choose_free_name
from backup_tasks.paths import Paths
from backup_tasks.profile_model import Profile
from backup_tasks.progress import Progress
from backup_tasks.spool import SPILL_BYTES, LineSpool
from backup_tasks.state import state_key
from backup_tasks.steps import LeafLines
from backup_tasks.stores.base import ArchiveWriter, Store, StoredObject
from backup_tasks.survey import BackupPlan, Survey, plan_backup, survey_sources
from backup_tasks.text import one_line, printable
from backup_tasks.upload import IN_FLIGHT_BYTES, PartAssembler, plan_part_bytes

# What an entry's headers and manifest line take, at most, in an estimate.
_ENTRY_OVERHEAD_BYTES = 2048


@dataclass(frozen=True, slots=True)
class BackupRun:
    """What one run needs: whose backup, where to, when, and what to call.

    Attributes:
        now: the run's start, aware; it gives the backup its name.
        clock: reads the time, for the moment when the manifest is written.
        full: read and send everything, whatever could be kept.
    """

    profile: Profile
    store: Store
    paths: Paths
    now: datetime
    clock: Callable[[], datetime]
    progress: Progress
    full: bool = False

    @property
    def _key(self) -> str:
        return state_key(self.profile.name, self.store.url)

    @property
    def cache(self) -> ManifestCache:
        return ManifestCache(self.paths.state, self._key)

    @property
    def upload_note(self) -> UploadNote:
        return UploadNote(self.paths.state, self._key)

    @property
    def copy_memory(self) -> CopyMemory:
        return CopyMemory(self.paths.state, self._key)


def run_backup(run: BackupRun, record: RunRecord) -> None:
    """Back up the profile's sources as one new archive; fills in `record` as it goes.

    A crash, a kill or an exception at any point leaves no backup: at most an upload, which
    the next run ends. When the last archive vanishes meanwhile, or the store refuses to copy
    from it, everything is sent instead.

    Raises: SourceError, StoreError, ObjectExists.
    """
    end_leftovers(run.store, run.upload_note, run.now)
    last, why_full = _choose_last(run, record.host)
    if last is not None:
        try:
            _write_backup(run, last, record)
            return
        except (CopyRefused, ObjectChanged, ObjectMissing) as error:
            if isinstance(error, CopyUnsupported):
                run.copy_memory.remember(run.now)
            why_full = one_line(str(error))
            record.problems.clear()
        finally:
            last.close()
    if why_full != FIRST_ARCHIVE:
        open_log(run.paths).info(
            "backup %s: everything is read and sent: %s", run.profile.name, why_full
        )
    _write_backup(run, None, record)


def run_backup_plan(run: BackupRun, host: str) -> BackupPlan:
    """What `run_backup` would do now, and why. Writes nothing."""
    last, why_full = _choose_last(run, host)
    try:
        return plan_backup(run.profile, last, why_full, run.store.limits, run.progress)
    finally:
        if last is not None:
            last.close()


def _choose_last(run: BackupRun, host: str) -> tuple[LastArchive | None, str]:
    if run.full:
        return None, "--full was asked for"
    if run.copy_memory.refused(run.now):
        return None, "the store refused to copy on its own side"
    return find_last_archive(run.profile, run.store, run.cache, host, run.now)


def _write_backup(run: BackupRun, last: LastArchive | None, record: RunRecord) -> None:
    def report(path: str, reason: str) -> None:
        record.problems.append(Problem(printable(path), reason))

    survey = survey_sources(run.profile, last, run.store.limits, report, run.progress)
    note = run.upload_note
    try:
        with tempfile.SpooledTemporaryFile(SPILL_BYTES) as end:
            taken = {stored.name for stored in run.store.list_objects()}
            name = choose_free_name(run.now, run.profile.tzinfo, taken)
            writer = run.store.write(name, in_flight_bytes=IN_FLIGHT_BYTES)
            try:
                note.write(writer.upload_id)
                _Writing(run, last, survey, record, report).write(writer, end)
                stored = writer.commit()
            except BaseException:
                writer.abort()
                raise
            finally:
                note.clear()
            end.seek(0)
            run.cache.write(stored, end.read())
    finally:
        survey.close()
    _finish(record, stored)


def _finish(record: RunRecord, stored: StoredObject) -> None:
    record.archive = stored.name
    record.archive_bytes = stored.size
    if record.problems:
        record.result, record.exit_code = "incomplete", 3


@dataclass(frozen=True, slots=True)
class _Writing:
    """The bytes of one archive, from the first chunk to the footer."""

    run: BackupRun
    last: LastArchive | None
    survey: Survey
    record: RunRecord
    report: Callable[[str, str], None]

    def write(self, writer: ArchiveWriter, end: IO[bytes]) -> None:
        """Write everything; `end` gets a copy of what follows the chunks."""
        survey, run, limits = self.survey, self.run, self.run.store.limits
        estimate = survey.read_bytes + survey.count * _ENTRY_OVERHEAD_BYTES
        parts = PartAssembler(writer, limits, plan_part_bytes(estimate, limits))
        builder = ArchiveBuilder(parts, run.profile.backup.compression_level)
        root = os.open("/", OPEN_FOLDER)
        base = self.last.base if self.last else None
        run.progress.start("backing up", survey.read_bytes, survey.count)
        try:
            if base is not None:
                builder.keep(base, survey.reuse.runs)
            entries = EntryWriter(builder, self.report, run.progress, root, survey.reuse, base)
            with LineSpool() as lines, LineSpool() as folder_lines:
                kept_lines = LeafLines(self.last.leaf_lines() if self.last else iter(()))
                for line in entries.write_all(survey.steps, kept_lines):
                    lines.append(line)
                for line in entries.write_folders(survey.folders):
                    folder_lines.append(line)
                builder.end_entries()
                header = self._header(builder, entries, parts)
                _add_manifest(builder, header, _with_folders(lines, folder_lines), end)
        finally:
            os.close(root)
            builder.close()
        self.record.files = entries.totals.files
        self.record.raw_bytes = entries.totals.raw_bytes
        self.record.sent_bytes = parts.sent_bytes
        self.record.copied_bytes = parts.copied_bytes

    def _header(
        self, builder: ArchiveBuilder, written: EntryWriter, parts: PartAssembler
    ) -> Header:
        last, started_at = self.last, _utc(self.run.now)
        return Header(
            format=FORMAT_VERSION,
            profile=self.run.profile.name,
            host=self.record.host,
            started_at=started_at,
            written_at=_utc(self.run.clock()),
            tool=f"backup-tasks {__version__}",
            sources=self.run.profile.backup.sources,
            entries=written.totals.entries,
            files=written.totals.files,
            raw_bytes=written.totals.raw_bytes,
            chunks=len(builder.chunks),
            chunk_bytes=sum(chunk.length for chunk in builder.chunks),
            problems=len(self.record.problems),
            copied_from=last.base.stored.name if last else "",
            copied_bytes=parts.copied_bytes,
            full_at=last.manifest.header.full_at if last else started_at,
        )


def _with_folders(lines: Iterable[bytes], folder_lines: Iterable[bytes]) -> Iterator[bytes]:
    """Put the folders' lines where they belong in the order of the walk."""
    folders = iter(folder_lines)
    for line in lines:
        found = next(folders) if line == FOLDER_LINE else line
        if found != FOLDER_LINE:
            yield found


def _add_manifest(
    builder: ArchiveBuilder, header: Header, entry_lines: Iterable[bytes], end: IO[bytes]
) -> None:
    with tempfile.TemporaryFile() as lines:
        write_manifest(lines, header, builder.chunks, entry_lines)
        size = lines.tell()
        lines.seek(0)
        builder.add_manifest(lines, size, end)


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
