"""The journal of a staging object: what it tells of a run that was cut off."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backup_tasks.archive.write_order import WriteGroup
from backup_tasks.format.limits import CHUNK_RAW_LIMIT
from backup_tasks.format.manifest import Chunk, Entry, walk_key
from backup_tasks.staging.journal import StagedRun, Staging, StagingJournal

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
    turns: list[list[str]] = [[] for _ in WriteGroup]
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


def chunk_at(number: int, length: int = 10) -> Chunk:
    return Chunk(length * number, length, f"{number:064x}", 512)


def journal_of(path: Path, chunks: int, first_chunk: int = 0) -> list[bytes]:
    """The lines of a run that wrote one file into each chunk."""
    staging = Staging(
        name="x", store="s", started_at="2025-06-12T02:00:00Z", first_chunk=first_chunk
    )
    journal = StagingJournal(path, staging)
    journal.note_upload("a handle")
    for number in range(chunks):
        journal.add_entry(Entry(path=f"{number}", type="file", chunk=first_chunk + number))
        journal.add_chunk(chunk_at(number), place=10 * number)
    journal.close()
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("lost", range(1, 5))
def test_a_journal_that_lost_a_line_in_the_middle_is_believed_up_to_there(
    tmp_path: Path, lost: int
) -> None:
    """The chunks after it would be counted from a wrong number, and give wrong bytes."""
    lines = journal_of(tmp_path / "journal", chunks=5)
    line_of_chunk = [number for number, line in enumerate(lines) if b'"chunk":{' in line]
    del lines[line_of_chunk[lost]]
    (tmp_path / "journal").write_bytes(b"".join(lines))
    run = StagedRun(tmp_path / "journal")
    assert run.chunks == [chunk_at(number) for number in range(lost)]


@pytest.mark.parametrize(
    "wrong",
    [
        Chunk(30, 0, "a" * 64, 512),
        Chunk(30, -10, "a" * 64, 512),
        Chunk(30, 10, "a" * 64, 0),
        Chunk(30, 10, "a" * 64, CHUNK_RAW_LIMIT + 1),
        Chunk(29, 10, "a" * 64, 512),
        Chunk(31, 10, "a" * 64, 512),
    ],
)
def test_a_journal_is_not_believed_from_a_chunk_on_that_cannot_be(
    tmp_path: Path, wrong: Chunk
) -> None:
    lines = journal_of(tmp_path / "journal", chunks=3)
    told = msgspec.json.encode({"chunk": msgspec.to_builtins(wrong)})
    after = msgspec.json.encode({"chunk": msgspec.to_builtins(chunk_at(4))})
    (tmp_path / "journal").write_bytes(b"".join([*lines, told, b"\n", after, b"\n"]))
    assert len(StagedRun(tmp_path / "journal").chunks) == 3


def test_what_was_kept_of_an_earlier_archive_is_not_told_of(tmp_path: Path) -> None:
    staging = Staging(name="x", store="s", started_at="2025-06-12T02:00:00Z", first_chunk=7)
    journal = StagingJournal(tmp_path / "journal", staging)
    for number, kind in ((6, "file"), (7, "dir"), (7, "file"), (8, "symlink")):
        journal.add_entry(Entry(path=f"{number}{kind}", type=kind, chunk=number))  # type: ignore[arg-type]
    journal.close()
    told = [entry.name for entry in StagedRun(tmp_path / "journal").entries()]
    assert told == ["7file", "8symlink"]
