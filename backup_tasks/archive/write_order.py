"""In which order new entries are written: what will soon be dead lies together.

A chunk is kept as a whole, with all entries in it that no longer count. Where a file that
changes every day lies among files that never do, its chunk carries dead bytes along from the
next day on, in every archive that follows, or all that lives in it must be written anew. So what
is written takes turns, and each turn begins a chunk. What is likely to last comes first; what
changes often then dies in chunks of its own, and so does what is new today and gone in a week.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from types import TracebackType
from typing import Self

from backup_tasks.archive.pending_lines import turn_line
from backup_tasks.reuse.plan import PlannedEntry
from backup_tasks.spools.records import LineSpool, Spool

# Longer than a week, so that a weekly run knows a file that changes all the time.
_RECENT_NS = 10 * 24 * 3600 * 10**9


class Turn(IntEnum):
    """When an entry is written: the longer it is likely to stay as it is, the earlier."""

    LASTING = 0
    CHANGING = 1
    YOUNG = 2


def turn_of(plan: PlannedEntry, now_ns: int) -> Turn:
    """When to write an entry that is no hardlink, by how long it had been left alone. Pure.

    Args:
        now_ns: the run's start, since 1970.
    """
    entry, old = plan.entry, plan.old
    left_alone_ns = (entry.mtime_ns - old.mtime_ns) if old else (now_ns - entry.mtime_ns)
    if abs(left_alone_ns) > _RECENT_NS:
        return Turn.LASTING
    return Turn.CHANGING if old or plan.is_same else Turn.YOUNG


class LaterTurn:
    """What is written in one turn after the first.

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


class LaterTurns:
    """Puts entries off until their turn comes.

    Memory grows with the number of files that have several names, not of entries or with paths.

    Args:
        now_ns: the run's start, since 1970.
    """

    def __init__(self, now_ns: int) -> None:
        self._now_ns = now_ns
        self._turns = {turn: LaterTurn() for turn in Turn if turn}
        # By the hash of the path, which has a secret key.
        self._linked: dict[int, Turn] = {}

    def postpone(self, plan: PlannedEntry) -> bytes:
        """Put an entry off; returns the stand-in for its line, b"" if its turn is the first."""
        turn = self._turn_of(plan)
        if not turn:
            return b""
        self._turns[turn].plans.append(plan)
        return turn_line(turn)

    def _turn_of(self, plan: PlannedEntry) -> Turn:
        entry = plan.entry
        if entry.type == "hardlink":  # it must not come before its file
            return self._linked.get(hash(entry.link_name), Turn.LASTING)
        turn = turn_of(plan, self._now_ns)
        if turn and entry.nlink > 1:
            self._linked[hash(entry.name)] = turn
        return turn

    def in_order(self) -> list[LaterTurn]:
        """The turns, those left out in which nothing is to be written."""
        return [turn for turn in self._turns.values() if turn.plans.count]

    def lines(self) -> Mapping[bytes, Iterable[bytes]]:
        """For `manifest_lines.complete_lines`, once all is written."""
        return {turn_line(number): turn.lines for number, turn in self._turns.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for turn in self._turns.values():
            turn.close()
