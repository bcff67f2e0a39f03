"""Orders new entries by expected lifetime, so that chunks become dead as a whole.

A chunk is reused as a whole, superseded entries included. If a file that changes every day lies
among files that never change, then from the next day on its chunk carries dead bytes into every
archive that follows, or all its live entries must be written anew. So new entries are put into
groups, and each group begins a chunk. Entries that are likely to last come first. Files that change
often get chunks of their own, and so do files that are new today and may be gone in a week.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum

from backup_tasks.archive.pending_lines import group_line
from backup_tasks.common.closes import Closes
from backup_tasks.reuse.plan import PlannedEntry
from backup_tasks.spools.records import LineSpool, Spool

# Longer than a week, so that a weekly run recognizes a file that changes all the time.
_RECENT_NS = 10 * 24 * 3600 * 10**9


class WriteGroup(IntEnum):
    """When an entry is written: the longer it is likely to stay unchanged, the earlier."""

    LASTING = 0
    CHANGING = 1
    YOUNG = 2


def group_of(plan: PlannedEntry, now_ns: int) -> WriteGroup:
    """When to write an entry that is no hardlink, by how long it had been left alone. Pure.

    Args:
        now_ns: the run's start, in nanoseconds since 1970.
    """
    entry, old = plan.entry, plan.old
    left_alone_ns = (entry.mtime_ns - old.mtime_ns) if old else (now_ns - entry.mtime_ns)
    if abs(left_alone_ns) > _RECENT_NS:
        return WriteGroup.LASTING
    return WriteGroup.CHANGING if old or plan.is_same else WriteGroup.YOUNG


class LaterGroup:
    """The entries of one group after the first.

    Attributes:
        plans: the entries, in the order of the walk.
        lines: their lines in the manifest, once they are written.
    """

    def __init__(self) -> None:
        self.plans = Spool(PlannedEntry)
        self.lines = LineSpool()

    def close(self) -> None:
        """Free memory and temporary files."""
        self.plans.close()
        self.lines.close()


class LaterGroups(Closes):
    """Puts entries off until their group comes.

    Memory grows with the number of files that have several names, not with entries or paths.

    Args:
        now_ns: the run's start, in nanoseconds since 1970.
    """

    def __init__(self, now_ns: int) -> None:
        self._now_ns = now_ns
        self._groups = {group: LaterGroup() for group in WriteGroup if group}
        # Groups of files with several names, by the hash of the path, which has a secret key.
        self._linked: dict[int, WriteGroup] = {}

    def postpone(self, plan: PlannedEntry) -> bytes:
        """Put an entry off; returns the stand-in for its line, b"" if its group is the first."""
        group = self._group_of(plan)
        if not group:
            return b""
        self._groups[group].plans.append(plan)
        return group_line(group)

    def _group_of(self, plan: PlannedEntry) -> WriteGroup:
        entry = plan.entry
        if entry.type == "hardlink":  # a hardlink must not come before its file
            return self._linked.get(hash(entry.link_name), WriteGroup.LASTING)
        group = group_of(plan, self._now_ns)
        if group and entry.nlink > 1:
            self._linked[hash(entry.name)] = group
        return group

    def in_order(self) -> list[LaterGroup]:
        """The groups that have entries to write."""
        return [group for group in self._groups.values() if group.plans.count]

    def lines(self) -> Mapping[bytes, Iterable[bytes]]:
        """Stand-in -> lines, for `pending_lines.complete_lines`, once all entries are written."""
        return {group_line(number): group.lines for number, group in self._groups.items()}

    def close(self) -> None:
        """Free the lines and plans of all groups."""
        for group in self._groups.values():
            group.close()
