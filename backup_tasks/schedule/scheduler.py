"""The protocol of a scheduler, which starts backups at their times, and the look-up of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from backup_tasks.schedule import schedulers

USUAL = "crontab"


class DueRun(Struct, frozen=True):
    """A backup that a scheduler starts again and again.

    Attributes:
        profile: as `--profile` takes it; "" for an entry that is not ours.
        expression: when the backup runs, five fields as in crontab(5).
        text: the entry as installed; a new entry of the same profile replaces it.
        profiles: the folder of the profiles that is set for the run; "" for the usual one.
    """

    profile: str
    expression: str
    text: bytes
    profiles: str = ""


class Scheduler(Protocol):
    """One program that starts runs; each module of `schedule.schedulers` has one as `SCHEDULER`.

    Attributes:
        place: the word for the place that holds its runs, such as "crontab".
    """

    @property
    def place(self) -> str: ...

    def read(self, root: Path) -> Installed:
        """Read the runs that are installed for the project in `root`.

        Raises:
            ScheduleError: the runs cannot be read, or are damaged; says what to repair.
            TrustError: others may change the program that gives the runs.
        """
        ...

    def render(
        self,
        expression: str,
        profile: str,
        root: Path,
        python: str,
        environment: Mapping[str, str],
    ) -> DueRun:
        """Render a run as `write` would install it.

        Args:
            python: the interpreter, an absolute path.
            environment: variables to set for the run.

        Raises:
            ScheduleError: the scheduler cannot hold such a run.
        """
        ...

    def write(self, installed: Installed, runs: Sequence[DueRun], root: Path) -> None:
        """Install these runs in place of those that `read` found.

        Raises:
            ScheduleError: the program refuses, and nothing has changed.
            TrustError: as `read`.
        """
        ...


class Installed(Struct, frozen=True):
    """The content of a scheduler.

    Attributes:
        runs: the runs of this project.
        rest: anything else that the scheduler needs to write its runs anew.
    """

    runs: tuple[DueRun, ...]
    rest: Any


def find_scheduler(name: str = USUAL) -> Scheduler:
    """The scheduler of this name, from the module of that name in `schedulers`."""
    found: Scheduler = import_module(f"{schedulers.__name__}.{name}").SCHEDULER
    return found
