"""Remember the newest backup seen in a store, and notice when newer backups vanish.

A signature proves who wrote an archive, not that none was written after it. Anybody who can delete
or hide objects could pass off last month's backup as the latest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from datetime import datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from backup_tasks.claim.clock import is_ahead
from backup_tasks.common.printable import printable
from backup_tasks.common.state_files import read_note, state_key, write_note
from backup_tasks.errors import ObjectMissing, StoreError
from backup_tasks.format.archive_names import parse_backup_name
from backup_tasks.journal.run_record import RunRecord
from backup_tasks.stores.base import Store, StoredObject

if TYPE_CHECKING:
    from backup_tasks.census.catalog import Backup
    from backup_tasks.format.manifest import Header
    from backup_tasks.profile.model import Profile
    from backup_tasks.read.authenticity import Proof


# Remember the ETags of this many backups that were made here.
_MOST_MADE = 16


class _Seen(Struct, frozen=True):
    """The note's content.

    Attributes:
        made: name -> ETag of the last backups that this machine made, oldest first.
    """

    name: str
    started_at: str
    made: dict[str, str]

    @property
    def started(self) -> datetime:
        return datetime.fromisoformat(self.started_at)


class NewestSeen:
    """Remember, in the state directory, the newest backup of a profile seen in a store.

    Args:
        state: the state directory.
    """

    def __init__(self, state: Path, profile: Profile, store: Store) -> None:
        self._store = store
        self._path = state / "newest" / f"{state_key(profile.name, store.url)}.json"
        self._zone = profile.tzinfo
        self._made_here: dict[str, str] | None = None

    def list_objects(self) -> list[StoredObject]:
        """List the store's objects.

        A list without backups is believed only if none was ever seen: a list damaged on its way
        could otherwise pass for a store that is not used yet.

        Raises:
            StoreError: the store fails, or lists no backup although one was seen there.
        """
        listed = self._store.list_objects()
        self.refuse_nothing(listed)
        return listed

    def refuse_nothing(self, listed: Iterable[StoredObject], *, may_be_gone: bool = False) -> None:
        """Refuse a list without backups if one was seen in the store.

        Args:
            may_be_gone: believe such a list if the backup that was seen is truly gone; a run that
                makes a new backup must.

        Raises:
            StoreError: the list has no backup although one was seen; or the store fails.
        """
        seen, _ = self._read()
        if seen is None or any(parse_backup_name(one.name, self._zone) for one in listed):
            return
        url = self._store.url
        try:
            self._store.stat(seen.name)
        except ObjectMissing:
            if may_be_gone:
                return
            raise StoreError(
                f"{url}: the store lists no backup, and {seen.name}, which was seen there, is "
                "gone; find out who deleted it; `invoke backup` makes a new one"
            ) from None
        raise StoreError(
            f"{url}: the store lists no backup, but {seen.name} is there: its list is not to be "
            "believed; check the server and what lies before it, and run again"
        )

    @property
    def newest_name(self) -> str:
        """Name of the newest backup that was seen, "" if none was."""
        seen, _ = self._read()
        return seen.name if seen is not None else ""

    @property
    def made(self) -> dict[str, str]:
        """Name -> ETag of the last backups that this machine made for the profile."""
        seen, _ = self._read()
        return dict(seen.made) if seen is not None else {}

    def is_as_made(self, stored: StoredObject) -> bool:
        """Whether this may be the very object that this machine made, as far as is remembered.

        A replaced object may have our manifest and signature, but other chunks.
        """
        seen, _ = self._read()
        return seen is None or not seen.made or seen.made.get(stored.name) == stored.etag

    def made_here(self, stored: StoredObject) -> bool:
        """Whether this is one of the last objects remembered as made here."""
        made = self._made()
        return bool(made) and made.get(stored.name) == stored.etag

    def _made(self) -> dict[str, str]:
        if self._made_here is None:
            self._made_here = self.made
        return self._made_here

    def note(self, name: str, started_at: str, etag: str = "") -> None:
        """Remember this backup as the newest, whatever was seen before. Failing is no error.

        Args:
            started_at: as in a manifest's header.
            etag: the object's, if it was made here.
        """
        seen, _ = self._read()
        self._note(name, started_at, seen.made if seen else {}, {name: etag} if etag else {})

    def note_committed(self, stored: StoredObject) -> None:
        """Remember that this very object was made here, before it is noted as the newest.

        So a run that is killed while reading back costs the next run nothing.
        """
        seen, _ = self._read()
        if seen is not None:  # else no object is doubted
            self._note(seen.name, seen.started_at, seen.made, {stored.name: stored.etag})

    def _note(
        self, name: str, started_at: str, made: Mapping[str, str], new: Mapping[str, str]
    ) -> None:
        made_here = list({**made, **new}.items())[-_MOST_MADE:]
        with contextlib.suppress(OSError):
            write_note(self._path, {"name": name, "started_at": started_at, "made": made_here})

    def note_made(
        self, stored: StoredObject, started_at: str, newest: Backup | None, record: RunRecord
    ) -> None:
        """Remember a backup that was just made; first warn in `record` if others vanished.

        Args:
            newest: as `what_vanished` takes it, among the backups that were there at its start.
        """
        if vanished := self.what_vanished(newest, record.started_at):
            record.warnings.append(vanished)
        self.note(stored.name, started_at, stored.etag)

    def note_proven(self, header: Header | None, proof: Proof, now: datetime) -> None:
        """Remember this backup if it is newer than any seen, surely ours, and not dated ahead.

        Args:
            now: aware.
        """
        if header is None or proof.state != "trusted" or proof.doubts or not header.name:
            return
        seen, _ = self._read()
        with contextlib.suppress(ValueError, TypeError):  # the time is malformed
            started = datetime.fromisoformat(header.started_at)
            if is_ahead(started, now):
                return
            if seen is None or started > seen.started or is_ahead(seen.started, now):
                self.note(header.name, header.started_at)

    def what_vanished(self, newest: Backup | None, now: datetime) -> str:
        """Warn if newer backups have vanished, or if the note cannot be read; else "".

        A backup dated ahead is to be deleted by hand, so it is not missed.

        Args:
            newest: the latest that counts, or the latest by name if none counts.
            now: aware.
        """
        seen, trouble = self._read()
        if (
            seen is None
            or is_ahead(seen.started, now)
            or (newest is not None and newest.taken_at >= seen.started)
        ):
            return trouble
        # A replaced backup is refused when it is used.
        if (newest is not None and newest.stored.name == seen.name) or self._is_there(seen):
            return trouble
        left = f"the newest is {newest.id}" if newest else "no backup is left"
        return (
            f"{seen.name} of {seen.started:%Y-%m-%d %H:%M} UTC was seen in the store, but now "
            f"{left}: newer backups have vanished. Somebody has deleted or hidden them"
        )

    def _is_there(self, seen: _Seen) -> bool:
        """Whether the backup is still there, though it is not the newest that counts."""
        try:
            stored = self._store.stat(seen.name)
        except ObjectMissing:
            return False
        except StoreError:  # unknown, so no warning
            return True
        return seen.made.get(seen.name, stored.etag) == stored.etag

    def _read(self) -> tuple[_Seen | None, str]:
        """Read the note; also say what is wrong with it, or ""."""
        try:
            noted = read_note(self._path)
            made = {str(name): str(etag) for name, etag in noted.get("made", ())}
            seen = _Seen(noted["name"], noted["started_at"], made)
            if seen.started.tzinfo is None:
                raise ValueError("a time without its zone")
            _taken_at(seen, self._zone)
        except FileNotFoundError:
            return None, ""
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            place = printable(str(self._path))
            return None, f"{place} cannot be read, so that vanished backups are not noticed now"
        return seen, ""


def _taken_at(seen: _Seen, zone: tzinfo) -> datetime:
    taken_at = parse_backup_name(seen.name, zone)
    if taken_at is None:
        raise ValueError("no name of a backup")
    return taken_at
