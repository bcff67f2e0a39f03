"""Rules for what an archive may do to a restore's target, and the report on its entries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

Overwrite = Literal["never", "older", "always"]
# Memory for problems, roughly; beyond that they are only counted.
PROBLEMS_BYTES = 2**25
_PROBLEM_BYTES = 200


class ExtractPolicy(Struct, frozen=True):
    """Rules for what an archive may do to the target.

    Attributes:
        overwrite: which existing files make way for the archive's. An existing folder makes way
            for something else only if it is empty. Only "always" lets something else make way for
            a folder, and sets the metadata of a folder that was there before.
        trusted: whether device nodes are made, and setuid and setgid bits, capabilities and
            other attributes of the system are set.
    """

    overwrite: Overwrite = "never"
    trusted: bool = False


@dataclass(slots=True)
class ExtractReport:
    """Report on the entries of an archive.

    Attributes:
        files, bytes: regular files written, with their content bytes; links: hard and
            symbolic; folders.
        kept: entries that were there already and were left as they are.
        lost: number of entries that could not be restored.
        problems: (path, reason) of these entries; beyond PROBLEMS_BYTES they are only counted.
        notes: remarks, each made once for any number of entries.
    """

    files: int = 0
    bytes: int = 0
    links: int = 0
    folders: int = 0
    kept: int = 0
    lost: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)
    _room: int = PROBLEMS_BYTES

    def add_problem(self, path: str, reason: str) -> None:
        """Note an entry that could not be restored."""
        self.lost += 1
        self._room -= len(path) + len(reason) + _PROBLEM_BYTES
        if self._room >= 0:
            self.problems.append((path, reason))
