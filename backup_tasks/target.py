"""The folder that a restore writes below: making folders and files there, whole or not at all.

Folders are walked by descriptor and never through a symlink. What is new gets its name only
when it is whole, always as a new inode, so that no existing hardlink is written through.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

from backup_tasks.content_hash import ContentHash
from backup_tasks.errors import ArchiveError
from backup_tasks.folders import FolderStack
from backup_tasks.limits import HOLES_LIMIT, TOO_MANY_HOLES
from backup_tasks.metadata import DEFAULT_ACL
from backup_tasks.tarstream import Member, SparseMap

# The mode of a folder that a restore made and did not finish yet: nobody gives the sticky bit
# to a folder that no one else may enter, so a run that was killed is recognised by it.
UNFINISHED_MODE = 0o1700
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL}
_TEMPORARY = ".backup-tasks-"
_RESERVE_SHARE = 100
_RESERVE_BYTES = 256 * 2**20
_LOOK_EVERY_BYTES = 32 * 2**20
_LOOK_EVERY_FILES = 256
_TOO_MANY = "more bytes came than the header says"
_TOO_FEW = "fewer bytes came than the header says"

Owner = tuple[int, int]


class MakingFolderStack(FolderStack):
    """Makes folders that are not there, closed to others until their own mode is set.

    Args:
        may_replace: a file or symlink in the place of a folder makes way for it.
        made: called with the path of each folder that was made.
    """

    def __init__(self, root: int, *, may_replace: bool, made: Callable[[str], None]) -> None:
        super().__init__(root)
        self._may_replace = may_replace
        self._made = made
        self._entered: str | None = None
        self._folder = root
        self._new: dict[int, Owner] = {}

    @property
    def new_owner(self) -> Owner | None:
        """Owner and group of the folder entered last, if it was made on the way there, so that
        nobody else had a chance to put anything into it, and has no ACL that new files inherit.

        They are those of what is made in it, too: a process makes both alike, also where a setgid
        bit, a mount option or a server decides who that is.
        """
        return self._new.get(self._folder)

    def enter(self, path: str) -> int:
        if path != self._entered:
            self._entered = None  # it may fail on the way
            self._folder = super().enter(path)
            self._entered = path
        return self._folder

    def close_folder(self, folder: int) -> None:
        self._new.pop(folder, None)
        super().close_folder(folder)

    def forget(self) -> None:
        self._entered = None
        super().forget()

    def open_child(self, folder: int, name: str) -> int:
        if folder in self._new:
            with contextlib.suppress(FileExistsError):
                return self._make_child(folder, name)
        try:
            return super().open_child(folder, name)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            if not self._may_replace:
                raise OSError(
                    error.errno, f"{name!r} on the way to it is no folder; kept as it is"
                ) from error
            os.unlink(name, dir_fd=folder)
        return self._make_child(folder, name)

    def _make_child(self, folder: int, name: str) -> int:
        os.mkdir(name, UNFINISHED_MODE, dir_fd=folder)
        self._made("/".join([*(above for above, _ in self._open), name]))
        made = super().open_child(folder, name)
        status = os.fstat(made)
        # What is in such a folder is like it.
        if folder in self._new or _is_untouched(made, status):
            self._new[made] = status.st_uid, status.st_gid
        return made


def _is_untouched(folder: int, status: os.stat_result) -> bool:
    """Whether a folder is as this process makes them: whoever owns the one above it could have put
    another in its place."""
    is_ours = status.st_uid == os.geteuid() and is_unfinished(status)
    return is_ours and not _has_default_acl(folder)


def _has_default_acl(folder: int) -> bool:
    try:
        return bool(os.getxattr(folder, DEFAULT_ACL))
    except OSError as error:
        return error.errno not in (errno.ENODATA, errno.EOPNOTSUPP)


def is_unfinished(status: os.stat_result) -> bool:
    """Whether a restore made this folder, this one or one that was killed, and did not get to
    its metadata. A setgid bit is inherited from the folder above."""
    return stat.S_IMODE(status.st_mode) & ~stat.S_ISGID == UNFINISHED_MODE


def open_own_descriptors() -> int | None:
    """The folder of this process's descriptors; None where /proc is not mounted, as in many a
    chroot of a rescue system."""
    try:
        return os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None


class NewFile:
    """A file that has no name until `publish`; without that, nothing stays.

    Where the file system cannot make files without a name, a temporary name is used.

    Args:
        mode: of the file; what the umask forbids is taken from it.
        own_descriptors: as `open_own_descriptors` gives it; None takes a temporary name.
    """

    def __init__(self, folder: int, name: str, mode: int, own_descriptors: int | None) -> None:
        self._folder = folder
        self._name = name
        self._own_descriptors = own_descriptors
        self._temporary = ""
        if own_descriptors is None:
            self._begin_temporary(mode)
            return
        try:
            self.descriptor = os.open(
                ".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, mode, dir_fd=folder
            )
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
            self._begin_temporary(mode)

    def _begin_temporary(self, mode: int) -> None:
        self._temporary = free_temporary_name(self._folder, self._name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.descriptor = os.open(self._temporary, flags, mode, dir_fd=self._folder)

    def publish(self, *, replace: bool) -> None:
        """Put the whole file under its name in one step.

        Raises FileExistsError when the name is taken and `replace` is not set; it may be called
        again then.
        """
        if not self._temporary:
            try:
                self._link_to(self._name)
                return
            except FileExistsError:
                if not replace:
                    raise
            self._temporary = free_temporary_name(self._folder, self._name)
            self._link_to(self._temporary)
        elif not replace and _is_there(self._folder, self._name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        move_into_place(self._folder, self._temporary, self._name)
        self._temporary = ""

    def _link_to(self, name: str) -> None:
        # open(2), O_TMPFILE: linkat of /proc/self/fd/N gives the file its first name.
        os.link(
            str(self.descriptor),
            name,
            src_dir_fd=self._own_descriptors,
            dst_dir_fd=self._folder,
            follow_symlinks=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.descriptor)
        if self._temporary:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._folder)


def _is_there(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def new_node(folder: int, name: str) -> Iterator[str]:
    """A temporary name to make a link, FIFO or device under; at the end it gets its own name."""
    temporary = free_temporary_name(folder, name)
    try:
        yield temporary
        move_into_place(folder, temporary, name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


def free_temporary_name(folder: int, name: str) -> str:
    """The temporary name of this name; what a killed run left under it is removed.

    It is the same in every run, so that running again leaves nothing behind.
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    temporary = _TEMPORARY + digest[:16]
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=folder)
    return temporary


def move_into_place(folder: int, temporary: str, name: str) -> None:
    """Rename over whatever has the name, but over a folder only if it is empty: nobody asked to
    delete what is in it."""
    try:
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except IsADirectoryError:
        os.rmdir(name, dir_fd=folder)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    # rename(2) does nothing when both are links to the same file already.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=folder)


class SpaceGuard:
    """Stops a restore before the disk is full, so that the server lives on.

    Looks now and then at what is left of the file system written to, the more often the less it
    is, and keeps one per cent of it free (256 MiB of a large one).
    """

    def __init__(self) -> None:
        self._bytes_left = 0
        self._files_left = 0

    def spend(self, descriptor: int, count: int) -> None:
        """Say that so many bytes are about to be written. Raises OSError (ENOSPC)."""
        self._bytes_left -= count
        self._files_left -= count == 0
        if self._bytes_left < 0 or self._files_left < 0:
            self._look(descriptor, count)

    def _look(self, descriptor: int, count: int) -> None:
        disk = os.fstatvfs(descriptor)
        free = disk.f_frsize * (disk.f_bfree if os.geteuid() == 0 else disk.f_bavail)
        reserve = min(disk.f_frsize * disk.f_blocks // _RESERVE_SHARE, _RESERVE_BYTES)
        room = free - reserve - count
        if room <= 0 or (disk.f_files and disk.f_ffree <= disk.f_files // 1000):
            raise OSError(errno.ENOSPC, "the disk is nearly full")
        self._bytes_left = min(room // 2, _LOOK_EVERY_BYTES)
        self._files_left = _LOOK_EVERY_FILES


def refuse_holes_to_hash(member: Member) -> None:
    """Raises OSError (EFBIG) where so many holes as zeros would take hours to hash."""
    if member.size - member.stored > HOLES_LIMIT:
        raise OSError(errno.EFBIG, TOO_MANY_HOLES)


def write_content(
    descriptor: int,
    member: Member,
    pieces: Iterable[memoryview],
    guard: SpaceGuard,
    digest: ContentHash | None,
) -> None:
    """Write the stored bytes to their places.

    Args:
        digest: takes the whole content.

    Raises ArchiveError when more or fewer bytes come than the member says.
    """
    guard.spend(descriptor, 0)
    if member.sparse is not None:
        _write_runs(descriptor, member, member.sparse, pieces, guard, digest)
        return
    position = 0
    for piece in pieces:
        if position + len(piece) > member.stored:
            raise ArchiveError(_TOO_MANY)
        guard.spend(descriptor, len(piece))
        if digest is not None:
            digest.add(position, piece)
        _write_at(descriptor, piece, position)
        position += len(piece)
    if position < member.stored:
        raise ArchiveError(_TOO_FEW)


def _write_runs(
    descriptor: int,
    member: Member,
    sparse: SparseMap,
    pieces: Iterable[memoryview],
    guard: SpaceGuard,
    digest: ContentHash | None,
) -> None:
    # First of all, so that a size that no file can have here is not hashed.
    os.ftruncate(descriptor, member.size)
    runs = list(sparse)
    runs.reverse()
    for piece in pieces:
        guard.spend(descriptor, len(piece))
        view = piece
        while view:
            if not runs:
                raise ArchiveError(_TOO_MANY)
            offset, length = runs.pop()
            part = view[:length]
            if digest is not None:
                digest.add(offset, part)
            _write_at(descriptor, part, offset)
            if len(part) < length:
                runs.append((offset + len(part), length - len(part)))
            view = view[len(part) :]
    if any(length for _, length in runs):
        raise ArchiveError(_TOO_FEW)


def _write_at(descriptor: int, part: memoryview, offset: int) -> None:
    written = os.pwrite(descriptor, part, offset)
    while written < len(part):
        written += os.pwrite(descriptor, part[written:], offset + written)
