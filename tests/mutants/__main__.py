"""Run the mutants: which of them do the tests notice? `python -m tests.mutants --help`.

Each works in a copy of the project; this one is never touched. First the tests must pass there as
the code is. Exits with 1 when a snippet is stale, when a mutant lives for no known reason, or when
fewer than 95 % are killed.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants import Mutant, load_mutants
from tests.support.project_copy import copy_project

LEAST_PERCENT = 95
_PATIENCE_SECONDS = 300
_ENDING_SECONDS = 30
_PASSED, _FAILED = 0, 1  # as pytest exits


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of a name, a module, or a file's name")
    parser.add_argument("-n", type=int, default=2, help="how many at once")
    options = parser.parse_args()
    mutants = load_mutants(options.only)
    if not mutants:
        print(f"no mutant has {options.only!r} in its name, nor is it a module", file=sys.stderr)
        return 1
    if stale := [why for mutant in mutants if (why := stale_because(mutant))]:
        print("\n".join(f"STALE {why}" for why in stale), file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = [copy_project(Path(folder, str(number))) for number in range(options.n)]
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        code, said = run_tests(copies[0], tests, _PATIENCE_SECONDS * 10)
        if code != _PASSED:
            print(f"without any mutant the tests do not pass:\n{said}", file=sys.stderr)
            return 1
        outcomes = run_all(mutants, copies)
    return tell(mutants, outcomes)


def stale_because(mutant: Mutant) -> str:
    """Why its snippet is not to be found in the module, or ""."""
    try:
        mutant.apply(mutant.file().read_text("utf-8"))
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def run_tests(project: Path, tests: Sequence[str], seconds: float) -> tuple[int, str]:
    """How pytest exits for these tests, and what it prints; `_FAILED` when it takes too long."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
    environ = {**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(project / ".hypothesis")}
    with subprocess.Popen(
        [*command, *tests],
        cwd=project,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            return _FAILED, "it took too long"
    return process.returncode, said


def _end(process: subprocess.Popen[str]) -> None:
    """End a run of pytest with the servers that it has started."""
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=_ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def run_all(mutants: Sequence[Mutant], copies: Sequence[Path]) -> list[str]:
    """What became of each: "killed", "lived", or what pytest printed where it could not run."""
    free: queue.Queue[Path] = queue.Queue()
    for copy in copies:
        free.put(copy)

    def run(mutant: Mutant) -> str:
        copy = free.get()
        try:
            return run_one(mutant, copy)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(copies)) as pool:
        return list(pool.map(run, mutants))


def run_one(mutant: Mutant, copy: Path) -> str:
    """Apply it, run its tests, and take it back."""
    file, began = mutant.file(copy), time.monotonic()
    whole = file.read_text("utf-8")
    write_module(file, mutant.apply(whole))
    try:
        code, said = run_tests(copy, mutant.tests, _PATIENCE_SECONDS)
    finally:
        write_module(file, whole)
    outcome = {_PASSED: "lived", _FAILED: "killed"}.get(code, said)
    word = outcome if code in (_PASSED, _FAILED) else "BROKEN"
    seconds = time.monotonic() - began
    print(f"{word:7} {seconds:5.1f} s  {mutant.name:60} {killer_in(said)}".rstrip(), flush=True)
    return outcome


def killer_in(said: str) -> str:
    """The test that failed, by what pytest printed, or ""."""
    found = re.search(r"^(?:FAILED|ERROR) tests/(.+?)(?: - |$)", said, re.MULTILINE)
    return found[1] if found else ""


def write_module(file: Path, source: str) -> None:
    """Write it, and forget how it was compiled: time and size may be those of before."""
    file.write_text(source, "utf-8")
    for compiled in file.parent.glob(f"__pycache__/{file.stem}.*.pyc"):
        compiled.unlink()


def tell(mutants: Sequence[Mutant], outcomes: Sequence[str]) -> int:
    """Print the score. Returns the exit code."""
    killed: Counter[str] = Counter()
    found = list(zip(mutants, outcomes, strict=True))
    for mutant, outcome in found:
        killed[mutant.module] += outcome == "killed"
    print()
    for module, count in Counter(mutant.module for mutant in mutants).items():
        print(f"{module:24} {killed[module]:3} of {count:3} killed")
    is_fine = True
    for mutant, outcome in found:
        if outcome == "killed":
            if mutant.lives:
                print(f"{mutant.name}: is killed by now; take away what says why it lives")
        elif outcome == "lived" and mutant.lives:
            print(f"{mutant.name}: lives: {mutant.lives}")
        else:
            is_fine = False
            print(f"{mutant.name}: LIVED" if outcome == "lived" else f"{mutant.name}:\n{outcome}")
    percent = 100 * killed.total() / len(mutants)
    print(f"{killed.total()} of {len(mutants)} killed: {percent:.1f} %")
    return 0 if is_fine and percent >= LEAST_PERCENT else 1


if __name__ == "__main__":
    sys.exit(main())
