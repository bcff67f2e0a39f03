"""List the entries of a backup, from its manifest alone where it has one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from backup_tasks.format.manifest import Entry, name_fields
from backup_tasks.format.tar_headers import Member
from backup_tasks.keys.identities import NO_KEYS, Keyring
from backup_tasks.read.authenticity import ANYBODY, Trust
from backup_tasks.read.open_archive import OpenArchive, open_archive
from backup_tasks.read.selection import WantedPaths
from backup_tasks.stores.base import Store, StoredObject


def list_entries(
    store: Store,
    stored: StoredObject,
    patterns: Sequence[str],
    keys: Keyring = NO_KEYS,
    trust: Trust = ANYBODY,
) -> Iterator[Entry]:
    """Yield the entries that match the patterns, in the order of the walk.

    Only the manifest is fetched; a plain tar, which has none, is read through.

    Args:
        patterns: gitignore's; without any, all entries match.
        trust: whose archives are listed.

    Raises:
        UnprovenError: the archive is somebody else's.
        UsageError: a pattern matches nothing.
        ArchiveError: the archive is damaged.
        StoreError: the store failed.
        IdentityError: the archive is encrypted, and `keys` do not open it.
    """
    wanted = WantedPaths(patterns)
    with open_archive(store, stored, keys, trust) as archive:
        for entry in _all_entries(archive):
            if wanted.match(entry.name, entry.type == "dir"):
                yield entry
    wanted.check_all_met(stored.name)


def _all_entries(archive: OpenArchive) -> Iterator[Entry]:
    if archive.manifest is not None:
        yield from archive.manifest.entries()
        return
    for member, _ in archive.plain_members():
        yield _entry_of(member)


def _entry_of(member: Member) -> Entry:
    path, encoded = name_fields(os.fsdecode(member.path))
    link, link_encoded = name_fields(os.fsdecode(member.link))
    return Entry(
        path=path,
        path_b64=encoded,
        type=member.kind,
        size=member.size,
        mode=member.mode,
        uid=member.uid,
        gid=member.gid,
        user=os.fsdecode(member.user),
        group=os.fsdecode(member.group),
        mtime_ns=member.mtime_ns,
        link=link,
        link_b64=link_encoded,
    )
