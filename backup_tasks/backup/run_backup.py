"""One backup: compare the sources with the last archive, write one that stands alone, commit it.

A run that sends much sends it to a staging object first, and notes in a journal what has gone
out, so that after a crash the next run sends only the rest; see docs/architecture.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from backup_tasks.backup.after_commit import settle_backup
from backup_tasks.backup.assembly import Assembly, Writers, Written, utc_text
from backup_tasks.backup.context import BackupRun, begin_ahead, fill, open_writers
from backup_tasks.backup.holding import Holding, hold_place
from backup_tasks.backup.survey import (
    BackupPlan,
    Report,
    Survey,
    plan_backup,
    survey_sources,
    survey_warnings,
)
from backup_tasks.census.census import Census
from backup_tasks.census.neighbours import Neighbours
from backup_tasks.claim.clock import is_ahead
from backup_tasks.claim.machine_key import open_key_of_run, private_files, read_own_key
from backup_tasks.common.printable import one_line
from backup_tasks.common.temporary import TemporarySpool
from backup_tasks.common.units import render_bytes, render_count
from backup_tasks.errors import (
    ArchiveError,
    BackupError,
    CopyRefused,
    CopyUnsupported,
    IdentityError,
    NotAsSent,
    ObjectChanged,
    ObjectExists,
    ObjectMissing,
    ReadRefused,
    StoreError,
)
from backup_tasks.format.archive_names import choose_free_name
from backup_tasks.journal.problems import Problem
from backup_tasks.journal.run_record import RunRecord, hold_back, open_log, warn
from backup_tasks.keys.signing import SigningKey
from backup_tasks.previous.archive import (
    FIRST_ARCHIVE,
    LastArchive,
    find_last_archive,
    why_begin_anew,
    why_full,
)
from backup_tasks.previous.versions import Before
from backup_tasks.spools.records import SPILL_BYTES
from backup_tasks.staging.journal import StagedRun
from backup_tasks.staging.leftovers import end_leftovers
from backup_tasks.staging.salvage import Salvaged, build_on, discard_runs, salvage_runs
from backup_tasks.stores.base import Unfinished
from backup_tasks.upload.copy_check import check_copies

# What is no reason to fail as long as everything can be sent instead.
_CANNOT_COPY = (
    CopyRefused,
    ReadRefused,
    ObjectChanged,
    ObjectMissing,
    ArchiveError,
    IdentityError,
)
# So often another name is tried; a server that shows a stranger's object each time ends that too.
_MOST_LOST_NAMES = 10
# So many problems are named, which is more than anybody is shown; others are only counted, for a
# user may have any number of files vanish while the backup runs.
_NAMED_PROBLEMS = 50_000


class _Approach(Struct, frozen=True):
    """How an archive is to be made.

    Attributes:
        last: what chunks are kept of; if there is none, `why_full` says why.
        may_stage: whether what is sent may be copied from a staging object.
        versions: without `last`, an archive that has what cannot be read now.
        under_way: names that others are writing.
    """

    last: LastArchive | None
    why_full: str
    may_stage: bool
    versions: LastArchive | None = None
    under_way: frozenset[str] = frozenset()

    def close(self) -> None:
        """Free memory and files."""
        for archive in (self.last, self.versions):
            if archive is not None:
                archive.close()

    def before(self, run: BackupRun, census: Census) -> Before:
        """What is known of the backup before."""
        there = {backup.stored.name for backup in census.backups()}
        found = census.newest_or_last()
        newest = found.stored.name if found is not None else ""
        archive = self.last or self.versions
        if archive is None:
            # Nobody knows what it holds, nor whose it is.
            return Before(newest)
        needed = tuple(name for name in archive.needed if name in there)
        is_ours = tuple(archive.recipients) == tuple(run.profile.recipients)
        may_carry = self.last is not None or is_ours
        return Before(
            archive.name or newest,
            archive.started_at,
            archive.index,
            may_carry,
            needed,
            is_known=bool(archive.name),
        )


def run_backup(run: BackupRun, record: RunRecord) -> None:
    """Back up the profile's sources as one new archive; fills in `record` as it goes.

    A crash, a kill or an exception at any point leaves no backup: at most uploads, a staging
    object and its journal, which the next run uses and removes. When the last archive vanishes
    meanwhile, or the store refuses to copy from it, everything is sent instead.

    Raises: SourceError, StoreError, ClaimRefused; NotAsSent for one that was committed and is none
    when it is read back; BackupError for an unusable signing key.
    """
    key = open_key_of_run(run.profile, run.paths, record)
    _open_claim(run, key, record)
    approach = _choose_approach(run, record)
    lost_names = 0
    while (failed := _try(run, approach, key, record)) is not None:
        if isinstance(failed, ObjectExists):
            # Another profile or host was faster; what was staged serves under the next name.
            lost_names += 1
            if lost_names == _MOST_LOST_NAMES:
                raise failed
            record.forget_problems()
            names = frozenset(one.name for one in run.store.list_unfinished())
            approach = replace(_choose_approach(run, record), under_way=names)
            continue
        if approach.last is None and not approach.may_stage:
            raise failed
        approach = _approach_after(run, approach, failed, record)
    if staged := run.staging.read():
        _discard(run, staged, run.store.list_unfinished(), record)
    if run.keeper is not None:
        hold_back(record, run.keeper.renew(key).unpruned)


def _open_claim(run: BackupRun, key: SigningKey, record: RunRecord) -> None:
    """Claim the store, or find out whose it is. Raises ClaimRefused.

    Why nothing may be deleted is noted at once: no hold is lifted meanwhile.
    """
    if run.keeper is None:
        return
    seen_profiles = run.keeper.seen_profiles
    around = Neighbours(run.profile, run.store, run.paths, key, record.host, seen_profiles)
    standing = run.keeper.open(key, around, take_over=run.take_over)
    hold_back(record, standing.unpruned)
    for note in standing.notes:
        open_log(run.paths).info("backup %s: %s", run.profile.name, note)


def _try(
    run: BackupRun, approach: _Approach, key: SigningKey, record: RunRecord
) -> BackupError | None:
    """Make the archive. Returns what went wrong, if that was what it is built on, or its name."""
    try:
        _write_backup(run, approach, key, record)
    except (ObjectExists, *_CANNOT_COPY) as error:
        return error
    except NotAsSent:
        # What it was copied from may be at fault, so the next run begins anew.
        with contextlib.suppress(StoreError):
            _discard(run, run.staging.read(), run.store.list_unfinished(), record)
        raise
    except StoreError:
        if run.store.can_rename:  # a disk, and perhaps a full one
            with contextlib.suppress(StoreError):
                _discard(run, run.staging.read(), run.store.list_unfinished(), record)
        raise
    finally:
        approach.close()
    return None


def run_backup_plan(run: BackupRun, host: str) -> BackupPlan:
    """What `run_backup` would do now, and why, but for what interrupted runs left.

    Writes nothing.
    """
    listed = run.store.list_objects()
    run.newest_seen.refuse_nothing(listed, may_be_gone=True)
    census = run.census(listed, host)
    holding = Holding(run, census, hold_place(run, None))
    last, versions, why = _choose_last(run, host)
    approach = _Approach(last, why, may_stage=False, versions=versions)
    try:
        return plan_backup(
            run.profile,
            last,
            why,
            run.store.limits,
            run.progress,
            private_files(run.paths.state),
            holding,
            approach.before(run, census),
        )
    finally:
        approach.close()


def _choose_last(run: BackupRun, host: str) -> tuple[LastArchive | None, LastArchive | None, str]:
    """What to keep chunks of; else what to carry over from, at most, and why so."""
    census = run.census(run.store.list_objects(), host)
    census.look()
    if run.full:
        why = "--full was asked for"
    elif run.copy_memory.refused(run.now):
        why = "the store refused to copy on its own side"
    elif not run.store.can_copy:
        why = "the store cannot copy on its own side"
    else:
        why = why_begin_anew(census)
    own_key, seen = read_own_key(run.paths.state), run.newest_seen
    found, trouble = find_last_archive(
        run.profile,
        run.store,
        census,
        run.cache,
        seen,
        own_key,
        host,
        run.keys,
        run.margin_ns,
    )
    if found is None:
        return None, None, why or trouble
    if why := why or why_full(found, run.profile, run.now):
        return None, found, why
    return found, None, trouble


def _choose_approach(run: BackupRun, record: RunRecord) -> _Approach:
    """Look at what earlier runs left, finished or not, and remove what is of no use."""
    store, staged = run.store, run.staging.read()
    names = [one.staging.name for one in staged if one.staging]
    end_leftovers(store, run.upload_note, run.earliest_now, names)
    last, versions, why = _choose_last(run, record.host)
    if last is not None and why:
        open_log(run.paths).info("backup %s: %s", run.profile.name, why)
    may_stage = store.can_copy and not run.copy_memory.refused(run.now)
    if not staged:
        return _Approach(last, why, may_stage, versions)
    try:
        unfinished = store.list_unfinished()
        may_resume = may_stage and not run.full
        useful = [one for one in staged if may_resume and _is_useful(run, one, last)]
        found = salvage_runs(store, useful, unfinished)
        used = {id(one.run) for one in found}
        useless = [one for one in staged if id(one) not in used]
        # Who may not delete must not leave something behind with every run.
        may_stage &= _discard(run, useless, unfinished, record)
        if found:
            last = build_on(last, found, run.margin_ns)
            _tell_what_was_found(run, found)
    except BaseException:
        _Approach(last, why, may_stage, versions).close()
        raise
    return _Approach(last, why, may_stage, versions)


def _is_useful(run: BackupRun, staged: StagedRun, last: LastArchive | None) -> bool:
    """Whether an interrupted run read what no later archive holds, and not too long ago."""
    if staged.staging is None or staged.staging.recipients != run.profile.recipients:
        return False
    started_at = datetime.fromisoformat(staged.staging.started_at)
    if is_ahead(started_at, run.now):
        return False
    if last is not None:
        return started_at > datetime.fromisoformat(last.started_at)
    return run.now - started_at < run.profile.backup.full_every


def _tell_what_was_found(run: BackupRun, found: Sequence[Salvaged]) -> None:
    arrived = sum(chunk.length for one in found for chunk in one.chunks)
    open_log(run.paths).info(
        "backup %s: an interrupted run goes on: %s had arrived",
        run.profile.name,
        render_bytes(arrived),
    )


def _discard(
    run: BackupRun,
    staged: Sequence[StagedRun],
    unfinished: Collection[Unfinished],
    record: RunRecord,
) -> bool:
    """Remove what is of no use any more. Returns whether it is gone; if not, the record says so."""
    try:
        discard_runs(run.store, staged, unfinished)
    except (StoreError, OSError) as error:
        record.warnings.append(f"what was staged stays in the store: {one_line(str(error))}")
        return False
    return True


def _approach_after(
    run: BackupRun, approach: _Approach, error: BackupError, record: RunRecord
) -> _Approach:
    """What to do when copying failed: keep nothing, and if copying as such fails, stage nothing."""
    if isinstance(error, CopyUnsupported):
        run.copy_memory.remember(run.now)
    record.forget_problems()
    _discard(run, run.staging.read(), run.store.list_unfinished(), record)
    may_stage = approach.last is not None and not isinstance(error, CopyRefused)
    versions = None
    # What could not be fetched just now is not asked for again, file by file.
    if approach.last is not None and isinstance(error, CopyRefused):
        last, versions, _ = _choose_last(run, record.host)
        versions = last or versions
    return _Approach(None, one_line(str(error)), may_stage, versions)


def _begin(
    run: BackupRun,
    name: str,
    approach: _Approach,
    holding: Holding,
    before: Before,
    report: Report,
    record: RunRecord,
) -> tuple[Survey, Writers]:
    """Look at the sources and start what is written to; the store may copy meanwhile.

    What the sources lost is noted before anything could be committed.
    """
    private, limits = private_files(run.paths.state), run.store.limits
    last, survey = approach.last, None
    ahead = begin_ahead(run, name, last)
    try:
        survey = survey_sources(
            run.profile,
            last,
            limits,
            report,
            run.progress,
            private=private,
            watched=holding.watched,
            before=before,
        )
        holding.look(survey)
        holding.raise_hold(record)
        return survey, open_writers(run, name, survey, ahead, may_stage=approach.may_stage)
    except BaseException:
        if survey is not None:
            survey.close()
        if ahead is not None:
            ahead.writer.abort()
        raise


def _write_backup(run: BackupRun, approach: _Approach, key: SigningKey, record: RunRecord) -> None:
    def report(problem: Problem) -> None:
        record.add_problem(problem, _NAMED_PROBLEMS)

    profile, store, last = run.profile, run.store, approach.last
    if last is None and approach.why_full != FIRST_ARCHIVE:
        open_log(run.paths).info(
            "backup %s: everything is read and sent: %s", profile.name, approach.why_full
        )
    there = store.list_objects()
    run.newest_seen.refuse_nothing(there, may_be_gone=True)
    census = run.census(there, record.host)
    before = approach.before(run, census)
    taken = {stored.name for stored in there} | store.names_in_the_way() | approach.under_way
    encrypted = bool(profile.recipients)
    name = choose_free_name(run.now, profile.tzinfo, taken, encrypted=encrypted)
    holding = Holding(run, census, hold_place(run, key))
    survey, writers = _begin(run, name, approach, holding, before, report, record)
    record.sockets = survey.sockets
    for warning in survey_warnings(survey):
        if warning not in record.warnings:  # of a try before this one
            warn(record, warning)
    try:
        with TemporarySpool(SPILL_BYTES) as end:
            assembly = Assembly(
                name=name,
                key=key,
                profile=profile,
                store=store,
                last=last,
                survey=survey,
                record=record,
                report=report,
                progress=run.progress,
                clock=run.clock,
                keys=run.keys,
                private=private_files(run.paths.state),
                versions=approach.versions,
                before=before,
                seen=holding.seen(),
            )
            done: list[Written] = []
            stored = fill(writers, name, lambda: done.append(assembly.write(writers, end)))
            (written,) = done
            run.upload_note.clear()
            if not store.copies_are_sure:
                check_copies(store, stored, written.chunks)
            record.archive, record.archive_bytes = stored.name, stored.size
            end.seek(0)
            run.cache.write(stored, end.read())
            run.newest_seen.note_committed(stored)
            settle_backup(run, stored, written, writers.archive.copied, there, record)
    finally:
        survey.close()
    run.newest_seen.note_made(stored, utc_text(run.now), census.newest_or_last(), record)
    holding.settle(stored.name, record)
    if survey.sockets:
        sockets = render_count(survey.sockets, "socket")
        open_log(run.paths).info("backup %s: %s not stored", profile.name, sockets)
    if survey.marked:
        marked = render_count(survey.marked, "folder")
        open_log(run.paths).info("backup %s: %s left out by a marker", profile.name, marked)
    if record.problems:
        record.result, record.exit_code = "incomplete", 3
