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
_BAR_INCHES, _GAP_INCHES, _WIDTH_INCHES = 0.21, 0.52, 9.6
_COLUMNS: tuple[tuple[str, str, Callable[[Run], float]], ...] = (
    ("wall time", "{:.3g} s", wall),
    ("CPU time of the client", "{:.3g} s", cpu),
    ("peak memory", "{:.0f} MiB", lambda run: largest_kib(run) / 1024),
)


def draw(results: Results) -> Figure:
    """One row for each work; shorter is better; thin lines show the spread of the rounds."""
    phases = results.phases()
    heights = [_GAP_INCHES + _BAR_INCHES * len(results.peers(phase)) for phase in phases]
    figure = Figure(figsize=(_WIDTH_INCHES, sum(heights) + 0.5))
    figure.patch.set_alpha(0)
    rows = figure.subplots(len(phases), len(_COLUMNS), height_ratios=heights, squeeze=False)
    for phase, axes in zip(phases, rows, strict=True):
        for number, (title, unit, of) in enumerate(_COLUMNS):
            _draw_bars(axes[number], results, phase, unit, of, with_names=number == 0)
            if phase == phases[0]:
                axes[number].annotate(
                    title,
                    (0, 1),
                    xytext=(0, 26),
                    xycoords="axes fraction",
                    textcoords="offset points",
                    color=_INK,
                    fontsize=10,
                )
        axes[0].set_title(phase, loc="left", color=_INK, fontsize=10, fontweight="bold")
    figure.subplots_adjust(
        left=0.17,
        right=0.955,
        top=1 - 0.62 / (sum(heights) + 0.5),
        bottom=0.01,
        wspace=0.28,
        hspace=0.75,
    )
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
    axes.set_xlim(0, 1.28 * max(found.largest for found in figures if found))
    axes.set_ylim(len(peers) - 0.4, -0.6)
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
