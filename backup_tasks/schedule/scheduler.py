"""What starts backups at their times: what one is, what it is given, and which there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from backup_tasks.schedule import schedulers

USUAL = "crontab"


class DueRun(Struct, frozen=True):
    """A backup that is started again and again.

    Attributes:
        profile: as `--profile` takes it; "" for what is none of ours.
        expression: when it runs, five fields as in crontab(5).
        text: as it is installed; another one with the same profile replaces it.
        profiles: the folder of the profiles that the run is given, "" for the usual one.
    """

    profile: str
    expression: str
    text: bytes
    profiles: str = ""


class Scheduler(Protocol):
    """One program that starts runs: a module of `schedule.schedulers` has one as `SCHEDULER`.

    Attributes:
        place: what holds its runs, in words, "crontab".
    """

    @property
    def place(self) -> str: ...

    def read(self, root: Path) -> Installed:
        """What is installed for the project in `root`.

        Raises:
            ScheduleError: it cannot be read, or is damaged; says what to repair.
            TrustError: others may change the program that gives it.
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
        """A run as it would be installed.

        Args:
            python: the interpreter, an absolute path; environment: variables to set for the run.

        Raises:
            ScheduleError: it cannot be installed so.
        """
        ...

    def write(self, installed: Installed, runs: Sequence[DueRun], root: Path) -> None:
        """Have these runs installed in place of those that `read` found.

        Raises:
            ScheduleError: the program refuses, and nothing changed.
            TrustError: as `read`.
        """
        ...


class Installed(Struct, frozen=True):
    """What a scheduler holds.

    Attributes:
        runs: of this project.
        rest: what else the scheduler needs to write its runs anew.
    """

    runs: tuple[DueRun, ...]
    rest: Any


def find_scheduler(name: str = USUAL) -> Scheduler:
    """The scheduler of this name: a module of `schedulers`."""
    found: Scheduler = import_module(f"{schedulers.__name__}.{name}").SCHEDULER
    return found
