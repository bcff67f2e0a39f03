"""Set the metadata of a restore's folders last, when nothing more comes into them.

Until then the folders are closed to others. A folder that others could have moved is set only if
it is the one that belongs there.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial

from backup_tasks.format.tar_headers import Member
from backup_tasks.permissions.folder_trust import is_trusted
from backup_tasks.restore.member_spool import MemberSpool
from backup_tasks.spools.inode_table import InodeTable
from backup_tasks.target.making_folders import (
    MakingFolderStack,
    drop_mark,
    has_mark,
    is_unfinished,
    set_mark,
)
from backup_tasks.target.metadata import MetadataSetter, list_attributes, owner_of

_MOVABLE = (
    "its mode and owner were left alone, as others can move folders there: it may not be the one "
    "that belongs there"
)

_ANOTHERS = (
    "it was there already and belongs to another user than in the archive, who can read and change "
    "what was restored into it"
)

Attempt = Callable[[str, Callable[[], None]], None]


class FolderFinisher:
    """Keeps the metadata of folders, and the paths of those made, until all else is restored.

    Args:
        root: the target; folders: the way into it.
        new_mode: mode of a folder that is not in the archive.
        may_change: whether folders that were there before get their metadata, too.
        attempt: called with (path, call that sets the folder); an error costs this folder alone.
        leave_out: called with (path, reason) of a folder that was not set.

    Attributes:
        wanted: the folders that were asked for; append to it.
        above: the folders above wanted entries, set only if a restore made them; append to it.
        count: number of wanted folders that are there.
        is_due: asked, by path, whether a folder is to be set; where an archive holds a path twice,
            it may be set already, or be no folder any more.
    """

    def __init__(
        self,
        root: int,
        folders: MakingFolderStack,
        setter: MetadataSetter,
        *,
        new_mode: int,
        may_change: bool,
        attempt: Attempt,
        leave_out: Callable[[str, str], None],
    ) -> None:
        self._root = root
        self._folders = folders
        self._setter = setter
        self._new_mode = new_mode
        self._may_change = may_change
        self._attempt = attempt
        self._leave_out = leave_out
        self.wanted = MemberSpool()
        self.above = MemberSpool()
        self.count = 0
        self.is_due: Callable[[str], bool] = lambda _: True
        self._made = MemberSpool()
        # Depth -> sum of the path hashes of folders made, less those finished: 0 when all are.
        self._unfinished: Counter[int] = Counter()
        self._is_abandoned = False
        # If a closed folder stands at one of these paths, it stays closed.
        self._left: set[str] = set()
        # Folders that others could move, and that have their own metadata by now.
        self._finished = InodeTable()
        # The paths in `_made`.
        self._noted = InodeTable()
        folders.on_making = self._note_made

    def finish(self) -> None:
        """Set all folders, deepest first: nobody else can change a folder's content before it is
        set."""
        depths = self.wanted.depths() | self.above.depths()
        for depth in range(max(depths | self._made.depths(), default=-1), -1, -1):
            for member in self.wanted.of_depth(depth):
                self._each(member, is_wanted=True)
            for member in self.above.of_depth(depth):
                self._each(member, is_wanted=False)
            if self._unfinished.get(depth):
                self._open_the_rest(depth)

    def _open_the_rest(self, depth: int) -> None:
        """Open the folders that were made, but are not in the archive."""
        makes, self._folders.makes = self._folders.makes, False
        for member in self._made.of_depth(depth):
            path = os.fsdecode(member.path)
            self._attempt(path, partial(self._open_to_others, path))
        self._folders.makes = makes

    def abandon(self) -> None:
        """After a failure: set the folders made so far, and mark them where possible, so that the
        next run finishes them."""
        self._folders.makes = False
        self._is_abandoned = True
        with suppress(OSError):
            self.finish()

    def close(self) -> None:
        """Free the memory or the files."""
        for spool in (self.wanted, self.above, self._made):
            spool.close()

    def _each(self, member: Member, *, is_wanted: bool) -> None:
        path = os.fsdecode(member.path)
        self._attempt(path, partial(self._set_folder, member, path, is_wanted=is_wanted))

    def _set_folder(self, member: Member, path: str, *, is_wanted: bool) -> None:
        if not self.is_due(path):
            return
        self._left.add(path)
        try:
            folder = self._folders.enter(path)
        except FileNotFoundError:
            if self._is_abandoned:
                return
            raise
        status = os.fstat(folder)
        standing = self._folders.standing
        is_new = is_unfinished(status) and (
            standing.is_sealed
            # A run that was killed may have set the owner, and no more.
            or (standing.mover is None and status.st_uid == owner_of(member)[0])
        )
        may_change = is_wanted and self._may_change and not self._is_abandoned
        if is_new or has_mark(folder, status, path):
            self._finish_one(folder, member, status, path)
        elif may_change and _is_safe(standing.mover, status, member):
            self._setter.set_folder(folder, member, (status.st_uid, status.st_gid))
        elif (may_change and not _looks_like(status, member)) or _is_left_closed(status):
            self._leave_out(path, _MOVABLE)
            return
        elif standing.mover is not None and _is_anothers(status, member):
            self._leave_out(path, _ANOTHERS)
            return
        if is_new and path in self._noted:
            self._unfinished[path.count("/")] -= hash(path)
        self._left.discard(path)
        self.count += is_wanted

    def _finish_one(self, folder: int, member: Member, status: os.stat_result, path: str) -> None:
        attributes = self._setter.set_folder(folder, member, (status.st_uid, status.st_gid))
        self._note_finished(folder, path, attributes)
        if self._folders.is_movable(path):
            self._finished.add(path, None)

    def _note_finished(self, folder: int, path: str, attributes: Collection[str]) -> None:
        """Drop the folder's mark; after a failure set it, as the archive may say more of it."""
        if self._is_abandoned:
            set_mark(folder, path)
        else:
            drop_mark(folder, attributes)

    def _note_made(self, path: str) -> None:
        """Note a folder before it is made: a signal may come right after that."""
        if self._noted.add(path, None):
            self._made.append(Member(os.fsencode(path), "dir"))
            self._unfinished[path.count("/")] += hash(path)

    def _open_to_others(self, path: str) -> None:
        # A folder in the archive stays closed if its mode could not be set, or was set on another
        # folder, made because somebody had moved this one away.
        is_named = path in self._left or path in self._finished
        if is_named or self._seems_finished(path) or not self.is_due(path):
            return
        with suppress(FileNotFoundError):
            folder = self._folders.enter(path)
            if self._folders.standing.is_sealed and is_unfinished(os.fstat(folder)):
                os.fchmod(folder, self._new_mode)
                self._note_finished(folder, path, list_attributes(folder))

    def _seems_finished(self, path: str) -> bool:
        """Whether a folder looks finished, by a fast look along its path.

        A user who leads the look astray gains only a folder that stays closed to others.
        """
        try:
            return not is_unfinished(os.stat(path, dir_fd=self._root))
        except OSError:  # longer than a path may be
            return False


def _is_safe(mover: int | None, status: os.stat_result, member: Member) -> bool:
    """Whether a folder that was there may be changed.

    It may if nobody could have put it there, or only its owner, who owns it in the archive, too.
    """
    return mover is None or mover == status.st_uid == owner_of(member)[0]


def _looks_like(status: os.stat_result, member: Member) -> bool:
    found = status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)
    return found == (*owner_of(member), member.mode)


def _is_anothers(status: os.stat_result, member: Member) -> bool:
    return status.st_uid != owner_of(member)[0] and not is_trusted(status.st_uid)


def _is_left_closed(status: os.stat_result) -> bool:
    return is_unfinished(status) and status.st_uid == os.geteuid()
