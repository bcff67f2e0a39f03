"""On which mount a folder lies, as the kernel tells in /proc/self/mountinfo (proc(5)).

A device's number would not do: it changes from one start of the machine to the next, and each
subvolume of btrfs has one of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from backup_tasks.filesystem.mountinfo import MOUNTINFO, Mount, parse_mounts, unescaped


class Standing(Struct, frozen=True):
    """Where a folder really lies.

    Attributes:
        folder: without links; the nearest one above where it does not exist.
        mount: None for the root's own file system, and where the kernel tells nothing.
        mounts: all that the kernel tells of, in the order in which they were mounted.
    """

    folder: Path
    mount: Mount | None
    mounts: Sequence[Mount] = ()

    def has_mount_on(self, point: str) -> bool:
        """Whether something is mounted on that mount point, absolute."""
        return any(mount.point == point and mount.kind != "autofs" for mount in self.mounts)

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
    mounts = parse_mounts(MOUNTINFO.read_bytes())
    by_number = {mount.number: mount for mount in mounts}
    mount = own_mount(by_number, int(number[1]), here) if number else None
    return Standing(Path(here), mount, mounts)


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


def _place_in(mount: Mount, folder: str) -> tuple[int, str]:
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
