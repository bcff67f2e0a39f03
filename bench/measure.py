"""Run a command, or a pipeline of them, and measure what it costs the client.

CPU time is that of the whole process tree, as wait4(2) tells it. The peak of memory is what GNU
time tells: a process begins with the peak of whoever started it (Linux keeps it across exec), and
that of GNU time is next to nothing, while ours is not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_MOST_TOLD = 2000
_STOP_SECONDS = 10


class WorkFailed(Exception):
    """A measured command failed; says which, and the end of what it said."""


@dataclass(frozen=True)
class Work:
    """What is run: a command, or several with a pipe between each two.

    Attributes:
        commands: argument lists, the first one's input is empty.
        environ: all that they see of the environment.
    """

    commands: tuple[tuple[str, ...], ...]
    folder: Path
    environ: Mapping[str, str]


@dataclass(frozen=True)
class Cost:
    """What one run cost.

    Attributes:
        cpu_seconds: user and system time, of all processes together.
        largest_kib: peak resident memory of the largest process.
        summed_kib: the peaks of the pipeline's commands added up (each the largest process of
            its tree); the same as `largest_kib` for a single command.
    """

    wall_seconds: float
    cpu_seconds: float
    largest_kib: int
    summed_kib: int


def measure(work: Work) -> Cost:
    """Run it to its end. Raises WorkFailed when one of the commands fails."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        notes = [Path(folder, f"memory{number}") for number in range(len(work.commands))]
        said = Path(folder, "said")
        with open(said, "wb") as log:
            started = time.monotonic()
            processes = _start(work, notes, log.fileno())
            try:
                ends = [os.wait4(process.pid, 0) for process in processes]
            except BaseException:
                _stop(processes)
                raise
            wall = time.monotonic() - started
        for process, (_, status, _) in zip(processes, ends, strict=True):
            process.returncode = os.waitstatus_to_exitcode(status)
        _check(work, processes, said)
        peaks = [int(note.read_text().split()[-1]) for note in notes]
        cpu = sum(usage.ru_utime + usage.ru_stime for _, _, usage in ends)
        return Cost(wall, cpu, max(peaks), sum(peaks))


def _start(work: Work, notes: list[Path], log: int) -> list[subprocess.Popen[bytes]]:
    processes: list[subprocess.Popen[bytes]] = []
    source = None
    try:
        for number, (command, note) in enumerate(zip(work.commands, notes, strict=True), start=1):
            last = number == len(work.commands)
            process = subprocess.Popen(
                ["/usr/bin/time", "--quiet", "-f", "%M", "-o", note, *command],
                stdin=source or subprocess.DEVNULL,
                stdout=log if last else subprocess.PIPE,
                stderr=log,
                cwd=work.folder,
                env=dict(work.environ),
                start_new_session=True,  # so that `_stop` reaches what GNU time started
            )
            if source is not None:
                source.close()  # so that a reader that ends is noticed by its writer
            source = process.stdout
            processes.append(process)
    except BaseException:
        _stop(processes)
        raise
    return processes


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """End them and all that they started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            for process in processes:
                process.wait(timeout=_STOP_SECONDS)
            return


def _check(work: Work, processes: list[subprocess.Popen[bytes]], said: Path) -> None:
    for command, process in zip(work.commands, processes, strict=True):
        if process.returncode:
            told = said.read_text(errors="replace")[-_MOST_TOLD:]
            raise WorkFailed(
                f"{' '.join(command[:6])} ended with {process.returncode} and said:\n{told}"
            )
