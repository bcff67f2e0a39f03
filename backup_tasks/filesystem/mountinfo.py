"""The mounts of this machine, as far as a backup must know them."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path

from msgspec import Struct

MOUNTINFO = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(rb"\\([0-7]{3})")


class Mount(Struct, frozen=True, eq=False):
    """One line of /proc/self/mountinfo (proc(5)).

    Attributes:
        path: relative to /, without a slash in front; "" is / itself.
        device: equal to `st_dev`, except on btrfs, where each subvolume has its own `st_dev`.
        kind: the file system's type, such as "ext4" or "fuse.sshfs".
        source: the device, such as "/dev/sda1"; options: those of the file system.
        number, parent: of this mount, and of the mount that its mount point lies on.
        root: the folder of the file system that appears at the mount point.
    """

    path: str
    device: int
    kind: str
    source: str = ""
    options: tuple[str, ...] = ()
    number: int = 0
    parent: int = 0
    root: str = "/"

    def __eq__(self, other: object) -> bool:
        """By where and what it is: its source, options and numbers may differ."""
        return isinstance(other, Mount) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[str, int, str]:
        return self.path, self.device, self.kind

    @property
    def point(self) -> str:
        """The mount point, absolute."""
        return f"/{self.path}"

    @property
    def is_fuse(self) -> bool:
        """Whether a program serves the file system (FUSE)."""
        return self.kind in ("fuse", "fuseblk") or self.kind.startswith("fuse.")


def parse_mounts(text: bytes) -> list[Mount]:
    """Parse mountinfo, in the order of its lines; malformed lines are skipped."""
    found = []
    for line in text.splitlines():
        fields = line.split(b" ")
        try:
            major, minor = fields[2].split(b":")
            kind, source, options = map(unescaped, fields[fields.index(b"-", 6) + 1 :][:3])
            mount = Mount(
                path=unescaped(fields[4]).strip("/"),
                device=os.makedev(int(major), int(minor)),
                kind=kind,
                source=source,
                options=tuple(options.split(",")),
                number=int(fields[0]),
                parent=int(fields[1]),
                root=unescaped(fields[3]),
            )
        except (ValueError, IndexError):
            continue
        found.append(mount)
    return found


def unescaped(text: bytes) -> str:
    r"""Decode a field of mountinfo or fstab, which write space and tab as \040 and \011."""
    return os.fsdecode(_ESCAPED.sub(lambda octal: bytes([int(octal[1], 8) & 0xFF]), text))


class Mounts:
    """This machine's mounts, read on first use; none where /proc cannot be read."""

    @cached_property
    def all(self) -> list[Mount]:
        """All mounts, in the order in which they were mounted."""
        try:
            return parse_mounts(MOUNTINFO.read_bytes())
        except OSError:
            return []

    def is_fuse(self, path: str) -> bool:
        """Whether a FUSE file system is mounted at a path, given relative to /."""
        # The last mount on a folder hides the earlier ones.
        on_it = [mount for mount in self.all if mount.path == path]
        return bool(on_it) and on_it[-1].is_fuse
