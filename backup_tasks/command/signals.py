"""Signals that end a run, raised in the main thread, but never in the midst of what Python does for
threads."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from threading import Condition
from types import FrameType

from backup_tasks.errors import ENDING_SIGNALS

# Python's own modules whose steps belong together, and the two in which one waits.
_BOOKKEEPING = {
    "threading",
    "weakref",
    "_weakrefset",
    "queue",
    "concurrent.futures._base",
    "concurrent.futures.thread",
}
_JOINING = ("join", "_wait_for_tstate_lock")
_WAIT = Condition.wait.__code__
_SOON_SECONDS = 0.001


class SignalCame(BaseException):
    """A signal asks for the end.

    No Exception: botocore takes any of those for a lost connection and tries again.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """A handler that raises the first signal, and passes over those that follow.

    Cleaning up is not to be cut short by a second Ctrl-C, which comes easily.

    Attributes:
        armed: whether a signal is raised at all.
    """

    def __init__(self) -> None:
        self.armed = True
        self._waiting = 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raise SignalCame, now or as soon as that harms nothing."""
        if not self.armed:
            return
        if _must_go_on(frame):
            self._waiting = number
            signal.setitimer(signal.ITIMER_REAL, _SOON_SECONDS)
            return
        self.armed = False
        raise SignalCame(number)

    def handle_alarm(self, _: int, frame: FrameType | None) -> None:
        """Try again what `handle` had to put off."""
        if self._waiting:
            self.handle(self._waiting, frame)


def _must_go_on(frame: FrameType | None) -> bool:
    """Whether the main thread stands in the midst of what Python does for threads.

    A handler runs between any two steps of it. An error just after `Condition` has taken its lock
    leaves it taken by nobody: a thread that wants it never ends, nor does whoever waits for that
    thread. In the callback of a weak reference an error is lost.
    """
    if frame is None or frame.f_globals.get("__name__") not in _BOOKKEEPING:
        return False
    if frame.f_code is _WAIT:
        return "gotit" not in frame.f_locals  # which it has as long as it waits
    return frame.f_code.co_name not in _JOINING


@contextlib.contextmanager
def signals_raised() -> Iterator[Signals]:
    """Have the first signal of those that end a run raise SignalCame in the block."""
    signals = Signals()
    before = {signal.SIGALRM: signal.signal(signal.SIGALRM, signals.handle_alarm)}
    for number in ENDING_SIGNALS:
        # What was ignored from the start stays so: SIGHUP under nohup, SIGINT in background jobs.
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, signals.handle)
    try:
        yield signals
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
