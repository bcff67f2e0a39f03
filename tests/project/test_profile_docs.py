"""docs/profiles.md, the schema and the shipped profiles say what the model says."""

from __future__ import annotations

import json
import re
import tomllib
import types
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from backup_tasks.common.paths import PROJECT_ROOT, Paths, find_paths
from backup_tasks.errors import ProfileError
from backup_tasks.keys.secret import Secret
from backup_tasks.profile.json_schema import SCHEMA_FILE, render_schema
from backup_tasks.profile.load import describe_profiles, load_profile
from backup_tasks.profile.model import Profile

PROFILES = PROJECT_ROOT / "profiles"
Row = tuple[str, str, str, str]


def model_rows(model: type[BaseModel] = Profile, table: str = "") -> Iterator[Row]:
    """(table, key, type, default) of every key, as the document would write them."""
    for name, field in model.model_fields.items():
        key = field.alias or name
        kind = strip_none(field.annotation)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from model_rows(kind, f"{table}.{key}".removeprefix("."))
        elif not (table == "" and key in {"name", "path"}):
            default = field.get_default() if field.default is not PydanticUndefined else "required"
            yield table, key, type_word(kind), default_word(default)


def strip_none(kind: Any) -> Any:
    if get_origin(kind) is Annotated:
        return strip_none(get_args(kind)[0])
    if get_origin(kind) in {Union, types.UnionType}:
        return strip_none(get_args(kind)[0])
    return kind


def type_word(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return "list of text"
    if get_origin(kind) is Literal:
        return "text"
    words = {str: "text", int: "whole number", bool: "true or false", timedelta: "duration"}
    return words.get(kind, "secret" if kind is Secret else f"unknown: {kind}")


def default_word(default: Any) -> str:
    if default is None:
        return "none"
    if default == "required":
        return "required"
    if isinstance(default, timedelta):
        return f'`"{default.days}d"`'
    return f"`{json.dumps(default)}`"


def document_rows() -> list[Row]:
    """The same, as docs/profiles.md has them."""
    rows, table = [], None
    for line in (PROJECT_ROOT / "docs" / "profiles.md").read_text().splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
            name = re.fullmatch(r"\[(.+)\]", heading)
            table = "" if heading == "The file itself" else name[1] if name else None
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if table is not None and len(cells) == 4 and cells[0].startswith("`"):
            assert cells[3], f"{cells[0]} has no meaning"
            rows.append((table, cells[0].strip("`"), cells[1], cells[2]))
    return rows


def test_the_document_lists_every_key_with_its_type_and_default() -> None:
    assert sorted(document_rows()) == sorted(model_rows())


def test_every_key_has_a_description_for_editors() -> None:
    def undescribed(schema: dict[str, Any], under: str = "") -> Iterator[str]:
        for key, value in schema.get("properties", {}).items():
            if not value.get("description"):
                yield under + key
            if key not in {"access_key_id", "secret_access_key", "session_token", "password"}:
                yield from undescribed(value, f"{under}{key}.")

    assert list(undescribed(json.loads(render_schema()))) == []


def test_the_schema_in_the_repository_is_current() -> None:
    message = "run: python -m backup_tasks.profile.json_schema"
    assert SCHEMA_FILE.read_text(encoding="utf-8") == render_schema(), message


def test_the_schema_speaks_of_what_users_write() -> None:
    schema = json.loads(render_schema())
    email = schema["properties"]["notify"]["properties"]["email"]["properties"]
    assert "from" in email
    assert "sender" not in email
    assert schema["properties"]["backup"]["properties"]["full_every"]["default"] == "30d"
    assert {"name", "path"}.isdisjoint(schema["properties"])
    assert "null" not in render_schema()
    assert "$ref" not in render_schema()


@pytest.mark.parametrize("file", sorted(PROFILES.glob("*.toml")), ids=lambda file: file.name)
def test_a_shipped_profile_names_the_schema_and_keeps_to_its_keys(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.startswith("#:schema ./profile.schema.json\n")
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    assert list(unknown_to_schema(tomllib.loads(text), schema)) == []


def unknown_to_schema(values: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        known = schema["properties"].get(key)
        if known is None:
            yield key
        elif "properties" in known:
            yield from unknown_to_schema(value, known)


def test_every_shipped_profile_loads_or_is_a_base() -> None:
    shipped = find_paths({})
    found = {summary.name: summary for summary in describe_profiles(shipped)}
    assert {"base", "demo", "local"} <= set(found)
    assert "prod.example" not in found
    for name in ("base", "demo", "local"):
        assert found[name].problem == ""
        assert found[name].base_only == (name == "base")


def test_the_example_is_a_good_profile_once_it_is_copied(paths: Paths) -> None:
    (paths.profiles / "base.toml").write_text((PROFILES / "base.toml").read_text())
    text = (PROFILES / "prod.example.toml").read_text()
    (paths.profiles / "prod.toml").write_text(text)
    profile = load_profile("prod", paths)
    assert profile.store.url.startswith("s3://my-bucket/")
    assert profile.notify.email is not None
    # What is commented out is right as well.
    optional = re.sub(r"^# (?=[a-z_]+ = )", "", text, flags=re.MULTILINE)
    assert optional != text
    (paths.profiles / "prod.toml").write_text(optional)
    assert load_profile("prod", paths).retention.expire_after == timedelta(days=90)


def test_the_example_shows_every_key_that_is_available() -> None:
    text = (PROFILES / "prod.example.toml").read_text()
    shown = set(re.findall(r"^(?:# )?([a-z_]+) = ", text, flags=re.MULTILINE))
    keys = {key for table, key, _, _ in model_rows() if table != "encryption"}
    assert keys - shown == {"session_token", "port"}


def test_the_messages_in_the_document_are_those_of_the_program(paths: Paths) -> None:
    blocks = (PROJECT_ROOT / "docs" / "profiles.md").read_text().split("```")
    shown = blocks[3].strip().splitlines()
    (paths.profiles / "prod.toml").write_text(
        '\n\n\n\n[backup]\nsourcs = ["/etc"]\nsources = ["/etc"]\n'
        '[store]\nregion = "eu north 1"\nurl = "s3://bucket"\n'
    )
    with pytest.raises(ProfileError) as caught:
        load_profile("prod", paths)
    told = str(caught.value).replace(f"{paths.profiles}/", "profiles/").splitlines()
    assert told == shown
