"""JSON for programs, as every task prints it."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import to_builtins

# Of what went wrong, so many are named on a screen.
SHOWN_PROBLEMS = 20


def print_json(value: Any) -> None:
    """JSON on stdout, ASCII alone, so that any locale takes it.

    Args:
        value: what JSON has, structs, dataclasses, times and paths. Anything else is a bug
            (TypeError), as its repr would pass for a value.
    """
    plain = to_builtins(value, builtin_types=(datetime,), enc_hook=_to_text)
    json.dump(plain, sys.stdout, indent=2, default=_to_text)
    print()


def _to_text(value: object) -> str:
    if isinstance(value, (datetime, Path)):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def iso(moment: datetime) -> str:
    """A moment as programs read it, in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
