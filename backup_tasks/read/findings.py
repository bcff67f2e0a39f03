"""What a check found wrong, file by file: the first ones in full, all of them counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from backup_tasks.common.printable import one_line, printable

SHOWN = 20


@dataclass(slots=True)
class Findings:
    """Paths and what is wrong with each, in bounded memory.

    Attributes:
        count: how many there are.
        first: (path, reason) of the first SHOWN, fit to print.
    """

    count: int = 0
    first: list[tuple[str, str]] = field(default_factory=list)

    def add(self, path: str, reason: str) -> None:
        """Add one; `path` as the file system gives it."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append((printable(path), one_line(reason)))

    def render(self) -> list[str]:
        """One indented line for each of the first, and one for the rest."""
        lines = [f"  {path}: {reason}" for path, reason in self.first]
        more = self.count - len(self.first)
        return [*lines, f"  and {more:,} more"] if more else lines

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "total": self.count,
            "first": [{"path": path, "reason": reason} for path, reason in self.first],
        }
