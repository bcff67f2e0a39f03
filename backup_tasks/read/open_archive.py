"""Open an archive: whose it is, and what is in it. Each task that reads an archive begins here."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial

from msgspec import Struct

from backup_tasks.format.manifest_lines import Manifest
from backup_tasks.format.tar_headers import Member
from backup_tasks.keys.identities import NO_KEYS, Keyring
from backup_tasks.read.authenticity import ANYBODY, Proof, Trust, demand_proof, demand_signature
from backup_tasks.read.manifest_reader import find_fault_at_end, read_manifest
from backup_tasks.read.plain_tar_gz import plain_tar_members
from backup_tasks.stores.base import Store, StoredObject


class OpenArchive(Struct, frozen=True):
    """An archive whose end was read and believed.

    Attributes:
        stored: the very object that was opened.
        keys: open the archive if it is encrypted.
        manifest: None for a plain tar.
        proof: whose archive it is, by signature and name.
    """

    store: Store
    stored: StoredObject
    keys: Keyring
    manifest: Manifest | None
    proof: Proof

    def find_fault_at_end(self) -> str:
        """The fault behind the manifest, where no file depends on it; "" if there is none."""
        if self.manifest is None:
            return ""
        return find_fault_at_end(self.store, self.stored, self.manifest.footer, self.keys)

    def plain_members(
        self, *, trusted: bool = False, notes: set[str] | None = None
    ) -> Generator[tuple[Member, Iterator[memoryview]], None, None]:
        """As `plain_tar_members`, for an archive without a manifest."""
        return plain_tar_members(self.store, self.stored, trusted=trusted, notes=notes)


@contextmanager
def open_archive(
    store: Store, stored: StoredObject, keys: Keyring = NO_KEYS, trust: Trust = ANYBODY
) -> Iterator[OpenArchive]:
    """Read an archive's end; refuse somebody else's archive before fetching anything more.

    The manifest's temporary file is gone afterwards.

    Args:
        trust: whose archives are believed.

    Raises:
        UnprovenError: the archive is somebody else's, and `trust.unproven` is not set.
        ArchiveError: the archive is damaged.
        IdentityError: the archive is encrypted, and `keys` do not open it.
        StoreError: the store failed.
        BackupError: there is no room for temporary files.
    """
    believe = partial(demand_signature, stored_name=stored.name, trust=trust)
    manifest = read_manifest(store, stored, keys, believe)
    try:
        proof = demand_proof(manifest, stored.name, trust)
        yield OpenArchive(store, stored, keys, manifest, proof)
    finally:
        if manifest is not None:
            manifest.close()
