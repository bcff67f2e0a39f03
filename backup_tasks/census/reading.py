"""A reading task's view of a profile's store: which backups count, and the one that is meant."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from backup_tasks.census.accepted import list_census, whose_count
from backup_tasks.census.catalog import Backup, BackupDetails, render_maker
from backup_tasks.census.census import Census
from backup_tasks.census.newest_seen import NewestSeen
from backup_tasks.claim.claim_file import Claim
from backup_tasks.format.manifest import Header
from backup_tasks.journal.run_record import RunRecord, warn
from backup_tasks.keys.identities import NO_KEYS, Keyring
from backup_tasks.profile.model import Profile
from backup_tasks.read.authenticity import Proof, Trust
from backup_tasks.stores.base import Store


class Reading:
    """The common part of `list`, `files`, `restore`, `verify` and `drill`.

    Args:
        state: the state directory.
        record: of this run; gets the name of the chosen archive, and warnings.
        keys: open encrypted backups.
        claim: the store's, if it counts here; without one, this machine's own knowledge counts.
    """

    def __init__(
        self,
        profile: Profile,
        store: Store,
        state: Path,
        record: RunRecord,
        keys: Keyring = NO_KEYS,
        claim: Claim | None = None,
    ) -> None:
        self.profile, self.store, self.state, self.record = profile, store, state, record
        self.keys, self.claim = keys, claim
        self._seen = NewestSeen(state, profile, store)

    @cached_property
    def census(self) -> Census:
        """The backups that the store lists; the store is asked once.

        Raises:
            StoreError: the store fails, or lists no backup although one was seen there.
        """
        accepted = whose_count(self.profile, self.state, self.record.host, self.claim)
        now = self.record.started_at
        return list_census(
            self.profile, self.store, self.state, accepted, self._seen, now, self.keys
        )

    def choose(self, name: str = "", day: str = "") -> Backup:
        """Choose the backup that is meant, and note its name in the record.

        Warns of newer backups that do not count, or have vanished.

        Args:
            name, day: as `choose_backup` takes them.

        Raises:
            UsageError: as `choose_backup`.
            StoreError: as `census`; or the store does not give a backup that may be meant.
        """
        choice = self.census.choose(name=name, day=day)
        self.census.save()
        for warning in choice.warnings:
            warn(self.record, warning)
        if not name and not day:
            self._tell_vanished(choice.backup)
        self.record.archive = choice.backup.stored.name
        return choice.backup

    def details(self) -> list[BackupDetails]:
        """All backups, oldest first, with their manifests' headers; warns of vanished ones.

        Raises:
            StoreError: as `census`; or the store does not give a backup that may be the newest.
        """
        details = self.census.details()
        self.census.save()
        if details:
            self._tell_vanished(self.census.choose().backup)
        return details

    def trust(self, *, unproven: bool = False) -> Trust:
        """Whose archives to believe; `unproven` as in `Trust`."""
        return Trust(self.profile.signing.public_key, unproven)

    def note_proven(self, header: Header | None, proof: Proof) -> None:
        """Remember the backup with this header if it is surely ours and newer than any seen."""
        self._seen.note_proven(header, proof, self.record.started_at)

    def maker(self, header: Header | None) -> str:
        """Say whose backup this is if another profile or host made it, or ""."""
        return render_maker(header, self.profile.name, self.record.host)

    def _tell_vanished(self, newest: Backup) -> None:
        if vanished := self._seen.what_vanished(newest, self.record.started_at):
            warn(self.record, vanished)
