"""Histories of a tree: lists of changes between backups, played on a model or on a real folder.

A change names paths by number, so that hypothesis can shrink a history and it stays playable:
a change that makes no sense on the tree of the moment is passed over.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import strategies as st

from backup_tasks.archive import builder, entry_writer
from backup_tasks.chunks import compress
from backup_tasks.reuse import plan
from backup_tasks.snapshot import content_check

# Small enough that a few files fill many chunks; headers still fit in.
CHUNK = 8192
# Some of these stand in the way of others.
NAMES = (
    *("a", "b", "c", "d", "d/a", "d/b", "d/e/a", "f", "g/a", "g/b", "h", "i\udcff", "i\udcfe"),
    *(f"m{number}" for number in range(10)),
)
SIZES = (0, 10, 700, 2500, CHUNK - 1536, CHUNK - 1535, 2 * CHUNK, 5 * CHUNK + 77)
KINDS = (
    *("write", "write", "write", "replace", "edit", "grow", "shrink", "sneak", "touch", "chmod"),
    *("xattr", "rename", "link", "delete", "symlink", "fifo", "folder"),
)


@dataclass(frozen=True)
class Change:
    """One change: its kind, one or two paths as numbers, and a number to choose a size by."""

    kind: str
    path: int
    other: int
    size: int


@st.composite
def histories(draw: st.DrawFn, generations: int, most_changes: int = 5) -> list[list[Change]]:
    """Lists of changes, one list before each backup; the first fills the tree.

    What changes later are a few paths in a few ways, so that one path meets many changes.
    """
    every = range(len(NAMES))
    filled = draw(st.integers(0, len(NAMES)))
    fill = [
        Change(("link", "fifo", "symlink", *8 * ("write",))[-path % 11], path, 0, path % len(SIZES))
        for path in every[:filled]
    ]
    paths = st.sampled_from(draw(st.lists(st.sampled_from(every), min_size=2, max_size=4)))
    kinds = st.sampled_from(draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4)))
    sizes = st.sampled_from(range(len(SIZES)))
    later = st.lists(st.builds(Change, kinds, paths, paths, sizes), max_size=most_changes)
    return [fill, *draw(st.lists(later, min_size=1, max_size=generations - 1))]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut chunks of a few KiB, as every module reads the constant when it needs it."""
    use_small_chunks(monkeypatch)


def use_small_chunks(monkeypatch: pytest.MonkeyPatch, size: int = CHUNK) -> None:
    for module in (builder, entry_writer, compress, plan, content_check):
        monkeypatch.setattr(module, "CHUNK_BYTES", size)


class Tree(Protocol):
    """What changes are played on. Paths are relative and may hold surrogates."""

    def kind(self, path: str) -> str:
        """ "file", "folder", "other" or ""."""

    def size(self, path: str) -> int: ...
    def remove(self, path: str) -> None: ...
    def folder(self, path: str) -> None: ...
    def write(self, path: str, seed: int, start: int, length: int) -> None:
        """Put new bytes in place; a file that is not there is made."""

    def truncate(self, path: str, size: int) -> None: ...
    def sneak(self, path: str, seed: int) -> None:
        """New bytes, with the size and the mtime of before."""

    def touch(self, path: str, seed: int) -> None: ...
    def chmod(self, path: str, mode: int) -> None: ...
    def xattr(self, path: str, seed: int) -> None: ...
    def rename(self, path: str, other: str) -> None: ...
    def link(self, path: str, other: str) -> None: ...
    def symlink(self, path: str, target: str) -> None: ...
    def fifo(self, path: str) -> None: ...


_seeds = itertools.count(1)


def play(tree: Tree, change: Change) -> None:
    """Make one change, after what stands in its way is removed."""
    path, other, seed = NAMES[change.path], NAMES[change.other], next(_seeds)
    size = SIZES[change.size]
    is_file = tree.kind(path) == "file"
    match change.kind:
        case "write":
            _make_room(tree, path, keep_file=True)
            if tree.kind(path):
                tree.truncate(path, size)
            tree.write(path, seed, 0, size)
        case "replace":
            _make_room(tree, path)
            tree.write(path, seed, 0, size)
        case "edit" if is_file and tree.size(path):
            start = size % tree.size(path)
            tree.write(path, seed, start, min(50, tree.size(path) - start))
        case "grow" if is_file:
            tree.write(path, seed, tree.size(path), size)
        case "shrink" if is_file and tree.size(path) > size:
            tree.truncate(path, size)
        case "sneak" if is_file:
            tree.sneak(path, seed)
        case "touch" if tree.kind(path):
            tree.touch(path, seed)
        case "chmod" if is_file:
            tree.chmod(path, 0o400 + 0o200 * (seed % 2))
        case "xattr" if is_file:
            tree.xattr(path, seed)
        case "rename" | "link" if is_file and path != other and not _is_below(other, path):
            _make_room(tree, other)
            if tree.kind(path) == "file":  # it was not in the way itself
                (tree.rename if change.kind == "rename" else tree.link)(path, other)
        case "delete" if tree.kind(path):
            tree.remove(path)
        case "symlink":
            _make_room(tree, path)
            # Of each three two are such that GNU tar makes the link late.
            tree.symlink(path, ("to/", "/to/", "../to/")[change.size % 3] + str(seed))
        case "fifo":
            _make_room(tree, path)
            tree.fifo(path)
        case "folder" if tree.kind(path) != "folder":
            _make_room(tree, path)
            tree.folder(path)


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder + "/")


def _make_room(tree: Tree, path: str, *, keep_file: bool = False) -> None:
    """Make the folders above, and remove what has the name."""
    names = path.split("/")
    for end in range(1, len(names)):
        upper = "/".join(names[:end])
        if tree.kind(upper) not in ("", "folder"):
            tree.remove(upper)
        if not tree.kind(upper):
            tree.folder(upper)
    if tree.kind(path) and not (keep_file and tree.kind(path) == "file"):
        tree.remove(path)


def noise(seed: int, length: int) -> bytes:
    """Bytes that differ for each seed and do not compress."""
    return random.Random(seed).randbytes(length)


class RealTree:
    """A folder on the disk."""

    def __init__(self, top: Path) -> None:
        self.top = top
        top.mkdir(exist_ok=True)

    def kind(self, path: str) -> str:
        try:
            mode = os.lstat(self.top / path).st_mode
        except OSError:
            return ""
        if stat.S_ISREG(mode):
            return "file"
        return "folder" if stat.S_ISDIR(mode) else "other"

    def size(self, path: str) -> int:
        return os.lstat(self.top / path).st_size

    def remove(self, path: str) -> None:
        if self.kind(path) == "folder":
            shutil.rmtree(self.top / path)
        else:
            os.unlink(self.top / path)

    def folder(self, path: str) -> None:
        os.mkdir(self.top / path)

    def write(self, path: str, seed: int, start: int, length: int) -> None:
        descriptor = os.open(self.top / path, os.O_WRONLY | os.O_CREAT)
        try:
            os.pwrite(descriptor, noise(seed, length), start)
        finally:
            os.close(descriptor)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self.top / path, min(size, self.size(path)))

    def sneak(self, path: str, seed: int) -> None:
        before = os.lstat(self.top / path)
        self.write(path, seed, 0, before.st_size)
        os.utime(self.top / path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def touch(self, path: str, seed: int) -> None:
        moment = seed * 1_000_000_007
        os.utime(self.top / path, ns=(moment, moment), follow_symlinks=False)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self.top / path, mode)

    def xattr(self, path: str, seed: int) -> None:
        os.setxattr(self.top / path, "user.note", b"%d" % seed)

    def rename(self, path: str, other: str) -> None:
        os.rename(self.top / path, self.top / other)

    def link(self, path: str, other: str) -> None:
        os.link(self.top / path, self.top / other)

    def symlink(self, path: str, target: str) -> None:
        os.symlink(target, self.top / path)

    def fifo(self, path: str) -> None:
        os.mkfifo(self.top / path)


@dataclass(frozen=True)
class Twin:
    """All of one path that a restore must bring back; `names` are those of the same inode."""

    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    size: int
    device: int
    link: str
    content: bytes
    xattrs: tuple[tuple[str, bytes], ...]
    names: tuple[str, ...] = ()


def fingerprint(top: Path) -> dict[str, Twin]:
    """Every path below a folder, and itself as ".", with all that matters of it."""
    found: dict[str, Twin] = {}
    inodes: dict[tuple[int, int], list[str]] = {}
    for path in _paths_below(top):
        status = os.lstat(top / path)
        found[path] = _twin(top / path, status)
        if not stat.S_ISDIR(status.st_mode):
            inodes.setdefault((status.st_dev, status.st_ino), []).append(path)
    for names in inodes.values():
        if len(names) > 1:
            for name in names:
                found[name] = replace(found[name], names=tuple(sorted(names)))
    return found


def _paths_below(top: Path) -> Iterator[str]:
    yield "."
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            yield os.path.relpath(os.path.join(folder, name), top)


def _twin(path: Path, status: os.stat_result) -> Twin:
    is_file, is_link = stat.S_ISREG(status.st_mode), stat.S_ISLNK(status.st_mode)
    names = os.listxattr(path, follow_symlinks=False)
    return Twin(
        status.st_mode,
        (status.st_uid, status.st_gid),
        status.st_mtime_ns,
        status.st_size if is_file else 0,
        status.st_rdev,
        os.readlink(path) if is_link else "",
        path.read_bytes() if is_file else b"",
        tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(names)),
    )
