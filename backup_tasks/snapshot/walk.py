"""Walks the sources depth first and gives an entry for each file and folder.

A folder comes before its names, and these are sorted as bytes. Folders above a source are entries
too, so that a restored `/home/anna` lies in a `/home` with its true mode and owner.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Protocol

from msgspec import Struct

from backup_tasks.common.gitignore import PathPatterns
from backup_tasks.format.limits import (
    ALL_LONG_PATHS_BYTES,
    LONG_PATH_BYTES,
    PATH_BYTES,
    leaves_no_room,
    within_time,
)
from backup_tasks.format.manifest import MANIFEST_PATH, Entry, EntryType, name_fields
from backup_tasks.snapshot.mount_points import data_mount_of
from backup_tasks.snapshot.source_tree import GONE, SourceNode
from backup_tasks.snapshot.stat_entry import entry_of
from backup_tasks.spools.folder_names import sorted_names
from backup_tasks.spools.folder_stack import OPEN_FOLDER, allow_deep_folders
from backup_tasks.spools.paths import PathSpool

# Stands in a folder's entry until its extended attributes are read. Most folders have none, and
# need not be opened a second time.
UNREAD_XATTRS = "unread"
_CLOSED = "what lies in it, and in any other such folder, is not stored"
_NO_SUCH_TIME = "its time is not of the years 1677 to 2554; stored as the nearest that is"
# The first names of a folder, up to this many, are looked at as they are found.
_LOOKED_AT = 2**12
_SHOWN_MARKED = 20
_KINDS: dict[int, EntryType] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}


class WalkRules(Struct, frozen=True):
    """What a walk leaves out.

    Attributes:
        excludes: patterns on paths.
        exclude_caches: skip the content of folders tagged by CACHEDIR.TAG.
        exclude_if_present: names whose presence excludes the folder that holds them.
        one_file_system: stay on the file system of each source.
        skip: paths to leave out whole, such as the folder in which the archives lie.
        watched: folders for which the walk notes whether it entered them; leaves nothing out.
    """

    excludes: PathPatterns
    exclude_caches: bool = False
    exclude_if_present: tuple[str, ...] = ()
    one_file_system: bool = False
    skip: frozenset[str] = frozenset({MANIFEST_PATH})
    watched: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Level:
    """One open folder of the walk, with the names in it that are still to come.

    A name's path is the first `front` characters of the walk's own `_front`, and the name. A
    string of its own in each level would take memory by the square of their number.
    """

    descriptor: int
    front: int
    node: SourceNode | None
    whole: bool
    device: int
    names: Iterator[str]
    statuses: dict[str, os.stat_result]


class Unread(Struct, frozen=True):
    """A name that the walk found but could not look at, or into.

    Attributes:
        path: the path of the name.
        error: the system's error.
        node: its node in the tree of sources, if it is a source or lies on the way to one.
        whole: everything below it belongs to the backup, not just the paths that `node` leads to.
        is_limit: it lies deeper than this run can go.
    """

    path: str
    error: OSError
    node: SourceNode | None = None
    whole: bool = True
    is_limit: bool = False

    @property
    def is_source(self) -> bool:
        """Whether the name is a source itself, or a folder on the way to one."""
        return self.node is not None

    def belongs(self, names: Sequence[str]) -> bool:
        """Whether the path of these names, below this one, belongs to the backup."""
        return self.whole or (self.node is not None and self.node.leads_to(names))

    def is_named(self, names: Sequence[str]) -> bool:
        """Whether these names lead to a source, or to a folder on the way to one."""
        node = self.node
        for name in names:
            node = node.names.get(name) if node is not None else None
        return node is not None


class PreviousVersions(Protocol):
    """Finds the previous backup's entries for paths that the walk cannot read."""

    def of(self, unread: Unread) -> Iterator[Entry]:
        """Report the path; then give the earlier entries that take its place, of the path itself
        and below it, in the order of a walk, each with its `chunk`. Call in the order of a walk."""

    def give_up(self) -> None:
        """Say that the entry given last cannot be used after all."""


class Walk:
    """One pass over the sources.

    Args:
        tree: from `plan_sources`.
        rules: what to leave out.
        report: called with (path, reason) for everything that should be in the backup but cannot
            be stored as it is.
        last: gives earlier versions of unreadable paths; without it, these are reported and
            left out.

    Attributes:
        sockets: number of sockets met; they exist only while a program listens, and are
            not stored.
        marked: number of folders left out because of a marker.
        marked_first: paths of the first of these folders.
        ignored_markers: paths of markers in a source's own folder; if they were obeyed, any user
            who may write there could leave out the whole source.
        entered: watched folder -> the mount on which it lay when the walk entered it, from
            `data_mount_of`. Only folders whose whole content belongs to the backup and whose names
            could be read. The mount may change later: disks come up, and autofs unmounts idle
            file systems.
    """

    def __init__(
        self,
        tree: SourceNode,
        rules: WalkRules,
        report: Callable[[str, str], None],
        last: PreviousVersions | None = None,
    ) -> None:
        self._tree = tree
        self._last = last
        # The name that could not be looked at just now; its earlier version takes its place.
        self._unread: Unread | None = None
        self._carried_links: dict[int, int] = {}
        self._rules = rules
        # Read for every entry.
        self._skip, self._has_patterns = rules.skip, not rules.excludes.is_empty
        self._report = report
        # For files with several names: `_one_file` -> the place of the first path in the spool.
        # They may be many, and have long paths.
        self._first_links: dict[int, int] = {}
        self._first_paths = PathSpool()
        self._most_levels = 0
        self._room_for_long_paths = ALL_LONG_PATHS_BYTES
        self._told: set[str] = set()
        self._front = ""
        self.sockets = 0
        self.marked = 0
        self.marked_first: list[str] = []
        self.ignored_markers: list[str] = []
        self.entered: dict[str, str] = {}

    def entries(self) -> Iterator[Entry]:
        """Every entry, with `chunk` not yet set, and a folder's `xattrs` "" or UNREAD_XATTRS."""
        self._most_levels = allow_deep_folders()
        levels: list[_Level] = []
        top = os.open("/", OPEN_FOLDER)
        try:
            levels.append(self._open_level(top, "", self._tree, os.fstat(top)))
            while levels:
                level = levels[-1]
                name = next(level.names, None)
                if name is None:
                    os.close(levels.pop().descriptor)
                    if levels:
                        self._front = self._front[: levels[-1].front]
                    continue
                entry = self._visit(level, name, levels)
                if self._unread is not None:
                    yield from self._last_version(self._unread, entry, level.device)
                    self._unread = None
                elif entry is not None:
                    yield entry
        finally:
            for level in levels:
                os.close(level.descriptor)
            self._first_paths.close()

    def _visit(self, level: _Level, name: str, levels: list[_Level]) -> Entry | None:
        """The entry of a name, or None. Puts a folder that is to be walked on `levels`."""
        path = self._front + name
        node = level.node.names.get(name) if level.node else None
        try:
            status = level.statuses.pop(name, None) or os.stat(
                name, dir_fd=level.descriptor, follow_symlinks=False
            )
        except OSError as error:
            if path not in self._rules.skip and not self._is_excluded(path, node):
                self._note_unread(path, error, level, node)
            return None
        is_folder = stat.S_ISDIR(status.st_mode)
        if path in self._skip:
            return None
        if node is None and self._has_patterns and self._rules.excludes.match(path, is_folder):
            return None
        if not is_folder:
            if node is not None and node.whole and stat.S_ISLNK(status.st_mode):
                # Sources are resolved paths: only a loop of symlinks leaves a symlink here.
                self._note_unread(path, OSError(errno.ELOOP, os.strerror(errno.ELOOP)), level, node)
                return None
            return self._leaf(level, name, path, status)
        crosses = self._rules.one_file_system and status.st_dev != level.device
        if crosses and level.whole and node is None:
            # The mount point itself is kept, so that it is there to mount on again.
            entry = entry_of(path, "dir", status)
            entry.xattrs = UNREAD_XATTRS
            return entry
        is_far = len(path) > LONG_PATH_BYTES or len(levels) > self._most_levels
        if is_far and (reason := self._why_closed(path, len(levels))):
            if self._last is not None:
                # An earlier run may have had a higher limit.
                told = OSError(errno.EMFILE, f"{_CLOSED}: {reason}")
                self._unread = Unread(path, told, node, is_limit=True)
            else:
                self._tell_closed(path, reason)
            entry = entry_of(path, "dir", status)
            entry.xattrs = UNREAD_XATTRS
            return entry
        entry, below = self._folder(level, name, path, status, node, crosses)
        if below is not None:
            levels.append(below)
        return entry

    def _is_excluded(self, path: str, node: SourceNode | None) -> bool:
        """Whether a name of unknown type is left out, be it a folder or a file."""
        excludes = self._rules.excludes
        return node is None and (excludes.match(path, True) or excludes.match(path, False))

    def _note_unread(
        self, path: str, error: OSError, level: _Level, node: SourceNode | None
    ) -> None:
        """Note a name that cannot be looked at, or report one that is gone just now."""
        if self._last is None or error.errno in GONE:
            self._report(path, error.strerror or str(error))
        else:
            whole = level.whole or (node is not None and node.whole)
            self._unread = Unread(path, error, node, whole)

    def _last_version(self, unread: Unread, entry: Entry | None, device: int) -> Iterator[Entry]:
        """The entries that stand for an unreadable path: earlier ones, or today's if there is none.

        Args:
            entry: today's entry of the path itself, as far as it is known.
            device: the device of the folder in which the path lies.
        """
        assert self._last is not None
        for old in self._last.of(unread):
            if old.name == unread.path:
                entry = None
            elif entry is not None:
                yield entry
                entry = None
            if old.nlink > 1 and not self._is_linked(old, device):
                continue
            yield old
        if entry is not None:
            yield entry

    def _is_linked(self, old: Entry, device: int) -> bool:
        """Whether an earlier entry of a file with several names still holds.

        A hardlink holds if its file is an earlier entry too, or still is the same file under
        the same path.
        """
        own = _one_inode(old.uid, old.device, old.inode)
        if old.type != "hardlink":
            self._carried_links[own] = self._first_paths.add(old.name)
            return True
        place = self._carried_links.get(own, -1)
        for one_device in (old.device, device):
            if place < 0:
                place = self._first_links.get(_one_inode(old.uid, one_device, old.inode), -1)
        if place >= 0 and self._first_paths.at(place) == old.link_name:
            return True
        assert self._last is not None
        self._last.give_up()
        return False

    def _why_closed(self, path: str, depth: int) -> str:
        """Why nothing below this folder can be stored, or ""."""
        if leaves_no_room(path):
            return f"an archive holds no paths of more than {PATH_BYTES // 1024} KiB"
        if depth > self._most_levels:
            levels = f"{depth - 1:,} folders deep"
            return f"it lies {levels}, and each takes an open file (raise ulimit -H -n)"
        return ""

    def _tell_closed(self, path: str, reason: str) -> None:
        """Report only the first folder for each reason: paths so long would fill memory and log."""
        if reason not in self._told:
            self._told.add(reason)
            self._report(path, f"{_CLOSED}: {reason}")

    def _within_room(self, folder: str, names: Iterable[str]) -> Iterator[str]:
        """The names, until their long paths would be too much for the manifest."""
        length = len(os.fsencode(folder))
        for name in names:
            if length > LONG_PATH_BYTES:
                self._room_for_long_paths -= length
            if self._room_for_long_paths < 0:
                return
            yield name

    def _had_room(self, folder: str) -> bool:
        """Whether all names were within the room; reports the folder if not."""
        if self._room_for_long_paths >= 0:
            return True
        self._room_for_long_paths = 0
        self._tell_closed(folder, "paths longer than 4,096 bytes take more than 2 GiB all together")
        return False

    def _leaf(self, level: _Level, name: str, path: str, status: os.stat_result) -> Entry | None:
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            self.sockets += 1
            return None
        entry = entry_of(path, kind, status)
        if kind == "file" and status.st_nlink == 1:
            return entry
        if entry.mtime_ns != status.st_mtime_ns:
            self._report(path, _NO_SUCH_TIME)
        one_file = _one_file(status)
        if one_file in self._first_links:
            entry.type = "hardlink"
            entry.size = entry.rdev = entry.span = 0
            entry.mtime_ns = within_time(entry.mtime_ns)
            entry.link, entry.link_b64 = name_fields(
                self._first_paths.at(self._first_links[one_file])
            )
            return entry
        if kind == "symlink":
            try:
                target = os.readlink(name, dir_fd=level.descriptor)
            except OSError as error:
                self._note_unread(path, error, level, None)
                return None
            entry.link, entry.link_b64 = name_fields(target)
        if status.st_nlink > 1:
            self._first_links[one_file] = self._first_paths.add(path)
        return entry

    def _folder(
        self,
        level: _Level,
        name: str,
        path: str,
        status: os.stat_result,
        node: SourceNode | None,
        crosses: bool,
    ) -> tuple[Entry, _Level | None]:
        entry = entry_of(path, "dir", status)
        entry.xattrs = UNREAD_XATTRS
        if entry.mtime_ns != status.st_mtime_ns:
            self._report(path, _NO_SUCH_TIME)
        whole = (node is not None and node.whole) or (level.whole and not crosses)
        if not whole and node is None:
            return entry, None
        try:
            descriptor = os.open(name, OPEN_FOLDER, dir_fd=level.descriptor)
        except OSError as error:
            self._note_unread(path, error, level, node)
            return entry, None
        if not _may_have_xattrs(descriptor):
            entry.xattrs = ""
        try:
            below = self._open_level(descriptor, path, node, status, whole=whole)
        except OSError as error:
            os.close(descriptor)
            self._note_unread(path, error, level, node)
            return entry, None
        if level.whole and node is None and not crosses:
            below.device = level.device
        return entry, below

    def _open_level(
        self,
        descriptor: int,
        path: str,
        node: SourceNode | None,
        status: os.stat_result,
        *,
        whole: bool | None = None,
    ) -> _Level:
        front = f"{path}/" if path else ""
        forced = set(node.names) if node else set()
        is_whole = (node.whole if node else False) if whole is None else whole
        statuses: dict[str, os.stat_result] = {}
        names: Iterable[str] = forced
        marker = ""
        if is_whole:
            names = found = _look_at(descriptor, statuses)
            is_large = not isinstance(names, list)
            there: Container[str] = _LargeFolder(descriptor) if is_large else statuses
            marker = self._marker(descriptor, there)
            if marker and status.st_mode & stat.S_ISVTX and _is_foreign(marker, descriptor, status):
                marker = ""
            if marker and node is not None and node.whole:
                self.ignored_markers.append(f"{front}{marker}")
                marker = ""
            if marker:
                # The marker alone, so that the reason is kept too.
                self._note_marked(path)
                names = {marker} | forced
            elif forced or is_large:
                names = chain(forced, (name for name in found if name not in forced))
        if len(path) > LONG_PATH_BYTES // 4:
            names = self._within_room(path, names)
        ordered = sorted_names(names)
        if not self._had_room(path):
            ordered, statuses = iter(()), {}
        if is_whole and not marker and path in self._rules.watched:
            self.entered[path] = data_mount_of(descriptor)
        self._front = front
        return _Level(descriptor, len(front), node, is_whole, status.st_dev, ordered, statuses)

    def _marker(self, descriptor: int, names: Container[str]) -> str:
        """The name that marks this folder's content as left out, or ""."""
        rules = self._rules
        for marker in rules.exclude_if_present:
            if marker in names:
                return marker
        if rules.exclude_caches and "CACHEDIR.TAG" in names and _is_cache(descriptor):
            return "CACHEDIR.TAG"
        return ""

    def _note_marked(self, path: str) -> None:
        self.marked += 1
        if len(self.marked_first) < _SHOWN_MARKED:
            self.marked_first.append(path)


def _look_at(folder: int, statuses: dict[str, os.stat_result]) -> list[str] | Iterator[str]:
    """The names in a folder, as a list unless there are many; puts `stat` of each into `statuses`.

    Of a large folder only the first names get their `stat` here; the others get it later, since
    all together would take ten times the memory of the names.
    """
    unseen: list[str] = []
    with os.scandir(folder) as found:
        for item in islice(found, _LOOKED_AT):
            try:
                statuses[item.name] = item.stat(follow_symlinks=False)
            except OSError:  # met again, and reported, when its turn comes
                unseen.append(item.name)
    names = [*statuses, *unseen]
    return names if len(names) < _LOOKED_AT else _all_names(folder)


def _all_names(folder: int) -> Iterator[str]:
    with os.scandir(folder) as found:
        for item in found:
            yield item.name


def _one_file(status: os.stat_result) -> int:
    """A number that all names of a file share, and no two files. The owner is part of it: a freed
    inode that another user has now is another file under the same number."""
    return _one_inode(status.st_uid, status.st_dev, status.st_ino)


def _one_inode(uid: int, device: int, inode: int) -> int:
    return (uid << 64 | device) << 64 | inode


class _LargeFolder(Container[str]):
    """Says whether a name is in a large folder, whose names are not kept in memory."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __contains__(self, name: object) -> bool:
        try:
            os.stat(str(name), dir_fd=self._descriptor, follow_symlinks=False)
        except OSError:
            return False
        return True


# https://bford.info/cachedir/ : the tag must begin with these bytes.
_CACHE_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"


def _is_cache(folder: int) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        tag = os.open("CACHEDIR.TAG", flags, dir_fd=folder)
    except OSError:
        return False
    try:
        is_file = stat.S_ISREG(os.fstat(tag).st_mode)
        return is_file and os.read(tag, len(_CACHE_SIGNATURE)) == _CACHE_SIGNATURE
    except OSError:
        return False
    finally:
        os.close(tag)


def _is_foreign(marker: str, folder: int, status: os.stat_result) -> bool:
    """Whether neither root nor the folder's owner owns a marker.

    In a sticky folder such as /tmp, users may not remove others' files; so they may not leave
    them out of the backup either.
    """
    try:
        owner = os.stat(marker, dir_fd=folder, follow_symlinks=False).st_uid
    except OSError:
        return True
    return owner not in (0, status.st_uid)


def _may_have_xattrs(folder: int) -> bool:
    try:
        return bool(os.listxattr(folder))
    except OSError as error:
        return error.errno != errno.ENOTSUP
