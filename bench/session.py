"""What the benches' commands have in common: where they work, and how they end."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.measure import WorkFailed

HERE = Path(__file__).resolve().parent


def report_folder(size: str, work: Path) -> Path:
    """Where a report is written: the full one where it is kept, a look into the working folder."""
    return HERE if size == "full" else work


@contextlib.contextmanager
def working_folder(work: Path) -> Iterator[Path]:
    """An empty folder below `work`, gone afterwards, for what one bench makes."""
    place = work / "run"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def ends_tidily() -> Iterator[None]:
    """A line instead of a traceback for what may go wrong; SIGTERM ends all as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except (WorkFailed, OSError, ValueError, RuntimeError) as error:
        sys.exit(f"the bench ended early: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
