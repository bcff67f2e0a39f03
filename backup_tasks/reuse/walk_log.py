"""The walk's outcome as steps: what to write, what to keep, and the places of the last entries.

Consecutive unchanged entries are one run, and take a few small steps. So an unchanged server costs
next to nothing here, whatever its size.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from backup_tasks.reuse.plan import PlannedEntry
from backup_tasks.spools.records import Spool

# The lines of a run are read at once, so a run ends after about this many bytes: a folder may hold
# any number of files, with paths of any length.
_RUN_BYTES = 2**18


class Step(msgspec.Struct, omit_defaults=True, gc=False):
    """One of: an entry; a run of unchanged entries; the place of an entry that is written last.

    Attributes:
        plan: an entry to write, or to keep with other numbers.
        first, end: where the lines of a run begin and end in the previous manifest.
        count: the number of entries in the run; they follow each other there and here.
        files, content_bytes: the run's files, and their content.
        stand_in: stands for the line of the next folder, or late link, in the order of the walk.
    """

    plan: PlannedEntry | None = None
    first: int = 0
    end: int = 0
    count: int = 0
    files: int = 0
    content_bytes: int = 0
    stand_in: bytes = b""


class Steps:
    """Collects the steps of one walk, then gives them back as often as needed.

    Attributes:
        entries: number of entries of any kind.
        not_reused_bytes: content bytes of entries that are new or changed.
    """

    def __init__(self) -> None:
        self._spool = Spool(Step)
        self._range: Step | None = None
        self.entries = 0
        self.not_reused_bytes = 0

    def add(self, plan: PlannedEntry) -> None:
        """Add the next entry, neither a folder nor a late link."""
        self.entries += 1
        if plan.place < 0:
            self._end_run()
            if not plan.is_same:
                self.not_reused_bytes += plan.entry.read_size
            self._spool.append(Step(plan=plan))
            return
        run = self._range
        if run is None or run.end != plan.place or run.end - run.first > _RUN_BYTES:
            self._end_run()
            run = self._range = Step(first=plan.place)
        run.end = plan.end
        run.count += 1
        if plan.entry.type == "file":
            run.files += 1
            run.content_bytes += plan.entry.size

    def add_last(self, stand_in: bytes) -> None:
        """Add a folder or a late link; its entry is kept elsewhere."""
        self.entries += 1
        self._end_run()
        self._spool.append(Step(stand_in=stand_in))

    def _end_run(self) -> None:
        if self._range is not None:
            self._spool.append(self._range)
            self._range = None

    def __iter__(self) -> Iterator[Step]:
        self._end_run()
        return iter(self._spool)

    def close(self) -> None:
        """Free the memory or the file."""
        self._spool.close()
