"""The JSON Schema of a secret in TOML, for editors."""

from __future__ import annotations

import re
from typing import Any

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _json_form(key: str, value: dict[str, Any], description: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {key: value},
        "required": [key],
        "additionalProperties": False,
        "description": description,
    }


ENV_JSON_SCHEMA = _json_form(
    "env", {"type": "string", "pattern": f"^{VARIABLE.pattern}$"}, "An environment variable."
)
SECRET_JSON_SCHEMA: dict[str, Any] = {
    "oneOf": [
        ENV_JSON_SCHEMA,
        _json_form(
            "file",
            {"type": "string", "minLength": 1},
            "A file with the secret on its only line; relative to the profile's folder.",
        ),
        _json_form(
            "command",
            {"type": "array", "items": {"type": "string"}, "minItems": 1},
            "A program and its arguments, run without a shell; it prints the secret.",
        ),
        {
            "type": "string",
            "minLength": 1,
            "description": "The secret itself. The profile must then be readable by its owner "
            "alone (chmod 600).",
        },
    ]
}
