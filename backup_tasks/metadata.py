"""Owner, mode, extended attributes and times of a restored file, as far as this user may."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

from backup_tasks.tarstream import Member

_NOT_ALLOWED = {errno.EPERM, errno.EACCES, errno.EINVAL}
_NO_XATTRS = {errno.EOPNOTSUPP, errno.ENOTSUP}
# Too many or too large for the target's file system; a full disk would have said so before.
_NO_ROOM = {errno.ENOSPC, errno.E2BIG, errno.ERANGE}
_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID
_ACCESS_ACL = "system.posix_acl_access"
DEFAULT_ACL = "system.posix_acl_default"
# What an archive that nobody vouches for may set. Among the others are capabilities, which give
# a program what setuid bits give it.
_HARMLESS = ("user.", _ACCESS_ACL, DEFAULT_ACL)


class Made(NamedTuple):
    """What a file has that was just made, and that nobody else can have changed."""

    owner: tuple[int, int]
    mode: int


class MetadataSetter:
    """Sets what the member says, in the order that keeps it: owner, mode, xattrs, time.

    A change of owner drops setuid bits and capabilities, so it comes first. What this user
    may not set is said once, in `notes`.

    Args:
        trusted: setuid and setgid bits, capabilities and other attributes of the system are
            set too; such a bit never on a file that could not be given to its owner.
    """

    def __init__(self, *, trusted: bool) -> None:
        self._trusted = trusted
        self.notes: set[str] = set()

    def set_open(
        self,
        descriptor: int,
        member: Member,
        made: Made | None = None,
        owner: tuple[int, int] | None = None,
    ) -> None:
        """For an open file or folder.

        Args:
            made: what a file just made is known to have; None where it may have attributes that
                nobody set on it.
            owner: of a folder, if known.
        """
        if (made.owner if made else owner) != owner_of(member):
            self._set_owner(descriptor, member)
        mode = self._mode_of(member, partial(os.fstat, descriptor))
        if made is None:
            self._drop_inherited(descriptor, member)
        if member.kind != "dir" and (made is None or made.mode != mode):
            os.fchmod(descriptor, mode)
        self._set_xattrs(descriptor, member, follow=True)
        os.utime(descriptor, ns=(member.mtime_ns, member.mtime_ns))
        if member.kind == "dir":
            # Last, because until then its mode says that it is unfinished.
            os.fchmod(descriptor, mode)
            self._mend_acl(descriptor, member)

    def _mend_acl(self, descriptor: int, member: Member) -> None:
        """Set an ACL again whose mask a mode took away: that of bsdtar says nothing of the mask."""
        acl = member.xattrs.get(_ACCESS_ACL)
        with contextlib.suppress(OSError):
            if acl is None or os.getxattr(descriptor, _ACCESS_ACL) == acl:
                return
            self._set_xattrs(descriptor, member, follow=True)

    def _set_owner(self, descriptor: int, member: Member) -> None:
        uid, gid = owner_of(member)
        try:
            os.fchown(descriptor, uid, gid)
        except OSError as error:
            self._note_owner(error)
            with contextlib.suppress(OSError):
                os.fchown(descriptor, -1, gid)

    def set_by_name(self, folder: int, name: str, member: Member) -> None:
        """For a link, FIFO or device just made in `folder`; a symlink is not followed."""
        uid, gid = owner_of(member)
        try:
            os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            self._note_owner(error)
            with contextlib.suppress(OSError):
                os.chown(name, -1, gid, dir_fd=folder, follow_symlinks=False)
        place = f"/proc/self/fd/{folder}/{name}"
        if member.kind != "symlink":
            self._drop_inherited(place, member)
            look = partial(os.stat, name, dir_fd=folder, follow_symlinks=False)
            os.chmod(name, self._mode_of(member, look), dir_fd=folder)
        self._set_xattrs(place, member, follow=False)
        times = (member.mtime_ns, member.mtime_ns)
        os.utime(name, ns=times, dir_fd=folder, follow_symlinks=False)

    def _mode_of(self, member: Member, look: Callable[[], os.stat_result]) -> int:
        special = member.mode & _SPECIAL_BITS
        if member.kind == "dir" or not special:
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

    def _drop_inherited(self, place: int | str, member: Member) -> None:
        """A new file inherits its folder's default ACL, and a folder that was there before may
        have other attributes: neither is in the archive."""
        names = [_ACCESS_ACL]
        follow = isinstance(place, int)
        if member.kind == "dir":
            with contextlib.suppress(OSError):
                names = os.listxattr(place, follow_symlinks=follow)
        for name in names:
            if name not in member.xattrs and name.startswith(_HARMLESS):
                with contextlib.suppress(OSError):
                    os.removexattr(place, name, follow_symlinks=follow)

    def _set_xattrs(self, place: int | str, member: Member, *, follow: bool) -> None:
        for name, value in member.xattrs.items():
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
        if error.errno in _NO_XATTRS:
            self.notes.add("the target's file system does not keep all extended attributes")
        elif error.errno in _NO_ROOM:
            self.notes.add("the target's file system has no room for some extended attributes")
        elif error.errno in _NOT_ALLOWED:
            self.notes.add("extended attributes could not all be set; run as root to restore them")
        else:
            raise error


def owner_of(member: Member) -> tuple[int, int]:
    """Numbers of owner and group on this machine: by name where the name is known here,
    otherwise as stored."""
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
