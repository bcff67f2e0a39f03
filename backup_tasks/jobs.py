"""Around every task: profile, store and locks; and the whole of a backup job."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backup_tasks.errors import BackupError
from backup_tasks.identities import Keyring
from backup_tasks.journal import Problem, RunRecord
from backup_tasks.locks import hold_lock
from backup_tasks.paths import Paths
from backup_tasks.profile import DEFAULT_PROFILE, PROFILE_VARIABLE, describe_profiles, load_profile
from backup_tasks.profile_model import Profile
from backup_tasks.progress import Progress
from backup_tasks.stores import open_store
from backup_tasks.stores.base import Store
from backup_tasks.terminal import ask_passphrase
from backup_tasks.text import one_line
from backup_tasks.watch import Clock, watched

if TYPE_CHECKING:
    from backup_tasks.survey import BackupPlan


@dataclass(frozen=True, slots=True)
class Job:
    """What a task works with, while its outcome is being watched."""

    profile: Profile
    store: Store
    paths: Paths
    record: RunRecord
    clock: Clock

    def keys(self, identity: str = "") -> Keyring:
        """The private keys for this profile's archives.

        Args:
            identity: a file, as an operator names it; "" for the profile's own.
        """
        file = Path(identity).absolute() if identity else self.profile.identity_file
        return Keyring(file, ask_passphrase, self.profile.recipients)


@contextlib.contextmanager
def journaled(
    task: str,
    profile_name: str,
    paths: Paths,
    clock: Clock,
    *,
    exclusive: bool = False,
    recorded: bool = True,
    mailed: bool = False,
) -> Iterator[Job]:
    """Load the profile and open its store, with the outcome watched; a wrong profile included.

    Args:
        exclusive: hold the locks of profile and store.
        mailed: tell those whom the profile names.
    """
    meant = profile_name or os.environ.get(PROFILE_VARIABLE, "") or DEFAULT_PROFILE
    with (
        watched(task, meant, paths, clock, recorded=recorded) as watch,
        contextlib.ExitStack() as held,
    ):
        profile = load_profile(meant, paths)
        watch.record.profile, watch.record.store = profile.name, profile.store.url
        watch.mail_for = profile if mailed else None
        if exclusive:
            names = (f"profile {profile.name}", f"store {profile.store.url}")
            held.enter_context(hold_lock(names, paths, f"{task} {profile.name}"))
        yield Job(profile, open_store(profile.store), paths, watch.record, clock)


def run_backup_job(
    profile_name: str, paths: Paths, clock: Clock, progress: Progress, *, full: bool = False
) -> RunRecord:
    """Back up, then prune what retention no longer keeps; both or neither under one lock.

    A prune that fails does not fail the backup: it is told as a warning. Raises: BackupError.
    """
    from backup_tasks.backup import run_backup
    from backup_tasks.backup_run import BackupRun
    from backup_tasks.key_check import ProvenKeys, refuse_unproven
    from backup_tasks.writeback import read_margin_ns

    with (
        journaled("backup", profile_name, paths, clock, exclusive=True, mailed=True) as job,
        progress,
    ):
        record = job.record
        refuse_unproven(job.profile, ProvenKeys(paths.state))
        started_at = record.started_at
        margin_ns = read_margin_ns()
        run = BackupRun(job.profile, job.store, paths, started_at, clock, progress, full, margin_ns)
        run_backup(run, record)
        if job.profile.retention.is_set:
            _prune_after_backup(job)
    return record


def run_backup_plan_job(job: Job, progress: Progress, *, full: bool = False) -> BackupPlan:
    """What `run_backup_job` would do now. Raises: BackupError."""
    from backup_tasks.backup import run_backup_plan
    from backup_tasks.backup_run import BackupRun
    from backup_tasks.key_check import ProvenKeys, why_unproven
    from backup_tasks.writeback import read_margin_ns

    started_at = job.record.started_at
    run = BackupRun(
        job.profile,
        job.store,
        job.paths,
        started_at,
        job.clock,
        progress,
        full,
        read_margin_ns(),
    )
    plan = run_backup_plan(run, job.record.host)
    return dataclasses.replace(plan, refused=why_unproven(job.profile, ProvenKeys(job.paths.state)))


def _prune_after_backup(job: Job) -> None:
    from backup_tasks.newest_seen import NewestSeen
    from backup_tasks.prune import PruneIncomplete, run_prune

    seen = NewestSeen(job.paths.state, job.profile, job.store)
    record = job.record
    if missing := [problem.path for problem in record.problems if _is_missing_source(problem)]:
        # Perhaps a disk is not mounted: then only older backups hold what is on it.
        named = ", ".join(missing)
        record.warnings.append(f"nothing was pruned, because a source is missing: {named}")
        return
    try:
        done = run_prune(job.profile, job.store, job.clock(), dry_run=False, seen=seen)
        record.pruned = list(done.deleted)
    except BackupError as error:
        if isinstance(error, PruneIncomplete):
            record.pruned = list(error.report.deleted)
        record.warnings.append(f"prune: {one_line(str(error))}")


def _is_missing_source(problem: Problem) -> bool:
    """Whether a source is not there, or none of it can be read."""
    return problem.is_source and problem.kind in ("missing", "unreadable", "carried")


def load_scheduled(profile_name: str, paths: Paths) -> list[Profile]:
    """The profiles that have [schedule], or the one that is named, whether or not it has.

    Raises ProfileError when one of them is broken.
    """
    if profile_name:
        return [load_profile(profile_name, paths)]
    summaries = describe_profiles(paths)
    return [load_profile(s.name, paths) for s in summaries if s.schedule and not s.base_only]
