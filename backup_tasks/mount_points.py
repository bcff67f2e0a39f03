"""Which mounts hold data of their own: an empty folder in place of one is a loss, not a change."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")
_OCTAL = re.compile(rb"\\([0-7]{3})")
# Images that are packages or media; they come and go, and nobody's data is in them.
_IMAGES = {"squashfs", "iso9660", "udf", "erofs", "cramfs", "romfs"}
# Without a device in /dev, and data nevertheless.
_WITHOUT_DEVICE = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "9p", "virtiofs", "afs", "lustre", "gpfs"),
    *("beegfs", "orangefs", "coda", "ncpfs", "zfs", "vboxsf", "prl_fs", "vmhgfs"),
}
# Programs of the system that answer like a file system.
_NO_DATA = {"fuse.lxcfs", "fuse.portal", "fuse.gvfsd-fuse", "fuse.snapfuse", "fuse.squashfuse"}


def data_mounts(mountinfo: bytes) -> set[str]:
    """Where file systems with data of their own are mounted, as seen by their paths.

    Block devices, network shares, and FUSE where root mounted it: what a user mounts, that user
    can end too, and nobody but root may raise a hold by that.

    Args:
        mountinfo: what /proc/self/mountinfo says, see proc(5); lines of another shape are passed
            over.

    Returns:
        Paths relative to /, without a slash in front; "" is / itself.
    """
    # Of several mounts on one folder the last one is seen.
    kinds = dict(_parsed(mountinfo))
    return {path for path, has_data in kinds.items() if has_data}


def automounts(mountinfo: bytes) -> set[str]:
    """Where something is mounted as soon as somebody looks, as paths like those above."""
    return {_path(fields) for fields, kind, _, _ in _lines(mountinfo) if kind == b"autofs"}


def read_mountinfo() -> bytes:
    """What is mounted now; nothing where /proc does not tell."""
    try:
        return MOUNTINFO.read_bytes()
    except OSError:
        return b""


def mount_text(path: str) -> str:
    r"""The path as a manifest names it: absolute, `\ooo` for what JSON or a line cannot hold."""
    raw = b"/" + os.fsencode(path)
    try:
        raw.decode("utf-8")
        pattern = rb"[\x00-\x20\x7f\\]"
    except UnicodeDecodeError:
        pattern = rb"[\x00-\x20\x7f-\xff\\]"
    return re.sub(pattern, lambda found: b"\\%03o" % found[0][0], raw).decode("utf-8")


def mount_path(text: str) -> str:
    """The path that `mount_text` wrote so, relative to /."""
    raw = _OCTAL.sub(_from_octal, text.encode("utf-8", "surrogateescape"))
    return os.fsdecode(raw.strip(b"/"))


def at_or_below(paths: Iterable[str], tops: Iterable[str]) -> set[str]:
    """Those of the paths that are one of the tops or lie below one; all relative to /."""
    found = list(tops)
    return {
        path
        for path in paths
        if any(not top or path == top or path.startswith(f"{top}/") for top in found)
    }


def _parsed(mountinfo: bytes) -> Iterator[tuple[str, bool]]:
    for fields, kind, device, options in _lines(mountinfo):
        yield _path(fields), _has_data(os.fsdecode(kind), device, options.split(b","))


def _lines(mountinfo: bytes) -> Iterator[tuple[list[bytes], bytes, bytes, bytes]]:
    for line in mountinfo.splitlines():
        fields = line.split(b" ")
        try:
            kind, device, options = fields[fields.index(b"-", 6) + 1 :][:3]
        except ValueError:
            continue
        yield fields, kind, device, options


def _path(fields: list[bytes]) -> str:
    return os.fsdecode(_OCTAL.sub(_from_octal, fields[4]).strip(b"/"))


def _from_octal(found: re.Match[bytes]) -> bytes:
    return bytes([int(found[1], 8) & 0xFF])


def _has_data(kind: str, device: bytes, options: list[bytes]) -> bool:
    if kind in _IMAGES or kind in _NO_DATA:
        return False
    if kind in ("fuse", "fuseblk") or kind.startswith("fuse."):
        return b"user_id=0" in options
    return device.startswith(b"/dev/") or kind in _WITHOUT_DEVICE
