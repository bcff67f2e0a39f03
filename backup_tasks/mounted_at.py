"""On which mount a folder lies, as the kernel tells in /proc/self/mountinfo (proc(5)).

A device's number would not do: it changes from one start of the machine to the next, and each
subvolume of btrfs has one of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo.

    Attributes:
        number, parent: of this mount, and of the one that its mount point lies on.
        device: of the file system, as major:minor.
        root: the folder of the file system that is shown at the mount point.
        point: the mount point, absolute.
        kind: the type of the file system, such as nfs4.
        source: what is mounted, such as nas:/backups.
    """

    number: int
    parent: int
    device: str
    root: str
    point: str
    kind: str
    source: str


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a folder really lies.

    Attributes:
        folder: without links; the nearest one above where it does not exist.
        mount: None for the root's own file system, and where the kernel tells nothing.
        points: all mount points on which something is mounted.
    """

    folder: Path
    mount: Mount | None
    points: frozenset[str]

    def is_on(self, point: str) -> bool:
        """Whether it lies on what is mounted there, or on something that is mounted below."""
        return self.mount is not None and Path(self.mount.point).is_relative_to(point)


def find_standing(folder: Path) -> Standing:
    """Where this folder lies. One that is mounted when it is used (autofs) is mounted by this.

    Raises OSError when it cannot be looked into.
    """
    descriptor = _open_nearest(folder)
    try:
        return standing_of(descriptor)
    finally:
        os.close(descriptor)


def standing_of(descriptor: int) -> Standing:
    """Where an open folder lies. Raises OSError when the kernel does not tell."""
    here = os.readlink(f"/proc/self/fd/{descriptor}")
    with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
        number = re.search(rb"^mnt_id:\s*(\d+)", file.read(), re.MULTILINE)
    with open("/proc/self/mountinfo", "rb") as file:
        mounts = {mount.number: mount for mount in parse_mounts(file.read())}
    mount = own_mount(mounts, int(number[1]), here) if number else None
    points = frozenset(mount.point for mount in mounts.values() if mount.kind != "autofs")
    return Standing(Path(here), mount, points)


def parse_mounts(content: bytes) -> Iterator[Mount]:
    """The lines of mountinfo; what is none is passed over."""
    for line in content.splitlines():
        before, _, after = line.partition(b" - ")
        fields, others = before.split(b" "), after.split(b" ")
        if len(fields) >= 6 and len(others) >= 2 and fields[0].isdigit() and fields[1].isdigit():
            device, root, point, kind, source = map(unescaped, (*fields[2:5], others[0], others[1]))
            yield Mount(int(fields[0]), int(fields[1]), device, root, point, kind, source)


def own_mount(mounts: Mapping[int, Mount], number: int, folder: str) -> Mount | None:
    """The mount that decides what is in a folder; None if that is the root's own file system.

    A mount that shows what would be there without it does not count: systemd makes those for a
    service with ReadWritePaths=. Nor does autofs, which only waits for something to be mounted.

    Args:
        number: of the mount that the folder lies on.
        folder: its real path.
    """
    mount = mounts.get(number)
    while mount is not None and mount.point != "/":
        below = mounts.get(mount.parent)
        if mount.kind != "autofs" and (
            below is None or _place_in(mount, folder) != _place_in(below, folder)
        ):
            return mount
        mount = below
    return None


def mount_points_of(fstab: bytes) -> Iterator[str]:
    """The mount points that fstab(5) names, but for the root."""
    for line in fstab.splitlines():
        fields = line.split()
        if len(fields) >= 3 and not fields[0].startswith(b"#") and fields[1].startswith(b"/"):
            point = os.path.normpath(unescaped(fields[1]))
            if point != "/":
                yield point


def is_at_or_below(folder: str | Path, points: Iterable[str]) -> str:
    """The deepest of these folders that holds this one, or is it; "" if none does."""
    holding = [point for point in points if Path(folder).is_relative_to(point)]
    return max(holding, key=len, default="")


def unescaped(text: bytes) -> str:
    r"""A field with its spaces and tabs, which both files write as \040 and \011."""
    return os.fsdecode(
        re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8) & 255]), text)
    )


def _place_in(mount: Mount, folder: str) -> tuple[str, str]:
    """Which folder of which file system this one is, seen through the mount."""
    inner = f"{mount.root}/{folder[len(mount.point) :]}"
    # normpath keeps two slashes at the front, which POSIX leaves to each system.
    return mount.device, os.path.normpath("/" + inner.lstrip("/"))


def _open_nearest(folder: Path) -> int:
    for place in (folder, *folder.parents):
        try:
            return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
    return os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
