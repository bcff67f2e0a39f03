"""Notes of drills under way, so that the folder of a killed drill does not stay.

A note lies in the state directory and is locked as long as its drill lives. It says which folder
the drill made. Only that folder is ever removed, never another one just because of its name.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from pathlib import Path

from backup_tasks.common.paths import make_private, sync_folder
from backup_tasks.common.printable import printable
from backup_tasks.common.state_files import parse_note
from backup_tasks.errors import RestoreError
from backup_tasks.spools.folder_stack import OPEN_FOLDER

PREFIX = "backup-drill-"
_NOTE_BYTES = 2**16


class DrillNote:
    """The note of this process's drill.

    Args:
        state: the state directory.

    Raises:
        RestoreError: the note cannot be written.
    """

    def __init__(self, state: Path) -> None:
        self._file = state / "drills" / f"{os.urandom(16).hex()}.json"
        try:
            make_private(self._file.parent)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._file, flags, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise self._error(error) from error

    def write(self, place: Path, status: os.stat_result) -> None:
        """Note which folder the drill made, before anything is in it.

        Raises:
            RestoreError: the note cannot be written.
        """
        # Not `write_state_file`: the lock is on this very file, and a rename would lose it.
        said = {"path": str(place), "device": status.st_dev, "inode": status.st_ino}
        try:
            os.write(self._descriptor, json.dumps(said).encode())
            os.fsync(self._descriptor)
            sync_folder(self._file.parent)
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> RestoreError:
        return RestoreError(
            f"cannot note the drill in {printable(str(self._file.parent))}: {error.strerror}; "
            "BACKUP_TASKS_STATE names another folder for it"
        )

    def clear(self) -> None:
        """Remove the note: the folder is gone."""
        self._file.unlink(missing_ok=True)
        os.close(self._descriptor)


def remove_dead_drills(state: Path) -> list[str]:
    """Remove the folders of drills that were killed; return a line for each."""
    told: list[str] = []
    try:
        notes = sorted((state / "drills").iterdir())
    except OSError:
        return told
    for note in notes:
        with contextlib.suppress(OSError):
            _remove_dead(note, told)
    return told


def _remove_dead(note: Path, told: list[str]) -> None:
    descriptor = os.open(note, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while the drill lives
        status = os.fstat(descriptor)
        is_ours = status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == 0o600
        # The drill may just have ended by itself.
        if not is_ours or not os.path.samestat(status, os.lstat(note)):
            return
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait
            return
        place = _remove_noted(os.read(descriptor, _NOTE_BYTES), told)
        if place:
            told.append(f"removed {printable(place)}, which a drill that was killed had left")
        note.unlink()
    finally:
        os.close(descriptor)


def _remove_noted(said: bytes, told: list[str]) -> str:
    """Remove the folder, if it is still the noted one.

    Returns:
        The folder's path; "" if there is nothing to remove.

    Raises:
        OSError: the folder cannot be removed.
    """
    try:
        found = parse_note(said)
        path, inode = str(found["path"]), (found["device"], found["inode"])
    except (ValueError, KeyError, TypeError):  # killed before the folder was made
        return ""
    try:
        folder = os.open(path, OPEN_FOLDER)
    except FileNotFoundError:
        return ""
    try:
        status = os.fstat(folder)
        is_ours = status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == 0o700
        is_named = os.path.basename(path).startswith(PREFIX)
        if not (is_ours and is_named and (status.st_dev, status.st_ino) == inode):
            return ""
        try:
            remove_tree(Path(path), folder)
        except OSError as error:
            told.append(f"cannot remove {printable(path)} of a killed drill: {error.strerror}")
            raise
    finally:
        os.close(folder)
    return path


def remove_tree(place: Path, folder: int) -> None:
    """Remove a folder of our own with all that is in it, at any depth and whatever the modes.

    Args:
        place: its path; folder: its descriptor, which the caller closes.
    """
    levels = [(os.dup(folder), "", os.listdir(folder))]
    try:
        while levels:
            here, name, names = levels[-1]
            if names:
                remove_or_enter(here, names.pop(), levels)
                continue
            levels.pop()
            os.close(here)
            if levels:
                os.rmdir(name, dir_fd=levels[-1][0])
    finally:
        for here, _, _ in levels:
            os.close(here)
    if os.path.samestat(os.lstat(place), os.fstat(folder)):
        os.rmdir(place)


def remove_or_enter(folder: int, name: str, levels: list[tuple[int, str, list[str]]]) -> None:
    """Remove one name of a folder; if it is a folder itself, add it to the levels instead."""
    try:
        os.unlink(name, dir_fd=folder)
        return
    except IsADirectoryError:
        pass
    below = os.open(name, os.O_PATH | OPEN_FOLDER, dir_fd=folder)
    try:
        if os.fstat(below).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(f"/proc/self/fd/{below}", stat.S_IRWXU)
        opened = os.open(".", OPEN_FOLDER, dir_fd=below)
    finally:
        os.close(below)
    levels.append((opened, name, os.listdir(opened)))
