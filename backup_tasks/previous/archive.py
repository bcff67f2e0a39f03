"""The previous backup of a profile, as the next one builds on it."""

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

# How many of our archives are tried, and how many archives are looked at to find them among
# those of others, before everything is read anew.
_TRIES = 3
_LOOK_BACK = 64
# What is another's, or was not looked at, is no news.
_SILENT = ("unknown", "another's")
FIRST_ARCHIVE = "there is no earlier archive of this profile and host to build on"


class EntryIndex(Protocol):
    """The entries of what chunks are kept of, in the order of the walk."""

    def placed_entries(self) -> Iterator[PlacedEntry]:
        """All of them, each with the place of its line, or -1; one iteration at a time."""

    def lines_between(self, start: int, end: int) -> bytes:
        """The manifest's lines from one place to another, as they stand."""

    def close(self) -> None:
        """Free memory and files."""


class PreviousBackup(Struct, frozen=True):
    """What the next archive may keep chunks of; `close` it when done.

    Attributes:
        index: its entries.
        name: the archive's, "" if there are only chunks of interrupted runs.
        started_at, full_at, recipients, needed: as in its manifest's header.
        settled_before_ns: ctimes older than this cannot hide a later change.
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
    """What `PreviousBackup` says of ctimes, for a run that started then (ISO 8601).

    Args:
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
    """The newest archive of this profile and host that can be built on, or carried over from.

    What is built on is signed again, so it must surely be ours: its manifest is either kept in
    the cache, or it is proven and signed by `own_key`; and it is the object that was made here.

    Args:
        census: what the store holds, looked at as far as it is worth.
        keys: open encrypted archives whose manifest is not kept here; a backup has them seldom.
        margin_ns: as in `settled_before_ns`.

    Returns:
        The archive, or None; and in words what is wrong with newer ones, or why there is none.

    Raises StoreError when the store fails. An archive that is damaged, that is not surely ours,
    or that the store does not give, is passed over.
    """
    candidates, troubles = _newest_first(census, store, cache)
    most_troubles = len(troubles) + _TRIES
    locked = ""
    for stored in candidates:
        try:
            manifest = _read_ours(store, cache, stored, profile.name, host, own_key, keys)
        except IdentityError as error:
            # Perhaps it is of another profile or host: nothing tells.
            locked = locked or _why_locked(stored, error)
            continue
        except (ArchiveError, ObjectChanged, ObjectMissing, ReadRefused) as error:
            troubles.append(f"nothing of {stored.name} can be kept: {one_line(str(error))}")
            if len(troubles) == most_troubles:
                break
            continue
        if manifest is None:
            continue
        if not seen.is_as_made(stored):
            manifest.close()
            why = "it is not the object that was made here: it was moved, or replaced"
            troubles.append(f"nothing of {stored.name} can be kept: {why}")
            if len(troubles) == most_troubles:
                break
            continue
        return _to_build_on(stored, manifest, margin_ns), "; ".join(troubles)
    return None, "; ".join([*troubles, *filter(None, [locked])]) or FIRST_ARCHIVE


def why_full(last: PreviousBackup, profile: Profile, now: datetime) -> str:
    """Why everything is to be read and sent, though there is an archive before; or ""."""
    why = _why_not_for(last.recipients, profile.recipients)
    return why or _why_full_is_due(last.full_at, profile.backup.full_every, now)


def why_begin_anew(census: Census) -> str:
    """Why nothing is to be kept at all: what the newest backup was copied from may be at fault for
    what was found when it was read back."""
    made = [one for one in census.backups() if one.verdict.counts or _is_unread(one)]
    if made and _is_unread(made[-1]):
        return f"{made[-1].stored.name} is the newest, and was not what was sent when read back"
    return ""


def _is_unread(backup: Backup) -> bool:
    return backup.verdict.state == "not read back"


def _newest_first(
    census: Census, store: Store, cache: ManifestCache
) -> tuple[list[StoredObject], list[str]]:
    """What may be built on: backups that count, and what is not proven if its manifest is kept
    here; and in words why some that are newer may not."""
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
            troubles.append(f"nothing of {stored.name} can be kept: {verdict.why}")
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
        f"nothing of {stored.name} can be kept: its manifest is not in the state directory, and "
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
    """The manifest, if it is this profile's and host's; of others' little more is fetched.

    Raises ArchiveError also for one that only says so.
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
    """Why chunks that were encrypted for some recipients are of no use for others, or "".

    Kept chunks stay readable for whom they were made for, and for nobody else.
    """
    if tuple(before) == tuple(now):
        return ""
    if not before:
        return "encryption was turned on"
    return "the recipients changed" if now else "encryption was turned off"


def _check_signed(footer: Footer | None, own_key: SigningKey | None) -> None:
    """Raises ArchiveError for an archive in the store that this machine did not sign."""
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


# A store that could not copy is asked again after so long: servers are updated.
_ASK_AGAIN_AFTER = timedelta(days=30)


class CopyMemory:
    """Remembers, in the state directory, that a store refused to copy.

    Args:
        state: the state directory.
        key: whose store it is, fit for a file name.
    """

    def __init__(self, state: Path, key: str) -> None:
        self._path = state / "no-copy" / f"{key}.json"

    def refused(self, now: datetime) -> bool:
        """Whether copying was refused not long ago."""
        try:
            since = datetime.fromisoformat(read_note(self._path)["since"])
            return now - since < _ASK_AGAIN_AFTER and not is_ahead(since, now)
        except (OSError, ValueError, KeyError, TypeError):  # also a time without its zone
            return False

    def remember(self, now: datetime) -> None:
        """Note that copying was refused now."""
        write_note(self._path, {"since": now.astimezone(UTC).isoformat()})
