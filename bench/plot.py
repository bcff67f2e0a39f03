"""Draw results.svg: a row of bars for each work, wall time, CPU time and memory side by side.

    bench/work/venv/bin/python -m bench.plot results.json results.svg

Runs in the bench's own environment, so it imports nothing of the project but these benches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.goals import US
from bench.results import Results, Run, cpu, largest_kib, load_results, wall

# Read on white and on black alike (at least 3:1 on both); nothing is told by colour alone.
_INK = "#808890"
_OURS = "#e8590c"
_OTHERS = "#5c8ab8"
# In inches.
_BAR, _GAP, _TOP, _WIDTH = 0.2, 0.42, 0.32, 9.6
_LEFT_OF_COLUMNS = (1.5, 4.35, 7.2)
_COLUMN_WIDTH = 2.3
_COLUMNS: tuple[tuple[str, str, Callable[[Run], float]], ...] = (
    ("wall time", "{:.3g} s", wall),
    ("CPU time of the client", "{:.3g} s", cpu),
    ("peak memory", "{:.0f} MiB", lambda run: largest_kib(run) / 1024),
)


def draw(results: Results) -> Figure:
    """One row for each work; shorter is better; thin lines show the spread of the rounds."""
    phases = results.phases()
    heights = [_BAR * len(results.peers(phase)) for phase in phases]
    total = _TOP + sum(heights) + _GAP * len(phases)
    figure = Figure(figsize=(_WIDTH, total))
    figure.patch.set_alpha(0)
    for left, (title, _, _) in zip(_LEFT_OF_COLUMNS, _COLUMNS, strict=True):
        figure.text(left / _WIDTH, 1 - 0.16 / total, title, color=_INK, fontsize=10, va="center")
    figure.text(0.01, 1 - 0.16 / total, "shorter is better", color=_INK, fontsize=8, va="center")
    top = _TOP
    for phase, height in zip(phases, heights, strict=True):
        top += _GAP
        for left, (_, unit, of) in zip(_LEFT_OF_COLUMNS, _COLUMNS, strict=True):
            bottom = 1 - (top + height) / total
            place = (left / _WIDTH, bottom, _COLUMN_WIDTH / _WIDTH, height / total)
            with_names = left == _LEFT_OF_COLUMNS[0]
            _draw_bars(figure.add_axes(place), results, phase, unit, of, with_names)
        above = 1 - (top - 0.13) / total
        figure.text(0.01, above, phase, color=_INK, fontsize=10, fontweight="bold", va="center")
        top += height
    return figure


def _draw_bars(
    axes: Axes,
    results: Results,
    phase: str,
    unit: str,
    of: Callable[[Run], float],
    with_names: bool,
) -> None:
    peers = results.peers(phase)
    figures = [results.figures(phase, peer, of) for peer in peers]
    for place, (peer, found) in enumerate(zip(peers, figures, strict=True)):
        assert found is not None
        color = _OURS if peer == US else _OTHERS
        axes.barh(place, found.median, height=0.72, color=color)
        axes.plot((found.smallest, found.largest), (place, place), color=_INK, linewidth=1.2)
        axes.annotate(
            unit.format(found.median),
            (found.largest, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            color=_INK,
            fontsize=8,
        )
    axes.set_xlim(0, 1.32 * max(found.largest for found in figures if found))
    axes.set_ylim(len(peers) - 0.5, -0.5)
    axes.set_yticks(range(len(peers)), peers if with_names else [""] * len(peers))
    axes.tick_params(axis="y", length=0, labelcolor=_INK, labelsize=8)
    axes.set_xticks([])
    axes.patch.set_alpha(0)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "left")
        spine.set_color(_INK)


def main() -> None:
    source, target = (Path(argument) for argument in sys.argv[1:3])
    # Text stays text, and the same figures give the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bench"})
    draw(load_results(source)).savefig(target, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
