"""Loads one profile, lists all of them, starts a new one. The keys are in model.py."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace
from pydantic import ValidationError

from backup_tasks.common.paths import Paths
from backup_tasks.common.printable import one_line, printable
from backup_tasks.errors import ProfileError, UsageError
from backup_tasks.keys.secret import Placed
from backup_tasks.profile.files import MergedFiles, read_with_bases, show_path
from backup_tasks.profile.model import Profile
from backup_tasks.profile.problems import (
    LOADER_KEYS,
    ProfileProblem,
    explain_errors,
    find_literal_secrets,
    profile_error,
    secret_keys,
    unknown_key,
)
from backup_tasks.profile.template import render_new_profile
from backup_tasks.profile.trust import find_untrusted
from backup_tasks.tables.field_types import PROFILE_NAME

if TYPE_CHECKING:
    from backup_tasks.profile.toml_lines import KeyPath

__all__ = [
    "Profile",
    "ProfileSummary",
    "describe_profiles",
    "list_profiles",
    "load_each",
    "load_profile",
    "write_new_profile",
]

DEFAULT_PROFILE = "local"
PROFILE_VARIABLE = "BACKUP_PROFILE"
_ENDPOINT: KeyPath = ("store", "endpoint_url")
_NAME_RULE = "a name begins with a-z or 0-9 and goes on with a-z, 0-9, _ and -, at most 63 in all"


class ProfileSummary(Struct, frozen=True):
    """One line of `invoke profiles`. Unknown facts of a broken profile are empty.

    Attributes:
        store: the store's URL.
        schedule: the cron expression, or "".
        problem: the first problem, one line, or "".
        base_only: the profile has no [store]: others inherit from it, but it cannot be run.
        place: identifies the store among all others, its server included.
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
    """Read a profile with all that it inherits, and check it completely.

    Args:
        name: the name of a file in `paths.profiles`, or a path (ends with .toml or holds a
            slash); "" means $BACKUP_PROFILE, else "local".
        environ: replaces the process's own environment, also for secrets.

    Raises:
        ProfileError: there is no such profile; or all its problems, one a line, as
            `profiles/prod.toml:12: store.url: ...`.
        TrustError: others may change the file, or one that it inherits from.
    """
    env = os.environ if environ is None else environ
    path = find_profile(name or env.get(PROFILE_VARIABLE, "") or DEFAULT_PROFILE, paths)
    merged = _read(path, paths)
    profile, problems = _check(merged, paths, environ)
    if profile is None or problems:
        raise profile_error(problems, paths)
    return profile


def list_profiles(paths: Paths) -> list[str]:
    """The names of all profiles in the folder, sorted. Other files are passed over.

    An unreadable file and a dangling link count as profiles.

    Raises:
        ProfileError: the folder is missing or unreadable, so the profiles are unknown.
    """
    try:
        with os.scandir(paths.profiles) as found:
            names = [item.name for item in found if not item.is_dir(follow_symlinks=False)]
    except OSError as error:
        place = printable(str(paths.profiles))
        hint = "; is its disk mounted?" if isinstance(error, FileNotFoundError) else ""
        raise ProfileError(
            f"the folder of the profiles, {place}, cannot be read: {error.strerror}{hint}"
        ) from None
    stems = [name.removesuffix(".toml") for name in names if name.endswith(".toml")]
    return sorted(stem for stem in stems if PROFILE_NAME.fullmatch(stem))


def describe_profiles(paths: Paths) -> list[ProfileSummary]:
    """Summarize every profile, broken ones included.

    Raises:
        ProfileError: as `list_profiles`; a broken profile raises nothing.
    """
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


def load_each(paths: Paths) -> Iterator[tuple[str, Profile | ProfileError]]:
    """Yield each profile's name with the profile, or with the error that lists its problems.

    Sound profiles without [store], which others inherit from, are left out.

    Raises:
        ProfileError: as `list_profiles`; a broken profile raises nothing.
    """
    for name in list_profiles(paths):
        try:
            found = _examine(name, paths)
        except ProfileError as error:
            yield name, error
            continue
        if found.problems:
            yield name, profile_error(found.problems, paths)
        elif found.profile is not None:
            yield name, found.profile


def write_new_profile(name: str, paths: Paths) -> Path:
    """Write a commented profile, readable by its owner alone, and return its path.

    Raises:
        UsageError: the name is not valid; the profile exists already, and is left as it is; or
            the folder cannot be written to.
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
        # The next try would refuse to overwrite half a profile.
        with contextlib.suppress(OSError):
            path.unlink()
        raise UsageError(f"{shown} cannot be written: {error.strerror}") from None
    return path


def find_profile(name: str, paths: Paths) -> Path:
    """The file of the profile that an operator names.

    Raises:
        ProfileError: there is no such profile; for a mere name, says which there are.
    """
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


def keys_in_one() -> set[KeyPath]:
    """Keys with a single value, even if it is written as a table: `{ env = "NAME" }`."""
    return {*secret_keys(), _ENDPOINT}


def _read(path: Path, paths: Paths) -> MergedFiles:
    return read_with_bases(path, paths, whole=keys_in_one())


def _check(
    merged: MergedFiles, paths: Paths, environ: Mapping[str, str] | None
) -> tuple[Profile | None, list[ProfileProblem]]:
    """The profile, or None, and all its problems."""
    problems = [unknown_key((key,), merged) for key in LOADER_KEYS if key in merged.values]
    problems += find_literal_secrets(merged, paths)
    own = merged.files[0]
    raw = place_secrets(merged, paths, environ)
    raw |= {"name": own.path.stem, "path": own.path}
    if "inherit" in own.values:
        raw["inherit"] = own.values["inherit"]
    try:
        profile = Profile.model_validate(raw, context={"root": paths.root})
    except ValidationError as error:
        return None, [*problems, *explain_errors(error, merged)]
    return profile, [*problems, *find_untrusted(profile, merged)]


def place_secrets(
    merged: MergedFiles, paths: Paths, environ: Mapping[str, str] | None
) -> dict[str, Any]:
    """The merged values, those of `keys_in_one` as `Placed`, so that errors can name the place."""

    def wrap(value: Any, path: KeyPath) -> Any:
        if path in places:
            place = merged.place(path)
            where = f"{show_path(place.file, paths)}:{place.line}: {'.'.join(map(str, path))}"
            return Placed(value, where, place.file.parent, environ)
        if isinstance(value, dict):
            return {key: wrap(inner, (*path, key)) for key, inner in value.items()}
        return value

    places = keys_in_one()
    return {key: wrap(value, (key,)) for key, value in merged.values.items()}


class _Examined(Struct, frozen=True):
    """One file of the folder, read and checked.

    Attributes:
        profile: None if the file is broken, or is a base that cannot be run.
        problems: without missing keys if `base_only`: profiles that inherit add them.
        base_only: as in ProfileSummary.
    """

    merged: MergedFiles
    profile: Profile | None
    problems: list[ProfileProblem]
    base_only: bool


def _examine(name: str, paths: Paths) -> _Examined:
    """Read and check a profile of the folder.

    Raises:
        ProfileError: the profile's files cannot be read.
    """
    try:
        merged = _read(paths.profiles / f"{name}.toml", paths)
        profile, problems = _check(merged, paths, None)
    except OSError as error:  # a path on the way cannot be examined, such as a base's
        raise ProfileError(f"profile {name} cannot be read: {error.strerror}") from None
    base_only = "store" not in merged.values
    if base_only:
        problems = [problem for problem in problems if not problem.is_missing]
    return _Examined(merged, profile, problems, base_only)


def _describe(name: str, paths: Paths) -> ProfileSummary:
    try:
        found = _examine(name, paths)
    except ProfileError as error:
        return ProfileSummary(name, problem=str(error).partition("\n")[0])
    problem = str(profile_error(found.problems, paths)).partition("\n")[0]
    profile = found.profile
    if profile is None:
        return _summary_of_values(name, found.merged.values, problem, found.base_only)
    return ProfileSummary(
        name,
        profile.description,
        profile.backup.sources,
        profile.store.url,
        profile.schedule.cron if profile.schedule else "",
        problem,
        place=profile.store.place,
    )


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
