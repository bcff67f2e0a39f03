"""Folders that nobody else can enter, in which a restore makes entries before it renames them.

Only names inside a private folder are used. The private folder itself is reached, emptied and
removed by descriptor, because the owner of the folder around it may rename it at any time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from backup_tasks.permissions.folder_trust import drop_acls
from backup_tasks.spools.folder_stack import OPEN_FOLDER

PREFIX = ".backup-tasks-"
# A file in each private folder, so that nobody can remove it as empty; flock is held on the file.
_MARKER = "owner"
_NEW = "new"
_ATTEMPTS = 16
_MOST_OPEN = 16

Make = Callable[[int, str], None]


class PrivateFolder:
    """A folder with mode 0700, made by this process and locked as long as the folder lives.

    Args:
        parent: where to make it; kept open by another descriptor.

    Raises:
        OSError: the folder cannot be made there.
    """

    def __init__(self, parent: int) -> None:
        self._parent = os.dup(parent)
        try:
            with _unchanged_times(parent):
                sweep(parent)
                self._name, self.descriptor, self._marker = _make(parent)
        except BaseException:
            os.close(self._parent)
            raise

    def remove(self) -> None:
        """Remove the folder with its content; at worst it stays, and nothing else changes."""
        try:
            with contextlib.suppress(OSError), _unchanged_times(self._parent):
                _empty(self.descriptor)
                # Closed before it is unlinked: NFS and FUSE keep another name for an open file.
                marker, self._marker = self._marker, -1
                os.close(marker)
                _remove(self._parent, self._name, self.descriptor)
        finally:
            for descriptor in (self._marker, self.descriptor, self._parent):
                if descriptor >= 0:
                    os.close(descriptor)

    def clear(self, name: str) -> None:
        """Remove a name in the folder, if it is still there."""
        with contextlib.suppress(OSError):
            _unlink(self.descriptor, name)


class PrivateFolders:
    """Private folders on the file systems of the places that they are for; made when needed.

    Args:
        way: gives the open folders from the target down to the one that is being written to.
    """

    def __init__(self, way: Callable[[], Sequence[int]]) -> None:
        self._way = way
        # In the order of use: the one used last stands last.
        self._open: dict[tuple[int, int], PrivateFolder] = {}
        self._count = 0

    def build(self, folder: int, make: Make, publish: Make) -> None:
        """Make something in private, then give it its place in `folder`.

        Args:
            make, publish: called with a private folder and a name in it; both once more if, to
                rename(2), the first private folder is on another file system.
        """
        try:
            self._build_in(self.beside(folder), make, publish)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # A subvolume, a bind mount, or a folder with a project quota of its own.
            self._build_in(self._inside(folder), make, publish)

    def _build_in(self, private: PrivateFolder, make: Make, publish: Make) -> None:
        name = self.free_name()
        try:
            make(private.descriptor, name)
            publish(private.descriptor, name)
        except BaseException:
            private.clear(name)
            raise

    def free_name(self) -> str:
        """A name that nothing in a private folder has."""
        self._count += 1
        return f"{_NEW}{self._count}"

    def beside(self, folder: int) -> PrivateFolder:
        """A private folder from which a rename into `folder` should work.

        It lies as high up as possible, where fewer people can write.
        """
        device = os.fstat(folder).st_dev
        for key, private in reversed(self._open.items()):
            if key[0] == device and _is_same_mount(private.descriptor, folder):
                return self._used(key)
        for place in self._way():
            status = os.fstat(place)
            if status.st_dev == device and _is_same_mount(place, folder):
                try:
                    return self._add((device, status.st_ino), place)
                except PermissionError:
                    continue
        return self._inside(folder)

    def _inside(self, folder: int) -> PrivateFolder:
        status = os.fstat(folder)
        key = status.st_dev, status.st_ino
        return self._used(key) if key in self._open else self._add(key, folder)

    def _used(self, key: tuple[int, int]) -> PrivateFolder:
        private = self._open[key] = self._open.pop(key)
        return private

    def _add(self, key: tuple[int, int], place: int) -> PrivateFolder:
        made = PrivateFolder(place)
        if len(self._open) >= _MOST_OPEN:
            self._open.pop(next(iter(self._open))).remove()
        self._open[key] = made
        return made

    def close(self) -> None:
        """Remove all private folders."""
        while self._open:
            self._open.popitem()[1].remove()


def sweep(parent: int) -> None:
    """Remove private folders that a killed run left in this folder.

    Knows them by owner and mode, by the text of the marker, which nobody else can write, and by
    the marker's lock, which no living process holds.
    """
    for name in _names_in(parent):
        if name.startswith(PREFIX):
            with contextlib.suppress(OSError):
                _sweep_one(parent, name)


def _names_in(folder: int) -> Iterator[str]:
    """Yield a folder's names one by one: others decide how many there are."""
    # Opened anew, as all copies of a descriptor share one position for reading.
    again = os.open(".", OPEN_FOLDER, dir_fd=folder)
    try:
        with os.scandir(again) as found:
            for one in found:
                yield one.name
    finally:
        os.close(again)


def _sweep_one(parent: int, name: str) -> None:
    folder = os.open(name, OPEN_FOLDER, dir_fd=parent)
    try:
        status = os.fstat(folder)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) != 0o700:
            return
        try:
            marker = os.open(_MARKER, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            os.rmdir(name, dir_fd=parent)  # only if it is empty
            return
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
            said = os.read(marker, 4096)
            is_just_made = not said and os.listdir(folder) == [_MARKER]
            if not (is_just_made or said == _said_by(status)):
                return
            _empty(folder)
        finally:
            os.close(marker)
        _remove(parent, name, folder)
    finally:
        os.close(folder)


def _make(parent: int) -> tuple[str, int, int]:
    """Name, descriptor and locked marker of a new private folder."""
    for _ in range(_ATTEMPTS):
        name = PREFIX + os.urandom(16).hex()
        os.mkdir(name, 0o700, dir_fd=parent)
        try:
            folder = os.open(name, OPEN_FOLDER, dir_fd=parent)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                continue
            raise
        try:
            marker = _claim(folder)
        except BaseException:
            os.close(folder)
            raise
        if marker is not None:
            return name, folder, marker
        os.close(folder)
    raise OSError(errno.EBUSY, "somebody keeps replacing the temporary folder of this restore")


def _claim(folder: int) -> int | None:
    """Mark a folder as ours; None if somebody replaced the folder that we made."""
    status = os.fstat(folder)
    if os.listdir(folder):
        return None
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        marker = os.open(_MARKER, flags, 0o600, dir_fd=folder)
    except FileNotFoundError:
        return None
    try:
        if _is_private(status, os.fstat(marker)) and _lock(marker):
            drop_acls(folder)
            os.write(marker, _said_by(status))
            return marker
        with contextlib.suppress(OSError):
            os.unlink(_MARKER, dir_fd=folder)
    except BaseException:
        os.close(marker)
        raise
    os.close(marker)
    return None


def _is_private(folder: os.stat_result, marker: os.stat_result) -> bool:
    """Whether the folder belongs to us alone, by comparison with a file that we made in it.

    A server may map root to another user, and some file systems keep no modes: both then show in
    everything that we make there.
    """
    keeps_modes = stat.S_IMODE(marker.st_mode) == 0o600
    is_closed = folder.st_mode & 0o777 == 0o700
    return folder.st_uid == marker.st_uid and (is_closed or not keeps_modes)


def _lock(marker: int) -> bool:
    try:
        fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: there nothing is ever swept
        return True
    return True


def _said_by(folder: os.stat_result) -> bytes:
    """The text of a marker: true of this very folder, and of no copy of it."""
    return f"a restore of backup-tasks works in folder {folder.st_ino}\n".encode()


def _empty(folder: int) -> None:
    """Remove all but the marker from a private folder."""
    for found in os.listdir(folder):
        if found != _MARKER:
            _unlink(folder, found)


def _remove(parent: int, name: str, folder: int) -> None:
    """Remove an empty private folder with its marker, under its present name."""
    os.unlink(_MARKER, dir_fd=folder)
    for present in _names_of(parent, name, folder):
        os.rmdir(present, dir_fd=parent)
        return


def _unlink(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        os.rmdir(name, dir_fd=folder)


def _names_of(parent: int, name: str, folder: int) -> Iterator[str]:
    """The folder's present name in `parent`, if it has one: others may have renamed the folder."""
    if _is_at(parent, name, folder):
        yield name
        return
    for other in _names_in(parent):
        if _is_at(parent, other, folder):
            yield other


def _is_at(parent: int, name: str, folder: int) -> bool:
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(found, os.fstat(folder))


def _is_same_mount(one: int, other: int) -> bool:
    """Whether rename(2) can work between two folders.

    Tries to rename ".", which rename(2) never does, but not before it has compared the mounts.
    """
    try:
        os.rename(".", ".", src_dir_fd=one, dst_dir_fd=other)
    except OSError as error:
        return error.errno != errno.EXDEV
    return True


def owner_of_new(folder: int) -> int | None:
    """The owner of a file that this process makes in a folder; None if it cannot make one.

    A server or a mount option may decide on another owner than ourselves.
    """
    with contextlib.suppress(OSError):
        # Nothing of a file without a name stays, whenever this process ends.
        made = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            return os.fstat(made).st_uid
        finally:
            os.close(made)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    name = PREFIX + os.urandom(16).hex()
    try:
        with _unchanged_times(folder):
            made = os.open(name, flags, 0o600, dir_fd=folder)
            try:
                return os.fstat(made).st_uid
            finally:
                os.close(made)
                os.unlink(name, dir_fd=folder)
    except OSError:
        return None


@contextlib.contextmanager
def _unchanged_times(folder: int) -> Iterator[None]:
    """Put back a folder's times after something of ours was made in it or removed."""
    before = os.fstat(folder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
