"""What must survive a power cut is on the disk before anybody counts on it."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup_tasks.claim.machine_key import key_file, open_own_key
from backup_tasks.common.paths import Paths
from backup_tasks.common.state_files import write_note
from backup_tasks.format.manifest import Chunk
from backup_tasks.journal.run_record import RunRecord, append_record, read_records
from backup_tasks.keys.keygen import run_keygen
from backup_tasks.staging import journal as staging_room
from backup_tasks.staging.journal import StagedRun, Staging, StagingFolder, StagingJournal
from backup_tasks.staging.leftovers import UploadNote
from backup_tasks.stores.base import Unfinished
from backup_tasks.stores.directory import DirectoryStore
from backup_tasks.verify.drill_notes import DrillNote
from tests.support.power_cut import Disk

NAME = "2025-06-12_0200-backup.tar.gz"
NOW = datetime(2025, 6, 12, 2, 0, tzinfo=UTC)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


# A run that can be gone on with


def begin_journal(state: Path) -> tuple[StagingJournal, Path]:
    staging = Staging(
        name="x", store="file:///x/", started_at="2025-06-12T02:00:00Z", first_chunk=0
    )
    journal = StagingFolder(state, "k").begin("0123abcd", staging)
    (file,) = (state / "staging").iterdir()
    return journal, file


def as_read_after_power_cut(disk: Disk, file: Path, state: Path) -> StagedRun:
    left = disk.after_power_cut(file, below=state)
    assert left is not None, "its name is not on the disk"
    there = file.with_name("after")
    there.write_bytes(left)
    return StagedRun(there)


def test_a_journal_says_which_object_it_is_about_before_anything_is_sent(
    disk: Disk, tmp_path: Path
) -> None:
    journal, file = begin_journal(tmp_path)
    assert as_read_after_power_cut(disk, file, tmp_path).staging == journal.staging
    journal.close()


def test_a_journal_holds_the_store_s_handle_as_soon_as_it_was_noted(
    disk: Disk, tmp_path: Path
) -> None:
    journal, file = begin_journal(tmp_path)
    journal.note_upload("a handle")
    assert as_read_after_power_cut(disk, file, tmp_path).upload_id == "a handle"
    journal.close()


def test_a_power_cut_costs_no_more_chunks_than_are_sent_between_two_syncs(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging_room, "_SYNC_BYTES", 100)
    journal, file = begin_journal(tmp_path)
    for number in range(10):
        journal.add_chunk(Chunk(0, 40, "a" * 64, 512), place=40 * number)
        kept = as_read_after_power_cut(disk, file, tmp_path).chunks
        assert 40 * (number + 1 - len(kept)) < 100
    journal.close()


# Notes


def test_a_note_is_on_the_disk_with_the_folders_made_for_it(disk: Disk, tmp_path: Path) -> None:
    file = tmp_path / "state" / "notes" / "note.json"
    for note in ({"a": 1}, {"a": 2, "b": "longer"}):
        write_note(file, note)
        assert disk.after_power_cut(file, below=tmp_path) == file.read_bytes()
    assert disk.named_too_early == []


def test_the_note_of_an_upload_survives_from_before_the_upload_is_started(
    disk: Disk, tmp_path: Path
) -> None:
    note, upload = UploadNote(tmp_path, "k"), Unfinished(NAME, "a handle", NOW)
    note.announce(NAME, [])
    (file,) = (tmp_path / "uploads").iterdir()
    assert disk.after_power_cut(file, below=tmp_path) == file.read_bytes()
    note.write("a handle")
    left = disk.after_power_cut(file, below=tmp_path)
    assert left is not None
    file.write_bytes(left)
    assert note.means(upload)


def test_a_run_s_record_is_on_the_disk_when_it_was_appended(disk: Disk, paths: Paths) -> None:
    file = paths.logs / "runs.jsonl"
    for task in ("backup", "prune"):
        append_record(RunRecord(task, "prod", "web1", "file:///nas/", NOW), paths)
        assert disk.after_power_cut(file) == file.read_bytes()
    assert [record["task"] for record in read_records(paths)] == ["backup", "prune"]


def test_the_signing_key_is_on_the_disk_before_it_signs(disk: Disk, tmp_path: Path) -> None:
    key, _ = open_own_key(tmp_path)
    assert disk.after_power_cut(key_file(tmp_path)) == key.render_pem()
    assert disk.named_too_early == []


def test_a_new_key_is_on_the_disk_before_anything_is_encrypted_for_it(
    disk: Disk, tmp_path: Path
) -> None:
    file = tmp_path / "keys" / "key.txt"
    key = run_keygen(file, NOW)
    left = disk.after_power_cut(file, below=tmp_path)
    assert left == file.read_bytes()
    assert key.recipient.encode() in left


def test_the_note_of_a_drill_is_on_the_disk_before_anything_is_restored(
    disk: Disk, tmp_path: Path
) -> None:
    """It may hold secrets, and only the note says where they lie."""
    note = DrillNote(tmp_path)
    note.write(tmp_path / "place", tmp_path.stat())
    (file,) = (tmp_path / "drills").iterdir()
    left = disk.after_power_cut(file, below=tmp_path)
    assert left == file.read_bytes()
    assert b"place" in left
    note.clear()


# A directory store


@pytest.mark.parametrize("can_link", [True, False])
def test_an_archive_is_on_the_disk_before_its_name_and_both_when_it_is_committed(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_link: bool
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not can_link:
        monkeypatch.setattr(os, "link", refuse)
    store = DirectoryStore(tmp_path)
    writer = store.write(NAME, in_flight_bytes=1)
    writer.send(b"one part")
    writer.send(b", and another")
    writer.commit()
    assert disk.after_power_cut(tmp_path / NAME) == b"one part, and another"
    assert disk.named_too_early == []


def test_what_was_salvaged_is_on_the_disk_before_its_name(disk: Disk, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    writer = store.write(NAME, in_flight_bytes=1)
    writer.send(b"half of it")
    writer.leave()
    (upload,) = store.list_unfinished()
    assert store.salvage(upload) is not None
    assert disk.after_power_cut(tmp_path / NAME) == b"half of it"
    assert disk.named_too_early == []


def test_the_first_backup_of_a_folder_is_on_the_disk_with_the_folder(
    disk: Disk, tmp_path: Path
) -> None:
    store = DirectoryStore(tmp_path / "backups", makeable_in=tmp_path)
    writer = store.write(NAME, in_flight_bytes=1)
    writer.send(b"whole")
    writer.commit()
    assert disk.after_power_cut(store.folder / NAME, below=tmp_path) == b"whole"
    assert disk.named_too_early == []
