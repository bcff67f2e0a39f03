"""Reasons not to delete: a hold, a run that went wrong, content that the newest backup lacks."""

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
    """Limits that a prune must obey.

    Attributes:
        unpruned: why nothing may be deleted, one reason each; empty if deleting is allowed.
        keep: backup -> why it stays, whatever retention says.
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
    """Find the limits for a prune of this profile now.

    Args:
        state: the state directory.
        census: the store's backups; no further ones are looked at here.
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
    """Say in words which hold stands, and what to do about it; "" if none stands."""
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
    """As `tell_hold`, from the note in the state directory and the claim."""
    note = SourcesMemory(state, state_key(profile.name, store.url)).read()
    return tell_hold(profile, note, claim.hold if claim is not None else None)


def keep_whole(headers: Mapping[str, Header | None]) -> dict[str, str]:
    """Find the backups that must stay because the newest may lack something.

    Args:
        headers: of all backups that count, newest first; None where it is not known.

    Returns:
        Name -> reason: the newest backup without problems; each newer one whose problems are not
        known; and backups that hold content that the newest could neither read nor carry over.
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
    """Keep backups of former owners while the store was taken over only lately.

    If that was a mistake, the former owner's machine reports it every night, and can take the
    store back.

    Args:
        shown: backup -> its evidence.
        now: aware.

    Returns:
        Name -> reason.
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
    """Keep the last good backup before each loss that an operator accepted lately.

    Accepting it may have been a mistake.

    Args:
        given_up: backup -> when the loss was accepted, ISO 8601.
        now: aware.

    Returns:
        Name -> reason.
    """
    reason = f"has what --accept-shrink gave up, for {LATELY.days} days"
    return {name: reason for name, at in given_up.items() if _is_recent(at, now)}


def _is_recent(moment: str, now: datetime) -> bool:
    """Whether a moment lies within the last `LATELY`.

    Args:
        moment: ISO 8601, or "" for now.
    """
    try:
        return is_lately(datetime.fromisoformat(moment) if moment else now, now)
    except (ValueError, TypeError):
        return False


def why_nothing_is_pruned(problems: Iterable[Problem]) -> list[str]:
    """Why a finished run with these problems deletes nothing.

    The reasons are missing or unreadable sources, and unreadable files of which no earlier backup
    is known; a backup that is known to have them is kept. Torn, carried, vanished and unstorable
    files are no reason.
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
