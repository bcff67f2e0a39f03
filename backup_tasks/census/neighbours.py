"""Find who else uses a store: other profiles of this machine, other hosts, makers of backups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from backup_tasks.census.catalog import Backup, backups_among
from backup_tasks.census.newest_seen import NewestSeen
from backup_tasks.common.paths import Paths
from backup_tasks.errors import ArchiveError, IdentityError, ObjectMissing
from backup_tasks.keys.identities import NO_KEYS
from backup_tasks.keys.signing import SigningKey
from backup_tasks.profile.load import ProfileSummary, describe_profiles
from backup_tasks.profile.model import Profile
from backup_tasks.stores.base import Store, StoredObject

# Look for this profile's backups among this many of the newest.
_LOOK_BACK = 16
# "renamed": signed here, by a profile that no longer uses the store under that name. "perhaps":
# signed here, but encrypted, so that its profile is not known. "junk": it only has a backup's name.
_Maker = Literal["ours", "renamed", "perhaps", "another", "junk"]


class Neighbours(Struct, frozen=True):
    """Answer the questions of `claim.ownership.Surroundings` by looking at store and profiles.

    Attributes:
        key: this machine's; host: this machine's name.
        seen_profiles: this machine's profiles that the state directory remembers in this store.
    """

    profile: Profile
    store: Store
    paths: Paths
    key: SigningKey | None
    host: str
    seen_profiles: Callable[[], tuple[str, ...]]

    def newest_is_ours(self) -> bool:
        for backup in reversed(self._backups()[-_LOOK_BACK:]):
            maker = self._maker(backup.stored)
            if maker == "perhaps":
                return not self.sharers(all_profiles=True)
            if maker != "junk":
                return maker in ("ours", "renamed")
        return True

    def has_backups(self) -> bool:
        if self._seen.made:
            return True
        return any(
            self._maker(backup.stored) == "ours"
            for backup in reversed(self._backups()[-_LOOK_BACK:])
        )

    def sharers(self, *, all_profiles: bool) -> tuple[str, ...]:
        if not all_profiles:
            others = set(self.seen_profiles()) - {self.profile.name}
            return tuple(sorted(filter(self.shares_with, others))) if others else ()
        return tuple(
            found.name
            for found in describe_profiles(self.paths)
            if found.name != self.profile.name
            and (
                found.place == self.store.place or (self.profile.recipients and _is_unknown(found))
            )
        )

    def shares_with(self, profile: str) -> bool:
        for found in describe_profiles(self.paths):
            if found.name == profile:
                return _is_unknown(found) or found.place == self.store.place
        return False

    @property
    def _seen(self) -> NewestSeen:
        return NewestSeen(self.paths.state, self.profile, self.store)

    def _backups(self) -> list[Backup]:
        return backups_among(self.store.list_objects(), self.profile.tzinfo)

    def _maker(self, stored: StoredObject) -> _Maker:
        """Find out who made an object with a backup's name.

        Raises:
            StoreError: the store fails; a missing object is only "junk".
        """
        # Imported late, as mostly the claim or the notes tell.
        from backup_tasks.read.manifest_reader import read_footer, read_header

        made = self._seen.made
        if made.get(stored.name) == stored.etag:
            return "ours"
        try:
            footer = read_footer(self.store, stored)
        except (ArchiveError, ObjectMissing):
            return "junk"
        if footer is None:
            return "junk"
        if footer.signature is not None and not footer.is_truly_signed:
            return "junk"
        is_by_us = (
            footer.signature is not None
            and self.key is not None
            and footer.signature.public_key == self.key.public_key
        )
        if footer.signature is not None and not is_by_us:
            return "another"
        try:
            header = read_header(self.store, stored, NO_KEYS)
        except IdentityError:
            return "perhaps" if is_by_us and not made else "another"
        except ArchiveError:
            return "junk"
        if header is None:
            return "junk"
        if header.profile == self.profile.name and (is_by_us or header.host == self.host):
            return "ours"
        is_renamed = is_by_us and not self.shares_with(header.profile)
        return "renamed" if is_renamed else "another"


def _is_unknown(found: ProfileSummary) -> bool:
    """Whether a profile and its store cannot be read; it may be the owner, or share the store."""
    return bool(found.problem) and not found.place and not found.base_only
