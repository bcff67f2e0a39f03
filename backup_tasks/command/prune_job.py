"""Delete what retention no longer keeps: the task of its own, and the end of a backup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from backup_tasks.census.accepted import list_census, whose_count
from backup_tasks.census.adopt import adopt
from backup_tasks.census.clocks import read_clocks, tell_clocks
from backup_tasks.census.newest_seen import NewestSeen
from backup_tasks.claim.clock import Clocks
from backup_tasks.command.job import Job, claim_parts
from backup_tasks.common.printable import one_line
from backup_tasks.errors import BackupError
from backup_tasks.journal.run_record import hold_back
from backup_tasks.prune.prune_guard import PruneGuard, find_guard, why_nothing_is_pruned
from backup_tasks.prune.run_prune import PruneIncomplete, PruneReport, run_prune

if TYPE_CHECKING:
    from backup_tasks.backup.context import BackupRun
    from backup_tasks.census.census import Census


def run_prune_job(job: Job, *, dry_run: bool, adopted: Sequence[str] = ()) -> PruneReport:
    """Delete what retention no longer keeps, if the store is this profile's, after a look at every
    backup that is not noted; fills in the record.

    While anything speaks against deleting, the record says what, and the report is that of a dry
    run.

    Args:
        adopted: backups that count from now on, whatever proves them.

    Returns:
        What was deleted; `failed` tells what could not be.

    Raises: ClaimRefused; UsageError for one that cannot count; StoreError when the store cannot be
        listed, or its list is not to be believed.
    """
    profile, store, state, record = job.profile, job.store, job.paths.state, job.record
    clocks = read_clocks(store, job.clock)
    keeper, key, around = claim_parts(job)
    standing = keeper.open(key, around, writes=False)
    hold_back(record, standing.unpruned)
    accepted = whose_count(profile, state, record.host, standing.claim)
    seen = NewestSeen(state, profile, store)
    census = list_census(profile, store, state, accepted, seen, record.started_at, job.keys())
    if adopted:
        claim = adopt(standing.claim, census, adopted, profile.name)
        if key is not None and not dry_run:
            keeper.write(claim, key)
        census.acceptance = whose_count(profile, state, record.host, claim).acceptance
    census.look_at_all()
    census.save()
    tell_clocks(clocks, census, record, profile.retention)
    guard = find_guard(profile, store, state, census, keeper, record.started_at)
    hold_back(record, guard.unpruned)
    dry_run = dry_run or bool(record.unpruned)
    return _prune(job, census, clocks, guard, dry_run=dry_run)


def prune_after_backup(job: Job, run: BackupRun, clocks: Clocks) -> None:
    """Delete what retention no longer keeps, after a backup that ended well; the record says why
    if nothing may be deleted. What goes wrong is a warning of the backup."""
    record = job.record
    try:
        census = run.census(run.newest_seen.list_objects(), record.host)
    except BackupError as error:
        record.warnings.append(f"prune: {one_line(str(error))}")
        return
    tell_clocks(clocks, census, record, job.profile.retention)
    if not job.profile.retention.is_set:
        return
    if not record.unpruned:
        hold_back(record, why_nothing_is_pruned(record.problems))
    guard = find_guard(
        job.profile, job.store, job.paths.state, census, run.keeper, record.started_at
    )
    if not record.unpruned:
        hold_back(record, guard.unpruned)
    if record.unpruned:
        return
    try:
        done = _prune(job, census, clocks, guard, dry_run=False)
        if done.failed:
            raise PruneIncomplete(done)
    except BackupError as error:
        record.warnings.append(f"prune: {one_line(str(error))}")


def _prune(
    job: Job, census: Census, clocks: Clocks, guard: PruneGuard, *, dry_run: bool
) -> PruneReport:
    """As `run_prune`, and the record says what is gone, also if not all of it is."""
    now, keep = clocks.before, guard.keep
    try:
        done = run_prune(job.profile, job.store, census, now, dry_run=dry_run, protected=keep)
    except PruneIncomplete as error:
        done = error.report
    job.record.pruned = list(done.deleted)
    return done
