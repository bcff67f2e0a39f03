"""What was measured, as it is kept in results.json; medians and ratios of it."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """One measured run of one peer; see bench.measure.Cost. Rounds count from 1."""

    round: int
    phase: str
    peer: str
    wall_seconds: float
    cpu_seconds: float
    largest_kib: int
    summed_kib: int


@dataclass(frozen=True)
class Bytes:
    """What one work sent, received and left in the peer's store.

    Attributes:
        sent, received: None for a peer that keeps its repository on this machine.
        stored: all that the store holds after this work.
    """

    phase: str
    peer: str
    sent: int | None
    received: int | None
    stored: int


@dataclass
class Results:
    """One bench.

    Attributes:
        machine: what was measured on, as (what, value) for people.
        corpus: what was backed up, the same way.
        instant: command line -> wall seconds of each of its runs.
    """

    date: str = ""
    machine: dict[str, str] = field(default_factory=dict)
    corpus: dict[str, str] = field(default_factory=dict)
    entries: int = 0
    rounds: int = 0
    runs: list[Run] = field(default_factory=list)
    bytes: list[Bytes] = field(default_factory=list)
    instant: dict[str, list[float]] = field(default_factory=dict)

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    def figures(self, phase: str, peer: str, of: Callable[[Run], float]) -> Figures | None:
        """The values of all rounds; None when this peer does not do this."""
        found = [of(run) for run in self.runs if (run.phase, run.peer) == (phase, peer)]
        return Figures(tuple(found)) if found else None

    def median(self, phase: str, peer: str, of: Callable[[Run], float]) -> float | None:
        figures = self.figures(phase, peer, of)
        return figures.median if figures else None

    def peers(self, phase: str) -> list[str]:
        """Those that did this, in the order in which the first round began."""
        return list(dict.fromkeys(run.peer for run in self.runs if run.phase == phase))

    def phases(self) -> list[str]:
        return list(dict.fromkeys(run.phase for run in self.runs))

    def bytes_of(self, phase: str, peer: str) -> Bytes | None:
        return next((one for one in self.bytes if (one.phase, one.peer) == (phase, peer)), None)

    def peak_kib(self, peer: str) -> tuple[float, str] | None:
        """The largest median of a peer's peaks, and the phase that it belongs to."""
        peaks = [
            (peak, phase)
            for phase in self.phases()
            if (peak := self.median(phase, peer, largest_kib)) is not None
        ]
        return max(peaks) if peaks else None


@dataclass(frozen=True)
class Figures:
    """One value of each round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def smallest(self) -> float:
        return min(self.values)

    @property
    def largest(self) -> float:
        return max(self.values)


def wall(run: Run) -> float:
    return run.wall_seconds


def cpu(run: Run) -> float:
    return run.cpu_seconds


def largest_kib(run: Run) -> float:
    return run.largest_kib


def load_results(file: Path) -> Results:
    """What `save` wrote. Raises OSError, and ValueError for a file of another kind."""
    read: dict[str, Any] = json.loads(file.read_text())
    try:
        return Results(
            **{
                **read,
                "runs": [Run(**run) for run in read["runs"]],
                "bytes": [Bytes(**one) for one in read["bytes"]],
            }
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} was not written by this bench: {error}") from error


def ratio(value: float | None, to: float | None) -> float | None:
    """None where one of both was not measured."""
    return None if value is None or not to else value / to
