"""One backup: compare the sources with the previous backup, write one that stands alone, commit it.

A run that sends much sends to a staging object first, and notes in a journal what was sent, so that
after a crash the next run sends only the rest; see docs/decisions.md.
"""

from __future__ import annotations

import contextlib

from backup_tasks.backup.after_commit import settle_backup
from backup_tasks.backup.assembly import Assembly, Written
from backup_tasks.backup.basis import (
    Basis,
    basis_after,
    choose_another_name,
    choose_basis,
    discard_all,
    look_at_store,
)
from backup_tasks.backup.context import BackupRun
from backup_tasks.backup.holding import Holding, hold_place
from backup_tasks.backup.scan import (
    BackupPlan,
    Report,
    Scan,
    find_ground,
    plan_backup,
    scan_sources,
    scan_warnings,
    written_back_aside,
)
from backup_tasks.backup.writers import Writers, begin_ahead, fill, open_writers
from backup_tasks.census.neighbours import Neighbours
from backup_tasks.claim.machine_key import open_key_of_run, private_files
from backup_tasks.common.temporary import TemporarySpool
from backup_tasks.common.units import render_count, utc_text
from backup_tasks.errors import (
    ArchiveError,
    BackupError,
    CopyRefused,
    IdentityError,
    NotAsSent,
    ObjectChanged,
    ObjectExists,
    ObjectMissing,
    ReadRefused,
    StoreError,
)
from backup_tasks.format.archive_names import choose_free_name
from backup_tasks.journal.run_record import RunRecord, hold_back, open_log, warn
from backup_tasks.keys.signing import SigningKey
from backup_tasks.previous.archive import (
    FIRST_ARCHIVE,
)
from backup_tasks.previous.versions import Before
from backup_tasks.spools.records import SPILL_BYTES
from backup_tasks.stores.base import StoredObject
from backup_tasks.upload.copy_check import check_copies

# Errors of copying; no reason to fail as long as everything can be sent instead.
_CANNOT_COPY = (
    CopyRefused,
    ReadRefused,
    ObjectChanged,
    ObjectMissing,
    ArchiveError,
    IdentityError,
)
# How often a lost name is replaced. The limit also ends a run against a server that shows a
# stranger's object each time.
_MOST_LOST_NAMES = 10
# At most this many problems are named, more than anybody is shown. Others are only counted, since a
# user may have any number of files vanish while the backup runs.
_NAMED_PROBLEMS = 50_000


def run_backup(run: BackupRun, record: RunRecord) -> None:
    """Back up the profile's sources as one new archive; fills in `record` as it goes.

    A crash, a kill or an exception before the commit leaves no backup, but at most uploads, a
    staging object and its journal, which the next run uses and removes. If the previous backup
    vanishes meanwhile, or the store refuses to copy from it, everything is sent instead.

    Raises:
        SourceError: no source can be read, or the sources need more chunks than an archive holds.
        StoreError: the store fails.
        ClaimRefused: the store is somebody else's.
        NotAsSent: the backup was committed, but read back it is not what was sent.
        BackupError: the signing key is unusable.
    """
    key = open_key_of_run(run.profile, run.paths, record)
    _open_claim(run, key, record)
    basis = choose_basis(run, record)
    lost_names = 0
    while (failed := _try(run, basis, key, record)) is not None:
        if isinstance(failed, ObjectExists):
            # Another profile or host was faster; what was staged serves under the next name.
            lost_names += 1
            if lost_names == _MOST_LOST_NAMES:
                raise failed
            basis = choose_another_name(run, record)
        elif basis.last is None and not basis.may_stage:
            raise failed
        else:
            basis = basis_after(run, basis, failed, record)
    discard_all(run, record)
    if run.keeper is not None:
        hold_back(record, run.keeper.renew(key).unpruned)


def run_backup_plan(run: BackupRun, host: str) -> BackupPlan:
    """What `run_backup` would do now, and why, apart from what interrupted runs left.

    Writes nothing.
    """
    basis = look_at_store(run, host)
    try:
        return plan_backup(
            run.profile,
            basis.last,
            basis.why_full,
            run.store.limits,
            run.progress,
            private_files(run.paths.state),
            Holding(run, basis.census, hold_place(run, None)),
            basis.before(run),
        )
    finally:
        basis.close()


def _open_claim(run: BackupRun, key: SigningKey, record: RunRecord) -> None:
    """Claim the store, or find out whose it is.

    Notes at once why nothing may be deleted, so that no hold is lifted meanwhile.

    Raises:
        ClaimRefused: the store is somebody else's.
    """
    if run.keeper is None:
        return
    seen_profiles = run.keeper.seen_profiles
    around = Neighbours(run.profile, run.store, run.paths, key, record.host, seen_profiles)
    standing = run.keeper.open(key, around, take_over=run.take_over)
    hold_back(record, standing.unpruned)
    for note in standing.notes:
        open_log(run.paths).info("backup %s: %s", run.profile.name, note)


def _try(run: BackupRun, basis: Basis, key: SigningKey, record: RunRecord) -> BackupError | None:
    """Make the archive; returns the error if its basis or its name is at fault, else None."""
    try:
        _write_backup(run, basis, key, record)
    except (ObjectExists, *_CANNOT_COPY) as error:
        return error
    except StoreError as error:
        # After NotAsSent the copied objects may be at fault, so the next run begins anew. The disk
        # of a folder may be full, so nothing stays there.
        if isinstance(error, NotAsSent) or run.store.can_rename:
            with contextlib.suppress(StoreError):
                discard_all(run, record)
        raise
    finally:
        basis.close()
    return None


def _write_backup(run: BackupRun, basis: Basis, key: SigningKey, record: RunRecord) -> None:
    """Scan the sources, write the archive, commit it, read it back, and note the outcome."""
    if basis.last is None and basis.why_full != FIRST_ARCHIVE:
        open_log(run.paths).info(
            "backup %s: everything is read and sent: %s", run.profile.name, basis.why_full
        )
    name = _choose_name(run, basis)
    holding = Holding(run, basis.census, hold_place(run, key))
    before = basis.before(run)
    scan, writers = _scan(run, basis, name, holding, before, record)
    try:
        assembly = Assembly(
            run, basis, name, key, scan, record, _reporter(record), before, holding.seen()
        )
        stored = _write_and_commit(run, basis, assembly, writers, record)
    finally:
        scan.close()
    newest = basis.census.newest_or_previous()
    run.newest_seen.note_made(stored, utc_text(run.now), newest, record)
    holding.settle(stored.name, record)
    _tell_what_is_left_out(run, scan)
    if record.problems:
        record.result, record.exit_code = "incomplete", 3


def _reporter(record: RunRecord) -> Report:
    return lambda problem: record.add_problem(problem, _NAMED_PROBLEMS)


def _choose_name(run: BackupRun, basis: Basis) -> str:
    names = {stored.name for stored in basis.listed}
    taken = names | run.store.names_in_the_way() | basis.under_way
    encrypted = bool(run.profile.recipients)
    return choose_free_name(run.now, run.profile.tzinfo, taken, encrypted=encrypted)


def _scan(
    run: BackupRun, basis: Basis, name: str, holding: Holding, before: Before, record: RunRecord
) -> tuple[Scan, Writers]:
    """Scan the sources and start the writers; the store may copy meanwhile.

    The sources' losses are noted before anything can be committed.
    """
    scan, ahead = None, None
    private = private_files(run.paths.state)
    try:
        # Begin the write-back before the store is asked to copy: if the store lies on the same
        # disk, the walk would have to wait for the copies as well.
        ground = find_ground(run.profile, private, holding.watched)
        with written_back_aside(ground) as written_back:
            ahead = begin_ahead(run, name, basis.last)
            scan = scan_sources(
                run.profile,
                ground,
                basis.last,
                run.store.limits,
                _reporter(record),
                run.progress,
                private=private,
                before=before,
                written_back=written_back,
            )
        holding.look(scan)
        holding.raise_hold(record)
        writers = open_writers(run, name, scan, ahead, may_stage=basis.may_stage)
    except BaseException:
        if scan is not None:
            scan.close()
        if ahead is not None:
            ahead.writer.abort()
        raise
    record.sockets = scan.sockets
    for warning in scan_warnings(scan):
        if warning not in record.warnings:  # an earlier try may have added it
            warn(record, warning)
    return scan, writers


def _write_and_commit(
    run: BackupRun, basis: Basis, assembly: Assembly, writers: Writers, record: RunRecord
) -> StoredObject:
    """Write the archive, commit it and read it back; returns its object."""
    with TemporarySpool(SPILL_BYTES) as end:
        done: list[Written] = []
        stored = fill(writers, assembly.name, lambda: done.append(assembly.write(writers, end)))
        (written,) = done
        run.upload_note.clear()
        if not run.store.copies_are_sure:
            check_copies(run.store, stored, written.chunks)
        record.archive, record.archive_bytes = stored.name, stored.size
        end.seek(0)
        run.cache.write(stored, end.read())
        run.newest_seen.note_committed(stored)
        settle_backup(run, stored, written, writers.archive.copied, basis.listed, record)
    return stored


def _tell_what_is_left_out(run: BackupRun, scan: Scan) -> None:
    log = open_log(run.paths)
    if scan.sockets:
        sockets = render_count(scan.sockets, "socket")
        log.info("backup %s: %s not stored", run.profile.name, sockets)
    if scan.marked:
        marked = render_count(scan.marked, "folder")
        log.info("backup %s: %s left out by a marker", run.profile.name, marked)
