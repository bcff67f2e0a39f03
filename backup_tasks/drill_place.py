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
from backup_tasks.folders import OPEN_FOLDER

_PREFIX = "backup-drill-"


@contextlib.contextmanager
def temporary_tree() -> Iterator[Path]:
    """A new folder in $TMPDIR (else /tmp or so), mode 0700, removed at the end of the block.

    Removed also after a failure or a signal; a SIGKILL or a power cut leaves it.

    Raises RestoreError when it cannot be made.
    """
    with contextlib.ExitStack() as guard:
        with signals_held():
            place = _make_folder()
            guard.callback(_remove_tree, place)
        yield place


def _make_folder() -> Path:
    wanted = os.environ.get("TMPDIR", "")
    try:
        # tempfile passes over a TMPDIR that cannot be used, and would fill another disk.
        return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=wanted or None)).resolve()
    except OSError as error:
        where = wanted or "the folder for temporary files"
        raise RestoreError(
            f"{where}: {error.strerror}; set TMPDIR to a folder that takes the whole backup"
        ) from error


def _remove_tree(place: Path) -> None:
    """Remove a folder of our own at any depth, whatever the modes of what is in it."""
    with signals_held():
        _remove_all(place)


def _remove_all(place: Path) -> None:
    folder = os.open(place, OPEN_FOLDER)
    levels = [(folder, "", os.listdir(folder))]
    while levels:
        folder, name, names = levels[-1]
        if names:
            _remove_or_enter(folder, names.pop(), levels)
            continue
        levels.pop()
        os.close(folder)
        if levels:
            os.rmdir(name, dir_fd=levels[-1][0])
    os.rmdir(place)


def _remove_or_enter(folder: int, name: str, levels: list[tuple[int, str, list[str]]]) -> None:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=folder)
        return
    if status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(name, stat.S_IRWXU, dir_fd=folder)
    below = os.open(name, OPEN_FOLDER, dir_fd=folder)
    levels.append((below, name, os.listdir(below)))


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Let signals that ask for the end wait until the block is through.

    Between making something and being sure that it will be removed, nothing may interrupt.
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
