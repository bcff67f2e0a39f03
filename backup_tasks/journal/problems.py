"""What could not be stored as it is: which file or folder, why, and what became of it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from backup_tasks.common.units import render_bytes, render_count

# What became of something that could not be stored as it is:
#   missing     a source is not there (ENOENT, ENOTDIR)
#   unreadable  it is there, and this backup holds nothing of it
#   carried     it cannot be read, and the backup holds an earlier version instead
#   torn        the backup holds it, but not as it was at any one moment, or padded with zeros
#   vanished    it was deleted while the backup ran
#   unstorable  no archive holds it, or not all of its attributes (docs/format.md, limits)
ProblemKind = Literal["missing", "unreadable", "carried", "torn", "vanished", "unstorable"]


class Problem(Struct, frozen=True):
    """One file or folder that was not stored whole.

    Attributes:
        path: fit to print.
        reason: in words; decide by `kind`, never by these.
        kind: what became of it.
        is_source: it is what the profile names in backup.sources, or a folder on the way to it.
        files, bytes: how many files the backup lacks or has of an earlier day because of this,
            and their content bytes as the backup before had them; of a folder, all below it.
        carried_from: of what is carried, when the backup began that read it last
            (`2025-06-12T00:00:03Z`); of a folder, the earliest of these.
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
    """`12 files (3.4MB) of an earlier day, 1 file torn, 2 files missing`, or "complete".

    Args:
        torn, carried, unreadable: files of each kind; problems: of any kind, where these are 0.
        carried_bytes: content bytes of the carried ones, if known.
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
