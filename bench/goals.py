"""What we want to reach, and whether we did."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from bench.growth import Growth
from bench.phases import Phase
from bench.results import Results, Run, cpu, ratio, wall

US, RESTIC, ZSTD = "backup-tasks", "restic", "tar | zstd -T0 | aws"
MOST_MEMORY_MIB = 200
MOST_MEMORY_OF_MILLION_MIB = 400
MOST_INSTANT_SECONDS = 0.3


@dataclass(frozen=True)
class Verdict:
    """One goal.

    Attributes:
        found: what was measured, for people.
        reached: None where it was not measured.
    """

    work: str
    goal: str
    found: str
    reached: bool | None

    @property
    def told(self) -> str:
        return {True: "reached", False: "**missed**", None: "not measured"}[self.reached]


def judge(results: Results, growth: Growth | None = None) -> list[Verdict]:
    """All goals, in one fixed order.

    Args:
        growth: what bench-scale measured, if it did.
    """
    growth = growth or Growth()
    size_gib, large_peak_mib = growth.large_file() or (20, None)
    return [
        _against(results, Phase.FIRST, wall, "wall", 0.40, RESTIC),
        _against(results, Phase.FIRST, wall, "wall", 1.0, ZSTD),
        _against(results, Phase.UNCHANGED, cpu, "client CPU", 0.35, RESTIC),
        _against(results, Phase.CHANGED, wall, "wall", 1.0, RESTIC),
        _against(results, Phase.RESTORE, wall, "wall", 0.8, RESTIC),
        _against(results, Phase.ONE_FILE, wall, "wall", 1.0, RESTIC),
        _against(results, Phase.LIST, wall, "wall", 0.9, RESTIC),
        _against(results, Phase.VERIFY_ONE, wall, "wall", 0.9, RESTIC),
        _against(results, Phase.VERIFY, wall, "wall", 0.9, RESTIC),
        _peak_against_restic(results),
        _below(
            f"peak memory, {results.entries:,} entries",
            MOST_MEMORY_MIB,
            "MiB",
            _our_peak_mib(results),
        ),
        _below(
            "peak memory, 1 million files",
            MOST_MEMORY_OF_MILLION_MIB,
            "MiB",
            growth.million_peak_mib(),
        ),
        _below(
            f"peak memory, one file of {size_gib:.3g} GiB",
            MOST_MEMORY_OF_MILLION_MIB,
            "MiB",
            large_peak_mib,
        ),
        *(
            _below(f"`{command}`, wall", MOST_INSTANT_SECONDS, "s", statistics.median(seconds))
            for command, seconds in results.instant.items()
        ),
    ]


def _against(
    results: Results,
    phase: Phase,
    of: Callable[[Run], float],
    what: str,
    most: float,
    peer: str,
) -> Verdict:
    found = ratio(results.median(phase.value, US, of), results.median(phase.value, peer, of))
    return _at_most(f"{phase.value}, {what}", most, peer, found)


def _at_most(work: str, most: float, peer: str, found: float | None) -> Verdict:
    goal = f"at most {most:.2f} x {_code(peer)}"
    if found is None:
        return Verdict(work, goal, "-", None)
    return Verdict(work, goal, f"{found:.2f} x", found <= most)


def _peak_against_restic(results: Results) -> Verdict:
    ours, theirs = results.peak_kib(US), results.peak_kib(RESTIC)
    found = ratio(ours[0] if ours else None, theirs[0] if theirs else None)
    return _at_most(f"peak memory, {results.entries:,} entries", 1.0, RESTIC, found)


def _our_peak_mib(results: Results) -> float | None:
    peak = results.peak_kib(US)
    return peak[0] / 1024 if peak else None


def _below(work: str, most: float, unit: str, found: float | None) -> Verdict:
    goal = f"below {most:g} {unit}"
    if found is None:
        return Verdict(work, goal, "-", None)
    return Verdict(work, goal, f"{found:.{0 if most > 1 else 2}f} {unit}", found < most)


def _code(peer: str) -> str:
    # A bare bar would end the cell of the table.
    return f"`{peer}`".replace("|", "\\|")
