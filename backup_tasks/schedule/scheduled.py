"""Finds the profiles that cron shall run, and the profile that a line in the crontab runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from backup_tasks.common.paths import Paths, find_paths
from backup_tasks.common.printable import printable
from backup_tasks.errors import ProfileError
from backup_tasks.schedule.scheduler import DueRun

if TYPE_CHECKING:
    from backup_tasks.profile.model import Profile


class Scheduled(Struct, frozen=True):
    """The profiles of the folder that concern cron.

    Attributes:
        profiles: the sound ones with [schedule]; or the one that was asked for.
        broken: name -> all its problems, a line each. Whether cron shall run it is unknown.
    """

    profiles: tuple[Profile, ...]
    broken: Mapping[str, str] = msgspec.field(default_factory=dict)


def find_scheduled(paths: Paths, profile: str = "") -> Scheduled:
    """All profiles that cron shall run; or only the named one, even without [schedule].

    Raises:
        ProfileError: the named profile is missing or broken; or the folder of the profiles is
            missing or unreadable.
    """
    from backup_tasks.profile.load import load_each, load_profile  # `cron-remove` needs neither

    if profile:
        return Scheduled((load_profile(profile, paths),))
    whole: list[Profile] = []
    broken: dict[str, str] = {}
    for name, found in load_each(paths):
        if isinstance(found, ProfileError):
            broken[name] = str(found)
        elif found.schedule:
            whole.append(found)
    return Scheduled(tuple(whole), broken)


def profiles_of(line: DueRun) -> Path:
    """The folder in which a run, started by this line, looks for its profile."""
    return Path(line.profiles) if line.profiles else find_paths({}).profiles


def look_up(line: DueRun, paths: Paths) -> Profile | ProfileError | None:
    """The profile that a line runs.

    Returns:
        The profile, or the error if it cannot be loaded. None only if its file is surely gone. If
        the folder is missing, or (unless the line names a path) holds no profile at all, its disk
        is probably not mounted: that is an error too.
    """
    from backup_tasks.profile.load import load_profile

    is_path = "/" in line.profile or line.profile.endswith(".toml")
    file = Path(line.profile) if is_path else profiles_of(line) / f"{line.profile}.toml"
    try:
        os.lstat(file)
    except FileNotFoundError:
        return _without_folder(file.parent, is_path=is_path)
    except OSError as error:
        return ProfileError(f"{printable(str(file))}: cannot be looked at: {error.strerror}")
    try:
        return load_profile(str(file), paths)
    except ProfileError as error:
        return error
    except OSError as error:  # a path on the way cannot be examined, such as a base's
        return ProfileError(f"{printable(str(file))}: cannot be read: {error.strerror}")


def _without_folder(folder: Path, *, is_path: bool) -> ProfileError | None:
    """The problem of a folder in which a profile is missing; None if the folder is all right.

    Args:
        is_path: the line names its profile by path, so that the folder may hold no other profile.
    """
    try:
        is_empty = not any(name.endswith(".toml") for name in os.listdir(folder))
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
    else:
        if is_path or not is_empty:
            return None
        why = "holds no profile at all"
    return ProfileError(f"the folder {printable(str(folder))} {why}; is its disk mounted?")
