"""Stores in a folder, on a disk or another mount: `file:///folder/`, `file:./in/the/project/`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path

from backup_tasks.stores.base import Store, folder_place
from backup_tasks.stores.kind import ObeyedFile, StoreTable


class FileKind:
    """See `StoreKind`."""

    name = "file"
    scheme = "file://"
    examples = ("file:///folder/", "file:./folder/")
    url_help = (
        "file:///folder/ for a folder that is there, or file:./folder/ for one below the project's "
        "own"
    )
    table = StoreTable

    def fits(self, url: str) -> bool:
        """As `StoreKind.fits`."""
        return url.startswith("file:")

    def normalize(self, url: str, root: Path) -> str:
        """As `StoreKind.normalize`."""
        folder = _parse(url.removeprefix("file:"), root)
        return f"file://{str(folder).rstrip('/')}/"

    def open(self, settings: StoreTable, root: Path, check_place: Callable[[], None]) -> Store:
        """As `registry.open_store`."""
        from backup_tasks.stores.directory import DirectoryStore

        folder = self.folder(settings)
        return DirectoryStore(folder, settings.url, makeable_in=root, check_place=check_place)

    def place(self, settings: StoreTable) -> str:
        """As `Store.place`."""
        return folder_place(self.folder(settings))

    def folder(self, settings: StoreTable) -> Path:
        """The store's folder, absolute."""
        return Path(os.path.normpath("/" + settings.url.removeprefix("file://").strip("/")))

    def unpack_command(self, settings: StoreTable, name: str, unpack: str) -> str:
        """As `StoreKind.unpack_command`."""
        path = shlex.quote(str(self.folder(settings) / name))
        return f"tar xzf {path}" if unpack == "tar xz" else f"cat {path} | {unpack}"

    def obeyed_files(self) -> Iterable[ObeyedFile]:
        """No files: nothing outside of the profile decides about a folder."""
        return ()


KIND = FileKind()


def _parse(rest: str, root: Path) -> Path:
    path = str(root / rest) if rest.startswith("./") else rest.removeprefix("//")
    if not path.startswith("/"):
        raise ValueError(
            f"a file URL is file:///folder/ (three slashes) or file:./folder/, {_found(rest)}"
        )
    path = os.path.normpath("/" + path.strip("/"))
    if path == "/":
        raise ValueError("the store needs a folder of its own, not /")
    return Path(path)


def _found(rest: str) -> str:
    return 'not with "~"' if "~" in rest else f'found "file:{rest}"'
