"""Names of archives: `2025-06-12_0200-backup.tar.gz`, in the profile's time zone."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

PLAIN_SUFFIX = "-backup.tar.gz"
ENCRYPTED_SUFFIX = "-backup.tar.gz.age.tar"
# The claim, which says whose the store is. It lies beside the backups; lists of a store's objects
# leave it out.
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
    """Whether an object of this name should be an encrypted archive."""
    return object_name.endswith(ENCRYPTED_SUFFIX)


def parse_backup_name(object_name: str, zone: tzinfo) -> datetime | None:
    """The time in a backup's name, aware; None for any other name.

    Refuses the years 1 and 9999: in another zone such a time may lie beyond `datetime`, and
    anybody who writes to a store may choose its names.

    The hour that repeats when summer time ends is read as its first occurrence.
    """
    match = _NAME.fullmatch(object_name)
    if not match:
        return None
    try:
        # Five times as fast as strptime, for a store of a thousand backups.
        year, month, day, hour, minute = map(int, match.groups()[1:])
        taken_at = datetime(year, month, day, hour, minute, tzinfo=zone)
    except ValueError:
        return None
    return taken_at if _FIRST_YEAR <= taken_at.year <= _LAST_YEAR else None


def is_backup_name(object_name: str) -> bool:
    """Whether an object of this name is a backup."""
    return parse_backup_name(object_name, UTC) is not None


def render_staging_name(backup_name: str, run_id: str) -> str:
    """The name of a staging object, to which a run sends bytes until the backup is complete.

    Args:
        run_id: eight hex digits that tell one run from all others.
    """
    return f"{backup_name}.{run_id}.partial"


def is_staging_name(object_name: str) -> bool:
    """Whether an object of this name is a staging object."""
    match = _STAGING.fullmatch(object_name)
    return match is not None and is_backup_name(match[1])


def render_backup_id(object_name: str) -> str:
    """The backup's name as an operator types it after `--name`: `2025-06-12_0200`."""
    match = _NAME.fullmatch(object_name)
    return match[1] if match else object_name


def choose_free_name(
    taken_at: datetime, zone: tzinfo, taken_names: set[str], *, encrypted: bool = False
) -> str:
    """The name of this minute, or of the first later minute that is still free.

    So two backups within one minute, or within the hour that repeats when summer time ends, both
    get a name; the exact start stands in the manifest. Encrypted and plain backups never share
    a minute, so that `--name` always means one backup.
    """
    moment = taken_at.astimezone(UTC)
    taken_ids = {render_backup_id(name) for name in taken_names}
    while render_backup_id(name := render_backup_name(moment, zone, encrypted=encrypted)) in (
        taken_ids
    ):
        moment += timedelta(minutes=1)
    return name
