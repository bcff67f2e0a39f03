"""Findings of a check, file by file: the first ones in full, all of them counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from backup_tasks.common.printable import one_line, printable

SHOWN = 20


@dataclass(slots=True)
class Findings:
    """Paths, and the fault of each, in bounded memory.

    Attributes:
        count: number of findings.
        first: (path, reason) of the first SHOWN findings, fit to print.
    """

    count: int = 0
    first: list[tuple[str, str]] = field(default_factory=list)

    def add(self, path: str, reason: str) -> None:
        """Add a finding; `path` is as the file system gives it."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append((printable(path), one_line(reason)))

    def render(self) -> list[str]:
        """One indented line for each of the first findings, and one for the rest."""
        lines = [f"  {path}: {reason}" for path, reason in self.first]
        more = self.count - len(self.first)
        return [*lines, f"  and {more:,} more"] if more else lines

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "total": self.count,
            "first": [{"path": path, "reason": reason} for path, reason in self.first],
        }
