"""Users besides root and ourselves who can decide what a name in a folder leads to."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from functools import cache

from backup_tasks.filesystem.posix_acl import KEYWORDS

ANYBODY = -1
ACCESS_ACL, DEFAULT_ACL = KEYWORDS


def master_of(
    folder: int, status: os.stat_result, above: int | None, ours: int | None = None
) -> int | None:
    """The user who can change the names in an open folder, or put another folder in its place.

    Args:
        status: of the folder.
        above: what this function returned for the folder's parent.
        ours: a user who counts as ourselves there.

    Returns:
        None when only root and ourselves can; ANYBODY for more than one user.
    """
    is_ours = status.st_uid == ours or is_trusted(status.st_uid)
    here: int | None = None if is_ours else status.st_uid
    if others_may_write(folder, status):
        here = ANYBODY
    if here is None or above is None:
        return above if here is None else here
    return here if here == above else ANYBODY


def others_may_write(folder: int | str, status: os.stat_result) -> bool:
    """Whether users other than its owner can add and remove names in a folder."""
    if status.st_mode & stat.S_IWOTH:
        return True
    if not status.st_mode & stat.S_IWGRP:
        return False
    # A user's own group is that user alone; but the group's bits also bound what an ACL grants.
    is_own_group = status.st_gid in (0, status.st_uid)
    return not is_own_group or has_acl(folder, ACCESS_ACL)


def has_acl(folder: int | str, name: str) -> bool:
    """Whether a folder has this ACL; also True when that cannot be found out."""
    try:
        return bool(os.getxattr(folder, name))
    except OSError as error:
        return not says_none(error)


def drop_acls(folder: int) -> None:
    """Remove the ACLs that a folder has inherited.

    Raises:
        OSError: an ACL cannot be removed.
    """
    for name in (ACCESS_ACL, DEFAULT_ACL):
        try:
            os.removexattr(folder, name)
        except OSError:
            if has_acl(folder, name):
                raise


def says_none(error: OSError) -> bool:
    """Whether an error says that there is no such attribute, or no attributes at all here."""
    return error.errno in (errno.ENODATA, errno.EOPNOTSUPP)


@cache
def _trusted() -> frozenset[int]:
    """Root, ourselves, and the owner of "/", who may be unmapped in a user namespace."""
    trusted = {0, os.geteuid()}
    with contextlib.suppress(OSError):
        trusted.add(os.stat("/").st_uid)
    return frozenset(trusted)


def is_trusted(uid: int) -> bool:
    """Whether this user is root, ourselves, or the owner of "/"."""
    return uid in _trusted()
