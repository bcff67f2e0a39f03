"""Promises of the house: imports go downward only, and each outside package has its own door."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import backup_tasks
from backup_tasks.common.paths import PROJECT_ROOT

# From the ground up, as the package itself says it. A new package must be given its place there.
PACKAGES = re.findall(r"^- `(\w+)`", backup_tasks.__doc__ or "", re.M)
# About twelve: more than that nobody overlooks.
MOST_MODULES = 13

# Outside packages -> the modules that may import them.
DOORS = {
    "cryptography": ("keys.signing",),
    "boto3": ("stores.s3.", "prune.lifecycle"),
    "botocore": ("stores.s3.", "prune.lifecycle"),
    "invoke": ("tasks",),
    "jinja2": ("notify.mail_text",),
    "pyrage": ("keys.", "chunks.encrypt", "backup.key_check"),
    "rich": ("common.terminal",),
    "tomlkit": ("profile.toml_lines",),
}

CLOCKS = {
    *(f"datetime.{name}" for name in ("now", "utcnow", "today")),
    "date.today",
    *(f"time.{name}" for name in ("time", "time_ns", "localtime", "gmtime", "ctime")),
}
# time.monotonic is no clock: it measures how long something takes, and cannot be set.
READS_THE_CLOCK = {"tasks"}

# What takes a tenth of a second or more to import, and `invoke --list` has no use for.
HEAVY = (
    *("boto3", "botocore", "cryptography", "jinja2", "msgspec", "pathspec", "pydantic", "rich"),
    "tomlkit",
)


def sources() -> dict[str, ast.Module]:
    """Every module of the package, and the commands: name -> what it says."""
    files = [*PROJECT_ROOT.glob("backup_tasks/**/*.py"), PROJECT_ROOT / "tasks.py"]
    return {_name(file): ast.parse(file.read_bytes()) for file in files}


def _name(file: Path) -> str:
    dotted = ".".join(file.relative_to(PROJECT_ROOT).with_suffix("").parts)
    return dotted.removeprefix("backup_tasks.").removesuffix(".__init__")


MODULES = sources()


def package_of(module: str) -> str:
    """The package at the top that a module lies in; "" for `errors` and the package itself."""
    package = module.partition(".")[0]
    return package if package in PACKAGES or package == "tasks" else ""


def imports(tree: ast.Module) -> Iterator[str]:
    """The full name of every module that is imported, anywhere in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            assert node.module
            # `from backup_tasks.command import job` imports a module, not a name in one.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in names if name.removeprefix("backup_tasks.") in MODULES]
            yield from modules or [node.module]


def own_imports(tree: ast.Module) -> set[str]:
    """The modules of our own that it imports, without `backup_tasks.`."""
    own = {name for name in imports(tree) if name.partition(".")[0] == "backup_tasks"}
    return {name.partition(".")[2] or "__init__" for name in own}


def test_every_package_has_its_place_and_is_not_larger_than_one_can_overlook() -> None:
    folders = {file.parent for file in (PROJECT_ROOT / "backup_tasks").glob("*/__init__.py")}
    assert sorted(folder.name for folder in folders) == sorted(PACKAGES)
    loose = {name for name in MODULES if not package_of(name)}
    assert loose == {"__init__", "errors"}, "a module lies in a package"
    for package in (*PACKAGES, "stores.s3"):
        inside = [name for name in MODULES if name.rpartition(".")[0] == package]
        assert len(set(inside) - {"stores.s3"}) <= MOST_MODULES, package


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_downward_between_packages(module: str) -> None:
    order = ["", *PACKAGES, "tasks"]
    place = order.index(package_of(module))
    upward = {
        name for name in own_imports(MODULES[module]) if order.index(package_of(name)) > place
    }
    assert upward == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: own_imports(tree) - {module} for module, tree in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' imports '.join(reversed(error.args[1]))}")


@pytest.mark.parametrize("package", sorted(DOORS))
def test_an_outside_package_has_its_own_door(package: str) -> None:
    users = {
        module
        for module, tree in MODULES.items()
        if package in {name.partition(".")[0] for name in imports(tree)}
    }
    assert users, "nobody imports it any more"
    assert {user for user in users if not user.startswith(DOORS[package])} == set()


@pytest.mark.parametrize("module", sorted(set(MODULES) - READS_THE_CLOCK))
def test_the_clock_is_read_at_the_edge_only(module: str) -> None:
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Attribute):
            called = ".".join(ast.unparse(node).split(".")[-2:])
            assert called not in CLOCKS, f"line {node.lineno}"
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            assert {alias.name for alias in node.names} <= {"monotonic", "sleep"}


def test_the_commands_start_without_what_they_may_not_need() -> None:
    script = f"import sys, tasks; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_no_property_fails_because_the_machine_is_busy() -> None:
    """Each example of a test may take as long as it likes, above all one that touches files."""
    from hypothesis import settings

    assert settings().deadline is None
    for file in (PROJECT_ROOT / "tests").rglob("test_*.py"):
        given = re.findall(r"\bsettings\([^)]*deadline=(\w+)", file.read_text("utf-8"))
        assert set(given) <= {"None"}, file.name
