"""What is in a backup, told from its manifest alone where it has one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial

from backup_tasks.format.manifest import Entry, name_fields
from backup_tasks.format.tar_headers import Member
from backup_tasks.keys.identities import NO_KEYS, Keyring
from backup_tasks.read.authenticity import ANYBODY, Trust, demand_proof, demand_signature
from backup_tasks.read.manifest_reader import read_manifest
from backup_tasks.read.plain_tar_gz import plain_tar_members
from backup_tasks.read.selection import WantedPaths
from backup_tasks.stores.base import Store, StoredObject


def list_entries(
    store: Store,
    stored: StoredObject,
    patterns: Sequence[str],
    keys: Keyring = NO_KEYS,
    trust: Trust = ANYBODY,
) -> Iterator[Entry]:
    """The entries that match the patterns (all without any), in the order of the walk.

    Only the manifest is fetched; an ordinary .tar.gz without one is read through.

    Args:
        trust: whose archives are listed.

    Raises: UnprovenError when it is somebody else's; UsageError when a pattern matches
        nothing; ArchiveError; StoreError; IdentityError when it is encrypted and `keys` do not
        open it.
    """
    wanted = WantedPaths(patterns)
    for entry in _all_entries(store, stored, keys, trust):
        if wanted.match(entry.name, entry.type == "dir"):
            yield entry
    wanted.check_all_met(stored.name)


def _all_entries(
    store: Store, stored: StoredObject, keys: Keyring, trust: Trust
) -> Iterator[Entry]:
    name = stored.name
    believe = partial(demand_signature, stored_name=name, trust=trust)
    manifest = read_manifest(store, stored, keys, believe)
    try:
        demand_proof(manifest, name, trust)
        if manifest is None:
            for member, _ in plain_tar_members(store, stored):
                yield _entry_of(member)
        else:
            yield from manifest.entries()
    finally:
        if manifest is not None:
            manifest.close()


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
