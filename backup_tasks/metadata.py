"""Owner, mode, extended attributes and times of a restored file, as far as this user may."""

from __future__ import annotations

import errno
import grp
import os
import pwd
from functools import cache

from backup_tasks.tarstream import Member

_NOT_ALLOWED = {errno.EPERM, errno.EACCES, errno.EINVAL}
_NO_XATTRS = {errno.EOPNOTSUPP, errno.ENOTSUP}


class MetadataSetter:
    """Sets what the member says, in the order that keeps it: owner, mode, xattrs, time.

    A change of owner drops setuid bits and capabilities, so it comes first. What this user
    may not set is said once, in `notes`.
    """

    def __init__(self) -> None:
        self._is_root = os.geteuid() == 0
        self.notes: set[str] = set()

    def set_open(self, descriptor: int, member: Member, mode: int) -> None:
        """For an open file or folder."""
        self._own(descriptor, member)
        os.fchmod(descriptor, mode)
        self._set_xattrs(descriptor, member, follow=True)
        os.utime(descriptor, ns=(member.mtime_ns, member.mtime_ns))

    def set_by_name(self, folder: int, name: str, member: Member, mode: int | None) -> None:
        """For a link, FIFO or device just made in `folder`; a symlink is not followed."""
        uid, gid = owner_of(member)
        try:
            os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            self._note_owner(error)
        if mode is not None:
            os.chmod(name, mode, dir_fd=folder)
        self._set_xattrs(f"/proc/self/fd/{folder}/{name}", member, follow=False)
        times = (member.mtime_ns, member.mtime_ns)
        os.utime(name, ns=times, dir_fd=folder, follow_symlinks=False)

    def _own(self, descriptor: int, member: Member) -> None:
        uid, gid = owner_of(member)
        try:
            os.fchown(descriptor, uid, gid)
        except OSError as error:
            self._note_owner(error)

    def _note_owner(self, error: OSError) -> None:
        if error.errno not in _NOT_ALLOWED:
            raise error
        self.notes.add("owners could not all be set; run as root to restore them")

    def _set_xattrs(self, place: int | str, member: Member, *, follow: bool) -> None:
        for name, value in member.xattrs.items():
            try:
                os.setxattr(place, name, value, follow_symlinks=follow)
            except OSError as error:
                if error.errno in _NOT_ALLOWED:
                    self.notes.add(f"extended attributes could not all be set ({name})")
                elif error.errno in _NO_XATTRS:
                    self.notes.add("the target's file system keeps no extended attributes")
                else:
                    raise


def owner_of(member: Member) -> tuple[int, int]:
    """Numbers of owner and group on this machine: by name where the name is known here,
    otherwise as stored."""
    return _uid(member.user, member.uid), _gid(member.group, member.gid)


@cache
def _uid(name: bytes, number: int) -> int:
    try:
        return pwd.getpwnam(os.fsdecode(name)).pw_uid if name else number
    except KeyError:
        return number


@cache
def _gid(name: bytes, number: int) -> int:
    try:
        return grp.getgrnam(os.fsdecode(name)).gr_gid if name else number
    except KeyError:
        return number
