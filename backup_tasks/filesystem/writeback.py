"""Writes through `mmap`, and file systems on which a ctime shows them late or never.

The first write to a clean page gives the file a new ctime. Later writes to the page give none
until the system has written it back (Linux, mm/page-writeback.c; seen on ext4, xfs and btrfs).
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from backup_tasks.common.printable import printable
from backup_tasks.filesystem.mountinfo import Mount, Mounts

LEAST_MARGIN_NS = 60 * 10**9
_VM = Path("/proc/sys/vm")
# These never write a page back, so that it stays dirty for good.
_IN_MEMORY = frozenset({"tmpfs", "ramfs", "hugetlbfs"})
# Some of these invent a ctime, or report the mtime instead: `keeps_ctime` finds out.
_MADE_UP = frozenset({"vfat", "msdos", "exfat", "cifs", "smb3", "9p", "afs", "ncpfs", "prl_fs"})
# These have no dirty pages; and opening an automount point would mount it.
_VIRTUAL = frozenset(
    """autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fusectl
    mqueue nsfs proc pstore rpc_pipefs securityfs sysfs tracefs""".split()  # noqa: SIM905
)
_LOOKED_AT = 1000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def read_margin_ns() -> int:
    """How long after its ctime a file may be written to unseen, by this system's settings.

    The kernel looks for pages older than `dirty_expire_centisecs` every
    `dirty_writeback_centisecs`: the sum of both, but at least 60 s.
    """
    try:
        waits = [
            int((_VM / name).read_text())
            for name in ("dirty_expire_centisecs", "dirty_writeback_centisecs")
        ]
    except (OSError, ValueError):
        return LEAST_MARGIN_NS
    return max(LEAST_MARGIN_NS, sum(waits) * 10**7)


def file_systems_of(
    sources: Iterable[str],
    mounts: Mounts,
    *,
    one_file_system: bool,
    is_left_out: Callable[[str], bool] = lambda _: False,
) -> list[str]:
    """Name a folder on each file system that a walk of the sources enters.

    These are the file systems of the sources and, unless `one_file_system`, those mounted below.

    Args:
        is_left_out: whether the walk leaves out a folder, given relative to /. A file system
            mounted there is not touched: its server may not answer.
    """
    tops = [_folder_of(os.path.realpath(source)) for source in sources]
    below: list[str] = []
    if not one_file_system:
        for mount in mounts.all:
            path = f"/{mount.path}"
            if mount.kind in _VIRTUAL or is_left_out(mount.path):
                continue
            if any(_is_below(path, top) for top in tops):
                below.append(path)
    return [*dict.fromkeys([*tops, *below])]


def _folder_of(path: str) -> str:
    return path if os.path.isdir(path) else os.path.dirname(path)


def _is_below(path: str, top: str) -> bool:
    return path.startswith(f"{top.rstrip('/')}/")


def write_back(folders: Iterable[str]) -> list[str]:
    """Write back the file system of each folder, so that later writes through `mmap` show in a
    ctime.

    Returns:
        The problems, a line each. Folders that cannot be opened are not among them: the walk
        meets them as well.
    """
    troubles: list[str] = []
    done: set[int] = set()
    for folder in folders:
        try:
            descriptor = os.open(folder, _FOLDER)
        except OSError:
            continue
        try:
            device = os.fstat(descriptor).st_dev
            if device not in done:
                done.add(device)
                _sync_file_system(descriptor)
        except OSError as error:
            troubles.append(
                f"{printable(folder)}: what is in memory could not be written back, so that writes "
                f"through mmap may be seen a day late: {error.strerror or error}"
            )
        finally:
            os.close(descriptor)
    return troubles


def _sync_file_system(descriptor: int) -> None:
    """Call syncfs(2), which Python does not offer; without it, sync(2).

    Raises:
        OSError: syncfs failed.
    """
    try:
        import ctypes

        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except (ImportError, AttributeError, OSError):
        os.sync()
        return
    if syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        if number != errno.ENOSYS:
            raise OSError(number, os.strerror(number))
        os.sync()


def blind_devices(
    folders: Iterable[str], mounts: Mounts, probe: Callable[[str], bool] | None = None
) -> frozenset[int]:
    """The `st_dev` of each file system of these folders on which no ctime can be believed.

    These are file systems in memory. File systems that may invent a ctime, and those of FUSE, are
    among them when the probe says no.

    Args:
        probe: whether the file system of a folder keeps ctimes; `keeps_ctime` by default.
    """
    kinds = {mount.device: mount for mount in mounts.all}
    found = set()
    for folder in folders:
        try:
            device = os.stat(folder).st_dev
        except OSError:
            continue
        mount = kinds.get(device)
        if mount is not None and _may_be_blind(mount):
            is_kept = mount.kind not in _IN_MEMORY and (probe or keeps_ctime)(folder)
            if not is_kept:
                found.add(device)
    return frozenset(found)


def _may_be_blind(mount: Mount) -> bool:
    return mount.is_fuse or mount.kind in _IN_MEMORY or mount.kind in _MADE_UP


def keeps_ctime(folder: str) -> bool:
    """Whether a file system has ctimes of its own, judged by the names below a folder.

    Writes nothing. Renamed, copied or changed files have a ctime other than their mtime; if none
    of the first thousand names has, ctimes are invented there.
    """
    try:
        return any(
            status.st_ctime_ns != status.st_mtime_ns and status.st_ctime_ns > 0
            for status in itertools.islice(_statuses(folder), _LOOKED_AT)
        )
    except OSError:
        return False


def _statuses(folder: str) -> Iterator[os.stat_result]:
    """The status of each name below a folder, on its file system, upper levels first."""
    waiting = [folder]
    device = os.stat(folder).st_dev
    while waiting:
        try:
            with os.scandir(waiting.pop(0)) as names:
                for name in itertools.islice(names, _LOOKED_AT):
                    status = name.stat(follow_symlinks=False)
                    if status.st_dev != device:
                        continue
                    yield status
                    if stat.S_ISDIR(status.st_mode) and len(waiting) < _LOOKED_AT:
                        waiting.append(name.path)
        except OSError:
            continue
