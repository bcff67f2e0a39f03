"""Decide whose backups count for a profile, by this machine's key, the profile and the claim."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from backup_tasks.census.census import Census
from backup_tasks.census.newest_seen import NewestSeen
from backup_tasks.claim.acceptance import Acceptance, plan_acceptance
from backup_tasks.claim.claim_file import Claim, Name
from backup_tasks.claim.machine_key import read_own_key
from backup_tasks.claim.proof_notes import ProofNotes
from backup_tasks.errors import BackupError
from backup_tasks.keys.identities import NO_KEYS, Keyring
from backup_tasks.keys.signing import render_public_key
from backup_tasks.profile.model import Profile
from backup_tasks.stores.base import Store, StoredObject


class Accepted(Struct, frozen=True):
    """Whose backups count, and how sure that is.

    Attributes:
        is_sure: the profile or the claim says whose; if not, only this machine's own key tells.
        is_strict: the profile says whose, so that unproven backups are refused when used.
    """

    acceptance: Acceptance
    is_sure: bool
    is_strict: bool = False


def whose_count(profile: Profile, state: Path, host: str, claim: Claim | None = None) -> Accepted:
    """Decide whose backups count for this profile.

    Args:
        state: the state directory.
        host: this machine's name, as manifests have it.
        claim: the store's, if it has one that counts here.
    """
    own_key = ""
    with contextlib.suppress(BackupError):  # a task that needs the key reports it
        if (key := read_own_key(state)) is not None:
            own_key = render_public_key(key.public_key)
    signers = profile.signing.public_key
    name = Name(profile.name, host)
    acceptance = plan_acceptance(claim, own_key=own_key, signers=signers, name=name)
    if own_key:  # also if the claim is still that of a key that was lost
        acceptance = replace(acceptance, keys=acceptance.keys | {own_key})
    if not acceptance.keys:  # a new machine that reads cannot know whose they should be
        acceptance = replace(acceptance, names=None, trusts_locked=True)
    is_strict = bool(signers)
    return Accepted(acceptance, is_strict or claim is not None, is_strict)


def open_census(
    profile: Profile,
    store: Store,
    state: Path,
    listed: Iterable[StoredObject],
    accepted: Accepted,
    *,
    now: datetime,
    keys: Keyring = NO_KEYS,
    notes: ProofNotes | None = None,
) -> Census:
    """The backups in a list of a profile's store.

    Args:
        listed: all objects, as the store listed them.
        now: this machine's clock, aware.
        notes: the run's notes, if it has read them already.
    """
    return Census(
        store,
        profile.tzinfo,
        listed,
        notes or ProofNotes(state, store.place),
        accepted.acceptance,
        now=now,
        is_sure=accepted.is_sure,
        is_strict=accepted.is_strict,
        keys=keys,
        made_here=NewestSeen(state, profile, store).made_here,
    )


def list_census(
    profile: Profile,
    store: Store,
    state: Path,
    accepted: Accepted,
    seen: NewestSeen,
    now: datetime,
    keys: Keyring = NO_KEYS,
) -> Census:
    """List a profile's store now, and take the census of it.

    Args:
        now: this machine's clock, aware.

    Raises:
        StoreError: the store fails, or lists no backup although one was seen there.
    """
    return open_census(profile, store, state, seen.list_objects(), accepted, now=now, keys=keys)
