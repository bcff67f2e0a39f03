"""How our costs grow, as it is kept in scale.json, and the report of it (pure)."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.tables import MISSING, mebibytes, megabytes, render_table, seconds

MILLION = 1_000_000


@dataclass(frozen=True)
class Point:
    """One work on one load; see bench.measure.Cost.

    Attributes:
        files, content_bytes: how many there are, and what is in all of them together.
        stored: what the store holds after this work.
    """

    load: str
    files: int
    content_bytes: int
    phase: str
    wall_seconds: float
    cpu_seconds: float
    largest_kib: int
    stored: int


@dataclass
class Growth:
    """All points.

    Attributes:
        skipped: load -> why it was not measured.
    """

    date: str = ""
    machine: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    def phases(self) -> list[str]:
        return list(dict.fromkeys(point.phase for point in self.points))

    def million_peak_mib(self) -> float | None:
        """The peak of all works on a million files, or more."""
        return _peak_mib([point for point in self.points if point.files >= MILLION])

    def large_file(self) -> tuple[float, float] | None:
        """(its GiB, the peak of all works on it in MiB) for the one large file."""
        points = [point for point in self.points if point.files == 1]
        peak = _peak_mib(points)
        return None if peak is None else (points[0].content_bytes / 2**30, peak)


def load_growth(file: Path) -> Growth:
    """What `save` wrote. Raises OSError, and ValueError for a file of another kind."""
    read: dict[str, Any] = json.loads(file.read_text())
    try:
        return Growth(**{**read, "points": [Point(**point) for point in read["points"]]})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} was not written by this bench: {error}") from error


def render_growth(growth: Growth) -> str:
    """The whole scale.md."""
    told = {"date": growth.date, **growth.machine}
    parts = [
        "# How time and memory grow\n",
        "Written by `make bench-scale`: this project alone, one run of each, to an S3 server on "
        "the same machine. Each load is a tree of its own; each restored tree equals it. CPU is "
        "that of the client, memory the peak of its largest process.\n",
        render_table(("", ""), list(told.items()), figures=False),
    ]
    for phase in growth.phases():
        rows = [_row(point) for point in growth.points if point.phase == phase]
        parts += [f"## {phase.capitalize()}\n", render_table(_HEAD, rows)]
    if growth.skipped:
        parts.append("## Not measured\n")
        parts.append("".join(f"- {load}: {why}\n" for load, why in growth.skipped.items()))
    return "\n".join(parts)


_HEAD = ("", "content", "wall", "CPU", "CPU a file", "memory", "stored")


def _row(point: Point) -> tuple[str, ...]:
    each = f"{point.cpu_seconds / point.files * 1e6:,.0f} µs" if point.files > 1 else MISSING
    return (
        point.load,
        megabytes(point.content_bytes),
        seconds(point.wall_seconds),
        seconds(point.cpu_seconds),
        each,
        mebibytes(point.largest_kib),
        megabytes(point.stored),
    )


def _peak_mib(points: list[Point]) -> float | None:
    return max((point.largest_kib for point in points), default=0) / 1024 or None
