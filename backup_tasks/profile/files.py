"""Finds profile files, reads them and merges them along `inherit`; each key keeps its place."""

from __future__ import annotations

import contextlib
import os
import stat
import tomllib
from collections.abc import Collection, Mapping
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from backup_tasks.common.paths import Paths
from backup_tasks.errors import ProfileError
from backup_tasks.permissions.trusted_paths import open_trusted
from backup_tasks.tables.field_types import PROFILE_NAME

if TYPE_CHECKING:
    from backup_tasks.profile.toml_lines import KeyPath

_T = TypeVar("_T")


class Location(Struct, frozen=True):
    """A line of a file, counted from 1."""

    file: Path
    line: int


class ProfileFile(Struct, frozen=True, dict=True):
    """One file, before any merging.

    Attributes:
        mode: its permission bits when it was read.
        text: its content.
        values: its content parsed: plain dicts, lists, str, int, float, bool, dates.
    """

    path: Path
    mode: int
    text: str
    values: dict[str, Any]

    @cached_property
    def lines(self) -> dict[KeyPath, int]:
        """The line of each key, as `parse_toml` gives them.

        Computed only when a profile has a problem, since finding the lines takes longer than
        reading the values.
        """
        from backup_tasks.profile.toml_lines import parse_toml

        return parse_toml(self.text).lines

    def place(self, path: KeyPath) -> Location:
        """The place where this key is written, or else the nearest table around it."""
        return Location(self.path, _nearest(self.lines, path, 1))


class MergedFiles(Struct, dict=True):
    """A profile's file, merged with all files that it inherits from.

    Attributes:
        files: the profile's own file, then its base, then the base's base.
        values: the merged keys, without `inherit` and without inherited descriptions.
    """

    files: list[ProfileFile]
    values: dict[str, Any] = {}

    @cached_property
    def places(self) -> dict[KeyPath, Location]:
        """Each key -> the place of the value that won.

        If a shorter list replaced a longer one, places of the surplus elements stay; they are
        never asked for.
        """
        return {
            path: Location(file.path, line)
            for file in reversed(self.files)
            for path, line in file.lines.items()
        }

    def place(self, path: KeyPath) -> Location:
        """The place of the value that won, or else of the nearest table around it."""
        return _nearest(self.places, path, Location(self.files[0].path, 1))


def show_path(path: Path, paths: Paths) -> str:
    """The path as people would type it: relative to the project or working folder, if inside."""
    folders = [paths.root]
    with contextlib.suppress(FileNotFoundError):  # the folder may be gone, as after a restore
        folders.append(Path.cwd())
    for folder in folders:
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return str(path)


def read_profile_file(path: Path, paths: Paths) -> ProfileFile:
    """Read one file.

    Raises:
        ProfileError: the file is unreadable, not UTF-8 or not TOML; the last two with the line.
        TrustError: others than root and the running user may change the file, or a folder on the
            way to it.
    """
    shown = show_path(path, paths)
    try:
        with open(open_trusted(path), "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except OSError as error:
        raise ProfileError(f"{shown}: cannot be read: {error.strerror}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ProfileError(f"{shown}:{line}: is not UTF-8 text") from None
    return ProfileFile(path, mode, text, _parse_values(text, shown))


def _parse_values(text: str, shown: str) -> dict[str, Any]:
    """Parse TOML into plain values.

    Raises:
        ProfileError: the text is not TOML; with the line of the first fault.
    """
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        from backup_tasks.profile.toml_lines import TomlError, parse_toml

        try:
            return parse_toml(text).values  # tomlkit also knows TOML 1.1
        except TomlError as error:
            raise ProfileError(f"{shown}:{error.line}: {error.reason}") from None


def read_with_bases(path: Path, paths: Paths, whole: Collection[KeyPath]) -> MergedFiles:
    """Read a profile and the files that it inherits from, and merge them.

    Args:
        whole: keys whose tables replace the inherited table instead of being merged with it.

    Raises:
        ProfileError: as `read_profile_file`; or a base is missing, or the bases form a loop.
        TrustError: as `read_profile_file`.
    """
    files = [read_profile_file(path, paths)]
    _read_bases(files, paths)
    return _merge(files, whole)


def read_readable(path: Path, paths: Paths, whole: Collection[KeyPath]) -> MergedFiles:
    """As `read_with_bases`, but skip the bases from the first unreadable one on.

    Raises:
        ProfileError: the profile's own file cannot be read.
        TrustError: others may change the profile's own file.
    """
    files = [read_profile_file(path, paths)]
    with contextlib.suppress(ProfileError, OSError):
        _read_bases(files, paths)
    return _merge(files, whole)


def _read_bases(files: list[ProfileFile], paths: Paths) -> None:
    """Append the bases of the last file, nearest first.

    Raises:
        ProfileError: as `read_with_bases`.
        OSError: the path of a base cannot be examined.
    """
    while base := _find_base(files[-1], paths):
        known = [file.path.resolve() for file in files]
        if base.resolve() in known:
            names = " -> ".join(file.path.stem for file in files) + f" -> {base.stem}"
            raise _inherit_error(files[-1], f"goes round in a circle: {names}", paths)
        files.append(read_profile_file(base, paths))


def _merge(files: list[ProfileFile], whole: Collection[KeyPath]) -> MergedFiles:
    merged = MergedFiles(files)
    for file in reversed(files):
        _lay_over(merged, file, whole)
    for key in ("inherit", *(() if "description" in files[0].values else ("description",))):
        merged.values.pop(key, None)
    return merged


def _find_base(file: ProfileFile, paths: Paths) -> Path | None:
    name = file.values.get("inherit", "")
    if name == "":
        return None
    if not isinstance(name, str) or not PROFILE_NAME.fullmatch(name):
        raise _inherit_error(file, 'should be a profile\'s name, such as "base"', paths)
    for folder in (file.path.parent, paths.profiles):
        candidate = folder / f"{name}.toml"
        if candidate.is_file():
            return candidate
    raise _inherit_error(file, f'there is no profile "{name}" to inherit from', paths)


def _inherit_error(file: ProfileFile, reason: str, paths: Paths) -> ProfileError:
    place = file.place(("inherit",))
    return ProfileError(f"{show_path(place.file, paths)}:{place.line}: inherit: {reason}")


def _lay_over(merged: MergedFiles, file: ProfileFile, whole: Collection[KeyPath]) -> None:
    def lay(under: dict[str, Any], over: Mapping[str, Any], path: KeyPath) -> None:
        for key, value in over.items():
            here = (*path, key)
            old = under.get(key)
            if isinstance(old, dict) and isinstance(value, dict) and here not in whole:
                lay(old, value, here)
            else:
                under[key] = deepcopy(value)

    lay(merged.values, file.values, ())


def _nearest(lines: Mapping[KeyPath, _T], path: KeyPath, default: _T) -> _T:
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return default
