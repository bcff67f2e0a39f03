"""The walk's outcome as steps: what to write, what to keep, and where folders stand between.

A run of entries that stay as they are is one small step, so that an unchanged server costs
next to nothing here, whatever its size.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from backup_tasks.plan import PlannedEntry
from backup_tasks.spool import Spool


class Step(msgspec.Struct, omit_defaults=True, gc=False):
    """One of: an entry; a run of unchanged ones; a folder's place.

    Attributes:
        plan: an entry that is written, or kept with other numbers.
        first, end, count: a run: where its lines begin and end in the last manifest, and how
            many entries follow each other there and here.
        files, content_bytes: of the run.
        is_folder: the next folder in the order of the walk stands here.
    """

    plan: PlannedEntry | None = None
    first: int = 0
    end: int = 0
    count: int = 0
    files: int = 0
    content_bytes: int = 0
    is_folder: bool = False


class Steps:
    """Collects the steps of one walk, then gives them back as often as needed.

    Attributes:
        leaves: number of entries that are no folders.
        unkept_bytes: content bytes of entries that are new or changed.
    """

    def __init__(self) -> None:
        self._spool = Spool(Step)
        self._run: Step | None = None
        self.leaves = 0
        self.unkept_bytes = 0

    def add(self, plan: PlannedEntry) -> None:
        """The next entry that is no folder."""
        self.leaves += 1
        if plan.place < 0:
            self._end_run()
            if not plan.is_same:
                self.unkept_bytes += plan.entry.read_size
            self._spool.append(Step(plan=plan))
            return
        run = self._run
        if run is None or run.end != plan.place:
            self._end_run()
            run = self._run = Step(first=plan.place)
        run.end = plan.end
        run.count += 1
        if plan.entry.type == "file":
            run.files += 1
            run.content_bytes += plan.entry.size

    def add_folder(self) -> None:
        """A folder, whose entry is kept elsewhere."""
        self._end_run()
        self._spool.append(Step(is_folder=True))

    def _end_run(self) -> None:
        if self._run is not None:
            self._spool.append(self._run)
            self._run = None

    def __iter__(self) -> Iterator[Step]:
        self._end_run()
        return iter(self._spool)

    def close(self) -> None:
        """Free the memory or the file."""
        self._spool.close()
