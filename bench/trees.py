"""Trees of files, as they were and as they were restored: what a restore must bring back."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_MOST_LINES = 10


@dataclass(frozen=True)
class Print:
    """What a restore must bring back of one file or folder. Folders have no content."""

    mode: int
    mtime_ns: int
    sha256: str


def fingerprint(root: Path) -> dict[str, Print]:
    """Relative path -> what is there, for the whole tree."""
    found = {}
    for folder, _, names in os.walk(root):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            status = os.lstat(path)
            digest = ""
            if path is not folder:
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            relative = os.path.relpath(path, root)
            found[relative] = Print(status.st_mode, status.st_mtime_ns, digest)
    return found


def digest(prints: dict[str, Print]) -> str:
    """One hash for a whole tree, to tell whether two machines have the same."""
    lines = [f"{path} {one.mode:o} {one.mtime_ns} {one.sha256}\n" for path, one in prints.items()]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def differences(
    wanted: dict[str, Print], found: dict[str, Print], mtime_unit_ns: int = 1
) -> list[str]:
    """What is wrong with a restored tree, a line each.

    Args:
        mtime_unit_ns: what times are kept in; tar's default format knows whole seconds.
    """
    lines = [f"{path}: missing" for path in wanted.keys() - found.keys()]
    lines += [f"{path}: not in the corpus" for path in found.keys() - wanted.keys()]
    for path in wanted.keys() & found.keys():
        one, other = wanted[path], found[path]
        if one.sha256 != other.sha256:
            lines.append(f"{path}: other content")
        if one.mode != other.mode:
            lines.append(f"{path}: mode {other.mode:o} instead of {one.mode:o}")
        if one.mtime_ns // mtime_unit_ns != other.mtime_ns // mtime_unit_ns:
            lines.append(f"{path}: mtime {other.mtime_ns} instead of {one.mtime_ns}")
    return sorted(lines)


def summarize(lines: Sequence[str]) -> str:
    """The first of many differences, and how many there are."""
    more = len(lines) - _MOST_LINES
    told = "\n".join(lines[:_MOST_LINES])
    return told if more <= 0 else f"{told}\nand {more:,} more"
