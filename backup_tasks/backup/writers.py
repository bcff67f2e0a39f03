"""The writers of one backup: of the archive, with its early copies, and of staging objects."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial

from msgspec import Struct

from backup_tasks.backup.context import BackupRun
from backup_tasks.backup.read_back import NotedCopies
from backup_tasks.backup.scan import Scan
from backup_tasks.common.units import utc_text
from backup_tasks.errors import ObjectExists
from backup_tasks.format.archive_names import render_staging_name
from backup_tasks.previous.archive import PreviousBackup
from backup_tasks.staging.journal import Staging, StagingJournal
from backup_tasks.staging.objects import StagingObject, StagingObjects
from backup_tasks.stores.base import StoredObject
from backup_tasks.upload.early_copies import CopiesAhead, plan_ahead
from backup_tasks.upload.part_assembler import (
    IN_FLIGHT_BYTES,
    NOTHING_AHEAD,
    Ahead,
)

# A run that reads less than this is faster to repeat than to resume.
RESUMABLE_BYTES = 16 * 2**20


class Writers(Struct, frozen=True):
    """The writers of one archive.

    Attributes:
        archive: takes the archive, and notes which ranges of it are copied.
        ahead: the front of the reused chunks, which `archive` was already asked to copy.
        journal: records new chunks, if the archive's own writer leaves bytes that can be salvaged.
        staging_objects: take new chunks first, if it does not.
    """

    archive: NotedCopies
    ahead: Ahead = NOTHING_AHEAD
    journal: StagingJournal | None = None
    staging_objects: StagingObjects | None = None


def fill(writers: Writers, name: str, write: Callable[[], None]) -> StoredObject:
    """Write and commit; a failure leaves only what the next run can use."""
    in_place = writers.journal is not None
    try:
        write()
        return writers.archive.commit(name if in_place else "")
    except BaseException:
        _give_up(writers)
        raise
    finally:
        if writers.journal is not None:
            writers.journal.close()
        if writers.staging_objects is not None:
            writers.staging_objects.close()


def _give_up(writers: Writers) -> None:
    try:
        # Staging objects first: the archive waits for those that it copies from.
        if writers.staging_objects is not None:
            writers.staging_objects.leave()
    finally:
        if writers.journal is not None:
            writers.archive.leave()
        else:
            writers.archive.abort()


def begin_ahead(
    run: BackupRun, name: str, last: PreviousBackup | None
) -> CopiesAhead[NotedCopies] | None:
    """Start the archive with copies of the previous one, before the sources are walked.

    None if copies are not made in the background, or are too few to matter.
    """
    if last is None or run.store.can_rename or len(last.base.objects) > 1:
        return None
    chunks, limits = last.base.chunks, run.store.limits
    ranges = plan_ahead(chunks, limits)
    if not ranges:
        return None
    archive = _open_archive(run, name)
    ahead = CopiesAhead(archive, last.base.source_of(0), chunks, ranges, limits)
    try:
        ahead.begin()
    except BaseException:
        archive.abort()
        raise
    return ahead


def open_writers(
    run: BackupRun,
    name: str,
    scan: Scan,
    ahead: CopiesAhead[NotedCopies] | None,
    *,
    may_stage: bool,
) -> Writers:
    """Start the writers, with a note of each, so that a crash leaves their uploads to the next
    run."""
    first = None
    if may_stage and scan.read_bytes >= RESUMABLE_BYTES:
        first = _open_staging_object(run, name, sum(map(len, scan.reuse.ranges)))
    if first is not None and run.store.can_rename:
        return Writers(NotedCopies(first.writer), journal=first.journal)
    try:
        more = partial(_open_staging_object, run, name)
        objects = StagingObjects(more, first) if first else None
        if ahead is None:
            return Writers(_open_archive(run, name), staging_objects=objects)
        taken = ahead.settle(scan.reuse.ranges)
        return Writers(ahead.writer, taken, staging_objects=objects)
    except BaseException:
        if first is not None:
            first.leave()
        raise


def _open_staging_object(run: BackupRun, name: str, first_chunk: int) -> StagingObject | None:
    """Start a staging object; None if its journal cannot be written."""
    run_id = secrets.token_hex(4)
    staging = Staging(
        name=render_staging_name(name, run_id),
        store=run.store.url,
        started_at=utc_text(run.now),
        first_chunk=first_chunk,
        recipients=run.profile.recipients,
    )
    try:
        journal = run.staging.begin(run_id, staging)
    except OSError:  # the backup goes on without a staging object
        return None
    try:
        writer = run.store.write(staging.name, in_flight_bytes=IN_FLIGHT_BYTES)
        journal.note_upload(writer.upload_id)
    except BaseException:
        journal.close()
        raise
    return StagingObject(journal, writer)


def _open_archive(run: BackupRun, name: str) -> NotedCopies:
    others = run.store.list_unfinished()
    if any(other.name == name for other in others):
        raise ObjectExists(f"{run.store.url}: somebody else is writing {name} just now")
    run.upload_note.announce(name, others)
    try:
        writer = run.store.write(name, in_flight_bytes=IN_FLIGHT_BYTES)
    except ObjectExists:
        run.upload_note.clear()
        raise
    run.upload_note.write(writer.upload_id)
    return NotedCopies(writer)
