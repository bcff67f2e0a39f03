"""Adopt backups that nothing proves: unsigned ones of an old version, or a former key's."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from backup_tasks.census.catalog import Backup
from backup_tasks.census.census import Census
from backup_tasks.claim.claim_file import Claim
from backup_tasks.claim.evidence import Evidence
from backup_tasks.claim.ownership import take_over_command
from backup_tasks.common.printable import printable
from backup_tasks.errors import UsageError
from backup_tasks.format.archive_names import render_backup_id

# Each takes some 70 bytes of the claim, which is never larger than 256 KiB.
_MOST_ADOPTED = 2000


def adopt(claim: Claim | None, census: Census, names: Sequence[str], profile: str) -> Claim:
    """Add the footers of these backups to the claim; pure but for `census`.

    Args:
        claim: the store's, if it is ours to write.
        census: looks at these backups, if they are not noted.
        names: ids, or whole object names.
        profile: the profile's name.

    Returns:
        The new claim, not yet written.

    Raises:
        UsageError: the claim is not ours to write, a name is no backup that could count, or there
            are too many.
        StoreError: the store does not give one of these backups.
    """
    if claim is None:
        raise UsageError(
            "--adopt: the store's claim is not this profile's to change; "
            f"{take_over_command(profile)} makes the store this profile's"
        )
    footers = [_footer_of(census, _find(census, name)) for name in names]
    adopted = tuple(dict.fromkeys((*claim.adopted, *footers)))
    if len(adopted) > _MOST_ADOPTED:
        raise UsageError(f"--adopt: no store takes in more than {_MOST_ADOPTED:,} backups")
    return replace(claim, adopted=adopted)


def _find(census: Census, name: str) -> Backup:
    backups = census.backups()
    fits = [one for one in backups if one.stored.name == name] or [
        one for one in backups if one.id == render_backup_id(name)
    ]
    if not fits:
        raise UsageError(f"--adopt: there is no backup {printable(name)}; `invoke list` shows all")
    if len(fits) > 1:
        named = " and ".join(one.stored.name for one in fits)
        raise UsageError(f"--adopt: {printable(name)} may be {named}; give the whole name")
    return fits[0]


def _footer_of(census: Census, backup: Backup) -> str:
    found = census.evidence_of(backup)
    if why := _why_unfit(found, backup.stored.name):
        raise UsageError(f"--adopt: {backup.stored.name} cannot count: {why}")
    return found.footer


def _why_unfit(found: Evidence, name: str) -> str:
    if found.trouble and not found.is_locked:
        return found.trouble
    if not found.footer:
        return "it is an ordinary .tar.gz, without a manifest of this program"
    if found.header is not None and found.header.name not in ("", name):
        return f"it holds another backup's bytes: those of {printable(found.header.name)}"
    return ""
