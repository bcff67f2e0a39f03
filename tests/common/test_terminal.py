"""Promises of the terminal room, on a real pseudo-terminal."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_tasks.common.paths import PROJECT_ROOT
from backup_tasks.common.progress import SilentProgress
from backup_tasks.common.terminal import print_table, render_table, terminal_progress


class Screen:
    """A terminal of 100 columns, and everything that was ever written to it."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.stream: TextIO = os.fdopen(slave, "w")
        self._bytes = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._master, 65536)
            except OSError:  # EIO: the other end is closed and all is read
                return
            self._bytes += chunk

    def close(self) -> str:
        """What was written, raw."""
        if not self.stream.closed:
            self.stream.close()
            self._reader.join()
            os.close(self._master)
        return self._bytes.decode()


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    opened = Screen()
    yield opened
    opened.close()


def without_escapes(raw: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", raw).replace("\r", "")


ROWS = [("2025-06-12_0200", "120MB", "1,234", "ok"), ("2025-06-11_0200", "9.5kB", "7", "-")]


def test_columns_are_aligned_and_amounts_stand_to_the_right() -> None:
    assert render_table(("name", "size", "files", "result"), ROWS) == (
        "name              size  files  result\n"
        "2025-06-12_0200  120MB  1,234  ok\n"
        "2025-06-11_0200  9.5kB      7  -"
    )


def test_a_table_without_rows_is_its_header() -> None:
    assert render_table(("name", "size"), []) == "name  size"


def test_wide_and_combining_characters_keep_the_columns_in_line() -> None:
    first, second = render_table(("n", "x"), [("日本", "a"), ("e\u0301", "b")]).splitlines()[1:]
    assert (first, second) == ("日本  a", "e\u0301     b")


@given(cells=st.lists(st.text(), min_size=2, max_size=2))
def test_no_cell_breaks_its_line(cells: list[str]) -> None:
    table = render_table(("one", "two"), [cells])
    assert len(f"{table}\n".splitlines()) == 2


def test_a_pipe_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    pipe = io.StringIO()
    print_table(("name", "size"), [("a", "1B")], pipe)
    assert pipe.getvalue() == "name  size\na       1B\n"


def test_a_terminal_gets_the_same_words_with_style(screen: Screen) -> None:
    print_table(("name", "size"), [("[red]a[/red]", "1B")], screen.stream)
    raw = screen.close()
    assert "\x1b[" in raw
    lines = [line.split() for line in without_escapes(raw).splitlines()]
    assert lines == [["name", "size"], ["[red]a[/red]", "1B"]]


def test_a_long_name_is_folded_and_never_cut(screen: Screen) -> None:
    name = "x" * 250
    print_table(("name", "size"), [(name, "1B")], screen.stream)
    assert without_escapes(screen.close()).count("x") == 250


def test_the_bar_shows_bytes_and_files_and_leaves_no_trace(screen: Screen) -> None:
    with terminal_progress(screen.stream) as progress:
        progress.start("uploading", 4_000_000, 12)
        progress.advance(1_000_000, 3)
        progress.advance(3_000_000, 9)
    raw = screen.close()
    shown = without_escapes(raw)
    assert "uploading" in shown
    assert "4.0/4.0 MB" in shown
    assert "12/12 files" in shown
    assert raw.rstrip().endswith("\x1b[2K")  # the line is wiped


def test_a_new_phase_takes_the_place_of_the_one_before(screen: Screen) -> None:
    with terminal_progress(screen.stream) as progress:
        progress.start("reading", 10, 1)
        progress.start("uploading [1]", 0, 0)
        progress.advance(files_done=5)
    last = without_escapes(screen.close()).rpartition("uploading [1]")[2]
    assert "5 files" in last
    assert "reading" not in last


def test_threads_may_advance_at_once(screen: Screen) -> None:
    with terminal_progress(screen.stream) as progress:
        progress.start("uploading", 40_000, 0)
        threads = [
            threading.Thread(target=lambda: [progress.advance(1) for _ in range(10_000)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "40.0/40.0 kB" in without_escapes(screen.close())


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_cannot_redraw_gets_silence(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    monkeypatch.setenv("TERM", term)
    assert isinstance(terminal_progress(screen.stream), SilentProgress)


def test_a_pipe_gets_silence() -> None:
    with terminal_progress(io.StringIO()) as progress:
        assert isinstance(progress, SilentProgress)
        progress.start("x", 1, 1)
        progress.advance(1)


def test_a_report_in_a_pipe_is_not_drawn_on_the_terminal(screen: Screen) -> None:
    script = (
        "from backup_tasks.common.terminal import terminal_progress\n"
        "with terminal_progress() as progress:\n"
        "    progress.start('x', 1, 1)\n"
        "    print('report', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        stderr=screen.stream,
        text=True,
        check=True,
    )
    assert done.stdout == "report\n"


def test_rich_is_not_imported_until_it_is_needed() -> None:
    script = "import sys, backup_tasks.common.terminal; sys.exit('rich' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=PROJECT_ROOT, check=True)
