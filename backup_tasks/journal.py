"""Lock, log lines and run records."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

Result = Literal["success", "incomplete", "failure"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One source file that was not stored whole: its path, fit to print, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Notification:
    """One attempt to tell somebody: through what, to whom, and what went wrong if anything."""

    channel: str
    to: str
    error: str = ""


@dataclass(slots=True)
class RunRecord:
    """One execution of a task; becomes one line of logs/runs.jsonl.

    Attributes:
        task: "backup", "prune", "restore", ...
        started_at, ended_at: aware.
        result: "incomplete" means done, but some source files could not be read whole.
        archive: the object's name, or "".
        raw_bytes: content bytes of the files; archive_bytes: size of the object;
            sent_bytes: bytes sent to the store by this run.
        files: number of entries that are regular files.
        problems: every source file that was not stored whole.
        error: one line for the operator, or "".
    """

    task: str
    profile: str
    host: str
    store: str
    started_at: datetime
    ended_at: datetime | None = None
    result: Result = "success"
    exit_code: int = 0
    archive: str = ""
    raw_bytes: int = 0
    archive_bytes: int = 0
    sent_bytes: int = 0
    files: int = 0
    problems: list[Problem] = field(default_factory=list)
    pruned: list[str] = field(default_factory=list)
    error: str = ""
    notifications: list[Notification] = field(default_factory=list)
