"""tasks.py stays a table of contents: each task is a signature, a docstring and a few lines."""

from __future__ import annotations

import ast
import inspect
from typing import Any

import pytest
from invoke.exceptions import Exit

import tasks
from backup_tasks.command.backup_job import BackupWish
from backup_tasks.common.paths import PROJECT_ROOT
from backup_tasks.restore.request import RestoreWish
from backup_tasks.verify.run_drill import DrillWish
from backup_tasks.verify.run_verify import VerifyWish

MOST_LINES = 10
SOURCE = (PROJECT_ROOT / "tasks.py").read_text()


def bodies() -> dict[str, list[str]]:
    """Task -> its lines after the docstring, without empty ones."""
    lines, found = SOURCE.splitlines(), {}
    for node in ast.parse(SOURCE).body:
        if isinstance(node, ast.FunctionDef) and any(
            isinstance(one, ast.Call) and getattr(one.func, "id", "") == "task"
            for one in node.decorator_list
        ):
            _, first, *_ = node.body
            body = lines[first.lineno - 1 : node.end_lineno]
            found[node.name] = [line for line in body if line.strip()]
    return found


def test_every_task_is_at_most_ten_lines() -> None:
    found = bodies()
    assert len(found) > 15
    assert {name: len(body) for name, body in found.items() if len(body) > MOST_LINES} == {}


@pytest.mark.parametrize(
    ("task", "wish"),
    [
        (tasks.backup, BackupWish),
        (tasks.restore, RestoreWish),
        (tasks.verify, VerifyWish),
        (tasks.drill, DrillWish),
    ],
)
def test_what_an_operator_typed_has_the_order_of_the_tasks_options(task: Any, wish: Any) -> None:
    """They are passed on by their places."""
    options = [name.rstrip("_") for name in inspect.signature(task.body).parameters]
    fields = list(wish.__struct_fields__)
    assert [name for name in options if name in fields] == fields


def test_a_task_that_finds_no_memory_for_its_imports_says_so_in_one_line() -> None:
    def body(_: object) -> None:
        raise ImportError("failed to map segment from shared object")

    made = tasks.task("example")(body)
    with pytest.raises(Exit, match=r"^out of memory") as caught:
        made.body(None)
    assert caught.value.code == 1
