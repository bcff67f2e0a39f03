"""Compare a restored tree with the manifest by type, size, mode, owner, time and content."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from msgspec import Struct

from backup_tasks.common.progress import Progress
from backup_tasks.format.content_hash import ContentHash, content_hash
from backup_tasks.format.manifest import Entry, walk_key
from backup_tasks.format.tar_headers import Member
from backup_tasks.read.findings import Findings
from backup_tasks.snapshot.data_segments import extents
from backup_tasks.spools.folder_stack import OPEN_FOLDER, FolderStack, split_path
from backup_tasks.target.metadata import owner_of

OPEN_TO_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_PIECE_BYTES = 2**20
_FORMATS = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
}
_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID

FoundT = TypeVar("FoundT")


class Found(Struct, frozen=True):
    """One name of a tree.

    Attributes:
        path: relative to the tree's root.
        status: of the name itself; a symlink is not followed.
        folder: descriptor of the folder around it, valid until the next name is requested.
    """

    path: str
    status: os.stat_result
    folder: int

    @property
    def name(self) -> str:
        """The last name of the path."""
        return split_path(self.path)[1]


@dataclass(slots=True)
class TreeComparison:
    """How a restored tree compares with the manifest.

    Attributes:
        entries: number of entries that are just as the manifest says; files, bytes: regular files
            among them, and their content bytes.
        wrong: entries that are missing, too many or different.
        nodes: number of devices that were not looked for, because only root can make them.
    """

    entries: int = 0
    files: int = 0
    bytes: int = 0
    nodes: int = 0
    wrong: Findings = field(default_factory=Findings)


class TreeComparer:
    """Compares one restored tree.

    Args:
        root: descriptor of the tree's folder; the caller closes it.
        unrestored: path -> why the restore left it out.
        progress: counts bytes and files.
    """

    def __init__(self, root: int, unrestored: Mapping[str, str], progress: Progress) -> None:
        self._root = root
        self._unrestored = unrestored
        self._progress = progress
        self._is_root = os.geteuid() == 0
        self._links = FolderStack(root)
        self.result = TreeComparison()

    def compare(self, entries: Iterator[Entry]) -> TreeComparison:
        """Compare with these entries, which come in the order of a manifest."""
        with self._links:
            for entry, found in join(entries, walk_tree(self._root), lambda one: one.path):
                if entry is not None:
                    self._compare(entry, found)
                elif found is not None:
                    self.result.wrong.add(found.path, "is not in the manifest")
                self._progress.advance(0, 1)
        return self.result

    def _compare(self, entry: Entry, found: Found | None) -> None:
        if found is None and entry.type in ("char", "block") and not self._is_root:
            self.result.nodes += 1
            return
        if found is None:
            self.result.wrong.add(entry.name, self._unrestored.get(entry.name, "is missing"))
            return
        try:
            wrong = self._differences(entry, found)
        except OSError as error:
            wrong = [f"cannot be read: {error.strerror}"]
        if wrong:
            self.result.wrong.add(entry.name, f"differs in {', '.join(wrong)}")
            return
        self.result.entries += 1
        if entry.type == "file":
            self.result.files += 1
            self.result.bytes += entry.size

    def _differences(self, entry: Entry, found: Found) -> list[str]:
        status = found.status
        if entry.type == "hardlink":
            return [] if self._is_same_file(entry.link_name, status) else ["link"]
        if stat.S_IFMT(status.st_mode) != _FORMATS[entry.type]:
            return ["type"]
        owner = owner_of(_owner_member(entry)) if self._is_root else (status.st_uid, status.st_gid)
        pairs = {
            "size": (entry.size, status.st_size if entry.type == "file" else entry.size),
            "mode": (self._mode(entry, entry.mode), self._mode(entry, status.st_mode)),
            "time": (entry.mtime_ns, status.st_mtime_ns),
            "owner": (owner, (status.st_uid, status.st_gid)),
            "device": (entry.rdev, status.st_rdev if entry.type in ("char", "block") else 0),
        }
        wrong = [name for name, (expected, there) in pairs.items() if expected != there]
        if entry.type == "symlink" and os.readlink(found.name, dir_fd=found.folder) != (
            entry.link_name
        ):
            wrong.append("link")
        if entry.type == "file" and "size" not in wrong:
            is_sparse = entry.is_hashed_sparse
            there = hash_file(
                found.folder, found.name, self._progress, is_sparse=is_sparse, unlock=True
            )
            wrong += ["content"] * (there != entry.content_hash)
        return wrong

    def _mode(self, entry: Entry, mode: int) -> int:
        if entry.type == "symlink":
            return 0
        # Users other than root cannot give a file away, and do not get these bits either.
        return stat.S_IMODE(mode) & ~(0 if self._is_root else _SPECIAL_BITS)

    def _is_same_file(self, path: str, status: os.stat_result) -> bool:
        parent, name = split_path(path)
        try:
            other = os.stat(name, dir_fd=self._links.enter(parent), follow_symlinks=False)
        except OSError:
            return False
        return (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino)


def _owner_member(entry: Entry) -> Member:
    return Member(
        b"",
        entry.type,
        uid=entry.uid,
        gid=entry.gid,
        user=entry.user.encode("utf-8", "surrogateescape"),
        group=entry.group.encode("utf-8", "surrogateescape"),
    )


def hash_file(
    folder: int, name: str, progress: Progress, *, is_sparse: bool, unlock: bool = False
) -> str:
    """The hash of a regular file's content, hex.

    Args:
        is_sparse: whether to take the sparse hash.
        unlock: make the file readable first if need be; only for files of our own.

    Raises:
        OSError: the file cannot be read.
    """
    descriptor = _open_unlocked(folder, name, OPEN_TO_READ, unlock=unlock)
    try:
        size = os.fstat(descriptor).st_size
        digest = content_hash(size, is_sparse=is_sparse)
        parts = extents(descriptor, size) if is_sparse else [(0, size)]
        with memoryview(bytearray(_PIECE_BYTES)) as view:
            for offset, length in parts:
                _hash_run(descriptor, offset, length, digest, view, progress)
    finally:
        os.close(descriptor)
    return digest.finish()


def _hash_run(
    descriptor: int,
    start: int,
    length: int,
    digest: ContentHash,
    view: memoryview,
    progress: Progress,
) -> None:
    end = start + length
    while start < end:
        count = os.preadv(descriptor, [view[: end - start]], start)
        if not count:
            return
        digest.add(start, view[:count])
        progress.advance(count)
        start += count


def _open_unlocked(folder: int, name: str, flags: int, *, unlock: bool) -> int:
    """Open a name; with `unlock`, if need be, first give its owner, who is us, all rights."""
    try:
        return os.open(name, flags, dir_fd=folder)
    except PermissionError:
        if not unlock:
            raise
        os.chmod(name, stat.S_IRWXU, dir_fd=folder)
        return os.open(name, flags, dir_fd=folder)


def walk_tree(root: int) -> Iterator[Found]:
    """Everything below a folder of our own, in the order of a manifest.

    Symlinks are not followed. If a folder's mode closes it to its owner, its mode is changed, after
    its status was read.
    """
    levels = [(os.dup(root), "", _names(root))]
    try:
        while levels:
            folder, path, names = levels[-1]
            if not names:
                os.close(levels.pop()[0])
                continue
            name = names.pop()
            below = f"{path}/{name}" if path else name
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            yield Found(below, status, folder)
            if stat.S_ISDIR(status.st_mode):
                descriptor = _open_unlocked(folder, name, OPEN_FOLDER, unlock=True)
                levels.append((descriptor, below, _names(descriptor)))
    finally:
        for folder, _, _ in levels:
            os.close(folder)


def _names(folder: int) -> list[str]:
    return sorted(os.listdir(folder), key=os.fsencode, reverse=True)


def join(
    entries: Iterator[Entry], found: Iterator[FoundT], path_of: Callable[[FoundT], str]
) -> Iterator[tuple[Entry | None, FoundT | None]]:
    """Pair two streams, both in the order of a walk, by path; None where one lacks the path."""
    entry, other = next(entries, None), next(found, None)
    while entry is not None or other is not None:
        left = entry.walk_key if entry is not None else None
        right = walk_key(path_of(other)) if other is not None else None
        if right is None or (left is not None and left < right):
            yield entry, None
            entry = next(entries, None)
        elif left is None or right < left:
            yield None, other
            other = next(found, None)
        else:
            yield entry, other
            entry, other = next(entries, None), next(found, None)
