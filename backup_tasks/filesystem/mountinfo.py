"""What is mounted on this machine, as far as a backup must know."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/self/mountinfo (proc(5)).

    Attributes:
        path: relative to /, without a slash in front; "" is / itself.
        device: as `st_dev` has it, but for subvolumes of btrfs, which have numbers of their own.
        kind: the file system's type, such as "ext4" or "fuse.sshfs".
        source: what is mounted, such as "/dev/sda1"; options: those of the file system.
        number, parent: of this mount, and of the one that its mount point lies on.
        root: the folder of the file system that is shown at the mount point.
    """

    path: str
    device: int
    kind: str
    source: str = field(default="", compare=False)
    options: tuple[str, ...] = field(default=(), compare=False)
    number: int = field(default=0, compare=False)
    parent: int = field(default=0, compare=False)
    root: str = field(default="/", compare=False)

    @property
    def point(self) -> str:
        """The mount point, absolute."""
        return f"/{self.path}"

    @property
    def is_fuse(self) -> bool:
        """Whether a program answers for it."""
        return self.kind in ("fuse", "fuseblk") or self.kind.startswith("fuse.")


def parse_mounts(text: bytes) -> list[Mount]:
    """The mounts in the order of the file; lines of another shape are passed over."""
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
    r"""A field with its spaces and tabs, which mountinfo and fstab write as \040 and \011."""
    return os.fsdecode(_ESCAPED.sub(lambda octal: bytes([int(octal[1], 8) & 0xFF]), text))


class Mounts:
    """The mounts, read when they are first asked for; none where /proc does not tell."""

    @cached_property
    def all(self) -> list[Mount]:
        """In the order in which they were mounted."""
        try:
            return parse_mounts(MOUNTINFO.read_bytes())
        except OSError:
            return []

    def is_fuse(self, path: str) -> bool:
        """Whether a path, relative to /, is where a FUSE file system is mounted."""
        # Of several mounts on one folder the last one is seen.
        on_it = [mount for mount in self.all if mount.path == path]
        return bool(on_it) and on_it[-1].is_fuse
