"""Links that GNU tar makes late, after everything else: which they are, and what goes with them.

Of a symlink that is absolute or goes up by `..` it makes an empty file first, so that nothing
can be written through the link, and the link itself at the very end. A folder's time is set
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
    """Finds them in the order of a walk: such symlinks, and hardlinks to one of them.

    Memory grows with the number of such symlinks that have several names, not with their paths.
    """

    def __init__(self) -> None:
        # Of their paths the hashes, which have a secret key.
        self._linked: set[int] = set()

    def has(self, entry: Entry) -> bool:
        """Whether an entry is one; ask for each but folders, in the order of the walk."""
        if entry.type == "symlink":
            is_late = is_late_target(entry.link_name)
            if is_late and entry.nlink > 1:
                self._linked.add(hash(entry.name))
            return is_late
        return entry.type == "hardlink" and hash(entry.link_name) in self._linked


# Up to so many folders deep an entry keeps its path, as a copy without it takes time; beyond that
# memory would grow by the square of the depth.
_USUAL_DEPTH = 64


# Folders are taken in together: few of them have anything that asks for its own, and of so many
# most are left again.
_AT_ONCE = 256


class Surroundings:
    """Knows the folder that an entry lies in, as a walk goes on.

    Memory grows with the depth: a path in each level would make it grow by the square.
    """

    def __init__(self) -> None:
        self._entered: list[Entry] = []
        self._front = ""
        # Of each folder that the walk is in: how much of the front is its, and its entry; None once
        # that was given.
        self._lengths: list[int] = []
        self._folders: list[Entry | None] = []

    def enter(self, folder: Entry) -> None:
        """The walk came to a folder."""
        self._entered.append(folder)
        if len(self._entered) == _AT_ONCE:
            self._take_in()

    def new_around(self, entry: Entry) -> Entry | None:
        """The folder of an entry; None if it was given before, or the entry lies at the top."""
        self._take_in()
        self._leave(entry.name)
        if not self._folders or self._folders[-1] is None:
            return None
        folder, self._folders[-1] = self._folders[-1], None
        folder.path, folder.path_b64 = name_fields(self._front[:-1])
        return folder

    def _take_in(self) -> None:
        """Leave and enter as the walk did since the last time, but for what it has left again."""
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
