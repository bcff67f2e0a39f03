"""The steps of a backup: runs of unchanged entries are no longer than can be read at once."""

from __future__ import annotations

from itertools import pairwise

from backup_tasks.format.manifest import Entry
from backup_tasks.reuse.plan import PlannedEntry
from backup_tasks.reuse.walk_log import Steps


def test_the_lines_of_a_folder_of_any_size_are_not_read_all_at_once() -> None:
    steps, count, line_bytes = Steps(), 2000, 4000
    for number in range(count):
        entry = Entry(path=f"{number}", type="file", size=3)
        place = number * line_bytes
        steps.add(PlannedEntry(entry, is_same=True, place=place, end=place + line_bytes))
    runs = list(steps)
    steps.close()
    assert max(run.end - run.first for run in runs) < 2**20
    assert (runs[0].first, runs[-1].end) == (0, count * line_bytes)
    assert all(run.end == following.first for run, following in pairwise(runs))
    assert sum(run.count for run in runs) == sum(run.files for run in runs) == count
    assert sum(run.content_bytes for run in runs) == 3 * count
