"""Reads the extended attributes of a source file, ACLs and capabilities included, up to the limit
of an archive."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from backup_tasks.format.limits import ATTRIBUTES_BYTES
from backup_tasks.format.tar_headers import measure_xattr

# The file system has no attributes; or the attribute, or the whole file, was removed just now.
_NOTHING_LOST = (errno.ENOTSUP, errno.ENODATA, errno.ENOENT, errno.ENOSYS)
# Asked for by name where there are too many names to list (Linux lists at most 64 KiB of them).
_KNOWN = (
    "security.capability",
    "security.selinux",
    "system.posix_acl_access",
    "system.posix_acl_default",
)


class Xattrs(NamedTuple):
    """The extended attributes of one file.

    Attributes:
        values: full name -> value.
        trouble: why some attributes are missing, or "".
    """

    values: Mapping[str, bytes]
    trouble: str = ""


_NONE = Xattrs({})


def read_xattrs(place: int | str) -> Xattrs:
    """All attributes that this user may read, of a descriptor or of a path (a symlink is not
    followed).

    Those that a file's owner can set (`user.*`) come last, so that they crowd out no others.
    """
    follow = isinstance(place, int)
    try:
        names = os.listxattr(place, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NOTHING_LOST:
            return _NONE
        if error.errno != errno.E2BIG:
            return Xattrs({}, f"stored without extended attributes: {_say(error)}")
        known = _read_each(place, _KNOWN)
        return known._replace(
            trouble="stored without most of its extended attributes: their names take more than "
            "64 KiB, which Linux does not list"
        )
    if not names:
        return _NONE
    return _read_each(place, sorted(names, key=lambda name: (name.startswith("user."), name)))


def _read_each(place: int | str, names: Iterable[str]) -> Xattrs:
    follow = isinstance(place, int)
    values: dict[str, bytes] = {}
    room, left_out, failures = ATTRIBUTES_BYTES, 0, 0
    failure = ""
    for name in names:
        if left_out:
            left_out += 1
            continue
        try:
            value = os.getxattr(place, name, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in _NOTHING_LOST:
                failures += 1
                failure = failure or _say(error)
            continue
        room -= measure_xattr(name, value)
        if room < 0:
            left_out = 1
        else:
            values[name] = value
    troubles = []
    if left_out:
        troubles.append(
            f"stored without {left_out:,} of its extended attributes: all take more than the "
            f"{ATTRIBUTES_BYTES // 1024} KiB that an archive holds of one file"
        )
    if failures:
        troubles.append(f"stored without {failures:,} of its extended attributes: {failure}")
    return Xattrs(values, "; ".join(troubles))


def _say(error: OSError) -> str:
    return error.strerror or str(error)
