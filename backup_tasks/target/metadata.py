"""Owner, mode, extended attributes and times of a restored file, as far as this user may."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable, Collection
from functools import cache, partial
from typing import NamedTuple

from backup_tasks.format.tar_headers import Member
from backup_tasks.permissions.folder_trust import ACCESS_ACL, DEFAULT_ACL
from backup_tasks.target.making_folders import MARKS

_NOT_ALLOWED = {errno.EPERM, errno.EACCES, errno.EINVAL}
_NO_XATTRS = {errno.EOPNOTSUPP, errno.ENOTSUP}
# Too many or too large for the target's file system; a full disk would have said so before.
_NO_ROOM = {errno.ENOSPC, errno.E2BIG, errno.ERANGE}
_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID
# Attributes that an untrusted archive may set. Among the others are capabilities, which raise a
# program's rights as setuid bits do.
_HARMLESS = ("user.", ACCESS_ACL, DEFAULT_ACL)


class Made(NamedTuple):
    """Owner and mode of a file that was just made and that nobody else can have changed."""

    owner: tuple[int, int]
    mode: int


class MetadataSetter:
    """Sets a member's metadata in an order that keeps all of it: owner, mode, xattrs, time.

    A change of owner drops setuid bits and capabilities, so it comes first. `notes` says once
    what this user may not set.

    Args:
        trusted: set setuid and setgid bits, capabilities and other attributes of the system, too;
            but no such bit on a file that could not be given to its owner.
    """

    def __init__(self, *, trusted: bool) -> None:
        self._trusted = trusted
        self.notes: set[str] = set()

    def set_file(self, descriptor: int, member: Member, made: Made | None = None) -> None:
        """Set the metadata of an open file.

        Args:
            made: owner and mode of a file just made; None if it may have inherited attributes.
        """
        if made is None or made.owner != owner_of(member):
            self._set_owner(descriptor, member)
        mode = member.mode
        if mode & _SPECIAL_BITS:
            mode = self._mode_of(member, partial(os.fstat, descriptor))
        if made is None:
            _drop_others(descriptor, member, (ACCESS_ACL,))
        if made is None or made.mode != mode:
            os.fchmod(descriptor, mode)
        if member.xattrs:
            self._set_xattrs(descriptor, member, follow=True)
        os.utime(descriptor, ns=(member.mtime_ns, member.mtime_ns))

    def set_folder(
        self, descriptor: int, member: Member, owner: tuple[int, int]
    ) -> Collection[str]:
        """Set the metadata of an open folder.

        Args:
            owner: the folder's present owner and group.

        Returns:
            The names of the attributes that the folder had before.
        """
        if owner != owner_of(member):
            self._set_owner(descriptor, member)
        # Only after the change of owner: until then the former owner could set other attributes.
        found = list_attributes(descriptor)
        _drop_others(descriptor, member, found)
        if member.xattrs:
            self._set_xattrs(descriptor, member, follow=True)
        os.utime(descriptor, ns=(member.mtime_ns, member.mtime_ns))
        # Last, because the mode marks the folder as unfinished until then.
        os.fchmod(descriptor, member.mode)
        if ACCESS_ACL in member.xattrs:
            self._mend_acl(descriptor, member)
        return found

    def _mend_acl(self, descriptor: int, member: Member) -> None:
        """Set an ACL again if the mode replaced its mask: bsdtar's modes do not hold the mask."""
        with contextlib.suppress(OSError):
            if os.getxattr(descriptor, ACCESS_ACL) != member.xattrs[ACCESS_ACL]:
                self._set_xattrs(descriptor, member, follow=True)

    def _set_owner(self, descriptor: int, member: Member) -> None:
        uid, gid = owner_of(member)
        try:
            os.fchown(descriptor, uid, gid)
        except OSError as error:
            self._note_owner(error)
            with contextlib.suppress(OSError):
                os.fchown(descriptor, -1, gid)

    def set_node(self, folder: int, name: str, member: Member) -> None:
        """Set the metadata of a link, FIFO or device just made in a folder that nobody else can
        enter; a symlink is not followed."""
        if member.kind == "symlink":
            self._set_symlink(folder, name, member)
            return
        node = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            place = f"/proc/self/fd/{node}"
            if not _leads_to(place, node):
                place = name
            self._set_plain_node(place, folder, member, partial(os.fstat, node))
        finally:
            os.close(node)

    def _set_symlink(self, folder: int, name: str, member: Member) -> None:
        self._set_node_owner(name, folder, member, follow=False)
        if member.xattrs:
            self._set_xattrs(f"/proc/self/fd/{folder}/{name}", member, follow=False)
        times = (member.mtime_ns, member.mtime_ns)
        os.utime(name, ns=times, dir_fd=folder, follow_symlinks=False)

    def _set_plain_node(
        self, place: str, folder: int, member: Member, look: Callable[[], os.stat_result]
    ) -> None:
        """Set a FIFO or a device.

        Args:
            place: the node's descriptor as a path, or its name in `folder` without /proc.
        """
        self._set_node_owner(place, folder, member, follow=True)
        os.chmod(place, self._mode_of(member, look), dir_fd=folder)
        if member.xattrs:
            is_path = place.startswith("/")
            self._set_xattrs(place if is_path else "/proc/self/fd/none", member, follow=is_path)
        os.utime(place, ns=(member.mtime_ns, member.mtime_ns), dir_fd=folder)

    def _set_node_owner(self, place: str, folder: int, member: Member, *, follow: bool) -> None:
        uid, gid = owner_of(member)
        try:
            os.chown(place, uid, gid, dir_fd=folder, follow_symlinks=follow)
        except OSError as error:
            self._note_owner(error)
            with contextlib.suppress(OSError):
                os.chown(place, -1, gid, dir_fd=folder, follow_symlinks=follow)

    def _mode_of(self, member: Member, look: Callable[[], os.stat_result]) -> int:
        """The mode to set on anything but a folder.

        Args:
            look: gives the status; called only for a member with special bits.
        """
        special = member.mode & _SPECIAL_BITS
        if not special:
            return member.mode
        if not self._trusted:
            self.notes.add("setuid and setgid bits were left out; --trusted restores them")
            return member.mode & ~special
        uid, gid = owner_of(member)
        status = look()
        wrong = (stat.S_ISUID if status.st_uid != uid else 0) | (
            stat.S_ISGID if status.st_gid != gid else 0
        )
        if wrong & special:
            self.notes.add("setuid and setgid bits were left out where the owner could not be set")
        return member.mode & ~wrong

    def _note_owner(self, error: OSError) -> None:
        if error.errno not in _NOT_ALLOWED:
            raise error
        self.notes.add("owners could not all be set; run as root to restore them")

    def _set_xattrs(self, place: int | str, member: Member, *, follow: bool) -> None:
        for name, value in member.xattrs.items():
            if name in MARKS:
                continue
            if not self._trusted and not name.startswith(_HARMLESS):
                self.notes.add(
                    "capabilities and other attributes of the system were left out; "
                    "--trusted restores them"
                )
                continue
            try:
                os.setxattr(place, name, value, follow_symlinks=follow)
            except ValueError:
                self.notes.add("extended attributes with impossible names were left out")
            except OSError as error:
                self._note_xattr(error)

    def _note_xattr(self, error: OSError) -> None:
        if error.errno == errno.ENOENT:
            self.notes.add("extended attributes of links and FIFOs need /proc, which is not there")
        elif error.errno in _NO_XATTRS:
            self.notes.add("the target's file system does not keep all extended attributes")
        elif error.errno in _NO_ROOM:
            self.notes.add("the target's file system has no room for some extended attributes")
        elif error.errno in _NOT_ALLOWED:
            self.notes.add("extended attributes could not all be set; run as root to restore them")
        else:
            raise error


def list_attributes(folder: int) -> Collection[str]:
    """The names of an open folder's attributes; the access ACL alone if they cannot be listed."""
    try:
        return os.listxattr(folder)
    except OSError:
        return (ACCESS_ACL,)


def _drop_others(descriptor: int, member: Member, found: Collection[str]) -> None:
    """Remove attributes that are not in the archive.

    A new file inherits its folder's default ACL, and a folder that was there before may have any
    attributes.
    """
    for name in found:
        if name not in member.xattrs and name.startswith(_HARMLESS):
            with contextlib.suppress(OSError):
                os.removexattr(descriptor, name)


def _leads_to(place: str, descriptor: int) -> bool:
    """Whether /proc is mounted and shows this process."""
    try:
        return os.path.samestat(os.stat(place), os.fstat(descriptor))
    except OSError:
        return False


def owner_of(member: Member) -> tuple[int, int]:
    """Owner and group as numbers: by name if this machine knows the name, else as stored."""
    return _uid(member.user, member.uid), _gid(member.group, member.gid)


@cache
def _uid(name: bytes, number: int) -> int:
    try:
        return pwd.getpwnam(os.fsdecode(name)).pw_uid if name else number
    except (KeyError, ValueError):
        return number


@cache
def _gid(name: bytes, number: int) -> int:
    try:
        return grp.getgrnam(os.fsdecode(name)).gr_gid if name else number
    except (KeyError, ValueError):
        return number
