"""Markdown tables and rounded figures, for every report of the benches."""

from __future__ import annotations

from collections.abc import Sequence

MISSING = "-"


def render_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, figures: bool = True
) -> str:
    """A GitHub table. With `figures`, all columns but the first are aligned to the right."""
    rule = "---:|" if figures else "---|"
    lines = [_row(head), "|---|" + rule * (len(head) - 1), *(_row(row) for row in rows)]
    return "\n".join(lines) + "\n"


def seconds(value: float | None) -> str:
    """ "0.43 s", "12.4 s", "210 s"."""
    return MISSING if value is None else f"{_three_digits(value)} s"


def spread(smallest: float, largest: float) -> str:
    """What the rounds ranged over: "1.21..1.34"."""
    return f"{_three_digits(smallest)}..{_three_digits(largest)}"


def mebibytes(kib: float | None) -> str:
    return MISSING if kib is None else f"{kib / 1024:,.0f} MiB"


def megabytes(count: int | None) -> str:
    return MISSING if count is None else f"{_three_digits(count / 1e6)} MB"


def times(value: float | None) -> str:
    """A ratio: "0.37 x"."""
    return MISSING if value is None else f"{value:.2f} x"


def _three_digits(value: float) -> str:
    for digits, below in ((2, 10), (1, 100)):
        if round(value, digits) < below:
            return f"{value:.{digits}f}"
    return f"{value:,.0f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
