"""Write entries below a target folder, whatever the archive says, and nowhere else.

How one of them is written is in target.py. Hardlinks come after the files, then symlinks, and
the folders' own modes and times last.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Container, Iterable
from functools import partial

from backup_tasks.content_hash import ContentHash, PlainHash, SparseHash
from backup_tasks.errors import ArchiveError
from backup_tasks.extract_policy import ExtractPolicy, ExtractReport
from backup_tasks.folders import split_path
from backup_tasks.limits import within_time
from backup_tasks.member_spool import MemberSpool
from backup_tasks.metadata import Made, MetadataSetter
from backup_tasks.target import (
    MakingFolderStack,
    NewFile,
    SpaceGuard,
    is_unfinished,
    new_node,
    open_own_descriptors,
    refuse_holes_to_hash,
    write_content,
)
from backup_tasks.tarstream import Member

# Not the fault of one entry: the restore ends.
_WHOLE_TARGET = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_FORMATS = {
    "file": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
}


class WrongContentError(ArchiveError):
    """A file's content does not have the hash that the manifest says."""


class Extractor:
    """Writes members below `root`.

    Args:
        root: descriptor of the target folder; it stays the caller's.
        policy: what the archive may do.

    `add` each member, then `finish` once; `close` in any case.
    """

    def __init__(self, root: int, policy: ExtractPolicy) -> None:
        self._root = root
        self._policy = policy
        self._own_descriptors = open_own_descriptors()
        self._made = MemberSpool()
        # Sum of the hashes of their paths, less those that were finished: 0 when all were.
        self._unfinished = 0
        self._folders = MakingFolderStack(
            root,
            may_replace=policy.overwrite == "always",
            made=self._note_made,
        )
        self._setter = MetadataSetter(trusted=policy.trusted)
        self._guard = SpaceGuard()
        self._umask = _umask()
        self._hardlinks = MemberSpool()
        self._late_hardlinks = MemberSpool()
        self._symlinks = MemberSpool()
        self._wanted_folders = MemberSpool()
        self._upper_folders = MemberSpool()
        # What stands under these names is this run's, and makes way; see extract_in_order.
        self._ours: Container[str] = ()
        # What the archive says of these is not what stands under their names now.
        self._unlike: set[str] = set()
        self.report = ExtractReport(notes=self._setter.notes)

    def add(
        self,
        member: Member,
        pieces: Iterable[memoryview],
        sha256: str = "",
        sparse_sha256: str = "",
    ) -> None:
        """Restore one member.

        Args:
            member: what its headers say.
            pieces: its stored bytes; read only for a regular file.
            sha256: what the content must hash to, hex; "" when nobody knows.
            sparse_sha256: what its sparse hash must be, where there is no other.

        Raises:
            WrongContentError: the hash differs; nothing was put under the name.
            OSError: only for what concerns the whole target, such as a full disk.
        """
        path = _decode(member.path)
        if member.kind != "file":
            member.mtime_ns = within_time(member.mtime_ns)
        try:
            check_path(path)
            if member.kind == "file":
                self._try(
                    path, partial(self._add_file, member, path, pieces, sha256, sparse_sha256)
                )
            elif member.kind == "hardlink":
                check_path(_decode(member.link))
                self._hardlinks.append(member)
            elif member.kind == "symlink":
                self._symlinks.append(member)
            elif member.kind == "dir":
                self._wanted_folders.append(member)
            else:
                self._try(path, partial(self._add_node, member, path))
        except UnsafePathError as error:
            self.report.problems.append((path, str(error)))
        except OverflowError:
            self.leave_out(path, "its headers hold a number that no system takes")

    def add_upper_folder(self, member: Member) -> None:
        """A folder above wanted ones: it gets its own metadata only if a restore made it."""
        member.mtime_ns = within_time(member.mtime_ns)
        self._upper_folders.append(member)

    def leave_out(self, path: str, reason: str) -> None:
        """Note an entry that cannot be restored; no hardlink joins what stands in its place."""
        self._unlike.add(path)
        self.report.problems.append((path, reason))

    def finish(self) -> ExtractReport:
        """Make the links, then set the folders' own metadata, deepest first."""
        for member in self._hardlinks:
            self._each(member, partial(self._link, later=self._late_hardlinks.append))
        for member in self._symlinks:
            self._each(member, self._symlink)
        for member in self._late_hardlinks:
            self._each(member, self._link)
        for member in self._wanted_folders.deepest_first():
            self._each(member, partial(self._set_folder, is_wanted=True))
        for member in self._upper_folders.deepest_first():
            self._each(member, self._set_folder)
        if self._unfinished:
            for member in self._made.deepest_first():
                path = _decode(member.path)
                self._try(path, partial(self._open_to_others, path))
        self._folders.forget()
        return self.report

    def close(self) -> None:
        """Close what is open, without finishing."""
        self._folders.forget()
        if self._own_descriptors is not None:
            os.close(self._own_descriptors)
            self._own_descriptors = None
        for spool in (self._made, self._hardlinks, self._late_hardlinks, self._symlinks):
            spool.close()
        self._wanted_folders.close()
        self._upper_folders.close()

    def _each(self, member: Member, make: Callable[[Member, str], None]) -> None:
        path = _decode(member.path)
        self._try(path, partial(make, member, path))

    def _try(self, path: str, make: Callable[[], None]) -> None:
        """What goes wrong with one entry costs that entry."""
        try:
            make()
        except OSError as error:
            if error.errno in _WHOLE_TARGET:
                raise
            self.leave_out(path, error.strerror or str(error))
        except (OverflowError, ValueError) as error:  # numbers and names that no system takes
            self.leave_out(path, f"its headers hold what cannot be: {error}")

    def _may_write(self, folder: int, member: Member, path: str, mtime_ns: int) -> bool:
        """Whether the name is free, or may be replaced; counts it as kept otherwise."""
        if path in self._ours:
            return True
        name = split_path(path)[1]
        try:
            there = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return True
        rule = self._policy.overwrite
        if rule == "always" or (rule == "older" and there.st_mtime_ns < mtime_ns):
            return True
        if not _is_like(there, member):
            self._unlike.add(path)
        self.report.kept += 1
        return False

    def _add_file(
        self,
        member: Member,
        path: str,
        pieces: Iterable[memoryview],
        sha256: str,
        sparse_sha256: str,
    ) -> None:
        parent, name = split_path(path)
        folder = self._folders.enter(parent)
        owner = self._folders.new_owner
        # Where nobody else can see it, it is made with its own mode; but for special bits, which
        # a change of owner would take away.
        made = Made(owner, member.mode & 0o777 & ~self._umask) if owner else None
        is_private = made is not None
        # Looked for first, as all would be written in vain; but not where nothing can be.
        if not is_private and not self._may_write(folder, member, path, member.mtime_ns):
            return
        with NewFile(folder, name, made.mode if made else 0o600, self._own_descriptors) as new:
            digest: ContentHash | None = None
            if sha256:
                digest = PlainHash(member.size)
            elif sparse_sha256:
                digest = SparseHash(member.size)
            if member.sparse is not None and (sha256 or not sparse_sha256):
                refuse_holes_to_hash(member)
            write_content(new.descriptor, member, pieces, self._guard, digest)
            if digest is not None and digest.finish() != (sha256 or sparse_sha256):
                raise WrongContentError(f"{path}: the content's hash is not the manifest's")
            self._setter.set_open(new.descriptor, member, made)
            try:
                new.publish(replace=not is_private and self._policy.overwrite != "never")
            except FileExistsError:
                # Two paths of the archive that are one to this file system, or the same one twice.
                if not is_private and path not in self._ours:
                    raise
                if not self._may_write(folder, member, path, member.mtime_ns):
                    return
                new.publish(replace=True)
        self.report.files += 1
        self.report.bytes += member.size

    def _add_node(self, member: Member, path: str) -> None:
        """Make a FIFO or a device."""
        if member.kind != "fifo" and not self._policy.trusted:
            self.leave_out(path, "a device is made only with --trusted")
            return
        parent, name = split_path(path)
        folder = self._folders.enter(parent)
        if not self._may_write(folder, member, path, member.mtime_ns):
            return
        self._guard.spend(folder, 0)
        device = os.makedev(member.rdev_major, member.rdev_minor)
        with new_node(folder, name) as temporary:
            os.mknod(temporary, _FORMATS[member.kind] | 0o600, device, dir_fd=folder)
            self._setter.set_by_name(folder, temporary, member)

    def _link(
        self, member: Member, path: str, later: Callable[[Member], None] | None = None
    ) -> None:
        """Make a hardlink, to anything but a folder.

        Args:
            later: takes what has no target yet; only the symlinks are still to come.
        """
        target = _decode(member.link)
        if target in self._unlike:
            self.leave_out(path, f"{target!r}, which it is a link to, was not restored")
            return
        target_parent, target_name = split_path(target)
        source = os.dup(self._folders.enter(target_parent))
        try:
            try:
                there = os.stat(target_name, dir_fd=source, follow_symlinks=False)
            except FileNotFoundError:
                if later is None:
                    self.leave_out(path, f"{target!r}, which it is a link to, is not there")
                else:
                    later(member)
                return
            parent, name = split_path(path)
            folder = self._folders.enter(parent)
            if not self._may_write(folder, member, path, there.st_mtime_ns + 1):
                return
            self._guard.spend(folder, 0)
            with new_node(folder, name) as temporary:
                os.link(
                    target_name,
                    temporary,
                    src_dir_fd=source,
                    dst_dir_fd=folder,
                    follow_symlinks=False,
                )
            self.report.links += 1
        finally:
            os.close(source)

    def _symlink(self, member: Member, path: str) -> None:
        parent, name = split_path(path)
        folder = self._folders.enter(parent)
        if not self._may_write(folder, member, path, member.mtime_ns):
            return
        self._guard.spend(folder, 0)
        with new_node(folder, name) as temporary:
            os.symlink(member.link, os.fsencode(temporary), dir_fd=folder)
            self._setter.set_by_name(folder, temporary, member)
        self.report.links += 1

    def _set_folder(self, member: Member, path: str, *, is_wanted: bool = False) -> None:
        folder = self._folders.enter(path)
        may_change = is_wanted and self._policy.overwrite == "always"
        status = os.fstat(folder)
        is_new = is_unfinished(status)
        if may_change or is_new:
            self._setter.set_open(folder, member, owner=(status.st_uid, status.st_gid))
        if is_new:
            self._unfinished -= hash(path)
        self.report.folders += is_wanted

    def _note_made(self, path: str) -> None:
        self._made.append(Member(_encode(path), "dir"))
        self._unfinished += hash(path)

    def _open_to_others(self, path: str) -> None:
        """A folder that the archive says nothing of gets the mode of any new folder."""
        if self._seems_finished(path):
            return
        folder = self._folders.enter(path)
        if is_unfinished(os.fstat(folder)):
            os.fchmod(folder, 0o777 & ~self._umask)

    def _seems_finished(self, path: str) -> bool:
        """By a look along the path, which is soon done. Whoever could lead it astray gains a folder
        that stays closed to others."""
        try:
            return not is_unfinished(os.stat(path, dir_fd=self._root))
        except OSError:  # longer than a path may be
            return False


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _is_like(there: os.stat_result, member: Member) -> bool:
    """Whether what was kept is, by all appearances, what the archive holds."""
    if stat.S_IFMT(there.st_mode) != _FORMATS.get(member.kind):
        return False
    if member.kind != "file":
        return True
    return (there.st_size, there.st_mtime_ns) == (member.size, member.mtime_ns)


# A name that is empty, "." or ".."; no path may hold a zero byte.
_UNSAFE = re.compile(r"(?:^|/)\.{0,2}(?:/|\Z)|\0")
_DOUBTFUL = ("", ".", "/")


class UnsafePathError(Exception):
    """A path that could lead out of the target."""


def check_path(path: str) -> str:
    """The path itself. Raises UnsafePathError unless it is plainly relative."""
    # Most paths hold nothing that the expression could find, which takes longer to say.
    may_be_unsafe = "/." in path or "//" in path or path[:1] in _DOUBTFUL or path[-1:] == "/"
    if (may_be_unsafe or "\0" in path) and _UNSAFE.search(path):
        raise UnsafePathError("its path could lead out of the target; it was left out")
    return path


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _encode(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
