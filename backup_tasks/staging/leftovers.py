"""Finds and ends uploads and staging objects that a crash left in the store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from backup_tasks.common.state_files import read_note, write_note
from backup_tasks.errors import StoreError
from backup_tasks.format.archive_names import is_backup_name, is_staging_name
from backup_tasks.stores.base import Store, Unfinished

# No backup goes on for two days without a sign; the lifecycle rule ends such uploads as well.
_ABANDONED_AFTER = timedelta(days=2)


class UploadNote:
    """A note of the upload under way, in the state directory, so that a crash leaves its handle.

    Args:
        state: the state directory.
        key: names profile and store, fit for a file name.
    """

    def __init__(self, state: Path, key: str) -> None:
        self._path = state / "uploads" / f"{key}.json"

    def announce(self, name: str, others: Collection[Unfinished]) -> None:
        """Note that an upload of this name is about to start.

        Args:
            others: uploads that are there already, perhaps some of this name among them.
        """
        known = [other.upload_id for other in others if other.name == name]
        write_note(self._path, {"name": name, "others": known})

    def write(self, upload_id: str) -> None:
        """Remember this upload, before its first part is sent."""
        write_note(self._path, {"upload_id": upload_id})

    def means(self, upload: Unfinished) -> bool:
        """Whether this is the upload that the note is about."""
        try:
            note = read_note(self._path)
            if "upload_id" in note:
                return bool(note["upload_id"] == upload.upload_id)
            return note["name"] == upload.name and upload.upload_id not in note["others"]
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def clear(self) -> None:
        """Remove the note: the upload was committed or ended."""
        self._path.unlink(missing_ok=True)


def end_leftovers(
    store: Store, note: UploadNote, now: datetime, wanted: Collection[str] = ()
) -> int:
    """End the uploads and staging objects that earlier runs left.

    These are ended:

    - the noted upload;
    - uploads of backups, staging objects, and uploads of staging objects, after two days;
    - an upload of a backup that is there already, at once, since it cannot be committed. Either the
      answer to its start was lost, and it was started again; or it is another host's, which then
      takes the next name.

    Objects and uploads with other names are not touched. Call this under the lock of profile and
    store.

    Args:
        wanted: names of staging objects that are still of use.

    Returns:
        How many were ended.

    Raises:
        StoreError: the store cannot be listed, or refused to end one; the others were ended.
    """
    steps: list[Callable[[], None]] = []
    there = store.list_objects()
    taken = {stored.name for stored in there if is_backup_name(stored.name)}
    for upload in store.list_unfinished():
        is_ours = is_backup_name(upload.name) or is_staging_name(upload.name)
        is_abandoned = is_ours and now - upload.started_at > _ABANDONED_AFTER
        is_hopeless = upload.name in taken
        if is_hopeless or note.means(upload) or (is_abandoned and upload.name not in wanted):
            steps.append(partial(store.end_unfinished, upload))
    for stored in there:
        is_abandoned = now - stored.modified_at > _ABANDONED_AFTER
        if is_staging_name(stored.name) and is_abandoned and stored.name not in wanted:
            steps.append(partial(store.delete, stored.name))
    do_each(steps)
    note.clear()
    return len(steps)


def do_each(steps: Iterable[Callable[[], None]]) -> None:
    """Take every step, even if earlier ones fail: one refusal must not stop the other removals.

    Raises:
        StoreError: a step failed; the first such error, after the last step.
    """
    failures: list[StoreError] = []
    for step in steps:
        try:
            step()
        except StoreError as error:
            failures.append(error)
    if failures:
        raise failures[0]
