"""Finds the previous backup of a profile, on which the next one builds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from backup_tasks.archive.builder import Base
from backup_tasks.census.catalog import Backup
from backup_tasks.census.census import Census
from backup_tasks.census.newest_seen import NewestSeen
from backup_tasks.claim.clock import is_ahead
from backup_tasks.common.printable import one_line, printable
from backup_tasks.common.state_files import read_note, write_note
from backup_tasks.errors import (
    ArchiveError,
    IdentityError,
    ObjectChanged,
    ObjectMissing,
    ReadRefused,
)
from backup_tasks.filesystem.writeback import LEAST_MARGIN_NS
from backup_tasks.format.archive_names import is_encrypted_name
from backup_tasks.format.footer import Footer
from backup_tasks.format.manifest import PlacedEntry
from backup_tasks.format.manifest_lines import Manifest
from backup_tasks.keys.identities import Keyring
from backup_tasks.keys.signing import SigningKey, render_public_key
from backup_tasks.profile.model import Profile
from backup_tasks.read.manifest_cache import ManifestCache
from backup_tasks.read.manifest_reader import read_header, read_manifest
from backup_tasks.stores.base import Store, StoredObject

# How many of our archives are tried, and how many archives of all hosts and profiles are looked at
# to find ours, before everything is read anew.
_TRIES = 3
_LOOK_BACK = 64
# Archives in these states are not mentioned: another's, and those that were not looked at.
_SILENT = ("unknown", "another's")
FIRST_ARCHIVE = "there is no earlier archive of this profile and host to build on"


class EntryIndex(Protocol):
    """The entries of the archive whose chunks are reused, in the order of the walk."""

    def placed_entries(self) -> Iterator[PlacedEntry]:
        """All entries, each with the place of its line, or -1; one iteration at a time."""

    def lines_between(self, start: int, end: int) -> bytes:
        """The manifest's lines from one place to another, unchanged."""

    def close(self) -> None:
        """Free memory and files."""


class PreviousBackup(Struct, frozen=True):
    """An archive whose chunks the next one may keep; `close` it when done.

    Attributes:
        base: its chunks, and the objects that hold them.
        index: its entries.
        name: the archive's name; "" if there are only chunks of interrupted runs.
        started_at, full_at, recipients, needed: as in its manifest's header.
        settled_before_ns: a file with an older ctime cannot have changed unseen since.
    """

    base: Base
    index: EntryIndex
    name: str
    started_at: str
    full_at: str
    settled_before_ns: int
    recipients: Sequence[str] = ()
    needed: Sequence[str] = ()

    def close(self) -> None:
        """Free the index."""
        self.index.close()


def settled_before_ns(started_at: str, margin_ns: int) -> int:
    """`PreviousBackup.settled_before_ns` for a run.

    Args:
        started_at: when the run started, ISO 8601.
        margin_ns: how long after its ctime a file may still be written to unseen.
    """
    return int(datetime.fromisoformat(started_at).timestamp()) * 10**9 - margin_ns


def find_previous_backup(
    profile: Profile,
    store: Store,
    census: Census,
    cache: ManifestCache,
    seen: NewestSeen,
    own_key: SigningKey | None,
    host: str,
    keys: Keyring,
    margin_ns: int = LEAST_MARGIN_NS,
) -> tuple[PreviousBackup | None, str]:
    """The newest archive of this profile and host to build on, or to carry versions over from.

    The new archive signs the reused chunks again, so they must surely be ours. Either the manifest
    is in the cache, or the archive is proven and signed by `own_key`; and it must be the object
    that was made here. An archive is passed over if it is damaged, if it is not surely ours, or if
    the store does not give it.

    Args:
        census: the store's backups, looked at as far as is worthwhile.
        keys: open encrypted archives whose manifest is not in the cache; a backup seldom has them.
        margin_ns: as in `settled_before_ns`.

    Returns:
        The archive, or None; and in words what is wrong with newer ones, or why there is none.

    Raises:
        StoreError: the store fails.
    """
    candidates, troubles = _newest_first(census, store, cache)
    most_troubles = len(troubles) + _TRIES
    locked = ""
    for stored in candidates:
        try:
            manifest = _read_ours(store, cache, stored, profile.name, host, own_key, keys)
        except IdentityError as error:
            # It may be of another profile or host; that cannot be known.
            locked = locked or _why_locked(stored, error)
            continue
        except (ArchiveError, ObjectChanged, ObjectMissing, ReadRefused) as error:
            troubles.append(f"nothing of {stored.name} can be reused: {one_line(str(error))}")
            if len(troubles) == most_troubles:
                break
            continue
        if manifest is None:
            continue
        if not seen.is_as_made(stored):
            manifest.close()
            why = "it is not the object that was made here: it was moved, or replaced"
            troubles.append(f"nothing of {stored.name} can be reused: {why}")
            if len(troubles) == most_troubles:
                break
            continue
        return _to_build_on(stored, manifest, margin_ns), "; ".join(troubles)
    return None, "; ".join([*troubles, *filter(None, [locked])]) or FIRST_ARCHIVE


def why_full(last: PreviousBackup, profile: Profile, now: datetime) -> str:
    """Why everything must be read and sent although there is a previous archive; or ""."""
    why = _why_not_for(last.recipients, profile.recipients)
    return why or _why_full_is_due(last.full_at, profile.backup.full_every, now)


def why_begin_anew(census: Census) -> str:
    """Why no chunk may be reused; or "".

    If the newest backup was not what was sent when it was read back, the archive from which it was
    copied may be at fault.
    """
    made = [one for one in census.backups() if one.verdict.counts or _is_unread(one)]
    if made and _is_unread(made[-1]):
        return f"{made[-1].stored.name} is the newest, and was not what was sent when read back"
    return ""


def _is_unread(backup: Backup) -> bool:
    return backup.verdict.state == "not read back"


def _newest_first(
    census: Census, store: Store, cache: ManifestCache
) -> tuple[list[StoredObject], list[str]]:
    """The archives that may be built on, and in words why some newer ones may not.

    These are backups that count, and unproven archives whose manifest is in the cache.
    """
    candidates: list[StoredObject] = []
    troubles: list[str] = []
    for backup in reversed(census.backups()):
        stored, verdict = backup.stored, backup.verdict
        if verdict.counts or (
            verdict.state not in ("not read back", "ahead")
            and cache.in_front_of(store, stored)[0] is not store
        ):
            candidates.append(stored)
        elif not candidates and verdict.state not in _SILENT and len(troubles) < _TRIES:
            troubles.append(f"nothing of {stored.name} can be reused: {verdict.why}")
    return candidates[:_LOOK_BACK], troubles


def _to_build_on(stored: StoredObject, manifest: Manifest, margin_ns: int) -> PreviousBackup:
    header = manifest.header
    return PreviousBackup(
        base=Base([(0, stored)], manifest.chunks),
        index=manifest,
        name=stored.name,
        started_at=header.started_at,
        full_at=header.full_at,
        settled_before_ns=settled_before_ns(header.started_at, margin_ns),
        recipients=header.recipients,
        needed=header.needed_backups,
    )


def _why_locked(stored: StoredObject, error: IdentityError) -> str:
    reason = one_line(str(error)).removeprefix(f"{stored.name}: ")
    return (
        f"nothing of {stored.name} can be reused: its manifest is not in the state directory, and "
        f"{reason}"
    )


def _read_ours(
    store: Store,
    cache: ManifestCache,
    stored: StoredObject,
    profile: str,
    host: str,
    own_key: SigningKey | None,
    keys: Keyring,
) -> Manifest | None:
    """The manifest, if it is this profile's and host's; else None, and little more than the header
    is fetched.

    Raises:
        ArchiveError: the archive is damaged, or only claims to be this profile's and host's.
        IdentityError: the manifest is encrypted and cannot be opened here.
        StoreError: the store fails, or does not give the archive.
    """
    reader, readable = cache.in_front_of(store, stored)
    if is_encrypted_name(readable.name):
        keys.load()
    header = read_header(reader, readable, keys)
    if header is None or (header.profile, header.host) != (profile, host):
        return None
    if reader is not store:
        return read_manifest(reader, readable, keys)
    manifest = read_manifest(store, stored, keys, partial(_check_signed, own_key=own_key))
    if manifest is not None and manifest.header.name != stored.name:
        manifest.close()
        raise ArchiveError(f"it holds the bytes of {printable(manifest.header.name)}")
    return manifest


def _why_not_for(before: Sequence[str], now: Sequence[str]) -> str:
    """Why chunks that were encrypted for the former recipients cannot be reused, or "".

    Reused chunks stay readable for the recipients for whom they were encrypted, and for nobody
    else.
    """
    if tuple(before) == tuple(now):
        return ""
    if not before:
        return "encryption was turned on"
    return "the recipients changed" if now else "encryption was turned off"


def _check_signed(footer: Footer | None, own_key: SigningKey | None) -> None:
    """Refuse an archive that this machine did not sign.

    Raises:
        ArchiveError: the archive is unsigned, signed by another key, or its signature is wrong.
    """
    signature = footer.signature if footer else None
    if footer is None or signature is None:
        raise ArchiveError("it is unsigned")
    if own_key is None or signature.public_key != own_key.public_key:
        named = render_public_key(signature.public_key)
        raise ArchiveError(f"it is signed by {named}, not by this machine")
    if not footer.is_truly_signed:
        raise ArchiveError("its signature is wrong")


def _why_full_is_due(previous_full_at: str, full_every: timedelta, now: datetime) -> str:
    try:
        full_at = datetime.fromisoformat(previous_full_at)
    except ValueError:
        return "the previous backup does not say when everything was last read"
    if is_ahead(full_at, now):
        return f"everything was last read on {full_at:%Y-%m-%d}, which is yet to come"
    if now - full_at < full_every:
        return ""
    return f"everything was last read on {full_at:%Y-%m-%d}, backup.full_every ago or more"


# A store that could not copy is asked again after this time, since servers are updated.
_ASK_AGAIN_AFTER = timedelta(days=30)


class CopyMemory:
    """Remembers, in the state directory, that a store refused to copy.

    Args:
        state: the state directory.
        key: names profile and store, fit for a file name.
    """

    def __init__(self, state: Path, key: str) -> None:
        self._path = state / "no-copy" / f"{key}.json"

    def refused(self, now: datetime) -> bool:
        """Whether copying was refused in the last 30 days."""
        try:
            since = datetime.fromisoformat(read_note(self._path)["since"])
            return now - since < _ASK_AGAIN_AFTER and not is_ahead(since, now)
        except (OSError, ValueError, KeyError, TypeError):  # TypeError: also a time without zone
            return False

    def remember(self, now: datetime) -> None:
        """Note that copying was refused now."""
        write_note(self._path, {"since": now.astimezone(UTC).isoformat()})
