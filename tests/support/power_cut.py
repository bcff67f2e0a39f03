"""What a disk would hold after a power cut: only what was synced, told from the calls that sync.

    disk = Disk(monkeypatch)
    write_note(file, {"a": 1})
    assert disk.after_power_cut(file) == file.read_bytes()

POSIX promises no more: bytes are there once their file was synced, a name once its folder was. A
name may be there before, by chance; so bytes must be synced before they get their name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_Inode = tuple[int, int]


class Disk:
    """Notes every sync of this process from now on.

    Attributes:
        named_too_early: names that files got although some of their bytes were not synced.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._bytes: dict[_Inode, bytes] = {}
        self._names: dict[_Inode, dict[str, _Inode]] = {}
        self.named_too_early: list[str] = []
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._noted(getattr(os, name)))
        for name in ("link", "rename", "replace"):
            monkeypatch.setattr(os, name, self._checked(getattr(os, name)))

    def after_power_cut(self, file: Path, below: Path | None = None) -> bytes | None:
        """What the file would hold if the power went now; None if nobody would find it.

        Args:
            below: a folder that was always there; those on the way from it must have been synced
                too. Default: the file's own.
        """
        for place in (file, *file.parents):
            if place == (below or file.parent):
                return self._bytes.get(_inode_of(os.stat(file)))
            names = self._names.get(_inode_of(os.stat(place.parent)), {})
            if names.get(place.name) != _inode_of(os.lstat(place)):
                return None
        raise ValueError(f"{file} does not lie below {below}")

    def _noted(self, really_sync: Callable[[int], None]) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            really_sync(descriptor)
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                with os.scandir(descriptor) as found:
                    names = {one.name: _inode_of(one.stat(follow_symlinks=False)) for one in found}
                self._names[_inode_of(status)] = names
            else:
                self._bytes[_inode_of(status)] = _content_of(f"/proc/self/fd/{descriptor}")

        return sync

    def _checked(self, really_name: Callable[..., None]) -> Callable[..., None]:
        def give_name(source: Any, target: Any, *arguments: Any, **options: Any) -> None:
            status = os.stat(source)
            synced = self._bytes.get(_inode_of(status), b"")
            if stat.S_ISREG(status.st_mode) and synced != _content_of(source):
                self.named_too_early.append(str(target))
            really_name(source, target, *arguments, **options)

        return give_name


def _inode_of(status: os.stat_result) -> _Inode:
    return status.st_dev, status.st_ino


def _content_of(file: str | Path) -> bytes:
    return Path(file).read_bytes()
