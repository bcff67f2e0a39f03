"""Write entries below a target folder, whatever the archive says, and nowhere else.

Folders are walked by descriptor and never through a symlink. A file is written without a name
and gets its name only when it is whole, always as a new inode, so that no existing hardlink is
written through. Hardlinks come after the files, then symlinks, and the folders' own modes and
times last.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from backup_tasks.errors import ArchiveError
from backup_tasks.folders import FolderStack, split_path
from backup_tasks.metadata import MetadataSetter
from backup_tasks.tarstream import Member

Overwrite = Literal["never", "older", "always"]
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL}
_TEMPORARY = ".backup-tasks-"
_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID


@dataclass(frozen=True, slots=True)
class ExtractPolicy:
    """What an archive may do to the target.

    Attributes:
        overwrite: what happens to something that is there already.
        trusted: whether device nodes are made and setuid and setgid bits are set.
    """

    overwrite: Overwrite = "never"
    trusted: bool = False


@dataclass(slots=True)
class ExtractReport:
    """What became of the entries.

    Attributes:
        files, bytes: regular files written, with their content bytes; links: hard and
            symbolic; folders.
        kept: entries that were there already and were left as they are.
        problems: (path, reason) of each entry that could not be restored.
        notes: said once, whatever number of entries it concerns.
    """

    files: int = 0
    bytes: int = 0
    links: int = 0
    folders: int = 0
    kept: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)


class WrongContentError(ArchiveError):
    """A file's content does not have the hash that the manifest says."""


class Extractor:
    """Writes members below `root`.

    Args:
        root: descriptor of the target folder; it stays the caller's.
        policy: what the archive may do.

    `add` each member, then `finish` once.
    """

    def __init__(self, root: int, policy: ExtractPolicy) -> None:
        self._root = root
        self._policy = policy
        self._folders = _MakingFolderStack(root, policy.overwrite)
        self._setter = MetadataSetter()
        self._hardlinks: list[tuple[str, str]] = []
        self._symlinks: list[Member] = []
        self._folder_members: list[Member] = []
        self.report = ExtractReport(notes=self._setter.notes)

    def add(self, member: Member, pieces: Iterable[memoryview], sha256: str = "") -> None:
        """Restore one member.

        Args:
            member: what its headers say.
            pieces: its stored bytes; read only for a regular file.
            sha256: what the content must hash to, hex; "" when nobody knows.

        Raises:
            WrongContentError: the hash differs; nothing was put under the name.
            OSError: only for what concerns the whole target, such as a full disk.
        """
        path = _decode(member.path)
        try:
            check_path(path)
            if member.kind == "file":
                self._add_file(member, path, pieces, sha256)
            elif member.kind == "hardlink":
                self._hardlinks.append((path, check_path(_decode(member.link))))
            elif member.kind == "symlink":
                self._symlinks.append(member)
            elif member.kind == "dir":
                self._folder_members.append(member)
            else:
                self._add_node(member, path)
        except OSError as error:
            self._fail(path, error)
        except UnsafePathError as error:
            self.report.problems.append((path, str(error)))

    def add_upper_folder(self, member: Member) -> None:
        """A folder above wanted ones: it gets its own mode only if this run had to make it."""
        if _decode(member.path) in self._folders.made:
            self._folder_members.append(member)

    def finish(self) -> ExtractReport:
        """Make the links, then set the folders' own metadata, deepest first."""
        try:
            for path, target in self._hardlinks:
                self._guard(path, partial(self._link, path, target))
            for member in self._symlinks:
                path = _decode(member.path)
                self._guard(path, partial(self._symlink, member, path))
            for member in sorted(self._folder_members, key=lambda m: m.path, reverse=True):
                path = _decode(member.path)
                self._guard(path, partial(self._set_folder, member, path))
        finally:
            self._folders.forget()
        return self.report

    def close(self) -> None:
        """Close what is open, without finishing."""
        self._folders.forget()

    def _guard(self, path: str, make: Callable[[], None]) -> None:
        try:
            make()
        except OSError as error:
            self._fail(path, error)

    def _fail(self, path: str, error: OSError) -> None:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise error
        self.report.problems.append((path, error.strerror or str(error)))

    def _may_write(self, folder: int, name: str, mtime_ns: int) -> bool:
        """Whether the name is free, or may be replaced; counts it as kept otherwise."""
        try:
            there = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return True
        rule = self._policy.overwrite
        if rule == "always" or (rule == "older" and there.st_mtime_ns < mtime_ns):
            if stat.S_ISDIR(there.st_mode):
                # Only an empty folder makes way: nobody asked to delete what is in it.
                os.rmdir(name, dir_fd=folder)
            return True
        self.report.kept += 1
        return False

    def _add_file(
        self, member: Member, path: str, pieces: Iterable[memoryview], sha256: str
    ) -> None:
        parent, name = split_path(path)
        folder = self._folders.enter(parent)
        if not self._may_write(folder, name, member.mtime_ns):
            return
        with _UnnamedFile(folder) as unnamed:
            digest = _write_content(unnamed.descriptor, member, pieces)
            if sha256 and digest != sha256:
                raise WrongContentError(f"{path}: the content's hash is not the manifest's")
            self._setter.set_open(unnamed.descriptor, member, self._mode_of(member))
            unnamed.publish(name, replace=self._policy.overwrite != "never")
        self.report.files += 1
        self.report.bytes += member.size

    def _mode_of(self, member: Member) -> int:
        if self._policy.trusted or not member.mode & _SPECIAL_BITS or member.kind == "dir":
            return member.mode
        self.report.notes.add("setuid and setgid bits were left out; --trusted restores them")
        return member.mode & ~_SPECIAL_BITS

    def _add_node(self, member: Member, path: str) -> None:
        """Make a FIFO or a device under a temporary name, then give it its own."""
        if member.kind != "fifo" and not self._policy.trusted:
            self.report.problems.append((path, "a device is made only with --trusted"))
            return
        parent, name = split_path(path)
        folder = self._folders.enter(parent)
        if not self._may_write(folder, name, member.mtime_ns):
            return
        kinds = {"fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK}
        device = os.makedev(member.rdev_major, member.rdev_minor)
        temporary = _temporary_name()
        os.mknod(temporary, kinds[member.kind] | 0o600, device, dir_fd=folder)
        with _removed_on_failure(folder, temporary):
            self._setter.set_by_name(folder, temporary, member, self._mode_of(member))
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)

    def _link(self, path: str, target: str) -> None:
        target_parent, target_name = split_path(target)
        source = os.dup(self._folders.enter(target_parent))
        try:
            there = os.stat(target_name, dir_fd=source, follow_symlinks=False)
            if not stat.S_ISREG(there.st_mode):
                self.report.problems.append((path, f"its link target {target} is no file"))
                return
            parent, name = split_path(path)
            folder = self._folders.enter(parent)
            if not self._may_write(folder, name, there.st_mtime_ns + 1):
                return
            temporary = _temporary_name()
            os.link(
                target_name,
                temporary,
                src_dir_fd=source,
                dst_dir_fd=folder,
                follow_symlinks=False,
            )
            with _removed_on_failure(folder, temporary):
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
                # rename(2) does nothing when both are links to the same file already.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)
            self.report.links += 1
        finally:
            os.close(source)

    def _symlink(self, member: Member, path: str) -> None:
        parent, name = split_path(path)
        folder = self._folders.enter(parent)
        if not self._may_write(folder, name, member.mtime_ns):
            return
        temporary = _temporary_name()
        os.symlink(os.fsencode(_decode(member.link)), os.fsencode(temporary), dir_fd=folder)
        with _removed_on_failure(folder, temporary):
            self._setter.set_by_name(folder, temporary, member, None)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        self.report.links += 1

    def _set_folder(self, member: Member, path: str) -> None:
        folder = self._folders.enter(path)
        self._setter.set_open(folder, member, self._mode_of(member))
        self.report.folders += 1


class UnsafePathError(Exception):
    """A path that could lead out of the target."""


def check_path(path: str) -> str:
    """The path itself. Raises UnsafePathError unless it is plainly relative."""
    if not path or "\0" in path or any(name in ("", ".", "..") for name in path.split("/")):
        raise UnsafePathError("its path could lead out of the target; it was left out")
    return path


class _MakingFolderStack(FolderStack):
    """Makes folders that are not there (0700 until their own mode is set)."""

    def __init__(self, root: int, overwrite: Overwrite) -> None:
        super().__init__(root)
        self._overwrite = overwrite
        self.made: set[str] = set()

    def open_child(self, folder: int, name: str) -> int:
        try:
            return super().open_child(folder, name)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            if self._overwrite != "always":
                raise OSError(
                    error.errno, f"{name!r} on the way to it is no folder; kept as it is"
                ) from error
            os.unlink(name, dir_fd=folder)
        os.mkdir(name, 0o700, dir_fd=folder)
        self.made.add("/".join([*(above for above, _ in self._open), name]))
        return super().open_child(folder, name)


class _UnnamedFile:
    """A new file that has no name until `publish`; without that, nothing stays.

    Where the file system cannot make files without a name, a temporary name is used.
    """

    def __init__(self, folder: int) -> None:
        self._folder = folder
        self._temporary = ""
        try:
            self.descriptor = os.open(
                ".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=folder
            )
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
            self._temporary = _temporary_name()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self.descriptor = os.open(self._temporary, flags, 0o600, dir_fd=folder)

    def publish(self, name: str, *, replace: bool) -> None:
        """Put the whole file under its name in one step.

        Raises FileExistsError when the name is taken after all and `replace` is not set.
        """
        if not self._temporary:
            try:
                self._link_to(name)
                return
            except FileExistsError:
                if not replace:
                    raise
            self._temporary = _temporary_name()
            self._link_to(self._temporary)
        os.rename(self._temporary, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._temporary = ""

    def _link_to(self, name: str) -> None:
        # open(2), O_TMPFILE: linkat of /proc/self/fd/N gives the file its first name.
        os.link(
            f"/proc/self/fd/{self.descriptor}",
            name,
            dst_dir_fd=self._folder,
            follow_symlinks=True,
        )

    def __enter__(self) -> _UnnamedFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)
        if self._temporary:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._folder)


@contextlib.contextmanager
def _removed_on_failure(folder: int, temporary: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


def _temporary_name() -> str:
    return _TEMPORARY + secrets.token_hex(8)


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _write_content(descriptor: int, member: Member, pieces: Iterable[memoryview]) -> str:
    """Write the stored bytes to their places; returns the SHA-256 of the whole content."""
    digest = hashlib.sha256()
    runs = list(member.sparse) if member.sparse is not None else [(0, member.stored)]
    runs.reverse()
    position = 0
    for piece in pieces:
        view = piece
        while view:
            if not runs:
                raise ArchiveError("more bytes came than the header says")
            offset, length = runs.pop()
            part = view[:length]
            _hash_zeros(digest, offset - position)
            digest.update(part)
            _write_at(descriptor, part, offset)
            position = offset + len(part)
            if len(part) < length:
                runs.append((position, length - len(part)))
            view = view[len(part) :]
    if any(length for _, length in runs):
        raise ArchiveError("fewer bytes came than the header says")
    _hash_zeros(digest, member.size - position)
    if member.sparse is not None:
        os.ftruncate(descriptor, member.size)
    return digest.hexdigest()


def _write_at(descriptor: int, part: memoryview, offset: int) -> None:
    while part:
        written = os.pwrite(descriptor, part, offset)
        part = part[written:]
        offset += written


_ZEROS = bytes(2**20)


def _hash_zeros(digest: hashlib._Hash, count: int) -> None:
    while count > 0:
        step = min(count, len(_ZEROS))
        digest.update(memoryview(_ZEROS)[:step])
        count -= step
