"""A temporary folder for a restored tree: for its owner alone, and gone afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from backup_tasks.errors import ENDING_SIGNALS, RestoreError
from backup_tasks.permissions.folder_trust import is_trusted, others_may_write
from backup_tasks.spools.folder_stack import OPEN_FOLDER
from backup_tasks.verify.drill_notes import PREFIX, DrillNote, remove_tree


@contextlib.contextmanager
def temporary_tree(state: Path | None = None) -> Iterator[Path]:
    """A new folder in $TMPDIR (else /tmp or so), mode 0700, removed at the end of the block.

    The folder is removed after a failure or a signal, too. A SIGKILL or a power cut leaves it, and
    the next run of any task finds the note and removes the folder.

    Args:
        state: the state directory, for the note; None makes none.

    Raises:
        RestoreError: folder or note cannot be made, or another user could replace the folder.
    """
    with contextlib.ExitStack() as guard:
        with signals_held():
            note = DrillNote(state) if state else None
            if note:
                guard.callback(note.clear)
            place = _make_folder()
            guard.callback(_remove_quietly, place)
            _check_way(place)
            folder = os.open(place, OPEN_FOLDER)
            guard.callback(os.close, folder)
            if note:
                note.write(place, os.fstat(folder))
            guard.callback(_remove_held, place, folder)
        yield place


def _make_folder() -> Path:
    wanted = os.environ.get("TMPDIR", "")
    try:
        # As `dir`, because tempfile itself passes over an unusable TMPDIR: it would fill another
        # disk.
        return Path(tempfile.mkdtemp(prefix=PREFIX, dir=wanted or None)).resolve()
    except OSError as error:
        where = wanted or "the folder for temporary files"
        raise RestoreError(
            f"{where}: {error.strerror}; set TMPDIR to a folder that takes the whole backup"
        ) from error


def _check_way(place: Path) -> None:
    """Refuse a place where another user could replace the folder.

    Raises:
        RestoreError: another user can rename entries in a folder above it.
    """
    for above in place.parents:
        status = os.lstat(above)
        is_shared = others_may_write(str(above), status) and not status.st_mode & stat.S_ISVTX
        if is_shared or not is_trusted(status.st_uid):
            raise RestoreError(
                f"{above}: another user may rename what lies there; set TMPDIR to a folder where "
                "only root or you can, or one like /tmp (chmod +t)"
            )


def _remove_quietly(place: Path) -> None:
    """Remove the folder if it is still there and empty: nothing came into it."""
    with contextlib.suppress(OSError):
        os.rmdir(place)


def _remove_held(place: Path, folder: int) -> None:
    with signals_held():
        remove_tree(place, folder)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold back the signals that end a run until the block is done.

    Nothing may interrupt between making something and being sure that it will be removed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, _: FrameType | None) -> None:
        held.append(number)

    before = {number: signal.signal(number, hold) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if held:
        signal.raise_signal(held[0])
