"""Which profiles cron is to run, and what has become of the profile of a line in the crontab."""

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
    """The profiles of the folder, as far as cron is concerned.

    Attributes:
        profiles: whole ones with [schedule]; or the one that was asked for.
        broken: name -> all its problems, a line each. Nobody knows whether cron is to run it.
    """

    profiles: tuple[Profile, ...]
    broken: Mapping[str, str] = msgspec.field(default_factory=dict)


def find_scheduled(paths: Paths, profile: str = "") -> Scheduled:
    """All profiles that cron is to run; or this one, whether or not it has [schedule].

    Raises ProfileError: the one that is named is broken; the folder of the profiles is missing or
        unreadable.
    """
    from backup_tasks.profile.load import load_each, load_profile  # `cron-remove` needs none

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
    """The folder in which the run that a line starts looks for its profile."""
    return Path(line.profiles) if line.profiles else find_paths({}).profiles


def look_up(line: DueRun, paths: Paths) -> Profile | ProfileError | None:
    """The profile that a line runs.

    Returns:
        None only when its file is gone for certain. Where a whole folder is gone or holds no
        profile at all, its disk is probably not mounted: that is an error like any other.
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
    except OSError as error:  # of a name on the way, such as a base's
        return ProfileError(f"{printable(str(file))}: cannot be read: {error.strerror}")


def _without_folder(folder: Path, *, is_path: bool) -> ProfileError | None:
    """What is wrong with the folder in which a profile is missing, if anything."""
    try:
        is_empty = not any(name.endswith(".toml") for name in os.listdir(folder))
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
    else:
        if is_path or not is_empty:
            return None
        why = "holds no profile at all"
    return ProfileError(f"the folder {printable(str(folder))} {why}; is its disk mounted?")
