"""What stands against deleting: a hold, a run that went wrong, and what the newest backup lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from backup_tasks.census.census import Census
from backup_tasks.claim.claim_file import Claim, Hold, Name
from backup_tasks.claim.clock import LATELY, is_lately
from backup_tasks.claim.evidence import Evidence
from backup_tasks.claim.hold_note import SourcesMemory, SourcesNote
from backup_tasks.claim.keeper import ClaimKeeper
from backup_tasks.common.state_files import state_key
from backup_tasks.common.units import render_count
from backup_tasks.format.manifest import Header
from backup_tasks.journal.problems import Problem
from backup_tasks.profile.model import Profile
from backup_tasks.stores.base import Store

_NAMED = 3


class PruneGuard(Struct, frozen=True):
    """What a prune has to obey.

    Attributes:
        unpruned: why nothing is to be deleted, one reason each.
        keep: backup -> why it stays whatever retention says.
    """

    unpruned: tuple[str, ...] = ()
    keep: Mapping[str, str] = msgspec.field(default_factory=dict)


def find_guard(
    profile: Profile,
    store: Store,
    state: Path,
    census: Census,
    keeper: ClaimKeeper | None,
    now: datetime,
) -> PruneGuard:
    """What a prune of this profile has to obey now.

    Args:
        state: the state directory.
        census: which backups there are; nothing more is looked at.
        keeper: of the store's claim, opened.
        now: aware.
    """
    note = SourcesMemory(state, state_key(profile.name, store.url)).read()
    told = tell_hold(profile, note, keeper.found_hold if keeper is not None else None)
    names = [one.stored.name for one in reversed(census.proven())]
    keep = keep_whole({name: census.header(name) for name in names})
    if keeper is not None and (claim := keeper.standing.claim) is not None:
        keep |= keep_former({name: census.shown(name) for name in names}, claim, now)
    keep |= keep_given_up(note.given_up, now)
    return PruneGuard((told,) if told else (), keep)


def tell_hold(profile: Profile, note: SourcesNote, of_claim: Hold | None) -> str:
    """The hold that stands, in words, with what to do about it; "" if none does."""
    if of_claim is None and note.hold is None:
        return ""
    from backup_tasks.claim.hold import accept_command, may_lift, render_hold, standing_hold

    hold = standing_hold(of_claim, note.hold)
    if hold is None:
        return ""
    before = note.baseline or hold.before
    is_known = may_lift(before, note.hold, is_blind=note.is_blind)
    return render_hold(hold, accept_command(profile.name), is_known=is_known)


def told_hold(profile: Profile, store: Store, state: Path, claim: Claim | None) -> str:
    """As `tell_hold`, from what is kept in the state directory and in the claim."""
    note = SourcesMemory(state, state_key(profile.name, store.url)).read()
    return tell_hold(profile, note, claim.hold if claim is not None else None)


def keep_whole(headers: Mapping[str, Header | None]) -> dict[str, str]:
    """Which backups stay beside the newest one, if that is not whole.

    Args:
        headers: of all backups that count, the newest first; None where it is not known.

    Returns:
        Names with the reason: the newest one without problems, those after it of which that is
        not known, and those that hold what the newest one could neither read nor carry over.
    """
    keep: dict[str, str] = {}
    newest = next(iter(headers.values()), None)
    for name in newest.needed_backups if newest is not None else ():
        keep[name] = "has what the newest one lacks"
    for name, header in headers.items():
        if header is None:
            keep[name] = "perhaps the newest without problems"
        elif not header.problems:
            return keep | {name: "the newest without problems"}
    return keep


def keep_former(shown: Mapping[str, Evidence], claim: Claim, now: datetime) -> dict[str, str]:
    """Backups of former owners that stay, as the store was taken over only lately.

    If that was a mistake, the machine whose store it was says so every night, and takes it back.

    Args:
        shown: backup -> what it shows.
        now: aware.

    Returns:
        Names with the reason.
    """
    if not claim.is_taken_over or not _is_recent(claim.claimed_at, now):
        return {}
    own = Name(claim.profile, claim.host)
    reason = f"the former owner's, for {LATELY.days} days after the store was taken over"
    return {
        name: reason
        for name, one in shown.items()
        if one.key in claim.also
        or (one.header is not None and Name(one.header.profile, one.header.host) != own)
    }


def keep_given_up(given_up: Mapping[str, str], now: datetime) -> dict[str, str]:
    """The last good backups before losses that an operator accepted lately, perhaps by mistake.

    Args:
        given_up: backup -> when, ISO 8601.
        now: aware.

    Returns:
        Names with the reason.
    """
    reason = f"has what --accept-shrink gave up, for {LATELY.days} days"
    return {name: reason for name, at in given_up.items() if _is_recent(at, now)}


def _is_recent(moment: str, now: datetime) -> bool:
    """Whether it is a few days ago at the most.

    Args:
        moment: ISO 8601, or "" for now.
    """
    try:
        return is_lately(datetime.fromisoformat(moment) if moment else now, now)
    except (ValueError, TypeError):
        return False


def why_nothing_is_pruned(problems: Iterable[Problem]) -> list[str]:
    """Why a run that is done, but with these problems, deletes nothing.

    Files that are torn, carried over, or were deleted meanwhile are no reason, nor is what no
    archive can hold; and what could not be read is none where the backup that has it is known,
    for that one is kept.
    """
    missing: list[Problem] = []
    unread: list[Problem] = []
    for problem in problems:
        if problem.kind == "missing" or (problem.is_source and problem.kind == "unreadable"):
            missing.append(problem)
        elif problem.kind == "unreadable" and not problem.last_whole:
            unread.append(problem)
    return [
        f"{what}: {_named(those)}"
        for what, those in (
            ("a source is missing or cannot be read", missing),
            ("older backups may have what could not be read", unread),
        )
        if those
    ]


def _named(problems: Sequence[Problem]) -> str:
    more = len(problems) - _NAMED
    named = ", ".join(problem.path for problem in problems[:_NAMED])
    return f"{named} and {render_count(more, 'other')}" if more > 0 else named
