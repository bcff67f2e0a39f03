"""The mutants themselves: each still fits its module, and the runner tells what became of it."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from backup_tasks.common.paths import PROJECT_ROOT
from tests.mutants import Mutant, load_mutants
from tests.mutants.__main__ import run_all, run_tests, stale_because, tell

MUTANTS = load_mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_its_module_and_names_tests_that_are_there(mutant: Mutant) -> None:
    assert stale_because(mutant) == ""
    assert mutant.original != mutant.mutated
    ast.parse(mutant.apply(mutant.file().read_text("utf-8")))
    for test in mutant.tests:
        file, _, name = test.partition("::")
        source = (PROJECT_ROOT / file).read_text("utf-8")
        assert f"\ndef {name.partition('[')[0]}(" in source or not name, test


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of one module, with a test that looks at half of it."""
    (tmp_path / "backup_tasks").mkdir()
    (tmp_path / "backup_tasks" / "__init__.py").touch()
    (tmp_path / "backup_tasks" / "sums.py").write_text(
        "def add(a, b):\n    return a + b\n\n\ndef double(a):\n    return a * 2\n"
    )
    (tmp_path / "test_sums.py").write_text(
        "from backup_tasks.sums import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"
    )
    return tmp_path


def mutant_of_sums(name: str, original: str, mutated: str) -> Mutant:
    return Mutant("by hand", name, "sums", ("test_sums.py",), original, mutated)


def test_the_runner_tells_killed_lived_and_broken_apart_and_takes_each_back(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (project / "backup_tasks" / "sums.py").read_text()
    mutants = [
        mutant_of_sums("noticed", "a + b", "a - b"),
        mutant_of_sums("unnoticed", "a * 2", "a * 3"),
        mutant_of_sums("no python", "return a + b", "return a +"),
    ]
    outcomes = run_all(mutants, [project])
    assert outcomes[:2] == ["killed", "lived"]
    assert "SyntaxError" in outcomes[2]
    assert (project / "backup_tasks" / "sums.py").read_text() == before
    assert tell(mutants, outcomes) == 1
    assert "unnoticed: LIVED\n" in capsys.readouterr().out


def test_tests_that_hang_count_as_failed_and_are_ended(project: Path) -> None:
    (project / "test_sums.py").write_text(
        "import time\n\n\ndef test_add():\n    time.sleep(3600)\n"
    )
    assert run_tests(project, ["test_sums.py"], 3) == (1, "it took too long")


def test_the_score_fails_below_95_percent_and_for_one_that_lives_without_a_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mutant = mutant_of_sums("one", "a + b", "a - b")
    known = replace(mutant, lives="nobody adds")
    many = [mutant] * 19
    assert tell(many, ["killed"] * 19) == 0
    assert tell([*many, known], [*["killed"] * 19, "lived"]) == 0
    assert "one: lives: nobody adds\n19 of 20 killed: 95.0 %\n" in capsys.readouterr().out
    assert tell([*many, mutant], [*["killed"] * 19, "lived"]) == 1
    assert tell([*many, known, known], [*["killed"] * 19, "lived", "lived"]) == 1


def test_a_stale_mutant_is_an_error() -> None:
    stale = replace(MUTANTS[0], original="this stands nowhere")
    assert "stands 0 times" in stale_because(stale)
    twice = replace(MUTANTS[0], original="import")
    assert "times in" in stale_because(twice)


def test_the_command_says_when_nothing_bears_the_name() -> None:
    command = [sys.executable, "-m", "tests.mutants", "--only", "no such mutant"]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no mutant has 'no such mutant'" in done.stderr
