"""Write entries below a target folder, whatever the archive says, and nowhere else.

Package `target` writes each single entry. Hardlinks come after the files, then symlinks, and the
folders' own modes and times last.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Container, Iterable
from functools import partial

from backup_tasks.errors import ArchiveError
from backup_tasks.format.content_hash import ContentHash, PlainHash, SparseHash
from backup_tasks.format.limits import within_time
from backup_tasks.format.tar_headers import Member
from backup_tasks.restore.finish_folders import FolderFinisher
from backup_tasks.restore.member_spool import MemberSpool
from backup_tasks.restore.policy import ExtractPolicy, ExtractReport
from backup_tasks.spools.folder_stack import split_path
from backup_tasks.spools.inode_table import InodeTable
from backup_tasks.target.labels import copy_label
from backup_tasks.target.making_folders import MakingFolderStack
from backup_tasks.target.metadata import Made, MetadataSetter, owner_of
from backup_tasks.target.new_files import (
    LinkTargetChanged,
    NewFile,
    make_link,
    make_node,
    open_own_descriptors,
)
from backup_tasks.target.target_folder import SpaceGuard, refuse_holes_to_hash, write_content

# Errors of the whole target, not of one entry: they end the restore.
_WHOLE_TARGET = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FORMATS = {
    "file": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
}


class WrongContentError(ArchiveError):
    """A file's content does not have the hash in the manifest."""


class Extractor:
    """Writes members below `root`.

    Args:
        root: descriptor of the target folder; the caller closes it.
        policy: what the archive may do.

    `add` each member, then `finish` once, or `abandon`; `close` in any case.
    """

    _are_symlinks_last = True

    def __init__(self, root: int, policy: ExtractPolicy) -> None:
        self._policy = policy
        self._own_descriptors = open_own_descriptors()
        self._folders = MakingFolderStack(root, may_replace=policy.overwrite == "always")
        self._setter = MetadataSetter(trusted=policy.trusted)
        self._guard = SpaceGuard()
        self._umask = _umask()
        self._finisher = FolderFinisher(
            root,
            self._folders,
            self._setter,
            new_mode=0o777 & ~self._umask,
            may_change=policy.overwrite == "always",
            attempt=self._try,
            leave_out=self.leave_out,
        )
        self._hardlinks = MemberSpool()
        self._late_hardlinks = MemberSpool()
        self._symlinks = MemberSpool()
        # Paths that this run wrote, which make way for later entries; see extract_in_order.
        self._ours: Container[str] = ()
        # Paths under which something else stands now than the archive says.
        self._unlike = InodeTable()
        # Inodes that were written where others can replace them.
        self._written = InodeTable()
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
            member: the entry's decoded headers.
            pieces: the entry's stored bytes; read only for a regular file.
            sha256: the expected hash of the content, hex; "" if unknown.
            sparse_sha256: the expected sparse hash, used where there is no `sha256`.

        Raises:
            WrongContentError: the hash differs; nothing was put under the name.
            OSError: the whole target is concerned, as by a full disk; the report takes errors of
                single entries.
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
                self._finisher.wanted.append(member)
            else:
                self._try(path, partial(self._add_node, member, path))
        except UnsafePathError as error:
            self.report.add_problem(path, str(error))
        except OverflowError:
            self.leave_out(path, "its headers hold a number that no system takes")

    def add_upper_folder(self, member: Member) -> None:
        """A folder above wanted ones: it gets its own metadata only if a restore made it.

        Skipped if its path is unsafe: so are the paths of all entries below it, which are reported.
        """
        try:
            check_path(_decode(member.path))
        except UnsafePathError:
            return
        member.mtime_ns = within_time(member.mtime_ns)
        self._finisher.above.append(member)

    def leave_out(self, path: str, reason: str) -> None:
        """Report an entry that cannot be restored; no hardlink joins what stands in its place."""
        self._unlike.add(path, True)
        self.report.add_problem(path, reason)

    def finish(self) -> ExtractReport:
        """Make the links, then set the folders' own metadata, deepest first."""
        for member in self._hardlinks:
            self._each(member, partial(self._link, later=self._late_hardlinks.append))
        for member in self._symlinks:
            self._each(member, self._symlink)
        for member in self._late_hardlinks:
            self._each(member, self._link)
        self._finisher.finish()
        self._folders.forget()
        self.report.folders = self._finisher.count
        return self.report

    def abandon(self) -> None:
        """After a failure: open the folders that were made to their owners."""
        self._finisher.abandon()

    def close(self) -> None:
        """Close what is open, without finishing."""
        self._folders.close()
        if self._own_descriptors is not None:
            os.close(self._own_descriptors)
            self._own_descriptors = None
        for spool in (self._hardlinks, self._late_hardlinks, self._symlinks):
            spool.close()
        self._finisher.close()

    def _each(self, member: Member, make: Callable[[Member, str], None]) -> None:
        path = _decode(member.path)
        self._try(path, partial(make, member, path))

    def _try(self, path: str, make: Callable[[], None]) -> None:
        """Call `make`; an error costs this entry alone.

        Raises:
            OSError: the error concerns the whole target.
        """
        try:
            make()
        except OSError as error:
            if error.errno in _WHOLE_TARGET:
                raise
            self.leave_out(path, error.strerror or str(error))
        except (OverflowError, ValueError) as error:  # numbers and names that no system takes
            self.leave_out(path, f"its headers hold what cannot be: {error}")

    def _may_write(self, folder: int, member: Member, path: str, mtime_ns: int) -> bool:
        """Whether the name is free, or may be replaced; if not, count the entry as kept."""
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
        if not _is_like(folder, name, there, member):
            self._unlike.add(path, True)
        elif there.st_uid in (os.geteuid(), owner_of(member)[0]):
            self._note_written(path, there)
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
        # Where nobody else can see the file, it gets its own mode at once; but no special bits,
        # which a change of owner would take away.
        made = Made(owner, member.mode & 0o777 & ~self._umask) if owner else None
        is_private = made is not None
        # Look before writing, lest all be written in vain; a folder just made holds nothing yet.
        if not is_private and not self._may_write(folder, member, path, member.mtime_ns):
            return
        mode = made.mode if made else 0o600
        private = self._folders.private
        with NewFile(folder, name, mode, self._own_descriptors, private) as new:
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
            self._setter.set_file(new.descriptor, member, made)
            try:
                new.publish(replace=not is_private and self._policy.overwrite != "never")
            except FileExistsError:
                # Two paths of the archive are one to this file system, or one path comes twice.
                if not is_private and path not in self._ours:
                    raise
                if not self._may_write(folder, member, path, member.mtime_ns):
                    return
                new.publish(replace=True)
            if self._folders.standing.master is not None:
                self._note_written(path, os.fstat(new.descriptor))
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

        def make(private: int, temporary: str) -> None:
            os.mknod(temporary, _FORMATS[member.kind] | 0o600, device, dir_fd=private)
            self._set_node(private, temporary, member, path, folder)

        make_node(self._folders.private, folder, name, make)

    def _set_node(
        self, private: int, temporary: str, member: Member, path: str, folder: int
    ) -> None:
        copy_label(folder, f"/proc/self/fd/{private}/{temporary}")
        self._setter.set_node(private, temporary, member)
        if self._folders.standing.master is not None:
            made = os.stat(temporary, dir_fd=private, follow_symlinks=False)
            self._note_written(path, made)

    def _note_written(self, path: str, status: os.stat_result) -> None:
        """Remember the inode that stands there, if others can replace it."""
        if self._folders.standing.master is not None:
            self._written.add(path, _inode_of(status))

    def _link(
        self, member: Member, path: str, later: Callable[[Member], None] | None = None
    ) -> None:
        """Make a hardlink, to anything but a folder.

        Args:
            later: takes a link whose target is not there yet, or may still be replaced.
        """
        target = _decode(member.link)
        if self._unlike.has(target, True):
            self.leave_out(path, f"{target!r}, which it is a link to, was not restored")
            return
        target_parent, target_name = split_path(target)
        source = os.dup(self._folders.enter(target_parent))
        try:
            is_certain = self._folders.standing.master is None
            try:
                found = os.open(target_name, _LOOK, dir_fd=source)
            except FileNotFoundError:
                if later is None:
                    self.leave_out(path, f"{target!r}, which it is a link to, is not there")
                else:
                    later(member)
                return
            try:
                there = os.fstat(found)
                if later is not None and self._are_symlinks_last and stat.S_ISLNK(there.st_mode):
                    later(member)  # the symlink may be an earlier run's, and be replaced yet
                    return
                if not (is_certain or self._written.has(target, _inode_of(there))):
                    self.leave_out(path, _replaced(target))
                    return
                self._link_found(path, there, found, (source, target_name))
            except LinkTargetChanged:
                self.leave_out(path, _replaced(target))
            finally:
                os.close(found)
        finally:
            os.close(source)

    def _link_found(
        self, path: str, there: os.stat_result, found: int, source: tuple[int, str]
    ) -> None:
        parent, name = split_path(path)
        folder = self._folders.enter(parent)
        member = Member(_encode(path), "hardlink")
        if not self._may_write(folder, member, path, there.st_mtime_ns + 1):
            return
        self._guard.spend(folder, 0)
        private = self._folders.private
        make_link(private, folder, name, found, self._own_descriptors, source)
        self._note_written(path, there)
        self.report.links += 1

    def _symlink(self, member: Member, path: str) -> None:
        parent, name = split_path(path)
        folder = self._folders.enter(parent)
        if not self._may_write(folder, member, path, member.mtime_ns):
            return
        self._guard.spend(folder, 0)

        def make(private: int, temporary: str) -> None:
            os.symlink(member.link, os.fsencode(temporary), dir_fd=private)
            self._set_node(private, temporary, member, path, folder)

        make_node(self._folders.private, folder, name, make)
        self.report.links += 1


def _inode_of(status: os.stat_result) -> tuple[int, ...]:
    """Tell an inode from others, also from one that gets its number later."""
    return (
        *(status.st_dev, status.st_ino, status.st_mode, status.st_uid, status.st_gid),
        *(status.st_size, status.st_mtime_ns),
    )


def _replaced(target: str) -> str:
    return f"{target!r}, which it is a link to, is not what was restored there, or was replaced"


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _is_like(folder: int, name: str, there: os.stat_result, member: Member) -> bool:
    """Whether the entry that was kept is, by all appearances, the one in the archive."""
    if stat.S_IFMT(there.st_mode) != _FORMATS.get(member.kind):
        return False
    if member.kind == "file":
        return (there.st_size, there.st_mtime_ns) == (member.size, member.mtime_ns)
    if member.kind == "symlink":
        return _target_of(folder, name, there) == member.link
    return there.st_rdev == os.makedev(member.rdev_major, member.rdev_minor)


def _target_of(folder: int, name: str, there: os.stat_result) -> bytes:
    """The symlink's target; b"" if something else stands there by now."""
    try:
        link = os.open(name, _LOOK, dir_fd=folder)
    except FileNotFoundError:
        return b""
    try:
        return os.readlink(b"", dir_fd=link) if os.path.samestat(os.fstat(link), there) else b""
    finally:
        os.close(link)


# A name that is empty, "." or "..", or a zero byte.
_UNSAFE = re.compile(r"(?:^|/)\.{0,2}(?:/|\Z)|\0")
_DOUBTFUL = ("", ".", "/")


class UnsafePathError(Exception):
    """A path that could lead out of the target."""


def check_path(path: str) -> str:
    """Return the path if it is plainly relative.

    Raises:
        UnsafePathError: the path could lead out of the target.
    """
    # A fast test, which spares most paths the expression.
    may_be_unsafe = "/." in path or "//" in path or path[:1] in _DOUBTFUL or path[-1:] == "/"
    if (may_be_unsafe or "\0" in path) and _UNSAFE.search(path):
        raise UnsafePathError("its path could lead out of the target; it was left out")
    return path


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _encode(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
