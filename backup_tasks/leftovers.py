"""Uploads that a crash left behind: found by the next run, and ended."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from pathlib import Path

from backup_tasks.naming import is_backup_name
from backup_tasks.stores.base import Store

# Nobody's backup takes two days without a sign; the lifecycle rule ends such uploads as well.
_ABANDONED_AFTER = timedelta(days=2)


class UploadNote:
    """A note in the state directory of the upload under way, so that a crash leaves its handle.

    Args:
        state: the state directory.
        key: whose upload it is, fit for a file name.
    """

    def __init__(self, state: Path, key: str) -> None:
        self._path = state / "uploads" / f"{key}.json"

    def write(self, upload_id: str) -> None:
        """Remember this upload, before its first part is sent."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"upload_id": upload_id}, file)

    def read(self) -> str:
        """The upload that was under way last, or ""."""
        try:
            return str(json.loads(self._path.read_text(encoding="utf-8"))["upload_id"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def clear(self) -> None:
        """Forget it: the upload was committed or ended."""
        self._path.unlink(missing_ok=True)


def end_leftovers(store: Store, note: UploadNote, now: datetime) -> int:
    """End what earlier runs left: the noted upload, and backups begun over two days ago.

    Call it under the lock of profile and store. Uploads with other names are not touched.

    Returns:
        How many were ended.
    """
    noted = note.read()
    ended = 0
    for upload in store.list_unfinished():
        is_abandoned = is_backup_name(upload.name) and now - upload.started_at > _ABANDONED_AFTER
        if upload.upload_id == noted or is_abandoned:
            store.end_unfinished(upload)
            ended += 1
    note.clear()
    return ended
