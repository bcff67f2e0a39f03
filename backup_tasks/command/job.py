"""Around every task that has a profile: it, its store and locks, and the store's claim."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from backup_tasks.census.store_place import open_profile_store
from backup_tasks.command.supervise import Clock, Supervision, supervised
from backup_tasks.common.paths import Paths
from backup_tasks.common.terminal import ask_passphrase
from backup_tasks.errors import BackupError, ProfileError
from backup_tasks.journal.locks import hold_lock
from backup_tasks.journal.run_record import RunRecord, warn
from backup_tasks.keys.identities import Keyring
from backup_tasks.profile.load import DEFAULT_PROFILE, PROFILE_VARIABLE, load_profile
from backup_tasks.profile.model import Profile
from backup_tasks.stores.base import Store

if TYPE_CHECKING:
    from backup_tasks.census.neighbours import Neighbours
    from backup_tasks.census.reading import Reading
    from backup_tasks.claim.claim_file import Claim
    from backup_tasks.claim.keeper import ClaimKeeper
    from backup_tasks.keys.signing import SigningKey


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

    def reading(self, identity: str = "") -> Reading:
        """The profile's store as a task that only reads sees it; see `keys`.

        Warns of a claim that is none.
        """
        from backup_tasks.census.reading import Reading

        keys, state, claim = self.keys(identity), self.paths.state, read_claim(self)
        return Reading(self.profile, self.store, state, self.record, keys, claim)


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
        supervision.told = profile if mailed else None
        store = open_profile_store(profile, paths)
        if exclusive:
            names = (f"profile {profile.name}", f"store {store.place}")
            held.enter_context(hold_lock(names, paths, f"{task} {profile.name}"))
        yield Job(profile, store, paths, supervision.record, clock)


def _mail_problems(error: ProfileError, name: str, paths: Paths, supervision: Supervision) -> None:
    """Have a broken profile's problems mailed as it says itself, as far as that can be read."""
    from backup_tasks.profile.broken_profile import find_told

    if told := find_told(name, paths):
        supervision.told, supervision.told_error = told, told.hide_values(str(error))
        supervision.record.profile, supervision.record.store = told.name, told.store_url


def open_keeper(job: Job) -> ClaimKeeper:
    """The keeper of the store's claim."""
    from backup_tasks.claim.claim_file import Name
    from backup_tasks.claim.keeper import ClaimKeeper
    from backup_tasks.claim.machine import hash_machine

    name = Name(job.profile.name, job.record.host)
    return ClaimKeeper(job.store, job.paths.state, name, hash_machine(), job.record.started_at)


def look_at_claim(job: Job, *, take_over: bool = False) -> ClaimKeeper:
    """What may be done in the store; writes nothing. Raises ClaimRefused."""
    keeper, key, around = claim_parts(job)
    keeper.open(key, around, take_over=take_over, writes=False)
    return keeper


def read_claim(job: Job) -> Claim | None:
    """The store's claim, where its word counts for this profile on this machine.

    Warns of one that is none.
    """
    keeper, key, around = claim_parts(job, needs_key=False)
    claim = keeper.read_believed(key, around)
    if keeper.is_there and keeper.trouble:  # a store that fails is told by what reads it next
        warn(job.record, keeper.trouble)
    return claim


def claim_parts(
    job: Job, *, needs_key: bool = True
) -> tuple[ClaimKeeper, SigningKey | None, Neighbours]:
    """What is needed to say whose a store is: the keeper of its claim, this machine's key, and who
    else uses the store.

    Args:
        needs_key: raise BackupError for a key that cannot be read; else it counts as none.
    """
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
