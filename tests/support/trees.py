"""Compare a restored tree with its originals, without any code of the backup itself."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec

from backup_tasks.common.printable import printable

# A program writes setuid bits back only for a trusted archive, so they are no difference.
_MODE = 0o1777


@dataclass(frozen=True)
class TreeRules:
    """What counts as equal.

    Attributes:
        exclude: gitignore patterns of what was left out.
        unread: printable paths relative to / of what could not be read.
        modes, owners: whether these count.
        changed_since_ns: an original that changed since then differs with good reason.
    """

    exclude: tuple[str, ...] = ()
    unread: frozenset[str] = frozenset()
    modes: bool = True
    owners: bool = True
    changed_since_ns: int = 2**63


@dataclass
class Comparison:
    """What was found, in paths fit to print.

    Attributes:
        files, bytes: equal regular files and their content; others: equal folders and links.
        changed: what differs because the original changed meanwhile.
        differences: what differs for no such reason.
    """

    files: int = 0
    bytes: int = 0
    others: int = 0
    changed: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def compare_trees(source: Path, target: Path, rules: TreeRules, found: Comparison) -> None:
    """Compare all below `source` with its twin below `target`, both ways; adds to `found`."""
    excludes = GitIgnoreSpec.from_lines(rules.exclude)
    waiting = [source]
    while waiting:
        original = waiting.pop()
        inner = str(original).lstrip("/")
        try:
            status = original.lstat()
        except FileNotFoundError:
            found.changed.append(printable(str(original)))
            continue
        is_folder = stat.S_ISDIR(status.st_mode)
        if (
            excludes.match_file(inner + "/" * is_folder)
            or printable(inner) in rules.unread
            or stat.S_ISSOCK(status.st_mode)
        ):
            continue
        twin = target / inner
        why = _difference(original, status, twin, rules)
        if why:
            has_changed = max(status.st_ctime_ns, original.lstat().st_ctime_ns)
            note = f"{printable(str(original))} ({why})"
            changed = has_changed >= rules.changed_since_ns
            (found.changed if changed else found.differences).append(note)
        elif stat.S_ISREG(status.st_mode):
            found.files += 1
            found.bytes += status.st_size
        else:
            found.others += 1
        if is_folder:
            names = set(os.listdir(original))
            if "CACHEDIR.TAG" in names:
                names = {"CACHEDIR.TAG"}
            waiting += [original / name for name in names]
            _note_extra(original, status, twin, names, rules, found)


def _note_extra(
    original: Path,
    status: os.stat_result,
    twin: Path,
    names: set[str],
    rules: TreeRules,
    found: Comparison,
) -> None:
    """What the restored folder holds beyond the original one."""
    try:
        extra = set(os.listdir(twin)) - names
    except OSError:
        return  # its absence was noted before
    has_changed = status.st_ctime_ns >= rules.changed_since_ns
    notes = [f"{printable(str(original / name))} (not in the original)" for name in extra]
    (found.changed if has_changed else found.differences).extend(notes)


def _difference(original: Path, status: os.stat_result, twin: Path, rules: TreeRules) -> str:
    """In a word what differs, or ""."""
    try:
        restored = twin.lstat()
    except OSError:
        return "missing"
    if stat.S_IFMT(status.st_mode) != stat.S_IFMT(restored.st_mode):
        return "type"
    if stat.S_ISLNK(status.st_mode):
        return "" if os.readlink(original) == os.readlink(twin) else "link"
    if rules.modes and (status.st_mode ^ restored.st_mode) & _MODE:
        return "mode"
    if rules.owners and (status.st_uid, status.st_gid) != (restored.st_uid, restored.st_gid):
        return "owner"
    if status.st_mtime_ns != restored.st_mtime_ns:
        return "time"
    if stat.S_ISREG(status.st_mode) and not _same_content(original, twin):
        return "content"
    return ""


def _same_content(one: Path, other: Path) -> bool:
    with open(one, "rb") as first, open(other, "rb") as second:
        while piece := first.read(2**20):
            if piece != second.read(2**20):
                return False
        return not second.read(1)
