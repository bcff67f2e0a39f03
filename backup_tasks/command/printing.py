"""JSON for programs, in the form that every task prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from msgspec import to_builtins

_Report = TypeVar("_Report")
# The most problems that are named on a screen.
SHOWN_PROBLEMS = 20


def print_json(value: Any) -> None:
    """Print JSON on stdout, in ASCII alone, so that every locale can print it.

    Args:
        value: made of JSON's own types, structs, dataclasses, times and paths.

    Raises:
        TypeError: anything else is in it, a bug: its repr would pass for a value.
    """
    plain = to_builtins(value, builtin_types=(datetime,), enc_hook=_to_text)
    json.dump(plain, sys.stdout, indent=2, default=_to_text)
    print()


def print_report(report: _Report, render: Callable[[_Report], str], *, as_json: bool) -> None:
    """Print a report as JSON, or as the text that `render` gives."""
    if as_json:
        print_json(report)
    else:
        print(render(report))


def _to_text(value: object) -> str:
    if isinstance(value, (datetime, Path)):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def iso(moment: datetime) -> str:
    """A moment in ISO 8601, in UTC, to the second."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
