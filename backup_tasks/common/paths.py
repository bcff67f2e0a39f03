"""Where things lie: the project's own folders and the state directory."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from msgspec import Struct

PROJECT_ROOT = Path(__file__).resolve().parents[2]


class Paths(Struct, frozen=True):
    """The folders that a run uses, all absolute."""

    root: Path
    profiles: Path
    templates: Path
    logs: Path
    state: Path


def find_paths(environ: dict[str, str] | None = None) -> Paths:
    """The project's folders; BACKUP_TASKS_PROFILES, _TEMPLATES, _LOGS and _STATE move them.

    State is kept in /var/lib/backup-tasks for root (FHS) and in
    $XDG_STATE_HOME/backup-tasks for others (XDG base directories).
    """
    env = os.environ if environ is None else environ

    def place(variable: str, default: Path) -> Path:
        return Path(env[variable]).absolute() if env.get(variable) else default

    return Paths(
        root=PROJECT_ROOT,
        profiles=place("BACKUP_TASKS_PROFILES", PROJECT_ROOT / "profiles"),
        templates=place("BACKUP_TASKS_TEMPLATES", PROJECT_ROOT / "templates"),
        logs=place("BACKUP_TASKS_LOGS", PROJECT_ROOT / "logs"),
        state=place("BACKUP_TASKS_STATE", _default_state(env)),
    )


def home_folder() -> Path:
    """The running user's home folder; `/` for a user without one, as login has it."""
    home = os.path.expanduser("~")
    return Path(home if home.startswith("/") else "/")


def _default_state(env: os._Environ[str] | dict[str, str]) -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/backup-tasks")
    # XDG: ignore a value that is not absolute.
    xdg = env.get("XDG_STATE_HOME", "")
    base = Path(xdg) if xdg.startswith("/") else home_folder() / ".local" / "state"
    return base / "backup-tasks"


def make_private(folder: Path) -> None:
    """Make a folder and its missing parents, mode 0700; they survive a power cut.

    Left to the umask, others might be able to write them, and the next run would refuse them.

    Raises:
        OSError: a folder cannot be made or synced, or something else has its name.
    """
    for place in (*reversed(folder.parents), folder):
        if not place.is_dir():
            try:
                os.mkdir(place, 0o700)
            except FileExistsError:  # by another run just now, or it is no folder
                if not place.is_dir():
                    raise
            with contextlib.suppress(PermissionError):  # a folder above that we may not read
                sync_folder(place.parent)


def sync_folder(folder: Path | str, dir_fd: int | None = None) -> None:
    """Wait until the present names in a folder are on the disk.

    Args:
        folder: its path, below `dir_fd` if that is given.

    Raises:
        OSError: the folder cannot be opened or synced.
    """
    how = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    descriptor = os.open(folder, how, dir_fd=dir_fd)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync, and need not
            raise
    finally:
        os.close(descriptor)
