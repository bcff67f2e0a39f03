"""What stands against deleting: a hold, a run that went wrong, and what the newest backup lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backup_tasks.catalog import Backup
from backup_tasks.claim.claim_file import Hold
from backup_tasks.claim.hold import accept_command, may_lift, render_hold, standing_hold
from backup_tasks.claim.hold_note import SourcesMemory, SourcesNote
from backup_tasks.errors import ArchiveError, IdentityError, StoreError
from backup_tasks.journal import Problem
from backup_tasks.manifest import Header
from backup_tasks.manifest_cache import ManifestCache
from backup_tasks.profile_model import Profile
from backup_tasks.reader import read_header
from backup_tasks.state import state_key
from backup_tasks.stores.base import Store
from backup_tasks.units import render_count

# So many headers are read to find a backup without problems; the rest is kept until it is known.
_MOST_READ = 8
_NAMED = 3


@dataclass(frozen=True, slots=True)
class PruneGuard:
    """What a prune has to obey.

    Attributes:
        unpruned: why nothing is to be deleted, one reason each.
        keep: backup -> why it stays whatever retention says.
    """

    unpruned: tuple[str, ...] = ()
    keep: Mapping[str, str] = field(default_factory=dict)


def find_guard(
    profile: Profile,
    store: Store,
    state: Path,
    backups: Sequence[Backup],
    of_claim: Hold | None,
) -> PruneGuard:
    """What a prune of this profile has to obey now.

    Args:
        state: the state directory.
        backups: those that count, oldest first.
        of_claim: the hold that the store's claim tells of.
    """
    key = state_key(profile.name, store.url)
    note = SourcesMemory(state, key).read()
    headers = _Headers(store, ManifestCache(state, key))
    newest_first = list(reversed(backups))
    told = tell_hold(profile, note, of_claim)
    keep = keep_whole(
        [one.stored.name for one in newest_first], _Problems(note.problems, headers, newest_first)
    )
    return PruneGuard((told,) if told else (), keep | _needed(note, headers, newest_first))


def tell_hold(profile: Profile, note: SourcesNote, of_claim: Hold | None) -> str:
    """The hold that stands, in words, with what to do about it; "" if none does."""
    hold = standing_hold(of_claim, note.hold)
    if hold is None:
        return ""
    before = note.baseline or hold.before
    is_known = may_lift(before, note.hold, is_blind=note.is_blind)
    return render_hold(hold, accept_command(profile.name), is_known=is_known)


def keep_whole(names: Iterable[str], problems: Mapping[str, int | None]) -> dict[str, str]:
    """Which backups stay so that the newest one without problems does.

    Args:
        names: of all backups, newest first.
        problems: how many files of each were not whole; None where nobody knows.

    Returns:
        Names with the reason: that backup, and those after it of which it is not known.
    """
    keep: dict[str, str] = {}
    for name in names:
        number = problems[name]
        if number == 0:
            return keep | {name: "the newest without problems"}
        if number is None:
            keep[name] = "perhaps the newest without problems"
    return keep


def why_nothing_is_pruned(problems: Iterable[Problem]) -> list[str]:
    """Why a run that is done, but with these problems, deletes nothing.

    Files that are torn, carried over, or were deleted meanwhile are no reason, nor is what no
    archive can hold; and what could not be read is none where the backup that has it is known,
    for that one is kept.
    """
    missing: list[Problem] = []
    unread: list[Problem] = []
    for problem in problems:
        if problem.kind == "missing":
            missing.append(problem)
        elif problem.kind == "unreadable" and not problem.last_whole:
            unread.append(problem)
    return [
        f"{what}: {_named(those)}"
        for what, those in (
            ("a source is missing", missing),
            ("older backups may have what could not be read", unread),
        )
        if those
    ]


def _named(problems: Sequence[Problem]) -> str:
    more = len(problems) - _NAMED
    named = ", ".join(problem.path for problem in problems[:_NAMED])
    return f"{named} and {render_count(more, 'other')}" if more > 0 else named


class _Headers:
    """Reads headers of backups, each once, as few as possible."""

    def __init__(self, store: Store, cache: ManifestCache) -> None:
        self._store, self._cache = store, cache
        self._found: dict[str, Header | None] = {}

    def of(self, backup: Backup) -> Header | None:
        """The header; None if it cannot be read here, or too many were read."""
        name = backup.stored.name
        if name not in self._found and len(self._found) < _MOST_READ:
            try:
                self._found[name] = read_header(
                    *self._cache.in_front_of(self._store, backup.stored)
                )
            except (ArchiveError, IdentityError, StoreError):
                self._found[name] = None
        return self._found.get(name)


class _Problems(Mapping[str, "int | None"]):
    """How many files of a backup were not whole: as noted, else as its header says."""

    def __init__(
        self, noted: Mapping[str, int], headers: _Headers, backups: Sequence[Backup]
    ) -> None:
        self._noted, self._headers = noted, headers
        self._backups = {backup.stored.name: backup for backup in backups}

    def __getitem__(self, name: str) -> int | None:
        if name in self._noted:
            return self._noted[name]
        header = self._headers.of(self._backups[name])
        return header.problems if header is not None else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._backups)

    def __len__(self) -> int:
        return len(self._backups)


def _needed(note: SourcesNote, headers: _Headers, newest_first: Sequence[Backup]) -> dict[str, str]:
    """The backups that hold what the newest one could neither read nor carry over."""
    if not newest_first:
        return {}
    newest = newest_first[0]
    needed: Sequence[str] = note.needed
    if newest.stored.name not in note.problems:
        header = headers.of(newest)
        needed = header.needed_backups if header is not None else ()
    return dict.fromkeys(needed, "has what the newest one lacks")
