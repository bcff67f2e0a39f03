"""Proves that what is encrypted for a profile's recipients can be opened, and remembers it."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from backup_tasks.chunks.encrypt import Sealer, open_encrypted
from backup_tasks.common.state_files import read_note, write_note
from backup_tasks.errors import ArchiveError, IdentityError, UsageError
from backup_tasks.keys.identities import Keyring, NoKeyFits
from backup_tasks.profile.model import Profile

_PROBE_BYTES = 64


class ProvenKeys:
    """The recipients for which decryption was proven on this machine, or waived by an operator.

    Args:
        state: the state directory. If it is lost, nothing is proven any more.
    """

    def __init__(self, state: Path) -> None:
        self._file = state / "proven-recipients.json"

    def read(self) -> dict[str, str]:
        """Recipient -> "opened 2025-06-12" or "skipped 2025-06-12"; empty if unreadable."""
        try:
            found = read_note(self._file)
        except (OSError, ValueError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {key: value for key, value in found.items() if isinstance(value, str)}

    def add(self, recipients: Iterable[str], how: str, now: datetime) -> None:
        """Remember recipients. A crash leaves the former note.

        Raises:
            OSError: the note cannot be written.
        """
        day = now.astimezone(UTC).date().isoformat()
        known = self.read() | dict.fromkeys(recipients, f"{how} {day}")
        write_note(self._file, known)


def why_unproven(profile: Profile, proven: ProvenKeys) -> str:
    """Why perhaps nobody can open a backup of this profile, or "".

    One proven recipient is enough: the holder of its key can restore.
    """
    recipients = profile.recipients
    if not recipients or not set(recipients).isdisjoint(proven.read()):
        return ""
    return (
        "no recipient of this profile was ever proven on this machine to open what is encrypted "
        f"for it. Type: invoke key-check --profile {profile.name} --identity FILE   (or --skip "
        "instead of --identity, if the key is safe elsewhere)"
    )


def refuse_unproven(profile: Profile, proven: ProvenKeys) -> None:
    """Refuse a profile with encryption but without a proven recipient.

    Raises:
        IdentityError: perhaps nobody could open the profile's backups.
    """
    if why := why_unproven(profile, proven):
        raise IdentityError(why)


class KeyCheck(Struct, frozen=True):
    """Recipient and result: "opened", "not opened by this key" or "skipped"."""

    results: Sequence[tuple[str, str]]


def run_key_check(
    profile: Profile, keys: Keyring, proven: ProvenKeys, now: datetime, *, skip: bool
) -> KeyCheck:
    """Encrypt a probe for each recipient, decrypt it with the keys, remember proven recipients.

    Args:
        skip: remember all recipients without proof.

    Raises:
        UsageError: the profile has no encryption.
        IdentityError: the keys cannot be loaded, or open none of the probes.
        OSError: the note cannot be written.
    """
    recipients = profile.recipients
    if not recipients:
        raise UsageError(f"profile {profile.name} has no [encryption]: there is nothing to check")
    if skip:
        proven.add(recipients, "skipped", now)
        return KeyCheck([(recipient, "skipped") for recipient in recipients])
    keys.load()
    opened = [recipient for recipient in recipients if _opens(keys, recipient)]
    if not opened:
        raise IdentityError(
            f"this key opens nothing that is encrypted for the recipients of profile "
            f"{profile.name}: {', '.join(recipients)}"
        )
    proven.add(opened, "opened", now)
    return KeyCheck(
        [(key, "opened" if key in opened else "not opened by this key") for key in recipients]
    )


def _opens(keys: Keyring, recipient: str) -> bool:
    probe = secrets.token_bytes(_PROBE_BYTES)
    try:
        return open_encrypted(Sealer([recipient]).seal(probe), keys) == probe
    except (NoKeyFits, ArchiveError):
        return False


def render_key_check(check: KeyCheck) -> str:
    """A line for each recipient."""
    return "\n".join(f"{result}: {recipient}" for recipient, result in check.results)
