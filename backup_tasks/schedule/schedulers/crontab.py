"""Schedules runs in the crontab of the user who runs this: a fenced block of lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backup_tasks.schedule.crontab_block import join_crontab, render_line, split_crontab
from backup_tasks.schedule.crontab_program import read_crontab, write_crontab
from backup_tasks.schedule.scheduler import DueRun, Installed


class Crontab:
    """See `Scheduler`."""

    place = "crontab"
    render = staticmethod(render_line)

    def read(self, root: Path) -> Installed:
        """As `Scheduler.read`."""
        split = split_crontab(read_crontab(), root)
        return Installed(split.lines, split)

    def write(self, installed: Installed, runs: Sequence[DueRun], root: Path) -> None:
        """As `Scheduler.write`; everything outside of the block stays byte for byte."""
        write_crontab(join_crontab(installed.rest, runs, root))


SCHEDULER = Crontab()
