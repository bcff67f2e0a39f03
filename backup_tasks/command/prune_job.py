"""Deletes backups that retention no longer keeps: as a task, and at the end of a backup."""

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
from backup_tasks.prune.run_prune import PruneReport, demand_complete, run_prune

if TYPE_CHECKING:
    from backup_tasks.backup.context import BackupRun
    from backup_tasks.census.census import Census


def run_prune_job(job: Job, *, dry_run: bool, adopted: Sequence[str] = ()) -> PruneReport:
    """Delete backups that retention no longer keeps, and fill in the record.

    First looks at every backup that is not noted yet. If there is a reason to delete nothing, the
    record has it, and the report is that of a dry run.

    Args:
        adopted: backups that count from now on, whether proven or not.

    Returns:
        The deleted backups; `failed` has those that could not be deleted.

    Raises:
        ClaimRefused: the store belongs to somebody else.
        UsageError: one of `adopted` cannot count, or the claim is not ours to change.
        StoreError: the store cannot be listed, or its list cannot be believed.
        BackupError: this machine's key cannot be read.
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
    """Delete backups that retention no longer keeps, after a backup that ended well.

    If nothing may be deleted, the record says why. A failure becomes a warning of the backup.
    """
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
        demand_complete(_prune(job, census, clocks, guard, dry_run=False))
    except BackupError as error:
        record.warnings.append(f"prune: {one_line(str(error))}")


def _prune(
    job: Job, census: Census, clocks: Clocks, guard: PruneGuard, *, dry_run: bool
) -> PruneReport:
    """Prune, and note the deleted backups in the record, even if others could not be deleted."""
    now, keep = clocks.before, guard.keep
    done = run_prune(job.profile, job.store, census, now, dry_run=dry_run, protected=keep)
    job.record.pruned = list(done.deleted)
    return done
