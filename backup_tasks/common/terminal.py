"""Tables and progress bars: rich on a terminal, plain lines in a pipe, silence in cron."""

from __future__ import annotations

import getpass
import os
import re
import sys
import threading
import time
import unicodedata
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from backup_tasks.common.printable import one_line
from backup_tasks.common.progress import Progress, SilentProgress
from backup_tasks.errors import IdentityError

if TYPE_CHECKING:
    from rich.console import Console

# "12", "1,234", "120MB", "35s", "3%", and "-" for none: columns of these are aligned right.
_AMOUNT = re.compile(r"-|[\d.,]+ ?[a-zA-Z%]{0,2}")
_REDRAW_SECONDS = 0.1


def ask_passphrase(prompt: str) -> str:
    """Ask on the terminal, without echo.

    Raises:
        IdentityError: there is no terminal, as in cron, or no passphrase was typed.
    """
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        raise IdentityError(
            "it is protected by a passphrase, and there is no terminal to ask on"
        ) from None
    try:
        return getpass.getpass(prompt)
    except EOFError:
        raise IdentityError("no passphrase was given") from None


def render_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render aligned plain text: a line of column names, a line for each row, no final newline.

    A column that holds only amounts is aligned right.
    """
    lines = [[one_line(cell) for cell in line] for line in (columns, *rows)]
    right = _columns_of_amounts(lines)
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    rendered = (
        "  ".join(
            " " * (width - _width(cell)) + cell if to_right else cell + " " * (width - _width(cell))
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )
    return "\n".join(rendered)


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], stream: TextIO | None = None
) -> None:
    """Print a table to `stream` (stdout by default), with colours only on a terminal."""
    target = stream or sys.stdout
    if not _is_terminal(target):
        print(render_table(columns, rows), file=target)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    lines = [[one_line(cell) for cell in line] for line in (columns, *rows)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name, to_right in zip(lines[0], _columns_of_amounts(lines), strict=True):
        # Fold names, never cut them: operators copy them from here.
        table.add_column(Text(name), justify="right" if to_right else "left", overflow="fold")
    for line in lines[1:]:
        table.add_row(*map(Text, line))  # Text, so that [brackets] in a name are not markup
    Console(file=target).print(table)


def terminal_progress(stream: TextIO | None = None) -> Progress:
    """A bar on `stream` (stderr by default) when that is a terminal, else silence."""
    target = stream or sys.stderr
    if not _is_terminal(target):
        return SilentProgress()
    from rich.console import Console

    return _Bar(Console(file=target))


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def _columns_of_amounts(lines: Sequence[Sequence[str]]) -> list[bool]:
    return [
        any(cells) and all(_AMOUNT.fullmatch(cell) for cell in cells if cell)
        for _, *cells in zip(*lines, strict=True)
    ]


def _width(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.category(character) in ("Mn", "Me")
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )


class _Bar:
    """One bar for the phase under way: bytes, files, speed and time left. Leaves no trace."""

    def __init__(self, console: Console) -> None:
        from rich import progress

        self._lock = threading.Lock()
        self._bytes = 0
        self._files = 0
        self._total_files = 0
        self._drawn_at = 0.0
        self._task: progress.TaskID | None = None
        self._rich = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TextColumn("{task.fields[files]}"),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            console=console,
            transient=True,
            redirect_stdout=False,  # or a report in a pipe would end up on the terminal
        )

    def start(self, label: str, total_bytes: int, total_files: int) -> None:
        with self._lock:
            if self._task is not None:
                self._rich.remove_task(self._task)
            self._bytes = self._files = 0
            self._total_files = total_files
            self._task = self._rich.add_task(
                one_line(label), total=total_bytes or None, files=self._render_files()
            )

    def advance(self, bytes_done: int = 0, files_done: int = 0) -> None:
        with self._lock:
            self._bytes += bytes_done
            self._files += files_done
            # Small files come at ten thousand a second, and each call of rich is slow.
            now = time.monotonic()
            if now - self._drawn_at >= _REDRAW_SECONDS:
                self._drawn_at = now
                self._draw()

    def _draw(self) -> None:
        if self._task is not None:
            self._rich.update(self._task, completed=self._bytes, files=self._render_files())

    def _render_files(self) -> str:
        total = f"/{self._total_files:,}" if self._total_files else ""
        return f"{self._files:,}{total} files"

    def __enter__(self) -> Self:
        self._rich.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._draw()
        self._rich.stop()
