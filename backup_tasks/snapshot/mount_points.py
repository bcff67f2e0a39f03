"""Which mounts hold data of their own: an empty folder in place of one is a loss, not a change."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from backup_tasks.filesystem.mountinfo import Mount, unescaped
from backup_tasks.filesystem.standing import is_at_or_below, standing_of

# Images of packages or media; they come and go, and hold nobody's data.
_IMAGES = {"squashfs", "iso9660", "udf", "erofs", "cramfs", "romfs"}
# These hold data although they have no device in /dev.
_WITHOUT_DEVICE = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "9p", "virtiofs", "afs", "lustre", "gpfs"),
    *("beegfs", "orangefs", "coda", "ncpfs", "zfs", "vboxsf", "prl_fs", "vmhgfs"),
}
# System programs that present themselves as a file system.
_NO_DATA = {"fuse.lxcfs", "fuse.portal", "fuse.gvfsd-fuse", "fuse.snapfuse", "fuse.squashfuse"}


def data_mounts(mounts: Iterable[Mount]) -> set[str]:
    """The paths at which file systems with data of their own are mounted, and visible.

    Block devices, network shares, and FUSE if root mounted it: users can end their own mounts,
    and nobody but root may raise a hold in that way.

    Args:
        mounts: in the order in which they were mounted.

    Returns:
        Paths relative to /, without a slash in front; "" is / itself.
    """
    # Of several mounts on one folder, the last one is visible.
    seen = {mount.path: mount for mount in mounts}
    return {path for path, mount in seen.items() if _has_data(mount)}


def data_mount_of(descriptor: int) -> str:
    """The nearest mount with data of its own that holds an open folder, as a path of
    `data_mounts`; "" for the root file system. A mount that shows what would lie there without
    it is passed over."""
    try:
        standing = standing_of(descriptor)
    except OSError:
        return ""
    if standing.mount is None:
        return ""
    points = [f"/{path}" for path in data_mounts(standing.mounts)]
    return is_at_or_below(standing.mount.point, points).strip("/")


def automounts(mounts: Iterable[Mount]) -> set[str]:
    """Where autofs mounts something as soon as somebody looks, as paths of `data_mounts`."""
    return {mount.path for mount in mounts if mount.kind == "autofs"}


def mount_text(path: str) -> str:
    r"""The path as a manifest names it: absolute, with `\ooo` for bytes that do not fit into JSON
    or into a line."""
    raw = b"/" + os.fsencode(path)
    try:
        raw.decode("utf-8")
        pattern = rb"[\x00-\x20\x7f\\]"
    except UnicodeDecodeError:
        pattern = rb"[\x00-\x20\x7f-\xff\\]"
    return re.sub(pattern, lambda found: b"\\%03o" % found[0][0], raw).decode("utf-8")


def mount_path(text: str) -> str:
    """The path that `mount_text` wrote as this text, relative to /."""
    return unescaped(text.encode("utf-8", "surrogateescape")).strip("/")


def at_or_below(paths: Iterable[str], tops: Iterable[str]) -> set[str]:
    """The paths that are one of the tops, or lie below one; all relative to /."""
    found = list(tops)
    return {
        path
        for path in paths
        if any(not top or path == top or path.startswith(f"{top}/") for top in found)
    }


def _has_data(mount: Mount) -> bool:
    if mount.kind in _IMAGES or mount.kind in _NO_DATA:
        return False
    if mount.is_fuse:
        return "user_id=0" in mount.options
    return mount.source.startswith("/dev/") or mount.kind in _WITHOUT_DEVICE
