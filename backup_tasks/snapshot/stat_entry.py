"""Makes an entry from `stat`, within the numbers and names that an archive can hold."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from functools import cache

from backup_tasks.format.limits import NEWEST_NS, OLDEST_NS, SPARSE_FROM_BYTES, within_time
from backup_tasks.format.manifest import USUAL_HEADER_BYTES, Entry, EntryType, name_fields


def entry_of(path: str, kind: EntryType, status: os.stat_result) -> Entry:
    """An entry as `stat` describes it, without link, hash and place.

    The span of a file with many holes is an estimate. A time that readers do not accept becomes
    the nearest time that they do.
    """
    plain, encoded = (path, "") if path.isascii() else name_fields(path)
    is_device = kind in ("char", "block")
    mtime_ns = status.st_mtime_ns
    if kind != "file" and not OLDEST_NS <= mtime_ns <= NEWEST_NS:
        mtime_ns = within_time(mtime_ns)
    entry = Entry(
        path=plain,
        path_b64=encoded,
        type=kind,
        size=status.st_size if kind == "file" else 0,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        user=_user_name(status.st_uid),
        group=_group_name(status.st_gid),
        mtime_ns=mtime_ns,
        ctime_ns=status.st_ctime_ns,
        inode=status.st_ino,
        device=status.st_dev,
        rdev=status.st_rdev if is_device else 0,
        nlink=1 if kind == "dir" else status.st_nlink,
    )
    if entry.size > SPARSE_FROM_BYTES:
        stored_bytes = status.st_blocks * 512
        if entry.size - stored_bytes > SPARSE_FROM_BYTES:
            entry.span = USUAL_HEADER_BYTES + stored_bytes
    return entry


@cache
def _user_name(uid: int) -> str:
    try:
        return _in_utf8(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return ""


@cache
def _group_name(gid: int) -> str:
    try:
        return _in_utf8(grp.getgrgid(gid).gr_name)
    except KeyError:
        return ""


def _in_utf8(name: str) -> str:
    """The name, or "" if no manifest can hold it; the manifest has the number in any case."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return ""
    return name
