"""How long the tasks take that touch no store: the time until an operator sees anything."""

from __future__ import annotations

import os
from pathlib import Path

from backup_tasks.common.paths import PROJECT_ROOT
from bench.measure import Work, measure
from bench.peers import INVOKE

_TIMES = 10
COMMANDS = (("profiles",), ("cron-show",), ("--help",))


def measure_instant(folder: Path) -> dict[str, list[float]]:
    """Command line -> wall seconds of each run, after one that does not count.

    Args:
        folder: for logs and state; the profiles are the project's own.
    """
    folder.mkdir()
    environ = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "BACKUP_TASKS_LOGS": str(folder),
        "BACKUP_TASKS_STATE": str(folder),
    }
    found = {}
    for arguments in COMMANDS:
        work = Work(((INVOKE, *arguments),), PROJECT_ROOT, environ)
        measure(work)
        seconds = [measure(work).wall_seconds for _ in range(_TIMES)]
        found[" ".join(("invoke", *arguments))] = seconds
    return found
