"""Walk below the target of a restore, and make the folders that are not there.

Folders are walked by descriptor, never through a symlink. Other users may own folders on the way,
and change names in them at any time, so each folder is judged by what others could have done to it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Collection
from typing import NamedTuple

from backup_tasks.permissions.folder_trust import DEFAULT_ACL, has_acl, is_trusted, master_of
from backup_tasks.spools.folder_stack import FolderStack
from backup_tasks.spools.inode_table import InodeTable
from backup_tasks.target.labels import copy_label
from backup_tasks.target.private_folder import PrivateFolders, owner_of_new

# Mode of a folder that a restore made and has not finished. It shows what a killed run left:
# nobody else gives the sticky bit to a folder that only its owner may enter.
UNFINISHED_MODE = 0o1700
# Attributes that name the path of a folder that others could have moved. Only root can set trusted
# ones.
MARKS = ("trusted.backup-tasks.restored-as", "user.backup-tasks.restored-as")
_ATTEMPTS = 16
_OTHER_FOLDER = "somebody put another folder in the place of the one that was made there"

Owner = tuple[int, int]


class Standing(NamedTuple):
    """Others' power over an open folder: who can change names in it, or replace it.

    Attributes:
        master: who can change the names in it, as `folder_trust.master_of` says.
        mover: who can put another folder in its place.
        is_sticky: only owners move their entries in it, as in /tmp.
        is_sealed: a restore made it at this very path, and nobody else could enter it since; or it
            lies below such a folder.
    """

    master: int | None
    mover: int | None
    is_sealed: bool = False
    is_sticky: bool = False


_SEALED = Standing(None, None, is_sealed=True)


class MakingFolderStack(FolderStack):
    """Makes folders that are not there, closed to others until their own mode is set.

    Args:
        may_replace: let a file or symlink make way for a folder.

    Attributes:
        on_making: called with the path of each folder that is about to be made, and of each that
            an earlier run may have made and left closed; perhaps more than once for one folder.
        on_made: called with the path of each folder that was made.
        makes: whether to make folders; if not, a missing folder raises FileNotFoundError.
        private: the folders in which to make entries that a rename puts in place.
        standing: what others can do about the folder entered last.
        new_owner: owner and group of the folder entered last, if it was made on the way there and
            has no ACL that new files inherit; else None. Nobody else can have put anything into
            it. New entries in it get the same owner and group: a process makes both alike, also
            where a setgid bit, a mount option or a server decides who that is.
    """

    def __init__(self, root: int, *, may_replace: bool) -> None:
        super().__init__(root)
        self.makes = True
        self.private = PrivateFolders(lambda: [root, *(folder for _, folder in self._open)])
        self._may_replace = may_replace
        self.on_making: Callable[[str], None] = lambda _: None
        self.on_made: Callable[[str], None] = lambda _: None
        self._entered: str | None = None
        self._way = ""
        self._folder = root
        self._new: dict[int, Owner] = {}
        self.new_owner: Owner | None = None
        # Device -> the user who owns the files that we make there.
        self._ours: dict[int, int | None] = {}
        self.standing = self._standing_of(root, os.fstat(root), None)
        self._standings = {root: self.standing}
        # The folders made by this run that others could move.
        self._moved_out = InodeTable()

    def is_movable(self, path: str) -> bool:
        """Whether this run made a folder there that others could move away."""
        return path in self._moved_out

    def enter(self, path: str) -> int:
        if path != self._entered:
            self._entered = None  # it may fail on the way
            self._way = path
            self._folder = folder = super().enter(path)
            self.standing, self.new_owner = self._standings[folder], self._new.get(folder)
            self._entered = path
        return self._folder

    def close_folder(self, folder: int) -> None:
        self._new.pop(folder, None)
        self._standings.pop(folder, None)
        super().close_folder(folder)

    def forget(self) -> None:
        self._entered = None
        super().forget()

    def close(self) -> None:
        """Close every folder but the root, and remove the private ones."""
        self.forget()
        self.private.close()

    def open_child(self, folder: int, name: str) -> int:
        if folder in self._new and self.makes:
            try:
                return self._make_inside(folder, name)
            except FileExistsError:
                pass
        for _ in range(_ATTEMPTS):
            try:
                return self._open_there(folder, name)
            except FileNotFoundError:
                if not self.makes:
                    raise
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                if not (self._may_replace and self.makes):
                    raise OSError(
                        error.errno, f"{name!r} on the way to it is no folder; kept as it is"
                    ) from error
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
            with contextlib.suppress(FileExistsError):
                if self._standings[folder].master is None:
                    return self._make_inside(folder, name)
                return self._make_apart(folder, name)
        raise OSError(errno.EBUSY, f"somebody keeps replacing {name!r} on the way to it")

    def _open_there(self, folder: int, name: str) -> int:
        child = super().open_child(folder, name)
        try:
            standing = self._standings[child] = self._judge(folder, child)
            if standing.is_sealed:
                self.on_making(self._path_of_next())
        except BaseException:
            os.close(child)
            raise
        return child

    def _judge(self, folder: int, child: int) -> Standing:
        above = self._standings[folder]
        if above.is_sealed:
            return _SEALED
        status = os.fstat(child)
        if above.master is None:
            if is_unfinished(status) and self._is_trusted(child, status):
                return _SEALED
        elif self._is_known(child, status, self._path_of_next()):
            return _SEALED
        mover = above.master
        if above.is_sticky:
            mover = None if is_trusted(status.st_uid) else status.st_uid
        return self._standing_of(child, status, mover)

    def _standing_of(self, folder: int, status: os.stat_result, mover: int | None) -> Standing:
        is_ours = self._is_trusted(folder, status)
        is_sticky = bool(status.st_mode & stat.S_ISVTX) and is_ours and mover is None
        master = master_of(folder, status, mover, status.st_uid if is_ours else None)
        return Standing(master, mover, is_sticky=is_sticky)

    def _is_trusted(self, folder: int, status: os.stat_result) -> bool:
        """Whether the folder's owner is root, ourselves, or would own a file that we make there."""
        if is_trusted(status.st_uid):
            return True
        if status.st_dev not in self._ours:
            self._ours[status.st_dev] = owner_of_new(folder)
        return self._ours[status.st_dev] == status.st_uid

    def _is_known(self, child: int, status: os.stat_result, path: str) -> bool:
        """Whether a folder that others could move is the one that a restore made for this path.

        Raises:
            OSError: a restore made it for another path, or this run made another one for this path.
        """
        inode = status.st_dev, status.st_ino
        is_made = self._moved_out.has(path, inode)
        # A user may give that mode to their own folder, even to one that we marked.
        if is_unfinished(status) and self._is_trusted(child, status):
            mark = read_mark(child, status)
            if mark == _mark_of(path) or (is_made and not mark):
                return True
            if mark:
                raise OSError(errno.EBUSY, _OTHER_FOLDER)
        if path in self._moved_out and not is_made:
            raise OSError(errno.EBUSY, _OTHER_FOLDER)
        return False

    def _path_of_next(self) -> str:
        """The path of the folder that is opened or made next on the way."""
        return "/".join(self._way.split("/")[: len(self._open) + 1])

    def _make_inside(self, folder: int, name: str) -> int:
        """Make a folder where nobody else can replace it."""
        path = self._path_of_next()
        self.on_making(path)
        os.mkdir(name, UNFINISHED_MODE, dir_fd=folder)
        self.on_made(path)
        made = super().open_child(folder, name)
        self._standings[made] = _SEALED
        status = _closed(made)
        # A folder made in a new one has the same owner, and no default ACL either.
        if folder in self._new or _is_untouched(made, status):
            self._new[made] = status.st_uid, status.st_gid
        return made

    def _make_apart(self, folder: int, name: str) -> int:
        """Make a folder in private, mark it, and move it to where others can change the names.

        Raises:
            FileExistsError: something else stands there by now.
        """
        path = self._path_of_next()
        self.on_making(path)
        with contextlib.ExitStack() as opened:
            made = -1

            def make(private: int, temporary: str) -> None:
                nonlocal made
                os.mkdir(temporary, UNFINISHED_MODE, dir_fd=private)
                made = os.open(temporary, self._flags, dir_fd=private)
                opened.callback(os.close, made)
                self._prepare(made, folder, path)

            def publish(private: int, temporary: str) -> None:
                try:
                    os.rename(temporary, name, src_dir_fd=private, dst_dir_fd=folder)
                except OSError as error:
                    if error.errno in (errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST):
                        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
                    raise

            self.private.build(folder, make, publish)
            child = os.dup(made)
        self.on_made(path)
        status = os.fstat(child)
        self._standings[child] = _SEALED
        if _is_untouched(child, status):
            self._new[child] = status.st_uid, status.st_gid
        return child

    def _prepare(self, made: int, folder: int, path: str) -> None:
        above = os.fstat(folder)
        if above.st_mode & stat.S_ISGID:
            with contextlib.suppress(OSError):
                os.fchown(made, -1, above.st_gid)
                os.fchmod(made, UNFINISHED_MODE | stat.S_ISGID)
        copy_label(folder, made)
        set_mark(made, path)
        status = _closed(made)
        self._moved_out.add(path, (status.st_dev, status.st_ino))


def _closed(made: int) -> os.stat_result:
    """The status of a folder just made; sets its mode again where mkdir(2) lost the sticky bit, as
    FUSE does."""
    status = os.fstat(made)
    if is_unfinished(status):
        return status
    with contextlib.suppress(OSError):
        os.fchmod(made, UNFINISHED_MODE)
    return os.fstat(made)


def set_mark(folder: int, path: str) -> None:
    """Mark a folder with its path, where the file system allows it."""
    with contextlib.suppress(OSError):
        os.setxattr(folder, _mark_name(), _mark_of(path))


def has_mark(folder: int, status: os.stat_result, path: str) -> bool:
    """Whether a restore made this very folder for this path, and did not finish it."""
    return read_mark(folder, status) == _mark_of(path)


def read_mark(folder: int, status: os.stat_result) -> bytes:
    """The mark that `set_mark` set on an open folder; b"" if none, or if others could set it."""
    if os.geteuid() != 0 and status.st_uid != os.geteuid():
        return b""
    try:
        return os.getxattr(folder, _mark_name())
    except OSError:
        return b""


def drop_mark(folder: int, attributes: Collection[str]) -> None:
    """Remove the mark that `set_mark` set, if there is one.

    Args:
        attributes: names of the folder's attributes; looking there is faster than trying.
    """
    if attributes and _mark_name() in attributes:
        with contextlib.suppress(OSError):
            os.removexattr(folder, _mark_name())


def _mark_name() -> str:
    return MARKS[0] if os.geteuid() == 0 else MARKS[1]


def _mark_of(path: str) -> bytes:
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()


def _is_untouched(folder: int, status: os.stat_result) -> bool:
    """Whether a folder is as this process makes folders."""
    is_ours = status.st_uid == os.geteuid() and is_unfinished(status)
    return is_ours and not has_acl(folder, DEFAULT_ACL)


def is_unfinished(status: os.stat_result) -> bool:
    """Whether a restore, perhaps a killed one, made this folder and has not set its metadata.

    The mode may have a setgid bit more, which is inherited from the folder above.
    """
    return stat.S_IMODE(status.st_mode) & ~stat.S_ISGID == UNFINISHED_MODE
