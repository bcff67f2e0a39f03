"""What the demo stands on: a screen, commands that end with it, signals, a folder to remove."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

from backup_tasks.common.paths import PROJECT_ROOT

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoError(Exception):
    """A step of the demo did not do what it should."""


class Ended(BaseException):
    """The demo was ended by a signal; the text is the signal's name."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Screen:
    """What the viewer sees: plain lines, with a little colour on a terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._step = 0

    def step(self, title: str) -> None:
        """Begin the next part."""
        self._step += 1
        self._say(f"\n{self._step}. {title}", "bold")

    def note(self, text: str) -> None:
        """A sentence of explanation."""
        self._say(text, "")

    def command(self, text: str) -> None:
        """A command as one would type it."""
        self._say(f"$ {text}", "cyan")

    def good(self, text: str) -> None:
        """Something that turned out as it should."""
        self._say(text, "green")

    def _say(self, text: str, style: str) -> None:
        self._console.print(Text(text, style))
        sys.stdout.flush()  # before a command of ours writes to the same place


class Signals:
    """Turns the first signal that asks us to end into Ended; later ones would harm the clean-up."""

    def __init__(self) -> None:
        self._held = False
        self._waiting: int | None = None

    def watch(self) -> None:
        """From now on a signal raises Ended."""
        for number in _ENDING:
            signal.signal(number, self._receive)

    def ignore(self) -> None:
        """From now on signals do nothing."""
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A signal that comes during the block is raised at its end."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._waiting is not None:
            raise Ended(self._waiting)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.ignore()
        if not self._held:
            raise Ended(number)
        self._waiting = number


SIGNALS = Signals()


@contextlib.contextmanager
def started(words: Sequence[str], stdin: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not outlive the block, whatever ends it. Raises DemoError."""
    with contextlib.ExitStack() as stack:
        with SIGNALS.held():  # between its start and its guard nothing may interrupt
            try:
                process = subprocess.Popen(words, stdin=stdin, cwd=PROJECT_ROOT)
            except OSError as error:
                raise DemoError(f"{words[0]} cannot be started: {error.strerror}") from error
            stack.callback(_end, process)
        yield process


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def remove_tree(folder: Path) -> None:
    """Remove all of it, also folders that were restored without the right to write in them."""
    for place, names, _ in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if not os.path.islink(path):
                with contextlib.suppress(OSError):
                    os.chmod(path, 0o700)
    shutil.rmtree(folder)
