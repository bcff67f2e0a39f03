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
    """

    path: str
    device: int
    kind: str
    source: str = field(default="", compare=False)
    options: tuple[str, ...] = field(default=(), compare=False)

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
            kind, source, options = map(os.fsdecode, fields[fields.index(b"-", 6) + 1 :][:3])
            device = os.makedev(int(major), int(minor))
        except (ValueError, IndexError):
            continue
        path = _ESCAPED.sub(lambda octal: bytes([int(octal[1], 8) & 0xFF]), fields[4])
        place = os.fsdecode(path.strip(b"/"))
        found.append(Mount(place, device, kind, source, tuple(options.split(","))))
    return found


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
