"""After the commit: read the backup back, and say what comes of it for the run."""

from __future__ import annotations

from backup_tasks.errors import ObjectArchived, StoreError
from backup_tasks.journal import RunRecord, hold_back
from backup_tasks.read_back import Sent, read_back
from backup_tasks.stores.base import Store, StoredObject
from backup_tasks.text import one_line


def look_at_backup(store: Store, stored: StoredObject, sent: Sent, record: RunRecord) -> None:
    """Read the backup back before anything is built on it or deleted for it.

    What the store does not let be read is told, and nothing is deleted; but an archive class, which
    the profile asked for, is only told.

    Raises NotAsSent for a backup that is none.
    """
    try:
        read_back(store, stored, sent)
    except ObjectArchived as error:
        record.warnings.append(f"{stored.name} was not read back: {_why(error, store)}")
    except StoreError as error:
        hold_back(record, [f"{stored.name} was not read back: {_why(error, store)}"])


def _why(error: StoreError, store: Store) -> str:
    return one_line(str(error)).removeprefix(f"{store.url}: ")
