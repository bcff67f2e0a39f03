"""Promises of what stands against deleting: what the newest backup lacks is kept elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_tasks.format.manifest import Header
from backup_tasks.journal.problems import Problem, ProblemKind
from backup_tasks.prune.prune_guard import keep_whole, why_nothing_is_pruned


def header(problems: int = 0, needed: tuple[str, ...] = ()) -> Header:
    fields: dict[str, Any] = dict.fromkeys(
        ("profile", "host", "started_at", "written_at", "tool"), ""
    )
    fields |= dict.fromkeys(("format", "entries", "files", "raw_bytes", "chunks"), 0)
    return Header(**fields, chunk_bytes=0, sources=(), problems=problems, needed_backups=needed)


def test_beside_a_whole_backup_no_other_is_needed() -> None:
    assert keep_whole({"c": header(), "b": header(1), "a": header()}) == {
        "c": "the newest without problems"
    }
    assert keep_whole({}) == {}


def test_the_newest_whole_one_stays_beside_those_that_are_not() -> None:
    assert keep_whole({"d": header(2), "c": header(1), "b": header(), "a": header()}) == {
        "b": "the newest without problems"
    }


def test_what_nobody_knows_may_be_the_newest_whole_one() -> None:
    assert keep_whole({"d": header(2), "c": None, "b": header(), "a": None}) == {
        "c": "perhaps the newest without problems",
        "b": "the newest without problems",
    }


def test_what_the_newest_one_could_not_keep_stays_where_it_is() -> None:
    found = keep_whole({"d": header(1, ("a",)), "c": header(1, ("b",)), "b": header(1), "a": None})
    assert found["a"]
    assert "b" not in found


headers = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=2), st.none() | st.builds(header, st.integers(0, 2))
)


@given(headers=headers)
def test_a_whole_backup_is_never_lost_by_keeping_the_newest_and_these(
    headers: dict[str, Header | None],
) -> None:
    left = {*list(headers)[:1], *keep_whole(headers)}
    whole = [name for name, one in headers.items() if one is not None and not one.problems]
    if whole:
        assert whole[0] in left


@pytest.mark.parametrize(
    ("kind", "last_whole", "holds"),
    [
        ("torn", "", False),
        ("carried", "", False),
        ("vanished", "", False),
        ("unstorable", "", False),
        ("missing", "", True),
        ("missing", "old", True),
        ("unreadable", "", True),
        ("unreadable", "old", False),
    ],
)
def test_only_what_no_known_backup_holds_keeps_a_run_from_deleting(
    kind: ProblemKind, last_whole: str, holds: bool
) -> None:
    told = why_nothing_is_pruned([Problem("/x", "why", kind, last_whole=last_whole)])
    assert bool(told) is holds


def test_any_number_of_problems_is_one_line() -> None:
    many = [Problem(f"/file{number}", "x") for number in range(10_000)]
    [told] = why_nothing_is_pruned([*many, Problem("/x", "torn", "torn")])
    assert told == (
        "older backups may have what could not be read: /file0, /file1, /file2 and 9,997 others"
    )
