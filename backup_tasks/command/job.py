"""Around every task: profile, store and locks; and the whole of a backup job."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from backup_tasks.census.store_place import note_place, open_profile_store
from backup_tasks.command.supervise import Clock, Supervision, supervised
from backup_tasks.common.paths import Paths
from backup_tasks.common.printable import one_line
from backup_tasks.common.progress import Progress
from backup_tasks.common.terminal import ask_passphrase
from backup_tasks.errors import BackupError, ProfileError
from backup_tasks.journal.locks import hold_lock
from backup_tasks.journal.run_record import RunRecord, hold_back, warn
from backup_tasks.keys.identities import Keyring
from backup_tasks.profile.load import DEFAULT_PROFILE, PROFILE_VARIABLE, load_profile
from backup_tasks.profile.model import Profile
from backup_tasks.stores.base import Store

if TYPE_CHECKING:
    from backup_tasks.backup.context import BackupRun
    from backup_tasks.backup.scan import BackupPlan
    from backup_tasks.census.accepted import Accepted
    from backup_tasks.census.neighbours import Neighbours
    from backup_tasks.claim.claim_file import Claim
    from backup_tasks.claim.clock import Clocks
    from backup_tasks.claim.keeper import ClaimKeeper
    from backup_tasks.keys.signing import SigningKey
    from backup_tasks.prune.run_prune import PruneReport


class Job(Struct, frozen=True):
    """What a task works with, while its outcome is being supervised."""

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
    """Load the profile and open its store, with the outcome supervised; a wrong profile included.

    Args:
        exclusive: hold the locks of profile and store.
        mailed: tell those whom the profile names.
    """
    meant = profile_name or os.environ.get(PROFILE_VARIABLE, "") or DEFAULT_PROFILE
    with (
        supervised(task, meant, paths, clock, recorded=recorded) as supervision,
        contextlib.ExitStack() as held,
    ):
        try:
            profile = load_profile(meant, paths)
        except ProfileError as error:
            if mailed:
                _mail_problems(error, meant, paths, supervision)
            raise
        supervision.record.profile, supervision.record.store = profile.name, profile.store.url
        supervision.mail_for = profile if mailed else None
        store = open_profile_store(profile, paths)
        if exclusive:
            names = (f"profile {profile.name}", f"store {store.place}")
            held.enter_context(hold_lock(names, paths, f"{task} {profile.name}"))
        yield Job(profile, store, paths, supervision.record, clock)


def _mail_problems(error: ProfileError, name: str, paths: Paths, supervision: Supervision) -> None:
    """Have a broken profile's problems mailed as it says itself, as far as that can be read."""
    from backup_tasks.notify.broken_profile import find_mailed

    if told := find_mailed(name, paths):
        supervision.mail_for, supervision.mail_error = told, told.hide_values(str(error))
        supervision.record.profile, supervision.record.store = told.name, told.store_url


def run_backup_job(
    profile_name: str,
    paths: Paths,
    clock: Clock,
    progress: Progress,
    *,
    full: bool = False,
    accept_shrink: bool = False,
    take_over: bool = False,
) -> RunRecord:
    """Back up, then prune what retention no longer keeps; both or neither under one lock.

    Args:
        accept_shrink: what the sources lost is meant to be gone.
        take_over: make the store this profile's, whosever it was.

    A prune that fails does not fail the backup: it is told as a warning. Raises: BackupError.
    """
    from backup_tasks.backup.context import BackupRun
    from backup_tasks.backup.key_check import ProvenKeys, refuse_unproven
    from backup_tasks.backup.run_backup import run_backup
    from backup_tasks.census.clocks import read_clocks
    from backup_tasks.filesystem.writeback import read_margin_ns

    with (
        journaled("backup", profile_name, paths, clock, exclusive=True, mailed=True) as job,
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
            full=full,
            margin_ns=read_margin_ns(),
            accept_shrink=accept_shrink,
            keeper=keeper,
            take_over=take_over,
            clocks=clocks,
        )
        run_backup(run, record)
        note_place(job.profile, paths, job.store)
        _prune_after_backup(job, run, clocks)
    return record


def run_backup_plan_job(
    job: Job, progress: Progress, *, full: bool = False, take_over: bool = False
) -> BackupPlan:
    """What `run_backup_job` would do now. Raises: BackupError, ClaimRefused as that does."""
    from backup_tasks.backup.context import BackupRun
    from backup_tasks.backup.key_check import ProvenKeys, why_unproven
    from backup_tasks.backup.run_backup import run_backup_plan
    from backup_tasks.filesystem.writeback import read_margin_ns

    keeper = _look_at_claim(job, take_over=take_over)
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
        keeper=keeper,
    )
    plan = run_backup_plan(run, job.record.host)
    return dataclasses.replace(plan, refused=why_unproven(job.profile, ProvenKeys(job.paths.state)))


def open_keeper(job: Job) -> ClaimKeeper:
    """The keeper of the store's claim."""
    from backup_tasks.claim.claim_file import Name
    from backup_tasks.claim.keeper import ClaimKeeper
    from backup_tasks.claim.machine import hash_machine

    name = Name(job.profile.name, job.record.host)
    return ClaimKeeper(job.store, job.paths.state, name, hash_machine(), job.record.started_at)


def _look_at_claim(job: Job, *, take_over: bool = False) -> ClaimKeeper:
    """What may be done in the store; writes nothing. Raises ClaimRefused."""
    keeper, key, around = _claim_parts(job)
    keeper.open(key, around, take_over=take_over, writes=False)
    return keeper


def read_claim(job: Job) -> Claim | None:
    """The store's claim, where its word counts for this profile on this machine.

    Warns of one that is none.
    """
    keeper, key, around = _claim_parts(job, needs_key=False)
    claim = keeper.read_believed(key, around)
    if keeper.is_there and keeper.trouble:  # a store that fails is told by what reads it next
        warn(job.record, keeper.trouble)
    return claim


def _claim_parts(
    job: Job, *, needs_key: bool = True
) -> tuple[ClaimKeeper, SigningKey | None, Neighbours]:
    from backup_tasks.census.neighbours import Neighbours
    from backup_tasks.claim.machine_key import read_own_key

    keeper, key = open_keeper(job), None
    try:
        key = read_own_key(job.paths.state)
    except BackupError:
        if needs_key:
            raise
    seen_profiles, host = keeper.seen_profiles, job.record.host
    around = Neighbours(job.profile, job.store, job.paths, key, host, seen_profiles)
    return keeper, key, around


def run_prune_job(job: Job, *, dry_run: bool, adopted: Sequence[str] = ()) -> PruneReport:
    """Delete what retention no longer keeps, if the store is this profile's, after a look at every
    backup that is not noted; fills in the record.

    While anything speaks against deleting, the record says what, and the report is that of a dry
    run.

    Args:
        adopted: backups that count from now on, whatever proves them.

    Raises: ClaimRefused; UsageError for one that cannot count; StoreError when the store cannot be
        listed, or its list is not to be believed; PruneIncomplete.
    """
    from backup_tasks.census.accepted import list_census, whose_count
    from backup_tasks.census.adopt import adopt
    from backup_tasks.census.clocks import read_clocks, tell_clocks
    from backup_tasks.census.newest_seen import NewestSeen
    from backup_tasks.prune.prune_guard import find_guard
    from backup_tasks.prune.run_prune import run_prune

    profile, store, state, record = job.profile, job.store, job.paths.state, job.record
    clocks = read_clocks(store, job.clock)
    keeper, key, around = _claim_parts(job)
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
    done = run_prune(profile, store, census, clocks.before, dry_run=dry_run, protected=guard.keep)
    record.pruned = list(done.deleted)
    return done


def accepted_for_reading(job: Job) -> Accepted:
    """Whose backups count for a task that only reads, by the claim if its word counts here."""
    from backup_tasks.census.accepted import whose_count

    return whose_count(job.profile, job.paths.state, job.record.host, read_claim(job))


def _prune_after_backup(job: Job, run: BackupRun, clocks: Clocks) -> None:
    from backup_tasks.census.clocks import tell_clocks
    from backup_tasks.prune.prune_guard import find_guard, why_nothing_is_pruned
    from backup_tasks.prune.run_prune import PruneIncomplete, run_prune

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
        done = run_prune(
            job.profile, job.store, census, clocks.before, dry_run=False, protected=guard.keep
        )
        record.pruned = list(done.deleted)
    except BackupError as error:
        if isinstance(error, PruneIncomplete):
            record.pruned = list(error.report.deleted)
        record.warnings.append(f"prune: {one_line(str(error))}")
