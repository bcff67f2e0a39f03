"""Open folders by descriptor, name after name, so that no path leads through a symlink."""

from __future__ import annotations

import os
import resource
import sys

from backup_tasks.common.closes import Closes

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class FolderStack(Closes):
    """The open folders from a root down to the folder that was entered last.

    Entries come in the order of a walk. So the next folder shares most of its path with the one
    before, and few folders are opened twice.

    Args:
        root: an open descriptor, which the caller closes.
        flags: how folders are opened; never without O_NOFOLLOW.
    """

    def __init__(self, root: int, flags: int = OPEN_FOLDER) -> None:
        self._root = root
        self._flags = flags
        self._open: list[tuple[str, int]] = []

    def enter(self, path: str) -> int:
        """Open a folder, given relative to the root ("" is the root itself).

        Returns:
            Its descriptor, valid until the next call.

        Raises:
            OSError: a folder cannot be opened; ENOTDIR or ELOOP when a name on the way is a
                symlink or no folder.
        """
        names = path.split("/") if path else []
        shared = 0
        for (name, _), wanted in zip(self._open, names, strict=False):
            if name != wanted:
                break
            shared += 1
        self._close_below(shared)
        folder = self._open[-1][1] if self._open else self._root
        for name in names[shared:]:
            folder = self.open_child(folder, name)
            self._open.append((name, folder))
        return folder

    def open_child(self, folder: int, name: str) -> int:
        """Open one name of a folder as a folder."""
        return os.open(name, self._flags, dir_fd=folder)

    def close_folder(self, folder: int) -> None:
        """Close a folder that `open_child` opened."""
        os.close(folder)

    def forget(self) -> None:
        """Close every folder but the root."""
        self._close_below(0)

    def _close_below(self, depth: int) -> None:
        while len(self._open) > depth:
            self.close_folder(self._open.pop()[1])

    def close(self) -> None:
        """As `forget`."""
        self.forget()


def split_path(path: str) -> tuple[str, str]:
    """Split a path into parent and name: "a/b/c" -> ("a/b", "c")."""
    parent, _, name = path.rpartition("/")
    return parent, name


# Descriptors kept free of deep trees, for files, threads and connections.
_OTHER_DESCRIPTORS = 192


def allow_deep_folders() -> int:
    """Raise the soft limit of open files to the hard one: each open level takes a descriptor.

    Returns:
        How many levels may be open at once.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(hard - _OTHER_DESCRIPTORS, hard // 2) if hard >= 0 else sys.maxsize
