"""Mutants: faults made by hand in modules that can lose data, and the tests that must notice them.

Each `*.toml` beside this file holds some:

    [[mutants]]
    name = "a-short-write-is-not-continued"
    module = "target"                  # backup_tasks/target.py
    tests = ["tests/test_target.py"]   # files, or single tests, as pytest takes them
    original = '''while written < len(part):'''   # stands once in the module
    mutated = '''if False:'''
    lives = "why no test can notice it"           # only of a mutant that is known to live

`make mutants` runs them, `make mutants ONLY=name` those whose name, module or file holds this text.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from backup_tasks.common.paths import PROJECT_ROOT

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Mutant:
    """One fault. The module's docstring says what each attribute is; `area` is the file's name."""

    area: str
    name: str
    module: str
    tests: tuple[str, ...]
    original: str
    mutated: str
    lives: str = ""

    def file(self, project: Path = PROJECT_ROOT) -> Path:
        """The module's file."""
        return project / "backup_tasks" / f"{self.module.replace('.', '/')}.py"

    def apply(self, source: str) -> str:
        """The module with the fault. Raises ValueError unless the snippet stands in it once."""
        found = source.count(self.original)
        if found != 1:
            raise ValueError(
                f"{self.area}: {self.name}: its snippet stands {found} times in {self.module}; "
                "write it anew from the module as it is now"
            )
        return source.replace(self.original, self.mutated)


def load_mutants(only: str = "") -> list[Mutant]:
    """All mutants in the order of their files, or those whose name, module or file holds a text.

    Raises ValueError for two of one name, TypeError for a key that is missing or unknown.
    """
    mutants = [
        Mutant(area=file.stem, **{**fields, "tests": tuple(fields["tests"])})
        for file in sorted(HERE.glob("*.toml"))
        for fields in tomllib.loads(file.read_text("utf-8"))["mutants"]
    ]
    names = [mutant.name for mutant in mutants]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"more than one mutant is called {', '.join(twice)}")
    return [one for one in mutants if only in one.name or only in (one.module, one.area)]
