"""Renders the model of a profile as JSON Schema, for editors that complete and check TOML.

python -m backup_tasks.profile.json_schema      # writes profiles/profile.schema.json
"""

from __future__ import annotations

import json
import re
from typing import Any

from backup_tasks.common.paths import PROJECT_ROOT
from backup_tasks.profile.model import Profile
from backup_tasks.profile.problems import LOADER_KEYS

SCHEMA_FILE = PROJECT_ROOT / "profiles" / "profile.schema.json"


def render_schema() -> str:
    """The schema as JSON text; the same model always gives the same text.

    No key of a table is required, since a file may inherit the keys that it leaves out.
    """
    whole = Profile.model_json_schema()
    schema = _simplify({**whole, "$defs": {}}, whole["$defs"])
    del schema["$defs"]
    for key in LOADER_KEYS:
        del schema["properties"][key]
    # The TOML plugins of editors understand draft 7.
    head = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Backup profile",
        "description": "One environment: what is backed up, where to, when, and who is told.",
    }
    return json.dumps({**head, **schema, **head}, indent=2, ensure_ascii=False) + "\n"


def write_schema() -> None:
    """Write the schema to its place in profiles/."""
    SCHEMA_FILE.write_text(render_schema(), encoding="utf-8")


def _simplify(node: Any, definitions: dict[str, Any]) -> Any:
    """Resolve references, and leave out what TOML cannot write or users never see.

    Draft 7 ignores keys beside a reference. Null and generated titles are left out; ISO durations
    become ours.
    """
    if isinstance(node, list):
        return [_simplify(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    node = dict(node)
    if "$ref" in node:
        target = definitions[node.pop("$ref").rpartition("/")[2]]
        return _simplify({**target, **node}, definitions)
    alternatives = [kind for kind in node.get("anyOf", ()) if kind != {"type": "null"}]
    if len(alternatives) == 1:
        del node["anyOf"]
        return _simplify({**alternatives[0], **node}, definitions)
    if isinstance(node.pop("title", None), str):  # only tables and keys of the model have one
        node.pop("required", None)
    if "default" in node:
        node["default"] = _as_written(node["default"])
        if node["default"] is None:
            del node["default"]
    return {key: _simplify(value, definitions) for key, value in node.items()}


def _as_written(default: Any) -> Any:
    """A default as a profile would write it; pydantic writes durations as ISO 8601."""
    if isinstance(default, str) and (days := re.fullmatch(r"P(\d+)D|PT0S", default)):
        return f"{days[1] or 0}d"
    return default


if __name__ == "__main__":
    write_schema()
