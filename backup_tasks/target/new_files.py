"""New files, links and nodes: each gets its name only when it is whole, always as a new inode, so
that no existing hardlink is written through.

Until then it has no name, or a name in a private folder, where nobody can replace it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable

from backup_tasks.common.closes import Closes
from backup_tasks.target.labels import copy_label
from backup_tasks.target.private_folder import PrivateFolder, PrivateFolders

_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL}
_NO_HARDLINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class LinkTargetChanged(Exception):
    """The target of a hardlink was replaced after it was looked at."""


def open_own_descriptors() -> int | None:
    """The folder of this process's descriptors; None without /proc, as in many a rescue system's
    chroot."""
    try:
        return os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None


class NewFile(Closes):
    """A file that has no name until `publish`; without `publish`, nothing of it stays.

    Where the file system cannot make files without a name, it has one in a private folder.

    Args:
        mode: mode of the file, less the bits that the umask forbids.
        own_descriptors: as `open_own_descriptors` gives it; None makes no nameless files.
        private: private folders for the way to `folder`.
    """

    def __init__(
        self,
        folder: int,
        name: str,
        mode: int,
        own_descriptors: int | None,
        private: PrivateFolders,
    ) -> None:
        self._folder = folder
        self._name = name
        self._own_descriptors = own_descriptors
        self._private = private
        self._place: PrivateFolder | None = None
        self._temporary = ""
        if own_descriptors is None:
            self._begin_apart(mode)
            return
        try:
            self.descriptor = os.open(
                ".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, mode, dir_fd=folder
            )
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
            self._begin_apart(mode)

    def _begin_apart(self, mode: int) -> None:
        self._place = self._private.beside(self._folder)
        self._temporary = self._private.free_name()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.descriptor = os.open(self._temporary, flags, mode, dir_fd=self._place.descriptor)
        copy_label(self._folder, self.descriptor)

    def publish(self, *, replace: bool) -> None:
        """Put the whole file under its name in one step.

        Raises:
            FileExistsError: the name is taken, and `replace` is not set; may be called again.
        """
        if self._place is not None:
            self._publish_from(self._place.descriptor, replace=replace)
            return
        try:
            self._link_to(self._folder, self._name)
        except FileExistsError:
            if not replace:
                raise
            self._private.build(self._folder, self._link_to, self._move)

    def _publish_from(self, private: int, *, replace: bool) -> None:
        if replace:
            self._move(private, self._temporary)
        else:
            place_new(private, self._temporary, self._folder, self._name)
        self._temporary = ""

    def _move(self, private: int, temporary: str) -> None:
        move_into_place(private, temporary, self._folder, self._name)

    def _link_to(self, folder: int, name: str) -> None:
        link_open(self.descriptor, self._own_descriptors, folder, name)

    def close(self) -> None:
        """Close the file, and remove its temporary name if it has one."""
        os.close(self.descriptor)
        if self._place is not None and self._temporary:
            self._place.clear(self._temporary)


def link_open(descriptor: int, own_descriptors: int | None, folder: int, name: str) -> None:
    """Give an open file a name, whatever names it has or had.

    Uses linkat of /proc/self/fd/N, as open(2) says under O_TMPFILE.

    Raises:
        FileExistsError: the name is taken.
    """
    os.link(
        str(descriptor),
        name,
        src_dir_fd=own_descriptors,
        dst_dir_fd=folder,
        follow_symlinks=True,
    )


def make_node(
    private: PrivateFolders, folder: int, name: str, make: Callable[[int, str], None]
) -> None:
    """Make a symlink, FIFO or device, and put it under its name in one step.

    Replaces anything of that name except a folder that is not empty.

    Args:
        make: called with a folder that nobody else can enter, and the name to make there.
    """

    def publish(place: int, temporary: str) -> None:
        move_into_place(place, temporary, folder, name)

    private.build(folder, make, publish)


def make_link(
    private: PrivateFolders,
    folder: int,
    name: str,
    found: int,
    own_descriptors: int | None,
    source: tuple[int, str],
) -> None:
    """Make a hardlink to an open file.

    Replaces anything of that name except a folder that is not empty.

    Args:
        found: the file, opened with O_PATH.
        source: folder and name where it was found, used where there is no /proc.

    Raises:
        LinkTargetChanged: there is no /proc, and another file has the name in `source` by now.
    """

    def make(place: int, temporary: str) -> None:
        if own_descriptors is not None:
            link_open(found, own_descriptors, place, temporary)
            return
        _link_checked(source, found, place, temporary)

    def publish(place: int, temporary: str) -> None:
        move_into_place(place, temporary, folder, name)
        # rename(2) does nothing if both names are links to the same file already.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=place)

    if own_descriptors is not None:
        with contextlib.suppress(FileExistsError):
            link_open(found, own_descriptors, folder, name)
            return
    private.build(folder, make, publish)


def _link_checked(source: tuple[int, str], found: int, place: int, temporary: str) -> None:
    folder, name = source
    os.link(name, temporary, src_dir_fd=folder, dst_dir_fd=place, follow_symlinks=False)
    made = os.stat(temporary, dir_fd=place, follow_symlinks=False)
    if not os.path.samestat(made, os.fstat(found)):
        raise LinkTargetChanged


def place_new(private: int, temporary: str, folder: int, name: str) -> None:
    """Move an entry of a private folder to a free name.

    Raises:
        FileExistsError: the name is taken.
    """
    try:
        os.link(temporary, name, src_dir_fd=private, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARDLINKS:
            raise
        if _is_there(folder, name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        os.rename(temporary, name, src_dir_fd=private, dst_dir_fd=folder)
        return
    os.unlink(temporary, dir_fd=private)


def _is_there(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def move_into_place(private: int, temporary: str, folder: int, name: str) -> None:
    """Rename over anything of that name, but over a folder only if it is empty: nobody asked to
    delete its content."""
    try:
        os.rename(temporary, name, src_dir_fd=private, dst_dir_fd=folder)
    except IsADirectoryError:
        os.rmdir(name, dir_fd=folder)
        os.rename(temporary, name, src_dir_fd=private, dst_dir_fd=folder)
