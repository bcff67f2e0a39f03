"""Finds the links that GNU tar makes late, after everything else, and the folders around them.

For a symlink that is absolute or goes up by `..`, tar first makes an empty file, so that nothing
can be written through the link. It makes the link itself at the very end. It sets a folder's time
after that only if the folder's own entry, or an entry in it, came right before the link.
Source: GNU tar 1.34 and 1.35, src/extract.c, create_placeholder_file and mark_after_links.
"""

from __future__ import annotations

from msgspec.structs import replace

from backup_tasks.format.manifest import Entry, name_fields


def is_late_target(target: str) -> bool:
    """Whether tar makes a symlink with this target late. Pure."""
    return target.startswith("/") or (".." in target and ".." in target.split("/"))


class LateLinks:
    """Finds late symlinks, and hardlinks to one of them, in the order of a walk.

    Memory grows with the number of late symlinks that have several names, not with their paths.
    """

    def __init__(self) -> None:
        # Late symlinks with several names, by the hash of their path, which has a secret key.
        self._linked: set[int] = set()

    def has(self, entry: Entry) -> bool:
        """Whether an entry is a late link. Call for each entry but folders, in the walk's order."""
        if entry.type == "symlink":
            is_late = is_late_target(entry.link_name)
            if is_late and entry.nlink > 1:
                self._linked.add(hash(entry.name))
            return is_late
        return entry.type == "hardlink" and hash(entry.link_name) in self._linked


# Up to this depth a folder's entry keeps its path, since a copy without the path takes time.
# Beyond it, paths would make memory grow by the square of the depth.
_USUAL_DEPTH = 64


# Folders are taken in together, this many at once: few hold a late link, and the walk has left
# most of them again by then.
_AT_ONCE = 256


class Surroundings:
    """Knows the folder in which an entry lies, as a walk goes on.

    Memory grows with the depth; a path in each level would make it grow by the square.
    """

    def __init__(self) -> None:
        self._entered: list[Entry] = []
        self._front = ""
        # For each folder that the walk is in: the length of its path in `_front`, and its entry, or
        # None once `new_around` has given it.
        self._lengths: list[int] = []
        self._folders: list[Entry | None] = []

    def enter(self, folder: Entry) -> None:
        """Note that the walk came to a folder."""
        self._entered.append(folder)
        if len(self._entered) == _AT_ONCE:
            self._take_in()

    def new_around(self, entry: Entry) -> Entry | None:
        """The folder of an entry; None if it was given before, or if the entry lies at the top."""
        self._take_in()
        self._leave(entry.name)
        if not self._folders or self._folders[-1] is None:
            return None
        folder, self._folders[-1] = self._folders[-1], None
        folder.path, folder.path_b64 = name_fields(self._front[:-1])
        return folder

    def _take_in(self) -> None:
        """Follow the walk since the last call, without the folders that it has left again."""
        if not self._entered:
            return
        here = self._entered[-1].name + "/"
        stay = [one for one in self._entered if here.startswith(one.name + "/")]
        self._entered.clear()
        self._leave(here)
        for folder in stay:
            self._front = folder.name + "/"
            if len(self._folders) > _USUAL_DEPTH:
                folder = replace(folder, path="", path_b64="")
            self._lengths.append(len(self._front))
            self._folders.append(folder)

    def _leave(self, name: str) -> None:
        while self._folders and not name.startswith(self._front):
            self._folders.pop()
            self._lengths.pop()
            self._front = self._front[: self._lengths[-1]] if self._lengths else ""
