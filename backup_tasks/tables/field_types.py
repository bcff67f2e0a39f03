"""The types of a profile's values: which are accepted, and the error texts for all others.

Each validator raises ValueError with a text that reads well after `profiles/x.toml:3: key: `.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainValidator, ValidationInfo
from pydantic.json_schema import WithJsonSchema

from backup_tasks.common.paths import PROJECT_ROOT
from backup_tasks.common.units import parse_period

PROFILE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def project_folder(info: ValidationInfo) -> Path:
    """The project's own folder, where `./` begins."""
    return Path(info.context["root"]) if info.context else PROJECT_ROOT


def listed(value: object) -> object:
    """A TOML list as a tuple, which strict validation needs and nobody can change later."""
    return tuple(value) if isinstance(value, list) else value


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds a line break or another character that cannot be printed")
    return text


def _profile_name(name: str) -> str:
    if not PROFILE_NAME.fullmatch(name):
        raise ValueError("should be a profile's name, without folder and .toml")
    return name


def _period(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        raise ValueError('should be a duration in quotes such as "30d" or "12h"')
    try:
        return parse_period(value)
    except OverflowError:
        raise ValueError(f'"{value}" is longer than time itself') from None


def _share(text: str) -> str:
    found = re.fullmatch(r"(\d{1,3})\s*%", text.strip())
    if found is None or not 1 <= int(found[1]) <= 100:
        raise ValueError('should be a share such as "50%", from "1%" to "100%"')
    return f"{int(found[1])}%"


def _whole_days(period: timedelta) -> timedelta:
    if period < timedelta(days=1) or period % timedelta(days=1):
        raise ValueError('should be whole days, at least "1d"; S3 counts nothing smaller')
    return period


def _positive(period: timedelta) -> timedelta:
    if not period:
        raise ValueError("should be longer than nothing")
    return period


def _optional_name(name: str) -> str:
    return _profile_name(name) if name else ""


def _optional_path(path: str, info: ValidationInfo) -> str:
    return _local_path(path, info) if path else ""


def _local_path(path: str, info: ValidationInfo) -> str:
    if "\0" in path:
        raise ValueError("holds a NUL byte, which no path can")
    if path.startswith("~"):
        raise ValueError(f'"{path}" should be a full path; "~" is not expanded')
    if path == "." or path.startswith("./"):
        return os.path.normpath(project_folder(info) / path)
    if not path.startswith("/"):
        raise ValueError(f'"{path}" should begin with / (or ./ for the project\'s own folder)')
    # normpath keeps two leading slashes, since POSIX leaves their meaning to each system.
    return os.path.normpath("/" + path.lstrip("/"))


def _no_repeats(paths: tuple[str, ...]) -> tuple[str, ...]:
    for index, path in enumerate(paths):
        if path in paths[:index]:
            raise ValueError(f'"{path}" is listed twice')
    return paths


def _not_empty(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise ValueError("needs at least one entry")
    return values


def _recipients(value: object) -> tuple[str, ...]:
    """The public keys, sorted, without comments. No error shows a key: it may be a private one."""
    from backup_tasks.keys.recipients import normalize_recipient

    if not isinstance(value, list | tuple) or not all(isinstance(key, str) for key in value):
        raise ValueError('should be a list of public keys, such as ["age1..."]')
    if not value:
        raise ValueError(
            "needs at least one public key; `invoke keygen` makes one. To store backups that are "
            "NOT encrypted, leave out the table [encryption]"
        )
    found: list[str] = []
    for number, key in enumerate(value, 1):
        try:
            plain = normalize_recipient(key)
        except ValueError as error:
            raise ValueError(f"entry {number} {error}") from None
        if plain in found:
            raise ValueError(f"entry {number} is listed twice")
        found.append(plain)
    return tuple(sorted(found))


def _identity_file(value: object, info: ValidationInfo) -> str:
    from backup_tasks.keys.recipients import is_private_key

    if not isinstance(value, str):
        raise ValueError("should be the path of a file, in quotes")
    if is_private_key(value):
        raise ValueError(
            "is a private key, not the path of the file that holds it. Take it out of here, and "
            "make a new key if others could read it"
        )
    return _optional_path(value, info)


def _pattern(pattern: str, info: ValidationInfo) -> str:
    _check_pattern(pattern)
    negation = "!" if pattern.startswith("!") else ""
    rest = pattern.removeprefix("!")
    if not rest.startswith("./"):
        return pattern
    # gitignore never matches `./`; here it means the project's own folder, as in sources.
    root = re.sub(r"([\\*?\[\]])", r"\\\1", str(project_folder(info)).rstrip("/"))
    return f"{negation}{root}/{rest.removeprefix('./')}"


def _check_pattern(pattern: str) -> None:
    import warnings

    from pathspec import GitIgnoreSpec

    if pattern.startswith("#"):
        raise ValueError(f'"{pattern}" is a comment to gitignore; write "\\\\{pattern}"')
    try:
        with warnings.catch_warnings():
            # re warns of nested sets such as [[:alpha:]], which pathspec does not know.
            warnings.simplefilter("error")
            compiled = GitIgnoreSpec.from_lines([pattern]).patterns
    except (ValueError, re.error, Warning):
        compiled = []
    if not compiled or "\0" in pattern or any(part.include is None for part in compiled):
        raise ValueError(f'"{pattern}" is not a gitignore pattern that can match a file')


def _file_name(name: str) -> str:
    if not name or "/" in name or "\0" in name or name in {".", ".."}:
        raise ValueError(f'"{name}" should be the name of a file, without a folder')
    return name


def _command(command: tuple[str, ...]) -> tuple[str, ...]:
    if command and (not command[0] or any("\0" in word for word in command)):
        raise ValueError('should be a list such as ["test", "-s", "etc/passwd"], the program first')
    return command


def _zone_name(name: str) -> str:
    from backup_tasks.common.time_zones import find_zone

    if name:
        find_zone(name)
    return name


def _host(host: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", host):
        raise ValueError(f'"{host}" should be a host\'s name or address, without port')
    return host


def _address(text: str) -> str:
    from email.utils import parseaddr

    _printable(text)
    user, at, domain = parseaddr(text)[1].rpartition("@")
    if not (user and at and domain) or "," in text or re.search(r"[\s@]", user + domain):
        raise ValueError(f'"{text}" should be one email address')
    return text


def _public_keys(value: object) -> object:
    """One key or a list of keys as a tuple; each must be in its only spelling.

    Raises:
        ValueError: a text is no public key; it is not shown, since it may be a private key.
    """
    from backup_tasks.keys.signing import parse_public_key

    keys = listed([value] if isinstance(value, str) else value)
    for key in keys if isinstance(keys, tuple) else ():
        if isinstance(key, str):
            try:
                parse_public_key(key)
            except ValueError as error:
                raise ValueError(f"holds {error}; `invoke signing-key` prints one") from None
    return keys


_PERIOD_SCHEMA: dict[str, Any] = {
    "type": "string",
    "pattern": r"^\s*(\d+(\.\d+)?\s*[smhdwySMHDWY]\s*)+$",
    "examples": ["30d", "12h", "1d 12h"],
}

Text = Annotated[str, AfterValidator(_printable)]
ProfileName = Annotated[str, AfterValidator(_profile_name)]
Period = Annotated[timedelta, BeforeValidator(_period), WithJsonSchema(_PERIOD_SCHEMA)]
PositivePeriod = Annotated[Period, AfterValidator(_positive)]
Share = Annotated[
    str,
    AfterValidator(_share),
    WithJsonSchema({"type": "string", "pattern": r"^\d{1,3}\s*%$", "examples": ["50%", "80%"]}),
]
WholeDays = Annotated[Period, AfterValidator(_whole_days)]
OptionalName = Annotated[str, AfterValidator(_optional_name)]
OptionalPath = Annotated[str, AfterValidator(_optional_path)]
LocalPath = Annotated[str, AfterValidator(_local_path)]
Sources = Annotated[
    tuple[LocalPath, ...],
    BeforeValidator(listed),
    AfterValidator(_not_empty),
    AfterValidator(_no_repeats),
]
Patterns = Annotated[tuple[Annotated[str, AfterValidator(_pattern)], ...], BeforeValidator(listed)]
Recipients = Annotated[
    tuple[str, ...],
    PlainValidator(_recipients),
    WithJsonSchema({"type": "array", "items": {"type": "string"}, "minItems": 1}),
]
IdentityFile = Annotated[str, PlainValidator(_identity_file), WithJsonSchema({"type": "string"})]
FileNames = Annotated[
    tuple[Annotated[str, AfterValidator(_file_name)], ...], BeforeValidator(listed)
]
Command = Annotated[tuple[str, ...], BeforeValidator(listed), AfterValidator(_command)]
PublicKeys = Annotated[
    tuple[str, ...],
    BeforeValidator(_public_keys),
    WithJsonSchema({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
ZoneName = Annotated[str, AfterValidator(_zone_name)]
Host = Annotated[str, AfterValidator(_host)]
Address = Annotated[str, AfterValidator(_address)]
Addresses = Annotated[tuple[Address, ...], BeforeValidator(listed), AfterValidator(_not_empty)]
