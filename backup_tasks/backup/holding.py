"""Notices what the sources lost: raises the hold before the commit, and lifts it afterwards.

A crash in between leaves the hold. It is written to the claim first, where `prune` on any machine
obeys it, and then to the state directory, where it stays if somebody puts back an older claim.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

import msgspec
from msgspec import Struct

from backup_tasks.backup.assembly import SourcesSeen
from backup_tasks.backup.context import BackupRun
from backup_tasks.backup.scan import Scan
from backup_tasks.census.census import Census
from backup_tasks.claim.claim_file import Baseline, Hold
from backup_tasks.claim.hold import (
    Alarm,
    Sight,
    accept_command,
    alarm_of_size,
    baseline_of,
    find_alarms,
    for_claim,
    hash_rules,
    may_lift,
    plan_hold,
    render_hold,
    standing_hold,
)
from backup_tasks.claim.hold_note import SourcesMemory, SourcesNote
from backup_tasks.claim.keeper import ClaimKeeper
from backup_tasks.common.printable import one_line
from backup_tasks.common.units import utc_text
from backup_tasks.errors import BackupError
from backup_tasks.filesystem.mountinfo import Mounts
from backup_tasks.journal.run_record import RunRecord, hold_back, open_log
from backup_tasks.keys.signing import SigningKey
from backup_tasks.profile.model import Profile
from backup_tasks.snapshot.mount_points import (
    at_or_below,
    automounts,
    data_mounts,
    mount_path,
    mount_text,
)
from backup_tasks.snapshot.source_counts import top_of
from backup_tasks.snapshot.source_tree import GONE


class HoldPlace(Protocol):
    """The place of the hold besides the state directory: the store's claim."""

    @property
    def hold(self) -> Hold | None:
        """The hold in the claim."""

    def write(self, hold: Hold | None) -> None:
        """Write the claim anew with this hold.

        Raises:
            BackupError: the claim cannot be written.
        """


class ClaimedHold(Struct, frozen=True):
    """The hold in a claim that is ours to write."""

    keeper: ClaimKeeper
    key: SigningKey

    @property
    def hold(self) -> Hold | None:
        """The hold in the claim."""
        return self.keeper.found_hold

    def write(self, hold: Hold | None) -> None:
        """Write the claim anew with this hold.

        Raises:
            StoreError: the store fails, or somebody else wrote the claim meanwhile.
        """
        claim = self.keeper.standing.claim
        if claim is not None:
            self.keeper.write(msgspec.structs.replace(claim, hold=hold), self.key)


class NoClaim(Struct, frozen=True):
    """A store whose claim must not be written: the hold is kept only in the state directory."""

    hold: Hold | None = None

    def write(self, hold: Hold | None) -> None:
        """Write nothing."""


def hold_place(run: BackupRun, key: SigningKey | None) -> HoldPlace:
    """The place where a run finds the hold, and writes it if the claim is its own."""
    if run.keeper is None:
        return NoClaim()
    if key is None or not run.keeper.standing.is_owner:
        return NoClaim(run.keeper.found_hold)
    return ClaimedHold(run.keeper, key)


class Holding:
    """Notices in one run that a source shrank, and keeps the hold.

    Args:
        earlier: the backups in the store.
        place: the hold in the claim.
    """

    def __init__(self, run: BackupRun, earlier: Census, place: HoldPlace) -> None:
        self._run = run
        self._earlier = earlier
        self._place = place
        self._memory = SourcesMemory(run.paths.state, run.state_key)
        self._note = self._memory.read()
        self._standing = standing_hold(place.hold, self._note.hold)
        self._before = self._find_baseline()
        self._mounts = Mounts().all
        self._alarms: list[Alarm] = []
        self._accepted: list[Alarm] = []
        self._sight: Sight | None = None

    @property
    def watched(self) -> set[str]:
        """Folders for which the walk must note whether it entered them."""
        tops = self._tops()
        earlier = map(mount_path, self._before.mounts if self._before is not None else ())
        mounts = {*data_mounts(self._mounts), *automounts(self._mounts), *earlier}
        return {*tops, *at_or_below(mounts, tops)}

    def look(self, scan: Scan) -> list[str]:
        """Compare with the last good backup; returns what is missing since then, in words."""
        self._sight = see_sources(self._run.profile, scan, self._before)
        alarms = find_alarms(
            self._before,
            self._sight,
            self._run.profile.backup.shrink_share,
            has_earlier=bool(self._earlier.backups()),
            standing=self._standing,
        )
        if self._before is None and self._standing is None and (proven := self._earlier.proven()):
            content_bytes = scan.content_bytes - scan.hole_bytes
            shrink_limit = self._run.profile.backup.shrink_share
            alarms += alarm_of_size(proven[-1].stored.size, content_bytes, shrink_limit)
        if self._run.accept_shrink:
            self._accepted = alarms
        else:
            self._alarms = alarms
        return [alarm.text for alarm in alarms]

    def seen(self) -> SourcesSeen:
        """The facts about the sources for the manifest's header."""
        assert self._sight is not None
        return SourcesSeen(
            self._sight.counts,
            sorted(self._sight.mounts),
            self._sight.rules,
            0 if self._is_good else max(1, len(self._alarms)),
        )

    def raise_hold(self, record: RunRecord) -> None:
        """Before the commit: raise the hold if something is missing, so that nothing is deleted.

        A store that does not take the claim is only warned of; the backup goes on.
        """
        if not self._alarms:
            return
        now = utc_text(self._run.now)
        hold = plan_hold(self._standing, self._alarms, self._before, now)
        assert hold is not None
        is_blind = any(alarm.is_blind for alarm in self._alarms) or (
            self._standing is not None and not self._is_known
        )
        is_encrypted = bool(self._run.profile.recipients)
        note = msgspec.structs.replace(
            self._memory.read(), baseline=self._before, hold=hold, is_blind=is_blind
        )
        for line in self._written(for_claim(hold, self._alarms, is_encrypted=is_encrypted), note):
            record.warnings.append(line)
        self._note, self._standing = note, hold
        log = open_log(self._run.paths)
        for alarm in self._alarms:
            log.warning("backup %s: %s", self._run.profile.name, one_line(alarm.text))

    def _written(self, of_claim: Hold | None, note: SourcesNote) -> Iterator[str]:
        """Write claim and note; yields what went wrong."""
        if self._place.hold != of_claim:
            try:
                self._place.write(of_claim)
            except BackupError as error:
                yield f"the hold is not in the store's claim: {one_line(str(error))}"
        try:
            self._memory.write(note)
        except OSError as error:
            yield f"the hold is not in the state directory: {error.strerror}"

    def settle(self, name: str, record: RunRecord) -> None:
        """After the commit of the backup `name`: lift the hold if everything is there again.

        A hold stays while something else forbids deleting, for example that the backup could not be
        read back. That costs nothing, as nothing is deleted then anyway.
        """
        assert self._sight is not None
        keeper = self._run.keeper
        speaks_against = record.unpruned or (keeper is not None and keeper.standing.unpruned)
        is_clear = self._standing is None or not speaks_against or self._run.accept_shrink
        if self._is_good and is_clear:
            baseline = self._sight.as_baseline(name)
            note = msgspec.structs.replace(
                self._memory.read(),
                baseline=baseline,
                hold=None,
                is_blind=False,
                given_up=self._given_up(),
            )
            record.warnings.extend(self._written(None, note))
            self._tell_of_the_end()
            return
        assert self._standing is not None
        command = accept_command(self._run.profile.name)
        hold_back(record, [render_hold(self._standing, command, is_known=self._is_known)])

    def _given_up(self) -> dict[str, str]:
        """The remaining backups that hold what was accepted as gone, perhaps by mistake: name ->
        when it was accepted."""
        there = {backup.stored.name for backup in self._earlier.backups()}
        known = {name: at for name, at in self._note.given_up.items() if name in there}
        is_loss = bool(self._accepted) or self._standing is not None
        if self._run.accept_shrink and is_loss and self._before is not None:
            known[self._before.name] = utc_text(self._run.now)
        return known

    def _tell_of_the_end(self) -> None:
        log, profile = open_log(self._run.paths), self._run.profile.name
        for alarm in self._accepted:
            log.info("backup %s: accepted: %s", profile, one_line(alarm.text))
        if self._standing is not None:
            log.info("backup %s: the hold of %s is lifted", profile, self._standing.since)

    @property
    def _is_known(self) -> bool:
        return may_lift(self._before, self._note.hold, is_blind=self._note.is_blind)

    @property
    def _is_good(self) -> bool:
        """Whether later runs may be compared with the sources as they are now."""
        if self._run.accept_shrink:
            return True
        return not self._alarms and (self._standing is None or self._is_known)

    def _tops(self) -> list[str]:
        return [top_of(source) for source in self._run.profile.backup.sources]

    def _find_baseline(self) -> Baseline | None:
        """The baseline that this machine remembers; else the hold's; else the newest good
        backup's."""
        if self._note.baseline is not None:
            return self._note.baseline
        if self._standing is not None and self._standing.before is not None:
            return self._standing.before
        self._earlier.look()
        for backup in reversed(self._earlier.proven()):
            header = self._earlier.header(backup.stored.name)
            if header is not None and (found := baseline_of(header)) is not None:
                return found
        return None


def see_sources(profile: Profile, scan: Scan, before: Baseline | None) -> Sight:
    """What the walk saw, and what was mounted as it went by: the walk itself makes autofs mount."""
    earlier = before.mounts if before is not None else ()
    tops = {source: top_of(source) for source in scan.totals}
    around = [one for one in earlier if _concerns(mount_path(one), tops.values())]
    mounted = set(scan.entered.values())
    bare = frozenset(one for one in earlier if _is_bare(mount_path(one), scan.entered))
    # A mount whose server does not answer is listed too: tomorrow it may be unmounted.
    shut = {mount_path(one) for one in around if one not in bare} - mounted
    still_there = filter(_is_there, shut)
    return Sight(
        counts={source: totals.count for source, totals in scan.totals.items()},
        missing=scan.missing,
        unread=frozenset(
            source
            for source, top in tops.items()
            if top not in scan.entered and not _is_no_folder(top)
        ),
        mounts=frozenset(mount_text(path) for path in (*mounted, *still_there) if path),
        bare=bare,
        rules=hash_rules(*profile.backup.leaves_out),
        out_of_sight=frozenset(one for one in around if mount_path(one) not in mounted),
    )


def _concerns(mount: str, tops: Collection[str]) -> bool:
    """Whether a source lies on this mount, or above its mount point."""
    return bool(at_or_below([mount], tops) or at_or_below(tops, [mount]))


def _is_bare(mount: str, entered: Mapping[str, str]) -> bool:
    """Whether the walk entered this mount point while nothing was mounted there; or entered a
    source below it that did not lie on this mount."""
    inside = {mount} if mount in entered else at_or_below(entered, [mount])
    return any(not at_or_below([entered[path]], [mount]) for path in inside)


def _is_there(path: str) -> bool:
    """Whether the path exists or may exist; False only if it is known to be gone."""
    try:
        os.lstat(f"/{path}")
    except OSError as error:
        return error.errno not in GONE
    return True


def _is_no_folder(top: str) -> bool:
    try:
        return not stat.S_ISDIR(os.lstat(f"/{top}").st_mode)
    except OSError:  # hidden from the walk by the same error
        return False
