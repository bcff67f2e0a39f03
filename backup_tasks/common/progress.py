"""Progress of long work: a bar on a terminal, silence everywhere else."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self


class Progress(Protocol):
    """Receives the progress of a long job. Safe to call from any thread."""

    def start(self, label: str, total_bytes: int, total_files: int) -> None:
        """Begin a phase; a total of 0 means unknown."""

    def advance(self, bytes_done: int = 0, files_done: int = 0) -> None:
        """Report this much more as done."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class SilentProgress:
    """Says nothing: for cron, pipes and tests."""

    def start(self, label: str, total_bytes: int, total_files: int) -> None:
        pass

    def advance(self, bytes_done: int = 0, files_done: int = 0) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass
