"""Which backups there are: listing them, and choosing one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo

from backup_tasks.errors import ArchiveError, IdentityError, StoreError, UsageError
from backup_tasks.identities import NO_KEYS, Keyring
from backup_tasks.manifest import Header
from backup_tasks.naming import is_encrypted_name, parse_backup_name, render_backup_id
from backup_tasks.reader import read_header
from backup_tasks.stores.base import Store, StoredObject
from backup_tasks.text import printable

_REQUESTS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Backup:
    """One committed archive.

    Attributes:
        id: what `--name` takes, `2025-06-12_0200`.
        taken_at: by its name, aware, in the profile's time zone.
    """

    id: str
    taken_at: datetime
    stored: StoredObject


@dataclass(frozen=True, slots=True)
class BackupDetails:
    """A backup with what its own manifest says of it.

    Attributes:
        header: None for an ordinary .tar.gz without a manifest of ours.
        trouble: why the header could not be read, or "".
        is_locked: it is encrypted, and the keys at hand do not open it.
    """

    backup: Backup
    header: Header | None
    trouble: str = ""
    is_locked: bool = False


def find_backups(store: Store, zone: tzinfo) -> list[Backup]:
    """Every backup in the store, oldest first; other objects are passed over."""
    return backups_among(store.list_objects(), zone)


def backups_among(objects: Iterable[StoredObject], zone: tzinfo) -> list[Backup]:
    """As `find_backups`, among objects that were listed already."""
    found = []
    for stored in objects:
        taken_at = parse_backup_name(stored.name, zone)
        if taken_at is not None:
            found.append(Backup(render_backup_id(stored.name), taken_at, stored))
    return sorted(found, key=lambda backup: backup.stored.name)


def read_details(
    store: Store, backups: Sequence[Backup], keys: Keyring = NO_KEYS
) -> list[BackupDetails]:
    """What each backup's manifest says, read side by side; trouble is told, not raised."""
    if any(is_encrypted_name(backup.stored.name) for backup in backups):
        with contextlib.suppress(IdentityError):  # told for each backup
            keys.load()  # here, as a thread is no place to ask for a passphrase

    def read(backup: Backup) -> BackupDetails:
        if not backup.stored.size:
            return BackupDetails(backup, None, "it is empty")
        try:
            return BackupDetails(backup, read_header(store, backup.stored, keys))
        except IdentityError as error:
            trouble = str(error).removeprefix(f"{backup.stored.name}: ")
            return BackupDetails(backup, None, trouble, is_locked=True)
        except (ArchiveError, StoreError) as error:
            trouble = str(error).removeprefix(f"{backup.stored.name}: ")
            return BackupDetails(backup, None, trouble)

    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        return list(pool.map(read, backups))


def choose_backup(backups: Sequence[Backup], *, name: str = "", day: str = "") -> Backup:
    """The backup that is meant: by name, the last of a day, or the newest.

    Args:
        backups: oldest first.
        name: an id or a whole object name; day: YYYY-MM-DD. At most one of them.

    Raises UsageError that names the nearest ones when there is no such backup.
    """
    if name and day:
        raise UsageError("give --name or --date, not both")
    if not backups:
        raise UsageError("the store holds no backup yet; `invoke backup` makes one")
    if name:
        wanted = render_backup_id(name)
        for backup in reversed(backups):
            if backup.id == wanted:
                return backup
        raise UsageError(f"there is no backup {wanted}; {_nearest(backups, name[:10])}")
    if day:
        asked = _parse_day(day)
        for backup in reversed(backups):
            if backup.taken_at.date() == asked:
                return backup
        raise UsageError(f"there is no backup of {day}; {_nearest(backups, day)}")
    return backups[-1]


def render_maker(header: Header | None, profile: str, host: str) -> str:
    """In words, whose a backup is that another profile or host has made; "" for one of ours."""
    if header is None or (header.profile, header.host) == (profile, host):
        return ""
    return f"made by profile {printable(header.profile)} on host {printable(header.host)}"


def _parse_day(day: str) -> date:
    try:
        return date.fromisoformat(day)
    except ValueError as error:
        raise UsageError(f"--date {day!r} is no day; write it as 2025-06-12") from error


def _nearest(backups: Sequence[Backup], day: str) -> str:
    try:
        asked = date.fromisoformat(day)
    except ValueError:
        return f"the newest is {backups[-1].id}; `invoke list` shows them all"

    def distance(backup: Backup) -> timedelta:
        return abs(backup.taken_at.date() - asked)

    nearest = sorted(sorted(backups, key=distance)[:3], key=lambda backup: backup.id)
    return "the nearest are " + ", ".join(backup.id for backup in nearest)
