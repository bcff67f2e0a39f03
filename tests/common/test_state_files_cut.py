"""Whatever a crash or a bad disk leaves of a file in the state directory, the next run works."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup_tasks.common.paths import Paths
from backup_tasks.common.state_files import state_key
from backup_tasks.errors import BackupError
from backup_tasks.journal.run_record import RunRecord
from backup_tasks.staging.leftovers import UploadNote
from backup_tasks.verify.drill_notes import DrillNote, remove_dead_drills
from tests.support.backups import Backups
from tests.support.machines import Machine, Place

KEY = "signing.key"
# What lies in the state directory after two nights; a test holds that this is all.
KEPT = (
    "manifests",
    "newest",
    "proofs",
    "sources",
    KEY,
    "signing.known",
    "signing.public",
)


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


def damaged(whole: bytes) -> Iterator[bytes]:
    """The file cut at every byte, and a few worse ones."""
    yield from (whole[:length] for length in range(len(whole)))
    yield from (b"\0" * len(whole), b"{" * 5000, whole + whole)


def state_files(state: Path) -> list[Path]:
    """What one run leaves to the next; empty ones are locks, and mean nothing."""
    return sorted(file for file in state.rglob("*") if file.is_file() and file.stat().st_size)


def next_backup(backups: Backups) -> tuple[RunRecord | None, str]:
    """Its record, or why there is none."""
    try:
        return backups.backup(), ""
    except BackupError as error:
        return None, str(error)


def test_these_are_all_the_files_that_a_backup_leaves_to_the_next(backups: Backups) -> None:
    state = backups.paths.state
    assert {file.relative_to(state).parts[0] for file in state_files(state)} == set(KEPT)


@pytest.mark.parametrize("kept", KEPT)
def test_the_next_backup_works_wherever_a_file_of_the_state_directory_is_cut(
    backups: Backups, tmp_path: Path, kept: str
) -> None:
    state, aside = backups.paths.state, tmp_path / "aside"
    shutil.copytree(state, aside)
    store = backups.store_folder
    known = {file.name for file in store.iterdir()}
    names = [file.relative_to(state) for file in state_files(state)]
    for name in (one for one in names if one.parts[0] == kept):
        for content in damaged((aside / name).read_bytes()):
            (state / name).write_bytes(content)
            record, refusal = next_backup(backups)
            if record is None:
                assert kept == KEY, (name, content)
                assert "signing.key is no signing key" in refusal
                assert "\n" not in refusal
            else:
                assert (record.exit_code, record.problems) == (0, []), (name, content)
                (store / record.archive).unlink()
            assert known <= {file.name for file in store.iterdir()}
            shutil.rmtree(state)
            shutil.copytree(aside, state)


def test_the_next_backup_works_wherever_the_note_of_a_claim_is_cut(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "web1", "web1", "1" * 64)
    machine.write_profile("prod", Place.folder(tmp_path / "store"))
    (machine.here / "source" / "file").write_text("content")
    assert machine.back_up("prod").exit_code == 0
    state, store = machine.paths.state, tmp_path / "store"
    (note,) = state_files(state / "claims")
    shutil.copytree(state, tmp_path / "aside")
    shutil.copytree(store, tmp_path / "store aside")
    whole, now = note.read_bytes(), machine.now
    for content in damaged(whole):
        note.write_bytes(content)
        record = machine.back_up("prod")
        assert record.result in ("success", "incomplete"), content
        assert record.problems == []
        for folder, before in ((state, tmp_path / "aside"), (store, tmp_path / "store aside")):
            shutil.rmtree(folder)
            shutil.copytree(before, folder)
        machine.now = now


def test_a_drills_note_that_is_cut_anywhere_removes_nothing_and_is_gone(tmp_path: Path) -> None:
    state, drilled = tmp_path / "state", tmp_path / "backup-drill-1"
    state.mkdir()
    drilled.mkdir(mode=0o700)
    (drilled / "file").touch()
    note = DrillNote(state)
    note.write(drilled, drilled.stat())
    (file,) = state_files(state)
    whole = file.read_bytes()
    note.clear()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        file.chmod(0o600)
        assert remove_dead_drills(state) == []
        assert not file.exists()
        assert (drilled / "file").exists()


def test_the_next_backup_works_wherever_the_note_of_an_upload_is_cut(backups: Backups) -> None:
    note = UploadNote(backups.paths.state, state_key("test", backups.profile().store.url))
    note.write("0123456789abcdef")
    (file,) = state_files(backups.paths.state / "uploads")
    for content in damaged(file.read_bytes()):
        file.write_bytes(content)
        record, refusal = next_backup(backups)
        assert record is not None, refusal
        assert (record.exit_code, record.problems) == (0, []), content
