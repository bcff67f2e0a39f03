"""List the backups among a store's objects, look at them, and choose one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo

from msgspec import Struct

from backup_tasks.claim.evidence import Evidence, read_evidence
from backup_tasks.claim.proof import UNKNOWN, Verdict
from backup_tasks.common.printable import printable
from backup_tasks.errors import IdentityError, StoreError, UsageError
from backup_tasks.format.archive_names import is_encrypted_name, parse_backup_name, render_backup_id
from backup_tasks.format.manifest import Header
from backup_tasks.keys.identities import Keyring
from backup_tasks.stores.base import Store, StoredObject

_REQUESTS_AT_ONCE = 8


class Backup(Struct, frozen=True):
    """One committed archive.

    Attributes:
        id: as `--name` takes it, `2025-06-12_0200`.
        taken_at: when it was begun, aware, in the profile's time zone: by its manifest, or by its
            name if nothing is proven.
        verdict: whether it counts.
    """

    id: str
    taken_at: datetime
    stored: StoredObject
    verdict: Verdict = UNKNOWN


class BackupDetails(Struct, frozen=True):
    """A backup with its manifest's header.

    Attributes:
        header: None for an ordinary .tar.gz without a manifest of ours, or if it was not read.
        trouble: why the header could not be read, or "".
        is_locked: it is encrypted, and the keys at hand do not open it.
    """

    backup: Backup
    header: Header | None
    trouble: str = ""
    is_locked: bool = False


def backups_among(objects: Iterable[StoredObject], zone: tzinfo) -> list[Backup]:
    """Every backup among these objects, in the order of names; other objects are skipped."""
    found = []
    for stored in objects:
        taken_at = parse_backup_name(stored.name, zone)
        if taken_at is not None:
            found.append(Backup(render_backup_id(stored.name), taken_at, stored))
    return sorted(found, key=lambda backup: backup.stored.name)


def details_of(backup: Backup, found: Evidence | StoreError) -> BackupDetails:
    """Join a backup with its evidence, or with the reason why the store does not give it."""
    if isinstance(found, StoreError):
        trouble = str(found).removeprefix(f"{backup.stored.name}: ")
        return BackupDetails(backup, None, trouble)
    return BackupDetails(backup, found.header, found.trouble, is_locked=found.is_locked)


def look_at(
    store: Store,
    objects: Sequence[StoredObject],
    keys: Keyring,
    is_worth: Callable[[Evidence], bool],
    shorten: Callable[[Evidence], Evidence] = lambda found: found,
) -> dict[str, Evidence | StoreError]:
    """Read the evidence of several objects at once.

    Args:
        is_worth: as `read_evidence` takes it.
        shorten: called with each evidence as soon as it is read, to save memory.

    Returns:
        Name -> the object's evidence, or why the store does not give the object.
    """
    from concurrent.futures import ThreadPoolExecutor  # late, as mostly all objects are noted

    if any(is_encrypted_name(stored.name) for stored in objects):
        with contextlib.suppress(IdentityError):  # reported for each backup
            keys.load()  # here, as a thread is no place to ask for a passphrase

    def read(stored: StoredObject) -> Evidence | StoreError:
        try:
            return shorten(read_evidence(store, stored, keys, is_worth=is_worth))
        except StoreError as error:
            return error

    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        return dict(zip((one.name for one in objects), pool.map(read, objects), strict=True))


def in_order(backups: Iterable[Backup]) -> list[Backup]:
    """Sort backups, oldest first; in UTC, as a zone's wall clock runs backwards once a year."""
    return sorted(backups, key=lambda one: (one.taken_at.astimezone(UTC), one.stored.name))


def choose_backup(backups: Sequence[Backup], *, name: str = "", day: str = "") -> Backup:
    """Choose a backup: by name, the last of a day, or the newest.

    Backups that count come first; others are chosen only where none counts.

    Args:
        backups: oldest first.
        name: an id or a whole object name; day: YYYY-MM-DD. At most one of them.

    Raises:
        UsageError: there is no such backup, and the message names the nearest ones; or `name`
            and `day` are both given, or `day` is no date.
    """
    if name and day:
        raise UsageError("give --name or --date, not both")
    if not backups:
        raise UsageError("the store holds no backup yet; `invoke backup` makes one")
    if name:
        wanted = render_backup_id(name)
        fits = [one for one in backups if one.stored.name == name]
        if fits := fits or [one for one in backups if one.id == wanted]:
            return _last_that_counts(fits)
        raise UsageError(f"there is no backup {wanted}; {_nearest(backups, name[:10])}")
    if day:
        asked = parse_day(day)
        fits = [backup for backup in backups if backup.taken_at.date() == asked]
        # A backup made in another time zone may have another day in its name, which people see.
        fits = fits or [backup for backup in backups if backup.id.startswith(f"{asked}_")]
        if not fits:
            raise UsageError(f"there is no backup of {day}; {_nearest(backups, day)}")
        return _last_that_counts(fits)
    return _last_that_counts(backups)


def _last_that_counts(backups: Sequence[Backup]) -> Backup:
    return next((one for one in reversed(backups) if one.verdict.counts), backups[-1])


def render_maker(header: Header | None, profile: str, host: str) -> str:
    """Say whose backup this is if another profile or host made it; "" for one of ours."""
    if header is None or (header.profile, header.host) == (profile, host):
        return ""
    return f"made by profile {printable(header.profile)} on host {printable(header.host)}"


def parse_day(day: str) -> date:
    """Parse a day of `--date`.

    Raises:
        UsageError: it is no day, written YYYY-MM-DD.
    """
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
