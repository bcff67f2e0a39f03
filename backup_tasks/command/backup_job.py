"""The whole of a backup: claim, clocks, the archive, and the prune after it."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from backup_tasks.backup.context import BackupRun
from backup_tasks.backup.key_check import ProvenKeys, refuse_unproven, why_unproven
from backup_tasks.backup.run_backup import run_backup, run_backup_plan
from backup_tasks.backup.scan import BackupPlan
from backup_tasks.census.clocks import read_clocks
from backup_tasks.census.store_place import note_place
from backup_tasks.command.job import Job, journaled, look_at_claim, open_keeper
from backup_tasks.command.prune_job import prune_after_backup
from backup_tasks.command.supervise import Clock
from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import Progress
from backup_tasks.filesystem.writeback import read_margin_ns
from backup_tasks.journal.run_record import RunRecord


class BackupWish(Struct, frozen=True):
    """The options that an operator typed after `invoke backup`.

    Attributes:
        full: read and send everything.
        accept_shrink: the losses in the sources are intended.
        take_over: make the store this profile's, whoever owned it before.
    """

    full: bool = False
    accept_shrink: bool = False
    take_over: bool = False


def run_backup_job(
    profile_name: str,
    paths: Paths,
    clock: Clock,
    progress: Progress,
    wish: BackupWish = BackupWish(),  # noqa: B008 - frozen
) -> RunRecord:
    """Back up, then delete the backups that retention no longer keeps, both under the same locks.

    A failed prune is a warning, and does not fail the backup.

    Raises:
        BackupError: the backup failed; its record says so already.
    """
    with (
        journaled("backup", profile_name, paths, clock, exclusive=True, told=True) as job,
        progress,
    ):
        record = job.record
        refuse_unproven(job.profile, ProvenKeys(paths.state))
        started_at = record.started_at
        keeper = open_keeper(job)
        clocks = read_clocks(job.store, clock)
        run = BackupRun(
            profile=job.profile,
            store=job.store,
            paths=paths,
            now=started_at,
            clock=clock,
            progress=progress,
            full=wish.full,
            margin_ns=read_margin_ns(),
            accept_shrink=wish.accept_shrink,
            keeper=keeper,
            take_over=wish.take_over,
            clocks=clocks,
        )
        run_backup(run, record)
        note_place(job.profile, paths, job.store)
        prune_after_backup(job, run, clocks)
    return record


def run_backup_plan_job(
    job: Job,
    progress: Progress,
    wish: BackupWish = BackupWish(),  # noqa: B008 - frozen
) -> BackupPlan:
    """Plan what `run_backup_job` would do now.

    Raises:
        ClaimRefused: the store belongs to somebody else.
        BackupError: any other failure that would end the backup before it reads a file.
    """
    keeper = look_at_claim(job, take_over=wish.take_over)
    started_at = job.record.started_at
    run = BackupRun(
        job.profile,
        job.store,
        job.paths,
        started_at,
        job.clock,
        progress,
        wish.full,
        read_margin_ns(),
        keeper=keeper,
    )
    plan = run_backup_plan(run, job.record.host)
    return replace(plan, refused=why_unproven(job.profile, ProvenKeys(job.paths.state)))
