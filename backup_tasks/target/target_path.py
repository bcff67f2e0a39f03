"""The way to the target of a restore, walked name by name."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from backup_tasks.common.printable import printable
from backup_tasks.errors import RestoreError
from backup_tasks.permissions.folder_trust import is_trusted, master_of

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS = 40


def walk_to(target: Path) -> int:
    """Walk to the target, make missing folders on the way, and give its descriptor (O_PATH).

    The target itself, if it is made, is closed to others.

    The operator's path may lead through symlinks. It fails on another user's symlink, which could
    lead to another place at any time, and on a symlink that another user could have put there:
    users may move root's own.

    Raises:
        RestoreError: there is such a symlink, or somebody replaced a folder that was made here.
        OSError: there is no such way.
    """
    names = list(reversed(target.absolute().parts[1:]))
    links = 0
    here, master = _start()
    is_sticky = False
    try:
        while names:
            name = names.pop()
            child, is_new = _open_or_make(here, name, 0o777 if names else 0o700)
            try:
                status = os.fstat(child)
                if is_new and master is not None and not is_trusted(status.st_uid):
                    raise RestoreError(
                        f"{printable(str(target))}: somebody replaced the folder that was made "
                        f"there; make it yourself, where no other user can write"
                    )
                if not stat.S_ISLNK(status.st_mode):
                    is_ours = is_trusted(status.st_uid)
                    # In a folder like /tmp only owners move their entries.
                    mover = (None if is_ours else status.st_uid) if is_sticky else master
                    is_sticky = bool(status.st_mode & stat.S_ISVTX) and is_ours and mover is None
                    master = master_of(child, status, mover)
                    here, child = child, here
                    continue
                links += 1
                to = _follow(target, child, status, links, is_certain=master is None)
            finally:
                os.close(child)
            names.extend(reversed([step for step in to.split("/") if step]))
            if to.startswith("/"):
                os.close(here)
                here, master = _start()
                is_sticky = False
    except BaseException:
        os.close(here)
        raise
    return here


def _start() -> tuple[int, int | None]:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return root, master_of(root, os.fstat(root), None)


def _open_or_make(folder: int, name: str, mode: int) -> tuple[int, bool]:
    try:
        return os.open(name, _LOOK, dir_fd=folder), False
    except FileNotFoundError:
        os.mkdir(name, mode, dir_fd=folder)
        return os.open(name, _LOOK | os.O_DIRECTORY, dir_fd=folder), True


def _follow(
    target: Path, link: int, status: os.stat_result, links: int, *, is_certain: bool
) -> str:
    to = os.readlink("", dir_fd=link)
    is_theirs = not is_trusted(status.st_uid)
    if is_theirs or not is_certain:
        whose = "of another user's" if is_theirs else "that another user may have put there"
        raise RestoreError(
            f"{printable(str(target))} leads through a symlink {whose}, to {printable(to)}; "
            "give --to the folder itself"
        )
    if links > _MOST_LINKS:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return to
