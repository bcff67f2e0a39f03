"""The frame of a task with a profile: the profile, its store and locks, and the store's claim."""

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
    """The things that a task works with while its outcome is supervised."""

    profile: Profile
    store: Store
    paths: Paths
    record: RunRecord
    clock: Clock

    def keys(self, identity: str = "") -> Keyring:
        """The private keys for this profile's archives.

        Args:
            identity: an identity file, as the operator names it; "" for the profile's own.
        """
        file = Path(identity).absolute() if identity else self.profile.identity_file
        return Keyring(file, ask_passphrase, self.profile.recipients)

    def reading(self, identity: str = "") -> Reading:
        """The profile's store, for a task that only reads. Warns of a damaged claim.

        Args:
            identity: see `keys`.
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
    told: bool = False,
) -> Iterator[Job]:
    """Load the profile and open its store; supervise the outcome, a broken profile's included.

    Args:
        profile_name: "" for `$BACKUP_PROFILE`, or else the default profile.
        exclusive: hold the locks of profile and store.
        recorded: see `supervised`.
        told: tell the outcome through the channels that the profile names.
    """
    meant = profile_name or os.environ.get(PROFILE_VARIABLE, "") or DEFAULT_PROFILE
    with (
        supervised(task, meant, paths, clock, recorded=recorded) as supervision,
        contextlib.ExitStack() as held,
    ):
        try:
            profile = load_profile(meant, paths)
        except ProfileError as error:
            if told:
                _tell_problems(error, meant, paths, supervision)
            raise
        supervision.record.profile, supervision.record.store = profile.name, profile.store.url
        supervision.told = profile if told else None
        store = open_profile_store(profile, paths)
        if exclusive:
            names = (f"profile {profile.name}", f"store {store.place}")
            held.enter_context(hold_lock(names, paths, f"{task} {profile.name}"))
        yield Job(profile, store, paths, supervision.record, clock)


def _tell_problems(error: ProfileError, name: str, paths: Paths, supervision: Supervision) -> None:
    """Have the problems of a broken profile told, if its own [notify] can be read."""
    from backup_tasks.profile.broken_profile import find_told

    if found := find_told(name, paths):
        supervision.told, supervision.told_error = found, found.hide_values(str(error))
        supervision.record.profile, supervision.record.store = found.name, found.store_url


def open_keeper(job: Job) -> ClaimKeeper:
    """The keeper of the store's claim."""
    from backup_tasks.claim.claim_file import Name
    from backup_tasks.claim.keeper import ClaimKeeper
    from backup_tasks.claim.machine import hash_machine

    name = Name(job.profile.name, job.record.host)
    return ClaimKeeper(job.store, job.paths.state, name, hash_machine(), job.record.started_at)


def look_at_claim(job: Job, *, take_over: bool = False) -> ClaimKeeper:
    """Find out what this profile may do in the store; writes nothing.

    Raises:
        ClaimRefused: the store belongs to somebody else.
        BackupError: this machine's key cannot be read.
    """
    keeper, key, around = claim_parts(job)
    keeper.open(key, around, take_over=take_over, writes=False)
    return keeper


def read_claim(job: Job) -> Claim | None:
    """The store's claim, if it counts for this profile on this machine; else None.

    Warns of a damaged claim.
    """
    keeper, key, around = claim_parts(job, needs_key=False)
    claim = keeper.read_believed(key, around)
    if keeper.is_there and keeper.trouble:  # if the store failed, the next read reports it
        warn(job.record, keeper.trouble)
    return claim


def claim_parts(
    job: Job, *, needs_key: bool = True
) -> tuple[ClaimKeeper, SigningKey | None, Neighbours]:
    """Collect what decides whose a store is: its claim's keeper, our key, the store's other users.

    Args:
        needs_key: False: a key that cannot be read counts as none.

    Raises:
        BackupError: this machine's key cannot be read, and `needs_key`.
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
