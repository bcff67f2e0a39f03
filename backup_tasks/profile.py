"""Profiles: loading one, listing all, starting a new one. The keys are in profile_model.py."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from backup_tasks.errors import ProfileError, UsageError
from backup_tasks.paths import Paths
from backup_tasks.profile_files import MergedFiles, read_with_bases, show_path
from backup_tasks.profile_model import Profile
from backup_tasks.profile_problems import (
    LOADER_KEYS,
    ProfileProblem,
    explain_errors,
    find_literal_secrets,
    profile_error,
    secret_keys,
    unknown_key,
)
from backup_tasks.profile_template import render_new_profile
from backup_tasks.profile_trust import find_untrusted
from backup_tasks.profile_types import PROFILE_NAME
from backup_tasks.secret import Placed
from backup_tasks.stores.base import bucket_place, folder_place
from backup_tasks.text import one_line
from backup_tasks.toml_places import KeyPath

__all__ = [
    "Profile",
    "ProfileSummary",
    "describe_profiles",
    "list_profiles",
    "load_profile",
    "write_new_profile",
]

DEFAULT_PROFILE = "local"
PROFILE_VARIABLE = "BACKUP_PROFILE"
_ENDPOINT: KeyPath = ("store", "endpoint_url")
_NAME_RULE = "a name begins with a-z or 0-9 and goes on with a-z, 0-9, _ and -, at most 63 in all"


@dataclass(frozen=True, slots=True)
class ProfileSummary:
    """One line of `invoke profiles`. What a broken profile does not tell is empty.

    Attributes:
        store: the store's URL.
        schedule: the cron expression, or "".
        problem: the first problem, one line, or "".
        base_only: there is no [store]: others inherit from it, nothing runs with it.
        place: what tells the store from others, its server included.
        shares: the other profiles that have the same store.
    """

    name: str
    description: str = ""
    sources: tuple[str, ...] = ()
    store: str = ""
    schedule: str = ""
    problem: str = ""
    base_only: bool = False
    place: str = ""
    shares: tuple[str, ...] = ()


def load_profile(name: str, paths: Paths, *, environ: Mapping[str, str] | None = None) -> Profile:
    """Read a profile with all that it inherits, and check it whole.

    Args:
        name: of a file in `paths.profiles`, or a path (ends with .toml or holds a slash);
            "" means $BACKUP_PROFILE, else "local".
        environ: instead of the process's own environment, also for secrets.

    Raises ProfileError: no such profile; or every problem of it, one a line, as
        `profiles/prod.toml:12: store.url: ...`; TrustError when others may change the file or
        one that it inherits from.
    """
    env = os.environ if environ is None else environ
    path = _find_profile(name or env.get(PROFILE_VARIABLE, "") or DEFAULT_PROFILE, paths)
    merged = _read(path, paths)
    profile, problems = _check(merged, paths, environ)
    if profile is None or problems:
        raise profile_error(problems, paths)
    return profile


def list_profiles(paths: Paths) -> list[str]:
    """The names of the profiles there are, sorted. Other files in the folder are passed over."""
    try:
        files = [
            file for file in paths.profiles.iterdir() if file.suffix == ".toml" and file.is_file()
        ]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ProfileError(f"{paths.profiles}: cannot be read: {error.strerror}") from None
    return sorted(file.stem for file in files if PROFILE_NAME.fullmatch(file.stem))


def describe_profiles(paths: Paths) -> list[ProfileSummary]:
    """What each profile does, also of those that are broken; none of them raises."""
    found = [_describe(name, paths) for name in list_profiles(paths)]
    users: dict[str, list[str]] = {}
    for summary in found:
        users.setdefault(summary.place, []).append(summary.name)
    return [
        replace(one, shares=tuple(name for name in users[one.place] if name != one.name))
        if one.place
        else one
        for one in found
    ]


def write_new_profile(name: str, paths: Paths) -> Path:
    """Write a commented profile, readable by its owner alone, and return its path.

    Raises UsageError: a name that cannot be; a profile that is there already, which is left
        as it is; a folder that cannot be written to.
    """
    if not PROFILE_NAME.fullmatch(name):
        raise UsageError(f'"{one_line(name)}" cannot name a profile: {_NAME_RULE}')
    path = paths.profiles / f"{name}.toml"
    shown = show_path(path, paths)
    text = render_new_profile(name, has_base=(paths.profiles / "base.toml").is_file())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UsageError(f"{shown} is there already; edit it, or choose another name") from None
    except OSError as error:
        raise UsageError(f"{shown} cannot be written: {error.strerror}") from None
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        # Half a profile would stop the next try by its mere presence.
        with contextlib.suppress(OSError):
            path.unlink()
        raise UsageError(f"{shown} cannot be written: {error.strerror}") from None
    return path


def _find_profile(name: str, paths: Paths) -> Path:
    shown = one_line(name)
    if name.endswith(".toml") or "/" in name:
        path = Path(name).absolute()
        if not PROFILE_NAME.fullmatch(path.stem) or path.suffix != ".toml":
            raise ProfileError(f'"{shown}" is not the path of a profile NAME.toml: {_NAME_RULE}')
        if not path.is_file():
            raise ProfileError(f'there is no profile "{shown}"')
        return path
    known = list_profiles(paths)
    if name in known:
        return paths.profiles / f"{name}.toml"
    near = get_close_matches(name, known, n=1)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    there = f"there are: {', '.join(known)}" if known else "there are none"
    raise ProfileError(f'unknown profile "{shown}"{hint}; in {paths.profiles} {there}')


def _read(path: Path, paths: Paths) -> MergedFiles:
    return read_with_bases(path, paths, whole={*secret_keys(), _ENDPOINT})


def _check(
    merged: MergedFiles, paths: Paths, environ: Mapping[str, str] | None
) -> tuple[Profile | None, list[ProfileProblem]]:
    """The profile, or None, and all its problems."""
    problems = [unknown_key((key,), merged) for key in LOADER_KEYS if key in merged.values]
    problems += find_literal_secrets(merged, paths)
    own = merged.files[0]
    raw = _with_places(merged, paths, environ)
    raw |= {"name": own.path.stem, "path": own.path}
    if "inherit" in own.values:
        raw["inherit"] = own.values["inherit"]
    try:
        profile = Profile.model_validate(raw, context={"root": paths.root})
    except ValidationError as error:
        return None, [*problems, *explain_errors(error, merged)]
    return profile, [*problems, *find_untrusted(profile, merged)]


def _with_places(
    merged: MergedFiles, paths: Paths, environ: Mapping[str, str] | None
) -> dict[str, Any]:
    """The values, in which each reference knows where it was written, for its messages."""

    def wrap(value: Any, path: KeyPath) -> Any:
        if path in places:
            place = merged.place(path)
            where = f"{show_path(place.file, paths)}:{place.line}: {'.'.join(map(str, path))}"
            return Placed(value, where, place.file.parent, environ)
        if isinstance(value, dict):
            return {key: wrap(inner, (*path, key)) for key, inner in value.items()}
        return value

    places = {*secret_keys(), _ENDPOINT}
    return {key: wrap(value, (key,)) for key, value in merged.values.items()}


def _describe(name: str, paths: Paths) -> ProfileSummary:
    try:
        merged = _read(paths.profiles / f"{name}.toml", paths)
        base_only = "store" not in merged.values
        profile, problems = _check(merged, paths, None)
        if base_only:
            problems = [problem for problem in problems if not problem.is_missing]
        problem = str(profile_error(problems, paths)).partition("\n")[0]
    except ProfileError as error:
        return ProfileSummary(name, problem=str(error).partition("\n")[0])
    if profile is None:
        return _summary_of_values(name, merged.values, problem, base_only)
    return ProfileSummary(
        name,
        profile.description,
        profile.backup.sources,
        profile.store.url,
        profile.schedule.cron if profile.schedule else "",
        problem,
        place=_place(profile),
    )


def _place(profile: Profile) -> str:
    """As `Store.place`, without opening the store; "" where nothing tells it."""
    store = profile.store
    if store.kind == "directory":
        return folder_place(store.directory)
    try:
        return bucket_place(store.endpoint_url, store.url)
    except ProfileError:  # its environment variable is not set here
        return ""


def _summary_of_values(
    name: str, values: Mapping[str, Any], problem: str, base_only: bool
) -> ProfileSummary:
    def text(*path: str) -> str:
        value: Any = values
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value if isinstance(value, str) else ""

    description = text("description")
    if not description.isprintable():
        description = ""
    return ProfileSummary(name, description, problem=problem, base_only=base_only)
