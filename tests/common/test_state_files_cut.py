"""Whatever a crash or a bad disk leaves of a file in the state directory, the next run works."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup_tasks.common.paths import Paths
from backup_tasks.errors import BackupError
from backup_tasks.journal.run_record import RunRecord
from tests.support.backups import Backups

# Files that are longer are cut at so many bytes from each end, and at so many places in between.
_ENDS, _BETWEEN = 200, 40
KEY = "signing.key"


@pytest.fixture
def backups(tmp_path: Path, paths: Paths) -> Backups:
    """Two nights are over: all that is noted between runs lies in the state directory."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("content")
    made = Backups(tmp_path / "source", tmp_path / "store", paths)
    made.backup()
    (made.source / "other").write_text("more")
    made.backup()
    return made


def cuts(length: int) -> Iterator[int]:
    """How much is left of a file of so many bytes."""
    step = max(1, (length - 2 * _ENDS) // _BETWEEN)
    yield from sorted({*range(min(_ENDS, length)), *range(max(0, length - _ENDS), length)})
    yield from range(_ENDS, length - _ENDS, step)


def state_files(state: Path) -> list[Path]:
    """What one run leaves to the next; empty ones are locks, and mean nothing."""
    return sorted(file for file in state.rglob("*") if file.is_file() and file.stat().st_size)


def next_backup(backups: Backups) -> tuple[RunRecord | None, str]:
    """Its record, or why there is none."""
    try:
        return backups.backup(), ""
    except BackupError as error:
        return None, str(error)


def test_the_next_backup_works_whatever_is_left_of_any_file_of_the_state_directory(
    backups: Backups, tmp_path: Path
) -> None:
    state, aside = backups.paths.state, tmp_path / "aside"
    shutil.copytree(state, aside)
    store = backups.store_folder
    known = {file.name for file in store.iterdir()}
    names = [file.relative_to(state) for file in state_files(state)]
    assert len(names) >= 6, names
    for name in names:
        whole = (aside / name).read_bytes()
        left = [whole[:length] for length in cuts(len(whole))]
        for content in (*left, b"\0" * len(whole), b"{" * 5000, whole + whole):
            (state / name).write_bytes(content)
            record, refusal = next_backup(backups)
            if record is None:
                assert name.name == KEY, (name, content)
                assert "signing.key is no signing key" in refusal
                assert "\n" not in refusal
            else:
                assert (record.exit_code, record.problems) == (0, []), (name, content)
                (store / record.archive).unlink()
            assert known <= {file.name for file in store.iterdir()}
            shutil.rmtree(state)
            shutil.copytree(aside, state)
