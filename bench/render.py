"""The report of the bench as Markdown (pure)."""

from __future__ import annotations

import statistics

from bench.goals import RESTIC, US, judge
from bench.growth import Growth
from bench.phases import Phase
from bench.results import Results, cpu, largest_kib, ratio, wall
from bench.tables import mebibytes, megabytes, render_table, seconds, spread, times

_NOTES = {
    Phase.FIRST: "Of all that is there, into a store without anything.",
    Phase.VERIFY_ONE: "`invoke verify --all`, `restic check --read-data`, "
    "`borg check --verify-data`, when the store holds the first backup only.",
    Phase.UNCHANGED: "Nothing was touched since the first.",
    Phase.CHANGED: "One small file of each hundred got other content.",
    Phase.LIST: "`invoke list`, `restic snapshots`, `borg list`.",
    Phase.ONE_FILE: "A source file of some KB, out of the newest backup.",
    Phase.RESTORE: "All of the newest backup, into an empty folder.",
    Phase.VERIFY: "The same as above, when the store holds all three backups. Each backup of "
    f"{US} stands alone, so all three are read whole; the others keep what is common once.",
}


def render_results(results: Results, growth: Growth | None = None) -> str:
    """The whole results.md.

    Args:
        growth: see bench.goals.judge.
    """
    parts = [
        "# Side by side\n",
        "Written by `make bench`; `make bench-report` writes it anew from `results.json`.\n",
        _render_setting(results),
        "![wall time, CPU time and memory of all](results.svg)\n",
        "## Goals\n",
        _render_goals(results, growth),
    ]
    for phase in Phase:
        if results.peers(phase.value):
            parts += [f"## {phase.value.capitalize()}\n", f"{_NOTES[phase]}\n"]
            parts.append(_render_phase(results, phase.value))
    if results.instant:
        parts += ["## Tasks that touch no store\n", _render_instant(results)]
    parts += ["## How it was measured\n", _METHOD]
    return "\n".join(parts)


def _render_setting(results: Results) -> str:
    told = {"date": results.date, **results.machine}
    told["corpus"] = ", ".join(
        f"{what} {value}"
        if what in ("size", "digest")
        else f"{value} {what}".removesuffix(" bytes")
        for what, value in results.corpus.items()
    )
    told["rounds"] = f"{results.rounds}, alternating; medians and spread of these"
    return render_table(("", ""), list(told.items()), figures=False)


def _render_goals(results: Results, growth: Growth | None) -> str:
    verdicts = judge(results, growth)
    rows = [(one.work, one.goal, one.found, one.told) for one in verdicts]
    reached = sum(one.reached is True for one in verdicts)
    missed = sum(one.reached is False for one in verdicts)
    told = f"\n{reached} reached, {missed} missed"
    return render_table(("work", "goal", "found", ""), rows, figures=False) + f"{told}.\n"


def _render_phase(results: Results, phase: str) -> str:
    peers = sorted(results.peers(phase), key=lambda peer: results.median(phase, peer, wall) or 0)
    to_wall, to_cpu = (results.median(phase, RESTIC, of) for of in (wall, cpu))
    rows = []
    for peer in peers:
        walls, cpus = results.figures(phase, peer, wall), results.figures(phase, peer, cpu)
        assert walls is not None
        assert cpus is not None
        name = peer.replace("|", "\\|")
        rows.append(
            (
                f"**{name}**" if peer == US else name,
                seconds(walls.median),
                spread(walls.smallest, walls.largest),
                times(ratio(walls.median, to_wall)),
                seconds(cpus.median),
                spread(cpus.smallest, cpus.largest),
                times(ratio(cpus.median, to_cpu)),
                _memory(results, phase, peer),
                *_bytes(results, phase, peer),
            )
        )
    return render_table(_HEAD, rows)


_HEAD = (
    "",
    "wall",
    "from..to",
    "to restic",
    "CPU",
    "from..to",
    "to restic",
    "memory",
    "sent",
    "received",
    "stored",
)


def _memory(results: Results, phase: str, peer: str) -> str:
    largest = results.median(phase, peer, largest_kib)
    summed = results.median(phase, peer, lambda run: run.summed_kib)
    both = mebibytes(largest)
    return both if summed == largest else f"{both} ({mebibytes(summed)})"


def _bytes(results: Results, phase: str, peer: str) -> tuple[str, str, str]:
    found = results.bytes_of(phase, peer)
    if found is None:
        return megabytes(None), megabytes(None), megabytes(None)
    return megabytes(found.sent), megabytes(found.received), megabytes(found.stored)


def _render_instant(results: Results) -> str:
    rows = [
        (
            f"`{command}`",
            seconds(statistics.median(walls)),
            spread(min(walls), max(walls)),
            str(len(walls)),
        )
        for command, walls in results.instant.items()
    ]
    return render_table(("", "wall", "from..to", "runs"), rows)


_METHOD = """\
- Everybody has the same files, the same S3 server on the same machine (borg a directory), a fresh
  bucket or repository in each round, and its own defaults: restic and borg compress with zstd and
  lz4; restic also encrypts, which nobody else does here. The server keeps objects in volumes of
  1 GiB.
- In each round all peers do one work before anybody does the next one, and another one begins in
  each round. Before each, what was written is synced, and the server has come to rest. The files
  have been read before, so all find them in the page cache. No restore begins within a minute
  after many files were removed, which ext4 would remember.
- CPU is the user and system time of the client's whole process tree, not of the server. Memory is
  the peak of its largest process; for a pipeline, in brackets, the sum of the peaks of all its
  commands.
- Sent and received is all that TCP carried, counted by a relay in a round of its own that is not
  timed. Stored is what the bucket or repository holds after this work.
- Each restored tree is compared with the files: names, content, modes and times (to the second
  for tar, whose default format knows no fractions). A difference ends the bench.
"""
