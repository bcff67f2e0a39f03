"""Backups by their names, without asking whose they are: for tests of what can be read of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo

from backup_tasks.census.catalog import Backup, BackupDetails, backups_among, details_of, look_at
from backup_tasks.keys.identities import NO_KEYS, Keyring
from backup_tasks.stores.base import Store


def find_backups(store: Store, zone: tzinfo) -> list[Backup]:
    """Every object of a store that is named like a backup, in the order of names."""
    return backups_among(store.list_objects(), zone)


def read_details(
    store: Store, backups: Sequence[Backup], keys: Keyring = NO_KEYS
) -> list[BackupDetails]:
    """As `Census.details` looks at those that are not noted; trouble is told, not raised."""
    found = look_at(store, [backup.stored for backup in backups], keys, lambda _: False)
    return [details_of(backup, found[backup.stored.name]) for backup in backups]
