"""Problems of a run: files and folders that were not stored whole, why, and what became of them."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from backup_tasks.common.units import render_bytes, render_count

# What became of a file or folder that could not be stored whole:
#   missing     a source is not there (ENOENT, ENOTDIR)
#   unreadable  it is there, but this backup holds nothing of it
#   carried     it cannot be read, and the backup holds an earlier version instead
#   torn        the backup holds it, but not as it was at any one moment, or padded with zeros
#   vanished    it was deleted while the backup ran
#   unstorable  no archive can hold it, or not all of its attributes (docs/format.md, limits)
ProblemKind = Literal["missing", "unreadable", "carried", "torn", "vanished", "unstorable"]


class Problem(Struct, frozen=True):
    """One file or folder that was not stored whole.

    Attributes:
        path: fit to print.
        reason: in words; decide by `kind`, never by this text.
        kind: what became of it.
        is_source: the profile names it in backup.sources, or it is a folder on the way to a source.
        files: how many files the backup lacks, or has from an earlier day, because of this; for a
            folder, all below it.
        bytes: content bytes of these files, as the backup before had them.
        carried_from: for `carried`, when the backup began that last read it
            (`2025-06-12T00:00:03Z`); for a folder, the earliest such time.
        last_whole: name of the newest backup that still holds what this one lacks, or "".
    """

    path: str
    reason: str
    kind: ProblemKind = "unreadable"
    is_source: bool = False
    files: int = 1
    bytes: int = 0
    carried_from: str = ""
    last_whole: str = ""


def summarize(
    torn: int, carried: int, unreadable: int, problems: int, carried_bytes: int = 0
) -> str:
    """Render `12 files (3.4MB) of an earlier day, 1 file torn, 2 files missing`, or "complete".

    Args:
        torn, carried, unreadable: files of each kind.
        problems: problems of any kind; counted as missing files if the three counts are 0.
        carried_bytes: content bytes of the carried files, if known.
    """
    parts = []
    if carried:
        size = f" ({render_bytes(carried_bytes)})" if carried_bytes else ""
        parts.append(f"{render_count(carried, 'file')}{size} of an earlier day")
    if torn:
        parts.append(f"{render_count(torn, 'file')} torn")
    if unreadable or (problems and not parts):
        parts.append(f"{render_count(unreadable or problems, 'file')} missing")
    return ", ".join(parts) or "complete"
