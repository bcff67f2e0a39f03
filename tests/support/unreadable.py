"""Files and folders that the system refuses to let us look at, as far as this process can tell."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

WAYS = ("stat", "open", "list")


def _path_of(name: Any, dir_fd: int | None) -> str:
    if isinstance(name, int):
        return os.readlink(f"/proc/self/fd/{name}")
    front = os.readlink(f"/proc/self/fd/{dir_fd}") if dir_fd is not None else os.getcwd()
    return os.path.join(front, os.fsdecode(name))


@contextlib.contextmanager
def refused(*paths: Path, number: int = errno.EACCES, way: str = "open") -> Iterator[None]:
    """Each of these paths fails with this errno: "stat", or "open", or "list", of a folder alone.

    What cannot be looked at can as little be opened, and what cannot be opened not be listed.
    """
    bad = {str(path) for path in paths}

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(name: Any, *rest: Any, **named: Any) -> Any:
            if _path_of(name, named.get("dir_fd")) in bad:
                raise OSError(number, os.strerror(number))
            return real(name, *rest, **named)

        return call

    class Found:
        """A name in a folder, as scandir gives it."""

        def __init__(self, entry: os.DirEntry[str], folder: str) -> None:
            self.name, self._entry, self._folder = entry.name, entry, folder

        def __getattr__(self, name: str) -> Any:
            return getattr(self._entry, name)

        def stat(self, **named: Any) -> os.stat_result:
            if f"{self._folder}/{self.name}" in bad:
                raise OSError(number, os.strerror(number))
            return self._entry.stat(**named)

    scan = failing(os.scandir)

    @contextlib.contextmanager
    def found_in(folder: int) -> Iterator[Iterator[Found]]:
        with scan(folder) as found:
            yield (Found(entry, _path_of(folder, None)) for entry in found)

    def scandir(folder: Any) -> Any:
        return found_in(folder) if isinstance(folder, int) else scan(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", scandir if way == "stat" else scan)
        if way != "list":
            patch.setattr(os, "open", failing(os.open))
        if way == "stat":
            patch.setattr(os, "stat", failing(os.stat))
            patch.setattr(os, "lstat", failing(os.lstat))
        yield


@contextlib.contextmanager
def bad_sectors(path: Path, *, start: int = 0, number: int = errno.EIO) -> Iterator[None]:
    """Reads of this file fail from that byte on."""
    real = os.preadv

    def failing(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(path):
            if offset >= start:
                raise OSError(number, os.strerror(number))
            buffers = [buffers[0][: start - offset]]
        return real(descriptor, buffers, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "preadv", failing)
        yield
