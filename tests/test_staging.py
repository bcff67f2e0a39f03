"""The journal of a staging object: what it tells of a run that was cut off."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backup_tasks.manifest import Entry, walk_key
from backup_tasks.staging import StagedRun, Staging, StagingJournal
from backup_tasks.turns import Turn

PATHS = [f"{folder}{name}" for folder in ("", "a/", "a-/", "b/c/") for name in "abcdefgh"]

few_examples = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(path: Path, turns: list[list[str]]) -> list[str]:
    """What is read of a journal in which each turn wrote these paths."""
    path.unlink(missing_ok=True)
    staging = Staging(name="name", store="store", started_at="2025-06-12T02:00:00Z", first_chunk=0)
    journal = StagingJournal(path, staging)
    for turn in turns:
        for name in turn:
            journal.add_entry(Entry(path=name, type="file", chunk=0))
    journal.close()
    return [entry.name for entry in StagedRun(path).entries()]


def in_order(paths: list[str]) -> list[str]:
    return sorted(paths, key=walk_key)


@few_examples
@given(st.lists(st.sampled_from(PATHS), unique=True), st.data())
def test_entries_of_all_turns_come_in_the_order_of_the_walk(
    tmp_path: Path, paths: list[str], data: st.DataObject
) -> None:
    turns: list[list[str]] = [[] for _ in Turn]
    for path in paths:
        data.draw(st.sampled_from(turns)).append(path)
    assert written(tmp_path / "journal", [in_order(turn) for turn in turns]) == in_order(paths)


@few_examples
@given(st.lists(st.sampled_from(PATHS), max_size=12))
def test_a_journal_in_no_order_of_a_run_is_believed_only_as_far_as_it_is_sorted(
    tmp_path: Path, paths: list[str]
) -> None:
    found = written(tmp_path / "journal", [paths])
    assert found == in_order(list(set(found)))
    assert set(found) <= set(paths)


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_a_path_that_is_told_of_twice_ends_what_is_believed(tmp_path: Path, turn: int) -> None:
    turns = [["a", "f"], ["b"], ["e"]]
    turns[turn % 3].append("g")
    turns[(turn + 1) % 3] = [*turns[(turn + 1) % 3], "g", "h"]
    assert written(tmp_path / "journal", turns) == ["a", "b", "e", "f", "g"]
