"""The mount that a folder lies on, as /proc/self/mountinfo tells it (proc(5)).

A device number would not do: it may change at each boot, and each subvolume of btrfs has its own.
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
        folder: its real path; the nearest folder above it, if it does not exist.
        mount: None on the root file system, and where the kernel tells nothing.
        mounts: all mounts that the kernel lists, in the order in which they were mounted.
    """

    folder: Path
    mount: Mount | None
    mounts: Sequence[Mount] = ()

    def has_mount_on(self, point: str) -> bool:
        """Whether a file system is mounted on that mount point, absolute; autofs is none."""
        return any(mount.point == point and mount.kind != "autofs" for mount in self.mounts)

    def is_on(self, point: str) -> bool:
        """Whether the folder lies on the mount at this point, or on a mount below it."""
        return self.mount is not None and Path(self.mount.point).is_relative_to(point)


def find_standing(folder: Path) -> Standing:
    """Find where a folder lies. If it is an automount (autofs), this mounts it.

    Raises:
        OSError: the folder cannot be opened, or the kernel does not tell.
    """
    descriptor = _open_nearest(folder)
    try:
        return standing_of(descriptor)
    finally:
        os.close(descriptor)


def standing_of(descriptor: int) -> Standing:
    """Find where an open folder lies.

    Raises:
        OSError: /proc cannot be read.
    """
    here = os.readlink(f"/proc/self/fd/{descriptor}")
    with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
        number = re.search(rb"^mnt_id:\s*(\d+)", file.read(), re.MULTILINE)
    mounts = parse_mounts(MOUNTINFO.read_bytes())
    by_number = {mount.number: mount for mount in mounts}
    mount = own_mount(by_number, int(number[1]), here) if number else None
    return Standing(Path(here), mount, mounts)


def own_mount(mounts: Mapping[int, Mount], number: int, folder: str) -> Mount | None:
    """The mount that decides the content of a folder; None on the root file system.

    Passes over mounts that show the same folder as the mount below them: systemd makes these for
    a service with ReadWritePaths=. Passes over autofs too, which only waits for a mount.

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
    """The mount points that fstab(5) names, except the root."""
    for line in fstab.splitlines():
        fields = line.split()
        if len(fields) >= 3 and not fields[0].startswith(b"#") and fields[1].startswith(b"/"):
            point = os.path.normpath(unescaped(fields[1]))
            if point != "/":
                yield point


def is_at_or_below(folder: str | Path, points: Iterable[str]) -> str:
    """The deepest of `points` that is this folder or holds it; "" if none is."""
    holding = [point for point in points if Path(folder).is_relative_to(point)]
    return max(holding, key=len, default="")


def _place_in(mount: Mount, folder: str) -> tuple[int, str]:
    """The device, and the path within its file system, that the mount shows as this folder."""
    inner = f"{mount.root}/{folder[len(mount.point) :]}"
    # normpath keeps two leading slashes, whose meaning POSIX leaves to the system.
    return mount.device, os.path.normpath("/" + inner.lstrip("/"))


def _open_nearest(folder: Path) -> int:
    for place in (folder, *folder.parents):
        try:
            return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
    return os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
