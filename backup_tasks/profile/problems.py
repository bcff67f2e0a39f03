"""Explains the problems of a profile in plain words: one line each, with file and line."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from datetime import date, time
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from msgspec import Struct
from pydantic import BaseModel, ValidationError

from backup_tasks.common.paths import Paths
from backup_tasks.common.printable import one_line
from backup_tasks.errors import ProfileError
from backup_tasks.keys.secret import FORMS, Secret
from backup_tasks.profile.files import Location, MergedFiles, show_path
from backup_tasks.profile.model import Profile

if TYPE_CHECKING:
    from backup_tasks.profile.toml_lines import KeyPath

# The loader sets these; in a file each of them is an unknown key.
LOADER_KEYS = ("name", "path")

_EXAMPLES: dict[str, str] = {
    "backup": 'add [backup] with sources = ["/etc"]',
    "backup.sources": 'name what to back up, such as sources = ["/etc"]',
    "store": 'add [store] with url = "s3://bucket/prefix/"; or this is a base for others only',
    "store.url": 'say where backups go, such as url = "s3://bucket/prefix/"',
    "encryption.recipients": 'name public keys, such as recipients = ["age1..."]',
    "schedule.cron": 'say when, such as cron = "0 2 * * *"',
}


class ProfileProblem(Struct, frozen=True):
    """One problem of a profile.

    Attributes:
        key: dotted; "" for the file as a whole.
        is_missing: a required key is missing; otherwise a key is wrong.
    """

    place: Location
    key: str
    reason: str
    is_missing: bool = False

    def render(self, paths: Paths) -> str:
        """The problem as one line: `profiles/prod.toml:12: store.url: reason`."""
        where = f"{show_path(self.place.file, paths)}:{self.place.line}"
        return one_line(": ".join(part for part in (where, self.key, self.reason) if part))


def profile_error(problems: list[ProfileProblem], paths: Paths) -> ProfileError:
    """All problems as one error, a line each, sorted by file and line."""
    ordered = sorted(problems, key=_order)
    return ProfileError("\n".join(problem.render(paths) for problem in ordered))


def _order(problem: ProfileProblem) -> tuple[str, int, bool]:
    # In the same line a wrong key comes first: it often explains why another one is missing.
    return str(problem.place.file), problem.place.line, problem.is_missing


def secret_keys() -> frozenset[KeyPath]:
    """The paths of all keys of the model that hold a secret."""
    return frozenset(path for path, is_secret in _leaves(Profile) if is_secret)


def find_literal_secrets(merged: MergedFiles, paths: Paths) -> Iterator[ProfileProblem]:
    """Secrets in plain text in files that others can read; overridden ones count too."""
    for file in merged.files:
        if not file.mode & 0o077:
            continue
        for path in sorted(secret_keys(), key=str):
            if isinstance(_value(file.values, path), str):
                yield ProfileProblem(
                    file.place(path),
                    dotted_key(path),
                    f"a secret in plain text, in a file that others can read (mode "
                    f"{file.mode:04o}); run: chmod 600 {show_path(file.path, paths)}, or write "
                    f"{FORMS}",
                )


def explain_errors(error: ValidationError, merged: MergedFiles) -> Iterator[ProfileProblem]:
    """The problems that pydantic found, in our words; no secret is shown."""
    for fault in error.errors(include_url=False, include_input=False):
        path = tuple(fault["loc"])
        if fault["type"] == "extra_forbidden":
            yield unknown_key(path, merged)
            continue
        reason = _reason(fault, path, merged.values)
        is_missing = fault["type"] == "missing"
        yield ProfileProblem(merged.place(path), dotted_key(path), reason, is_missing)


def unknown_key(path: KeyPath, merged: MergedFiles) -> ProfileProblem:
    """The problem of an unknown key; names the key that was probably meant."""
    key = str(path[-1])
    table = path[:-1]
    siblings = [str(known[-1]) for known in _known_paths() if known[:-1] == table]
    near = get_close_matches(key, siblings, n=1)
    elsewhere = [dotted_key(known) for known in _known_paths() if known[-1] == key]
    meant = near[0] if near else elsewhere[0] if elsewhere else ""
    hint = f'; did you mean "{meant}"?' if meant else f"; known here: {', '.join(sorted(siblings))}"
    return ProfileProblem(merged.place(path), dotted_key(table), f'unknown key "{key}"{hint}')


def _reason(fault: Mapping[str, Any], path: KeyPath, values: Mapping[str, Any]) -> str:
    context = fault.get("ctx", {})
    found = _found(path, values)
    match fault["type"]:
        case "missing":
            needed = f"[{dotted_key(path[:-1])}] cannot do without it"
            return f"missing; {_EXAMPLES.get(dotted_key(path), needed)}"
        case "rule":
            return str(context["reason"])
        case "value_error":
            # `error` has our words alone; `reason` may begin with pydantic's "Value error, ".
            return str(context.get("error") or context.get("reason"))
        case "string_type":
            return f"should be text in quotes{found}"
        case "int_type" | "int_from_float":
            return f"should be a whole number{found}"
        case "bool_type":
            return f"should be true or false{found}"
        case "tuple_type":
            value = _value(values, path)
            hint = f'; write ["{value}"]' if found and isinstance(value, str) else ""
            return f"should be a list{found}{hint}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"should be a table, [{dotted_key(path)}]{found}"
        case "literal_error":
            return f"should be {context['expected'].replace(chr(39), chr(34))}{found}"
        case "greater_than_equal":
            return f"should be at least {context['ge']}{found}"
        case "less_than_equal":
            return f"should be at most {context['le']}{found}"
    text = str(fault["msg"]).removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _found(path: KeyPath, values: Mapping[str, Any]) -> str:
    """The value that was found, shortened, for the end of a reason; "" for a secret."""
    if any(path[: len(secret)] == secret for secret in secret_keys()):
        return ""
    value = _value(values, path)
    match value:
        case bool():
            return f", found {str(value).lower()}"
        case str():
            return f', found "{value if len(value) <= 60 else value[:57] + "..."}"'
        case int() | float() | date() | time():
            return f", found {value}"
        case list():
            return ", found a list"
        case dict():
            return ", found a table"
    return ""


def _value(values: Any, path: KeyPath) -> Any:
    for part in path:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return None
    return values


def dotted_key(path: KeyPath) -> str:
    """The key as people write it: `store.access_key_id`."""
    # List elements have no name; the line and the value tell which one is meant.
    return ".".join(str(part) for part in path if isinstance(part, str))


def _known_paths() -> list[KeyPath]:
    tables = {path[:length] for path, _ in _leaves(Profile) for length in range(1, len(path) + 1)}
    return sorted((path for path in tables if path[0] not in LOADER_KEYS), key=str)


def _leaves(model: type[BaseModel], under: KeyPath = ()) -> Iterator[tuple[KeyPath, bool]]:
    """Yield every key below this model, as written in TOML, and whether it holds a secret."""
    for name, model_field in model.model_fields.items():
        path = (*under, model_field.alias or name)
        kinds = _kinds(model_field.annotation)
        tables = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        for table in tables:
            yield from _leaves(table, path)
        if not tables:
            # A key that also takes plain text, such as a server's address, is no secret.
            yield path, Secret in kinds and str not in kinds


def _kinds(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in {Union, types.UnionType}:
        return get_args(annotation)
    return (annotation,)
