"""An archive, opened: whose it is, and what is in it. Each task that reads one begins here."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial

from msgspec import Struct

from backup_tasks.format.manifest import Header
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
        keys: open it if it is encrypted.
        manifest: None for an ordinary .tar.gz that we did not write.
        proof: what signature and name prove.
    """

    store: Store
    stored: StoredObject
    keys: Keyring
    manifest: Manifest | None
    proof: Proof

    @property
    def header(self) -> Header | None:
        """The manifest's, if there is one."""
        return self.manifest.header if self.manifest is not None else None

    def find_fault_at_end(self) -> str:
        """What is wrong behind the manifest, where no file depends on it, or ""; a plain .tar.gz
        has no such place."""
        if self.manifest is None:
            return ""
        return find_fault_at_end(self.store, self.stored, self.manifest.footer, self.keys)

    def plain_members(
        self, *, trusted: bool = False, notes: set[str] | None = None
    ) -> Generator[tuple[Member, Iterator[memoryview]], None, None]:
        """As `plain_tar_members`, of one without a manifest."""
        return plain_tar_members(self.store, self.stored, trusted=trusted, notes=notes)


@contextmanager
def open_archive(
    store: Store, stored: StoredObject, keys: Keyring = NO_KEYS, trust: Trust = ANYBODY
) -> Iterator[OpenArchive]:
    """Read an archive's end, and refuse what is not to be believed before anything else of it is
    fetched. The manifest's temporary file is gone afterwards.

    Args:
        trust: whose archives are believed.

    Raises:
        UnprovenError: it is somebody else's, and `trust` does not take it all the same.
        ArchiveError: it is damaged.
        IdentityError: it is encrypted, and `keys` do not open it.
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
