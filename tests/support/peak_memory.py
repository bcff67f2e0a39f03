"""How much memory a command takes at the most, with all the processes that it starts."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.cli import Cli, Done

# For a hang alone; a busy machine must not reach it.
_HANGS_SECONDS = 120
_STEP_SECONDS = 0.004
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


@dataclass(frozen=True)
class Measured:
    """A command that has ended, and the sum of the peaks of its processes in MiB."""

    done: Done
    peak: float


def run_measured(cli: Cli, *arguments: str | Path, **environ: str) -> Measured:
    """As `Cli.run`. What two processes share counts twice."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            cli.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=cli.here,
            env={**cli.environ, **environ},
        )
        peaks: dict[int, int] = {}
        ends = time.monotonic() + _HANGS_SECONDS
        while process.poll() is None:
            for one in _family(process.pid):
                peaks[one] = max(peaks.get(one, 0), _peak_of(one))
            if time.monotonic() > ends:
                process.kill()
                raise AssertionError("it hangs")
            time.sleep(_STEP_SECONDS)
        out.seek(0)
        err.seek(0)
        done = Done(process.returncode, out.read().decode(), err.read().decode())
    return Measured(done, sum(peaks.values()) / 1024)


def _family(process: int) -> Sequence[int]:
    try:
        threads = os.listdir(f"/proc/{process}/task")
        listed = [Path(f"/proc/{process}/task/{one}/children").read_text() for one in threads]
    except OSError:
        return [process]
    children = [int(child) for line in listed for child in line.split()]
    return [process, *(one for child in children for one in _family(child))]


def _peak_of(process: int) -> int:
    try:
        found = _PEAK.search(Path(f"/proc/{process}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0
