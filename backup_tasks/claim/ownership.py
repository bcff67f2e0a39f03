"""Decide who owns a store, and what a backup may do there: docs/safekeeping.md's table. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from backup_tasks.claim.claim_file import Claim, Hold, Name
from backup_tasks.common.printable import printable

_T = TypeVar("_T")
# Remember this many former keys, and this many names, latest first: a container may have another
# host name every night, and no claim is larger than `CLAIM_BYTES`.
_MOST_FORMER = 100
_TWO_WRITERS = (
    "the store's claim is not the one that this machine wrote last: a clone of it has the same "
    "signing key, the state directory was set back, or somebody put an older claim there; "
    "nothing is deleted for eight days; {command} ends that at once"
)


class Known(Struct, frozen=True):
    """Facts that this machine knows without looking at the store.

    Attributes:
        own_key: this machine's public key as text, "" if it has none.
        name: this profile and host.
        machine: from `hash_machine`.
        remembered: the last two claims that this machine wrote to the store, as far as the state
            directory says, oldest first; a crash may have kept the last from arriving.
        is_disputed: whether another writer with our key was noticed lately.
        take_over: the operator said `--take-over`.
    """

    own_key: str
    name: Name
    machine: str
    remembered: tuple[Claim, ...] = ()
    is_disputed: bool = False
    take_over: bool = False

    @property
    def take_over_command(self) -> str:
        """The command that makes the store this profile's, ready to type."""
        return take_over_command(self.name.profile)


class Surroundings(Protocol):
    """Questions that need a look at the store or at profiles; asked only where they matter."""

    def newest_is_ours(self) -> bool:
        """Whether this profile made the newest backup in the store; True if there is none."""

    def has_backups(self) -> bool:
        """Whether this profile is known to have made backups in the store before."""

    def sharers(self, *, all_profiles: bool) -> tuple[str, ...]:
        """Other profiles of this machine that use this store, or cannot be read and may use it.

        Args:
            all_profiles: look at every profile, not only at those that were seen in the store.
        """

    def shares_with(self, profile: str) -> bool:
        """Whether another profile of this machine, with this name, uses this store."""


class Ownership(Struct, frozen=True):
    """The decision on what a run may do.

    Attributes:
        claim: the store's claim from now on, its serial and times left open; None: it is not ours
            to write.
        writes_now: write the claim before anything else.
        refusal: why nothing may be written at all, or "".
        unpruned: why nothing may be deleted.
        notes: lines for the log.
        is_new_dispute: another writer with our key was noticed.
        sharers: other profiles of this machine that use the store, or may use it.
    """

    claim: Claim | None = None
    writes_now: bool = False
    refusal: str = ""
    unpruned: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_new_dispute: bool = False
    sharers: tuple[str, ...] = ()


def plan_ownership(
    found: Claim | None, trouble: str, known: Known, around: Surroundings
) -> Ownership:
    """Decide what a backup, or a prune, may do in a store.

    Args:
        found: the store's claim; None if there is none that can be believed.
        trouble: why an object under the claim's name is no claim, or cannot be read; "" if there
            is no such object.
    """
    if known.take_over:
        return _take_over(found, known, around)
    if found is None and trouble:
        return Ownership(unpruned=(f"{trouble}; {_makes_it_ours(known)}",))
    if found is None:
        return _plan_unclaimed(known, around)
    if found.owner == known.own_key:
        return _plan_own(found, known, around)
    return _plan_anothers(found, known, around)


def _take_over(found: Claim | None, known: Known, around: Surroundings) -> Ownership:
    """Make the store this profile's, and keep accepting what the former owner signed.

    Anybody who may write to the store can put a claim there. So if this machine knows that the
    store was its own, a stranger's claim adds no keys, names or adopted footers.
    """
    notes: tuple[str, ...] = ()
    is_strange = found is not None and _is_strange(found, known)
    if found is not None and is_strange:
        notes = (
            f"the store was taken back from {whose(found)}; what {found.owner} signed does not "
            "count; if it should, name that key in [signing] public_key",
        )
    elif found is not None and not (_is_same(found, known) and found.owner == known.own_key):
        notes = (
            f"the store was taken over from {whose(found)}; what {found.owner} signed still counts",
        )
    last = _last(known) if is_strange else found or _last(known)
    claim = _succeed(last, known, hold=_any_hold(found, known))
    if last is not None and _changes_hands(last, known) and not _is_same(last, known):
        claim = replace(claim, is_taken_over=True)
    sharers = around.sharers(all_profiles=True)
    return Ownership(
        claim, writes_now=True, notes=notes, unpruned=_told_shared(sharers), sharers=sharers
    )


def _plan_unclaimed(known: Known, around: Surroundings) -> Ownership:
    sharers = around.sharers(all_profiles=True)
    shared = _told_shared(sharers)
    if not around.newest_is_ours():
        told = f"the newest backup in the store is not this profile's; {_makes_it_ours(known)}"
        return Ownership(unpruned=(told, *shared), sharers=sharers)
    last = _last(known)
    notes = ("the claim was gone from the store, and is written anew",) if last else ()
    return Ownership(
        _succeed(last, known), writes_now=True, notes=notes, unpruned=shared, sharers=sharers
    )


def _plan_own(found: Claim, known: Known, around: Surroundings) -> Ownership:
    if _is_elsewhere(found, known) and not _is_put_back(found, known):
        return Ownership(
            refusal=f"the store belongs to {whose(found)}, which has the same signing key: this "
            "machine is a clone of that one; give it a store.url and a signing key of its own, "
            f"or, if it replaces that machine, say {known.take_over_command}"
        )
    if found.profile != known.name.profile:
        is_former = known.name in found.names
        if around.shares_with(found.profile) or (not is_former and around.has_backups()):
            return _plan_shared(found, around)
    written = {claim.serial for claim in known.remembered if claim.owner == known.own_key}
    is_new_dispute = bool(written) and found.serial not in written
    hold = _any_hold(found, known) if is_new_dispute else found.hold
    told = _TWO_WRITERS.format(command=known.take_over_command)
    disputed = (told,) if is_new_dispute or known.is_disputed else ()
    before = _joined(found, known) if is_new_dispute else found
    return Ownership(
        _succeed(before, known, hold=hold),
        unpruned=(*disputed, *_shared(around)),
        notes=tuple(_renamings(found, known)),
        is_new_dispute=is_new_dispute,
    )


def _plan_shared(found: Claim, around: Surroundings) -> Ownership:
    told = f"the store belongs to profile {printable(found.profile)} of this machine"
    remedy = "give this profile a prefix of its own in store.url"
    if not around.has_backups():
        return Ownership(refusal=f"{told}; {remedy}")
    return Ownership(unpruned=(f"{told}, and both have backups there; {remedy}",))


def _plan_anothers(found: Claim, known: Known, around: Surroundings) -> Ownership:
    is_ours = any(
        (claim.owner, claim.serial) == (found.owner, found.serial) for claim in known.remembered
    )
    if is_ours and not _is_elsewhere(found, known):
        return Ownership(
            _succeed(found, known, hold=_any_hold(found, known)),
            writes_now=True,
            notes=("the signing key was replaced, and owns the store from now on",),
            unpruned=_shared(around),
        )
    told = f"the store belongs to {whose(found)}, by another signing key, {found.owner}"
    if _is_strange(found, known):
        return Ownership(
            unpruned=(
                f"{told}, and was this machine's before: it was taken over, or somebody put that "
                f"claim there; {_makes_it_ours(known)}",
            )
        )
    if _is_same(found, known):
        return Ownership(
            unpruned=(
                f"{told}: the state directory of this machine was lost or exchanged; "
                f"{_makes_it_ours(known)}",
            )
        )
    if around.has_backups():
        remedy = _makes_it_ours(known)
        return Ownership(unpruned=(f"{told}, and both have backups there; {remedy}",))
    return Ownership(
        refusal=f"{told}; give this profile a prefix of its own in store.url, or, if this machine "
        f"replaces that one, say {known.take_over_command}"
    )


def take_over_command(profile: str) -> str:
    """The command that makes a store this profile's, ready to type."""
    return f"`invoke backup --profile {printable(profile)} --take-over`"


def _makes_it_ours(known: Known) -> str:
    return f"{known.take_over_command} makes it this profile's"


def counts_for(found: Claim, known: Known, around: Surroundings) -> bool:
    """Whether a claim tells a reader which backups are this profile's.

    On a new machine it does, as there is nothing else to go by. It does not if this profile has
    made backups under its own key or name, beside the owner's. Nor does a claim by a strange key
    in a store that was this machine's: anybody may have put it there.
    """
    if _is_strange(found, known):
        return False
    if found.owner == known.own_key:
        return found.profile == known.name.profile or not around.shares_with(found.profile)
    return _is_same(found, known) or not (known.own_key and around.has_backups())


def whose(claim: Claim) -> str:
    """The owner in words, fit to print."""
    return f"profile {printable(claim.profile)} on host {printable(claim.host)}"


def _is_same(found: Claim, known: Known) -> bool:
    here = (known.name.profile, known.name.host, known.machine)
    return (found.profile, found.host, found.machine) == here


def _is_elsewhere(found: Claim, known: Known) -> bool:
    """Whether the claim is another machine's: host and machine id both differ."""
    has_ids = bool(found.machine and known.machine)
    return has_ids and found.machine != known.machine and found.host != known.name.host


def _changes_hands(last: Claim, known: Known) -> bool:
    return last.owner != known.own_key or _is_elsewhere(last, known)


def _is_put_back(found: Claim, known: Known) -> bool:
    """Whether this very machine has written a later claim with the same key."""
    return any(
        (claim.owner, claim.machine) == (found.owner, known.machine)
        and claim.renewed_at > found.renewed_at
        for claim in known.remembered
    )


def _is_strange(found: Claim, known: Known) -> bool:
    """Whether the store was this machine's, but the claim is by a key that never was."""
    ours = {known.own_key, *(claim.owner for claim in known.remembered)}
    return bool(known.remembered) and found.owner not in ours


def _last(known: Known) -> Claim | None:
    return known.remembered[-1] if known.remembered else None


def _joined(found: Claim, known: Known) -> Claim:
    """Merge what `found` and our last claim accept: an older claim that was put back knows less."""
    last = _last(known)
    if last is None or last.owner != found.owner:
        return found
    return replace(
        found,
        also=_once((*last.also, *found.also)),
        names=_once((*last.names, *found.names)),
        adopted=_once((*last.adopted, *found.adopted)),
    )


def _any_hold(found: Claim | None, known: Known) -> Hold | None:
    """The hold of `found`, or of our last claim: putting back an older claim lifts no hold."""
    last = _last(known)
    return (found.hold if found else None) or (last.hold if last else None)


def _shared(around: Surroundings) -> tuple[str, ...]:
    """Why nothing may be deleted, if a profile that was seen in the store still uses it."""
    return _told_shared(around.sharers(all_profiles=False))


def _told_shared(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        return ()
    told = ", ".join(map(printable, names))
    return (
        f"the store is also that of profile {told}, unless that cannot be read; give each profile "
        "a prefix of its own in store.url, and mend what `invoke profiles` names",
    )


def _renamings(found: Claim, known: Known) -> Iterable[str]:
    if (found.profile, found.host) != (known.name.profile, known.name.host):
        now = f"profile {printable(known.name.profile)} on host {printable(known.name.host)}"
        yield f"the store was that of {whose(found)}, and is now that of {now}"


def _succeed(last: Claim | None, known: Known, *, hold: Hold | None = None) -> Claim:
    """This machine's claim, as successor to the last one, whoever wrote that.

    Args:
        hold: taken if the last claim has none.
    """
    fresh = Claim(
        owner=known.own_key,
        profile=known.name.profile,
        host=known.name.host,
        machine=known.machine,
        serial="",
        claimed_at="",
        renewed_at="",
        names=(known.name,),
    )
    if last is None:
        return replace(fresh, hold=hold)
    changes_hands = _changes_hands(last, known)
    return replace(
        fresh,
        claimed_at="" if changes_hands else last.claimed_at,
        is_taken_over=last.is_taken_over and not changes_hands,
        also=_once(key for key in (last.owner, *last.also) if key != known.own_key)[:_MOST_FORMER],
        names=_once((known.name, *last.names))[:_MOST_FORMER],
        adopted=last.adopted,
        hold=last.hold or hold,
    )


def _once(items: Iterable[_T]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(items))
