"""Read, make and renew a store's claim; note in the state directory each claim that is written.

A claim is noted before it is written, beside the claim that was there before. Whichever of the two
a crash leaves in the store, the next run knows it as its own.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from backup_tasks.claim.claim_file import (
    CLAIM_BYTES,
    Claim,
    Hold,
    Name,
    UnfitClaim,
    owner_of,
    parse_claim,
    render_claim,
)
from backup_tasks.claim.clock import is_lately
from backup_tasks.claim.ownership import (
    Known,
    Ownership,
    Surroundings,
    counts_for,
    plan_ownership,
)
from backup_tasks.common.printable import one_line
from backup_tasks.common.state_files import read_note, state_key, write_note
from backup_tasks.errors import (
    ClaimRefused,
    ObjectChanged,
    ObjectExists,
    ObjectMissing,
    StoreError,
)
from backup_tasks.format.archive_names import CLAIM_NAME
from backup_tasks.keys.signing import SigningKey
from backup_tasks.stores.base import Store, StoredObject

# Remember the names of this many profiles; no real store has more.
_MOST_PROFILES = 100
_TRIES = 3


class Standing(Struct, frozen=True):
    """The rights of this run in the store.

    Attributes:
        claim: the store's, if it is ours to write; else None. `ClaimKeeper.write` writes a
            changed claim.
        unpruned: why nothing may be deleted; empty if deleting is allowed.
        notes: lines for the log.
    """

    claim: Claim | None = None
    unpruned: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_owner(self) -> bool:
        """Whether the claim is ours to write."""
        return self.claim is not None


class _Note(msgspec.Struct, frozen=True, kw_only=True):
    """The state directory's note on a store.

    Attributes:
        claims: written by this machine, oldest first; the last may not have reached the store.
        profiles: this machine's profiles that have been seen in the store.
        disputed_at: when another writer with our key was last noticed, ISO 8601, or "".
    """

    claims: tuple[Claim, ...] = ()
    profiles: tuple[str, ...] = ()
    disputed_at: str = ""


class ClaimKeeper:
    """One run's access to the claim of one store.

    Args:
        state: the state directory.
        name: this profile and host.
        machine: from `hash_machine`.
        now: aware.

    Attributes:
        standing: what `open` found; updated by each write.
        trouble: why the object that `read` found is no claim, or cannot be read; else "".
    """

    def __init__(self, store: Store, state: Path, name: Name, machine: str, now: datetime) -> None:
        self.standing = Standing()
        self.trouble = ""
        self.name = name
        self._store = store
        self._path = state / "claims" / f"{state_key('', store.place)}.json"
        self._machine = machine
        self._now = now
        self._found: StoredObject | None = None
        self._last: Claim | None = None
        self._read: Claim | None = None

    @property
    def is_there(self) -> bool:
        """Whether `read` found anything under the claim's name."""
        return self._found is not None

    def read(self) -> Claim | None:
        """Read the store's claim, whoever owns it.

        Returns:
            The claim; None if there is none that its owner signed. If an object is there all the
            same, `trouble` says why it is no claim.
        """
        self._found, self._read, self.trouble = None, None, ""
        try:
            content, self._found = self._store.read_small(CLAIM_NAME, CLAIM_BYTES)
            self._read = parse_claim(content, self._read_note().claims)
            return self._read
        except ObjectMissing:
            return None
        except StoreError as error:
            self.trouble = f"the store's claim cannot be read: {one_line(str(error))}"
        except UnfitClaim as error:
            self.trouble = f"{self._store.url}{CLAIM_NAME} says not whose the store is: {error}"
        return None

    @property
    def found_hold(self) -> Hold | None:
        """The hold in our claim, or else in the claim that `read` found."""
        claim = self.standing.claim or self._read
        return claim.hold if claim is not None else None

    def read_believed(self, key: SigningKey | None, around: Surroundings) -> Claim | None:
        """Read the store's claim; None if it does not count for this reader, see `counts_for`."""
        found = self.read()
        if found is None or not counts_for(found, self.known(key), around):
            return None
        return found

    def open(
        self,
        key: SigningKey | None,
        around: Surroundings,
        *,
        take_over: bool = False,
        writes: bool = True,
    ) -> Standing:
        """Find out what this run may do, and claim the store if that is due.

        If several runs claim it at once, one succeeds, and the others act by the claim that it
        wrote.

        Args:
            key: this machine's; None if it has none.
            writes: False to look only, without writing a claim or a note.

        Raises:
            ClaimRefused: the store is somebody else's.
        """
        for attempt in range(1, _TRIES + 1):
            found = self.read()
            plan = plan_ownership(found, self.trouble, self.known(key, take_over), around)
            if plan.refusal:
                raise ClaimRefused(f"{self._store.url}: {plan.refusal}")
            self._last = found
            self.standing = Standing(plan.claim, plan.unpruned, plan.notes)
            if not writes or key is None:
                break
            try:
                self._carry_out(plan, key, take_over)
                break
            except (ObjectExists, ObjectChanged) as error:
                if attempt == _TRIES:
                    self._stand_unwritten(error)
            except StoreError as error:
                self._stand_unwritten(error)
                break
        return self.standing

    def known(self, key: SigningKey | None, take_over: bool = False) -> Known:
        """Facts that this machine knows without looking at the store."""
        note = self._read_note()
        return Known(
            own_key=owner_of(key) if key is not None else "",
            name=self.name,
            machine=self._machine,
            remembered=note.claims,
            is_disputed=self._is_recent(note.disputed_at),
            take_over=take_over,
        )

    def seen_profiles(self) -> tuple[str, ...]:
        """This machine's profiles that have made backups in this store, or tried to."""
        return self._read_note().profiles

    def write(self, claim: Claim, key: SigningKey) -> Claim:
        """Write the claim, replacing the one that was read or written last.

        Returns:
            The claim as written, with its new serial.

        Raises:
            ObjectExists: there was no claim before, and somebody else was faster.
            ObjectChanged: somebody else has replaced the former claim.
            StoreError: the claim, or the note of it, cannot be written.
        """
        moment = self._now.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        new = msgspec.structs.replace(
            claim,
            serial=secrets.token_hex(16),
            claimed_at=claim.claimed_at or moment,
            renewed_at=moment,
        )
        # Do not note another's claim that we took over: put back, it must not pass for our own.
        before = self._read_note().claims
        former = tuple(
            last
            for last in (self._last,)
            if last is not None and (last.owner == new.owner or last in before)
        )
        self._note(claims=(*former, new))
        try:
            self._found = self._store.put_small(
                CLAIM_NAME, render_claim(new, key), replaces=self._found
            )
        except (ObjectExists, ObjectChanged):
            if not before:  # another was first, and the store never was this machine's
                self._note(claims=())
            raise
        if any(claim.owner != new.owner for claim in former):
            self._note(claims=(new,))
        self._last = new
        self.standing = replace(self.standing, claim=new)
        return new

    def renew(self, key: SigningKey) -> Standing:
        """Write the claim once more at the end of a backup, if it is ours to write.

        If that fails, the error becomes a reason to delete nothing.
        """
        if self.standing.claim is not None:
            try:
                self.write(self.standing.claim, key)
            except StoreError as error:
                self._stand_unwritten(error)
        return self.standing

    def _carry_out(self, plan: Ownership, key: SigningKey, take_over: bool) -> None:
        profiles = dict.fromkeys((*self.seen_profiles(), *plan.sharers, self.name.profile))
        disputed: dict[str, Any] = {}
        if plan.is_new_dispute:
            disputed = {"disputed_at": self._now.isoformat()}
        elif take_over:
            disputed = {"disputed_at": ""}
        self._note(profiles=tuple(profiles)[-_MOST_PROFILES:], **disputed)
        if plan.claim is not None and plan.writes_now:
            self.write(plan.claim, key)

    def _stand_unwritten(self, error: StoreError) -> None:
        told = f"the store's claim cannot be written: {one_line(str(error))}"
        unpruned = tuple(dict.fromkeys((*self.standing.unpruned, told)))
        self.standing = replace(self.standing, unpruned=unpruned)

    def _is_recent(self, moment: str) -> bool:
        if not moment:
            return False
        try:
            return is_lately(datetime.fromisoformat(moment), self._now)
        except (ValueError, TypeError):
            return True

    def _read_note(self) -> _Note:
        try:
            return msgspec.convert(read_note(self._path), _Note)
        except (OSError, ValueError, msgspec.MsgspecError):
            return _Note()

    def _note(self, **changes: Any) -> None:
        """Change the note.

        Raises:
            StoreError: the note cannot be written, and so the claim must not be written either.
        """
        before = self._read_note()
        note = msgspec.structs.replace(before, **changes)
        if note == before:
            return
        try:
            write_note(self._path, msgspec.to_builtins(note))
        except OSError as error:
            raise StoreError(f"{self._path} cannot be written: {error.strerror}") from error
