"""Find which backups of a store count, and the latest of them, by looking at as few as will do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from backup_tasks.census.catalog import (
    Backup,
    BackupDetails,
    backups_among,
    choose_backup,
    details_of,
    in_order,
    look_at,
    parse_day,
)
from backup_tasks.claim.acceptance import Acceptance
from backup_tasks.claim.clock import NAME_SPREAD, is_ahead
from backup_tasks.claim.evidence import Evidence, why_none
from backup_tasks.claim.proof import Known, Verdict, judge
from backup_tasks.claim.proof_notes import ProofNotes
from backup_tasks.common.printable import one_line
from backup_tasks.errors import (
    IdentityError,
    ObjectChanged,
    ObjectMissing,
    ReadRefused,
    StoreError,
)
from backup_tasks.format.archive_names import render_backup_id
from backup_tasks.format.manifest import Header
from backup_tasks.keys.identities import NO_KEYS, Keyring
from backup_tasks.stores.base import Store, StoredObject

# If neither profile nor claim says whose backups count, look at this many to find one of ours.
_LOOK_BACK = 64
# A run looks at this many backups that are not noted: a lost state directory heals in some days.
_LOOKED_AT = 4
# Look at this many together while searching for the latest.
_AT_ONCE = 8
_STRANGERS_HEADER_BYTES = 2**16
_OF_ONE_OBJECT = (ObjectMissing, ObjectChanged, ReadRefused)


class Choice(Struct, frozen=True):
    """The backup that is meant, and warnings about the choice.

    Attributes:
        warnings: one line each, fit to print.
    """

    backup: Backup
    warnings: tuple[str, ...] = ()


class Census:
    """The backups that a store listed, and which of them count.

    Args:
        listed: all of the store's objects.
        notes: evidence that was found before.
        acceptance: whose backups count.
        is_sure: whether the profile or the claim says whose backups count; if not, a backup signed
            by others may be chosen as the latest where there is no other.
        is_strict: whether unproven backups are refused when used, so that no warning is needed.
        keys: open encrypted backups that are not noted.
        made_here: whether another record than the notes says that an object was made here.
        now: aware; a backup dated ahead of this, and of the store's clock, does not count.
    """

    def __init__(
        self,
        store: Store,
        zone: tzinfo,
        listed: Iterable[StoredObject],
        notes: ProofNotes,
        acceptance: Acceptance,
        *,
        now: datetime,
        is_sure: bool = False,
        is_strict: bool = False,
        keys: Keyring = NO_KEYS,
        made_here: Callable[[StoredObject], bool] = lambda _: False,
    ) -> None:
        self._store, self._zone, self.notes, self._keys = store, zone, notes, keys
        self.listed = list(listed)
        self.acceptance = acceptance
        self._now, self._has_asked_store = now.astimezone(UTC), False
        self._is_sure, self._is_strict = is_sure, is_strict
        self._by_name = backups_among(self.listed, zone)
        self._objects = [backup.stored for backup in self._by_name]
        self._known = dict(notes.known(self._objects))
        for stored in self._objects:
            if trouble := why_none(stored):
                self._known[stored.name] = Known(Evidence(trouble=trouble))
            elif made_here(stored):
                known = self._known.get(stored.name, Known())
                self._known[stored.name] = replace(known, is_made_here=True)
        self._failed: dict[str, StoreError] = {}
        self._looked: set[str] = set()
        # Kept until more is known, as each judgement passes over every backup.
        self._judgements: dict[Acceptance, list[Backup]] = {}
        self._key_trouble: str | None = None

    def backups(self) -> list[Backup]:
        """All backups, oldest first, each with its verdict as far as is known."""
        return list(self._judged(self.acceptance))

    def proven(self) -> list[Backup]:
        """The backups that count, oldest first."""
        return [backup for backup in self.backups() if backup.verdict.counts]

    def ahead(self) -> list[Backup]:
        """The backups that would count if they were not dated ahead, oldest first."""
        return [backup for backup in self.backups() if backup.verdict.state == "ahead"]

    def begun(self) -> list[datetime]:
        """The starts of backups that count or are dated ahead; for those that are dated by name
        alone, the earliest possible start."""
        return [
            _utc(one.taken_at) - (NAME_SPREAD if one.verdict.by_name else timedelta(0))
            for one in self.backups()
            if one.verdict.counts or one.verdict.state == "ahead"
        ]

    def look(self, most: int = _LOOKED_AT) -> None:
        """Look at some backups that are not noted, and note the findings.

        The newest by name comes first, then the one stored last, then the oldest by name. Errors
        of the store are not raised.
        """
        waiting = self._half_known()
        if not waiting:
            return
        last = max(waiting, key=lambda one: (one.stored.modified_at, one.stored.name))
        wanted = list(dict.fromkeys([waiting[-1], last, *waiting]))[:most]
        self._look_wholly(wanted)

    def look_at_all(self) -> None:
        """Look at all backups that are not noted, and again at those that were found broken."""
        broken = [one for one in self._by_name if self._is_broken(one)]
        self._look_wholly([*self._half_known(), *broken])

    def evidence_of(self, backup: Backup) -> Evidence:
        """The evidence of one backup; looks at it if needed.

        Raises:
            StoreError: the store does not give the backup.
        """
        name = backup.stored.name
        found = self._known.get(name, Known()).evidence
        if found is None or not (found.is_whole or found.trouble):
            self._look([backup], lambda _: True)
            if name in self._failed:
                raise self._failed[name]
            found = self._known[name].evidence
        return found or Evidence()

    def save(self) -> None:
        """Write the findings to the notes. A failure to write is no error."""
        self.notes.save(self.listed)

    def details(self) -> list[BackupDetails]:
        """All backups, oldest first, with their headers; looks at those that are not noted."""
        self._look_lightly(self._waiting())
        return [self._details_of(backup) for backup in self.backups()]

    def _details_of(self, backup: Backup) -> BackupDetails:
        known = self._known.get(backup.stored.name, Known())
        found = self._failed.get(backup.stored.name) or known.evidence or Evidence()
        details = details_of(backup, found)
        if details.is_locked and not details.trouble and not self._opens():
            return replace(details, trouble=self._key_trouble or "")
        return details

    def header(self, name: str) -> Header | None:
        """A backup's manifest header, as far as is known; None also for a locked backup."""
        evidence = self._known.get(name, Known()).evidence
        return evidence.header if evidence is not None else None

    def shown(self, name: str) -> Evidence:
        """A backup's evidence, as far as is known."""
        return self._known.get(name, Known()).evidence or Evidence()

    def newest_or_previous(self) -> Backup | None:
        """The newest backup that counts, as far as is known; the last by name if none does."""
        backups = self.backups()
        counting = [one for one in backups if one.verdict.counts]
        found = counting or self._not_ahead(backups)
        return found[-1] if found else None

    def choose(self, *, name: str = "", day: str = "") -> Choice:
        """Choose the backup that is meant, as `choose_backup`; looks at as few as will do.

        Raises:
            UsageError: as `choose_backup`.
            StoreError: the store does not give a backup that may be meant.
        """
        if name or not self._by_name or (name and day):
            return Choice(self._named(name, day))
        asked = parse_day(day) if day else None
        for acceptance, word in self._ways():
            found = self._latest(acceptance, asked)
            if found is not None:
                return Choice(found, (*word, *self._newer(found, acceptance, asked)))
            if (choice := self._all_ahead(acceptance, asked)) is not None:
                return Choice(choice.backup, (*word, *choice.warnings))
        judged = self.backups()
        sound = [one for one in judged if not why_none(one.stored)]
        chosen = choose_backup(self._not_ahead(sound or judged), day=day)
        told = f"{chosen.id} is the latest by its name alone: {chosen.verdict.why}"
        return Choice(chosen, () if self._is_strict else (told,))

    def _all_ahead(self, acceptance: Acceptance, asked: date | None) -> Choice | None:
        """The newest backup dated ahead, if all that would otherwise count are dated ahead.

        Then it is probably this machine's clock that is wrong.
        """
        judged = self._judged(acceptance)
        found = [
            one
            for one in judged
            if one.verdict.state == "ahead" and (asked is None or one.taken_at.date() == asked)
        ]
        if not found or any(one.verdict.state in ("proven", "likely") for one in judged):
            return None
        clock = f"{self._now:%Y-%m-%d %H:%M} UTC"
        told = (
            f"every backup is dated ahead of this machine's clock, which says {clock}; set it; "
            f"{found[-1].id} is taken for the latest"
        )
        return Choice(found[-1], (told,))

    def _ways(self) -> Iterable[tuple[Acceptance, tuple[str, ...]]]:
        """The acceptance, then a wider one for when nothing fits; each with its warning."""
        yield self.acceptance, ()
        relaxed = replace(self.acceptance, names=None, trusts_locked=True)
        if self._is_sure:
            word = "no backup here names this profile and host, or one that the store's claim knows"
            yield relaxed, (word,)
        elif self.acceptance.keys:
            word = "no backup here is proven to be this machine's; others are signed by another key"
            yield replace(relaxed, keys=frozenset()), (word,)

    def _named(self, name: str, day: str) -> Backup:
        wanted = render_backup_id(name)
        same = [one for one in self._by_name if one.id == wanted]
        if len(same) > 1:
            self._look_lightly([one for one in same if self._is_waiting(one)])
        return choose_backup(self.backups(), name=name, day=day)

    def _latest(self, acceptance: Acceptance, asked: date | None) -> Backup | None:
        """The newest, or the last of a day, that is proven under `acceptance`."""
        room = len(self._by_name) if self._is_sure else _LOOK_BACK
        at_once = 2
        while True:
            fits = [
                one
                for one in self._judged(acceptance)
                if one.verdict.state in ("proven", "likely")
                and one.stored.name not in self._failed
                and (asked is None or one.taken_at.date() == asked)
            ]
            best = fits[-1] if fits else None
            waiting = [one for one in self._waiting() if _may_be(one, asked, best)]
            if waiting and room > 0:
                count = min(room, max(at_once, _AT_ONCE) if best else at_once)
                self._look_lightly(waiting[-count:])
                room -= count
                at_once *= 2  # all are judged again each time, and there may be thousands
            elif best is not None and best.verdict.state == "likely":
                self._look([best], lambda _: True)
            else:
                self._raise_failures(best, asked)
                return best

    def _raise_failures(self, best: Backup | None, asked: date | None) -> None:
        """Raise the store's error if a backup that it did not give may be newer than `best`.

        An older backup must not pass for the latest because the store failed.

        Raises:
            StoreError: the store failed, not only for one object.
        """
        for backup in self._by_name:
            error = self._failed.get(backup.stored.name)
            if error is None or isinstance(error, _OF_ONE_OBJECT):
                continue
            if _may_be(backup, asked, best):
                raise error

    def _newer(self, chosen: Backup, acceptance: Acceptance, asked: date | None) -> tuple[str, ...]:
        """Warn of backups that are newer by name, but not proven."""
        newer = [
            one
            for one in self._judged(acceptance)
            if not one.verdict.counts
            and _utc(one.taken_at) > _utc(chosen.taken_at)
            and (asked is None or one.taken_at.date() == asked)
        ]
        if not newer:
            return ()
        last = newer[-1]
        more = f" and {len(newer) - 1:,} more" if len(newer) > 1 else ""
        verb = "are" if more else "is"
        return (
            f"{last.id}{more} {verb} newer by name, but nothing proves it: {last.verdict.why}; "
            f"{chosen.id} is the latest that counts; choose another by --name",
        )

    def _judged(self, acceptance: Acceptance) -> list[Backup]:
        """All backups with their verdicts under `acceptance`, oldest first."""
        if (judged := self._judgements.get(acceptance)) is None:
            verdicts = judge(self._objects, self._known, acceptance, self.notes.owners())
            judged = in_order(self._with(one, verdicts[one.stored.name]) for one in self._by_name)
            self._judgements[acceptance] = judged
        return judged

    def _with(self, backup: Backup, verdict: Verdict) -> Backup:
        failed = self._failed.get(backup.stored.name)
        if failed is not None and verdict.state == "unknown":
            verdict = replace(verdict, why=one_line(str(failed)))
        taken_at = backup.taken_at
        if verdict.started_at is not None:
            with contextlib.suppress(OverflowError):  # in the year 1 or 9999
                taken_at = verdict.started_at.astimezone(self._zone)
        if verdict.state in ("proven", "likely") and self._is_ahead(
            verdict.started_at or taken_at, verdict.by_name
        ):
            why = f"it is dated ahead: {_utc(taken_at):%Y-%m-%d %H:%M} UTC is yet to come"
            verdict = replace(verdict, state="ahead", why=why)
        return replace(backup, taken_at=taken_at, verdict=verdict)

    def _not_ahead(self, backups: Sequence[Backup]) -> Sequence[Backup]:
        """The backups that are not dated ahead by their names, or all if all are."""
        return [one for one in backups if not self._is_ahead(one.taken_at, True)] or backups

    def _is_ahead(self, moment: datetime, by_name: bool) -> bool:
        """Whether a backup is dated ahead of this machine's clock and the store's.

        The store is asked only if the backup is ahead of this machine's.
        """
        if not is_ahead(moment, self._now, by_name=by_name):
            return False
        if not self._has_asked_store:
            self._has_asked_store = True
            with contextlib.suppress(StoreError):
                self._now = max(self._now, self._store.store_time() or self._now)
        return is_ahead(moment, self._now, by_name=by_name)

    def _waiting(self) -> list[Backup]:
        """Backups that were not looked at, by name; also locked ones if a key is at hand."""
        return [one for one in self._by_name if self._is_waiting(one)]

    def _is_waiting(self, backup: Backup) -> bool:
        name = backup.stored.name
        if name in self._looked:
            return False
        evidence = self._known.get(name, Known()).evidence
        return evidence is None or (evidence.is_locked and self._opens())

    def _half_known(self) -> list[Backup]:
        """Backups that were not looked at, or not closely enough to be proven; by name."""
        found = [
            one
            for one in self._judged(self.acceptance)
            if self._is_waiting(one) or one.verdict.state == "likely"
        ]
        return sorted(found, key=lambda one: one.stored.name)

    def _is_broken(self, backup: Backup) -> bool:
        evidence = self._known.get(backup.stored.name, Known()).evidence
        if evidence is None or evidence.is_locked or why_none(backup.stored):
            return False
        return bool(evidence.trouble)

    def _is_worth(self, evidence: Evidence) -> bool:
        """Whether to read all of a manifest: it is adopted, or signed by an accepted key."""
        accepted = self.acceptance
        if evidence.footer in accepted.adopted:
            return True
        return bool(evidence.key) and (not accepted.keys or evidence.key in accepted.keys)

    def _opens(self) -> bool:
        """Whether there are keys that may open locked backups."""
        if self._key_trouble is None:
            try:
                self._keys.load()
                self._key_trouble = ""
            except IdentityError as error:
                self._key_trouble = str(error)
        return not self._key_trouble

    @property
    def _accepted(self) -> frozenset[str]:
        """Accepted keys and adopted footers together."""
        return self.acceptance.keys | self.acceptance.adopted

    def _shortened(self, evidence: Evidence) -> Evidence:
        """Drop a stranger's header that is larger than any of ours: there may be thousands."""
        is_ours = not self._accepted.isdisjoint((evidence.key, evidence.footer))
        if is_ours or len(msgspec.json.encode(evidence.header)) <= _STRANGERS_HEADER_BYTES:
            return evidence
        trouble = "the first line of its manifest is longer than any that this program writes"
        return Evidence(footer=evidence.footer, key=evidence.key, trouble=trouble)

    def _look_lightly(self, wanted: Sequence[Backup]) -> None:
        """Look, but do not read large manifests for their hash."""
        self._look(wanted, None)

    def _look_wholly(self, wanted: Sequence[Backup]) -> None:
        self._look(wanted, self._is_worth)

    def _look(self, wanted: Sequence[Backup], is_worth: Callable[[Evidence], bool] | None) -> None:
        """Look, and note the findings that are certain."""
        if not wanted:
            return
        objects = [one.stored for one in wanted]
        worth = is_worth or (lambda _: False)
        found = look_at(self._store, objects, self._keys, worth, self._shortened)
        self._judgements.clear()
        for backup in wanted:
            name, evidence = backup.stored.name, found[backup.stored.name]
            self._looked.add(name)
            if isinstance(evidence, StoreError):
                self._failed[name] = evidence
                continue
            self._known[name] = replace(self._known.get(name, Known()), evidence=evidence)
            is_found_bad = bool(evidence.trouble) and not evidence.is_locked
            if is_worth or evidence.is_whole or is_found_bad or not evidence.footer:
                self.notes.note(backup.stored, evidence)


def _may_be(backup: Backup, asked: date | None, best: Backup | None) -> bool:
    """Whether a backup may be the one that is meant, judging by its name alone.

    Args:
        best: the latest that fits, of those that were looked at.
    """
    if best is not None and _utc(backup.taken_at) + NAME_SPREAD < _utc(best.taken_at):
        return False
    if asked is None:
        return True
    return abs(backup.taken_at.date() - asked) <= timedelta(days=2)


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)
