"""Names of archives: `2025-06-12_0200-backup.tar.gz`, in the profile's time zone."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

PLAIN_SUFFIX = "-backup.tar.gz"
ENCRYPTED_SUFFIX = "-backup.tar.gz.age.tar"
# Says whose the store is; it lies beside the backups, and no list of the store's objects holds it.
CLAIM_NAME = "backup-tasks.json"
_NAME = re.compile(
    r"(([0-9]{4})-([0-9]{2})-([0-9]{2})_([0-9]{2})([0-9]{2}))-backup\.tar\.gz(?:\.age\.tar)?"
)
_STAGING = re.compile(r"(.+)\.[0-9a-f]{8}\.partial")
_FORMAT = "%Y-%m-%d_%H%M"
_FIRST_YEAR, _LAST_YEAR = 2, 9998


def render_backup_name(taken_at: datetime, zone: tzinfo, *, encrypted: bool = False) -> str:
    """The object name of a backup started at `taken_at` (aware)."""
    suffix = ENCRYPTED_SUFFIX if encrypted else PLAIN_SUFFIX
    return taken_at.astimezone(zone).strftime(_FORMAT) + suffix


def is_encrypted_name(object_name: str) -> bool:
    """Whether the object of this name should be an encrypted archive."""
    return object_name.endswith(ENCRYPTED_SUFFIX)


def parse_backup_name(object_name: str, zone: tzinfo) -> datetime | None:
    """When the backup of that name was taken, aware; None for anything else.

    Names of the years 1 and 9999 are none of ours: in another zone their time may be one that
    `datetime` does not know, and anybody who writes to a store may choose its names.

    The hour that is passed twice when summer time ends is read as its first passing.
    """
    match = _NAME.fullmatch(object_name)
    if not match:
        return None
    try:
        # Five times as fast as strptime, for a store that holds a thousand of them.
        year, month, day, hour, minute = map(int, match.groups()[1:])
        taken_at = datetime(year, month, day, hour, minute, tzinfo=zone)
    except ValueError:
        return None
    return taken_at if _FIRST_YEAR <= taken_at.year <= _LAST_YEAR else None


def is_backup_name(object_name: str) -> bool:
    """Whether an object of this name is a backup."""
    return parse_backup_name(object_name, UTC) is not None


def render_staging_name(backup_name: str, run_id: str) -> str:
    """The name under which a run collects what it sends, until the backup itself is complete.

    Args:
        run_id: eight hex digits that tell one run from all others.
    """
    return f"{backup_name}.{run_id}.partial"


def is_staging_name(object_name: str) -> bool:
    """Whether an object of this name is what a run collected for a backup."""
    match = _STAGING.fullmatch(object_name)
    return match is not None and is_backup_name(match[1])


def render_backup_id(object_name: str) -> str:
    """What an operator types as `--name`: `2025-06-12_0200`."""
    match = _NAME.fullmatch(object_name)
    return match[1] if match else object_name


def choose_free_name(
    taken_at: datetime, zone: tzinfo, taken_names: set[str], *, encrypted: bool = False
) -> str:
    """The name of this minute, or of the first later minute that is still free.

    Two backups within one minute, or within the hour that summer time's end repeats, both
    get a name; the exact start stands in the manifest. A minute is taken by an encrypted backup
    and by a plain one alike, so that `--name` always means one.
    """
    moment = taken_at.astimezone(UTC)
    taken_ids = {render_backup_id(name) for name in taken_names}
    while render_backup_id(name := render_backup_name(moment, zone, encrypted=encrypted)) in (
        taken_ids
    ):
        moment += timedelta(minutes=1)
    return name
