"""In which order new entries are written: what will soon be dead lies together.

A chunk is kept as a whole, with all entries in it that no longer count. Where a file that
changes every day lies among files that never do, its chunk carries dead bytes along from the
next day on, in every archive that follows, or all that lives in it must be written anew. So what is
written is put into groups, and each group begins a chunk. What is likely to last comes first; what
changes often then dies in chunks of its own, and so does what is new today and gone in a week.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum

from backup_tasks.archive.pending_lines import group_line
from backup_tasks.common.closes import Closes
from backup_tasks.reuse.plan import PlannedEntry
from backup_tasks.spools.records import LineSpool, Spool

# Longer than a week, so that a weekly run knows a file that changes all the time.
_RECENT_NS = 10 * 24 * 3600 * 10**9


class WriteGroup(IntEnum):
    """When an entry is written: the longer it is likely to stay as it is, the earlier."""

    LASTING = 0
    CHANGING = 1
    YOUNG = 2


def group_of(plan: PlannedEntry, now_ns: int) -> WriteGroup:
    """When to write an entry that is no hardlink, by how long it had been left alone. Pure.

    Args:
        now_ns: the run's start, since 1970.
    """
    entry, old = plan.entry, plan.old
    left_alone_ns = (entry.mtime_ns - old.mtime_ns) if old else (now_ns - entry.mtime_ns)
    if abs(left_alone_ns) > _RECENT_NS:
        return WriteGroup.LASTING
    return WriteGroup.CHANGING if old or plan.is_same else WriteGroup.YOUNG


class LaterGroup:
    """What is written in one group after the first.

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

    Memory grows with the number of files that have several names, not of entries or with paths.

    Args:
        now_ns: the run's start, since 1970.
    """

    def __init__(self, now_ns: int) -> None:
        self._now_ns = now_ns
        self._groups = {group: LaterGroup() for group in WriteGroup if group}
        # By the hash of the path, which has a secret key.
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
        if entry.type == "hardlink":  # it must not come before its file
            return self._linked.get(hash(entry.link_name), WriteGroup.LASTING)
        group = group_of(plan, self._now_ns)
        if group and entry.nlink > 1:
            self._linked[hash(entry.name)] = group
        return group

    def in_order(self) -> list[LaterGroup]:
        """The groups, those left out in which nothing is to be written."""
        return [group for group in self._groups.values() if group.plans.count]

    def lines(self) -> Mapping[bytes, Iterable[bytes]]:
        """For `manifest_lines.complete_lines`, once all is written."""
        return {group_line(number): group.lines for number, group in self._groups.items()}

    def close(self) -> None:
        """Free the lines and plans of all groups."""
        for group in self._groups.values():
            group.close()
