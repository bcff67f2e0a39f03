"""What the next backup builds on, and what happens when that cannot be had: all is sent."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, timedelta
from pathlib import Path

import pytest

from backup_tasks.backup import scan
from backup_tasks.census.catalog import BackupDetails
from backup_tasks.command.print_backup import print_backup_plan
from backup_tasks.command.print_listing import print_backups
from backup_tasks.common.paths import Paths
from backup_tasks.common.units import render_bytes
from backup_tasks.errors import (
    CopyRefused,
    CopyUnsupported,
    ObjectChanged,
    ObjectMissing,
    ReadRefused,
)
from backup_tasks.format.manifest import Entry
from backup_tasks.journal.run_record import RunRecord, render_result
from backup_tasks.previous import archive as last_archive
from backup_tasks.stores.base import PartLimits, StoredObject
from backup_tasks.stores.directory import DirectoryStore
from tests.support.details import find_backups, read_details
from tests.support.generations import LATER, Generations, fill, restored, untar
from tests.support.histories import RealTree, fingerprint, noise, use_small_chunks


@pytest.fixture
def backups(tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Generations:
    use_small_chunks(monkeypatch)
    (tmp_path / "source").mkdir()
    made = Generations(tmp_path / "source", tmp_path / "store", paths, now=LATER)
    fill(made)
    return made


def check_newest(backups: Generations, tmp_path: Path) -> None:
    """It is what the tree is, by plain tar and by our own restore."""
    tree = fingerprint(backups.source)
    untarred = untar(backups.archive(), tmp_path / f"tar{len(backups.stores)}")
    assert fingerprint(backups.in_target(untarred)) == tree
    ours = restored(backups, -1, tmp_path / f"ours{len(backups.stores)}")
    assert fingerprint(backups.in_target(ours)) == tree


def full_reasons(backups: Generations) -> list[str]:
    """Why everything was sent, as the log says."""
    mark = "everything is read and sent: "
    return [line.split(mark)[1] for line in backups.log().splitlines() if mark in line]


def others(backups: Generations) -> list[str]:
    """Whatever lies in the store besides archives."""
    return [p.name for p in backups.store_folder.iterdir() if not p.name.endswith("tar.gz")]


def raising(error: Exception) -> Callable[[StoredObject], None]:
    def refuse(source: StoredObject) -> None:
        raise error

    return refuse


# When the store does not copy


@pytest.mark.parametrize(
    "error",
    [
        CopyRefused("it lies in an archive class"),
        CopyUnsupported("no such request"),
        ObjectChanged("it was replaced"),
        ObjectMissing("there is no such object"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_copy_that_fails_costs_a_full_upload_and_one_line(
    backups: Generations, tmp_path: Path, error: Exception
) -> None:
    backups.backup()
    (backups.source / "file03").write_bytes(b"changed")
    backups.on_copy = raising(error)
    record = backups.backup()
    assert (record.result, record.problems, record.copied_bytes) == ("success", [], 0)
    assert full_reasons(backups) == [str(error)]
    assert [parts.committed for parts in backups.stores[-1].written] == [False, True]
    assert others(backups) == []
    backups.on_copy = lambda source: None
    check_newest(backups, tmp_path)


def test_a_store_that_never_copies_is_remembered_and_asked_again_in_a_month(
    backups: Generations,
) -> None:
    backups.backup()
    backups.on_copy = raising(CopyUnsupported("no such request"))
    backups.backup()
    backups.on_copy = lambda source: None
    backups.backup()
    assert len(backups.stores[-1].written) == 1
    assert full_reasons(backups) == ["no such request", "the store refused to copy on its own side"]
    backups.now += timedelta(days=31)
    backups.extra = 'full_every = "90d"'
    backups.backup()
    assert backups.copied() > 0


def test_a_refusal_of_one_archive_is_not_held_against_the_next(backups: Generations) -> None:
    backups.backup()
    backups.on_copy = raising(CopyRefused("it lies in an archive class"))
    backups.backup()
    backups.on_copy = lambda source: None
    backups.backup()
    assert backups.copied() > 0


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"since": 5}', '{"since": "2099-12-31"}'])
def test_a_broken_note_about_copying_is_not_believed(backups: Generations, note: str) -> None:
    backups.backup()
    backups.on_copy = raising(CopyUnsupported("no such request"))
    backups.backup()
    backups.on_copy = lambda source: None
    (file,) = (backups.paths.state / "no-copy").iterdir()
    file.write_text(note)
    backups.backup()
    assert backups.copied() > 0


def test_a_store_that_says_it_cannot_copy_is_not_asked(backups: Generations) -> None:
    backups.backup()
    open_store = backups.open_store

    def without_copies() -> object:
        store = open_store()
        store.can_copy = False
        return store

    backups.open_store = without_copies  # type: ignore[method-assign, assignment]
    record = backups.backup()
    assert record.copied_bytes == 0
    assert full_reasons(backups) == ["the store cannot copy on its own side"]
    assert "cannot copy" in backups.plan().compared_with


# When the archive before is not there, not sound, or not ours


def test_the_archive_before_vanishing_in_the_middle_costs_a_full_upload(
    backups: Generations, tmp_path: Path
) -> None:
    backups.backup()
    backups.on_write = lambda: [p.unlink() for p in backups.store_folder.glob("2*.gz")]  # type: ignore[assignment, return-value]
    record = backups.backup()
    assert record.copied_bytes == 0
    (reason,) = full_reasons(backups)
    assert "there is no 2100-01-01_0200-backup.tar.gz" in reason
    backups.on_write = lambda: None
    check_newest(backups, tmp_path)


def test_an_archive_that_vanishes_before_its_manifest_is_read_is_passed_over(
    backups: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups.backup()
    find = last_archive._newest_first

    def find_then_lose(*arguments: object) -> object:
        found = find(*arguments)  # type: ignore[arg-type]
        backups.archive().unlink()
        return found

    for cached in (backups.paths.state / "manifests").rglob("*"):
        if cached.is_file():
            cached.unlink()
    monkeypatch.setattr(last_archive, "_newest_first", find_then_lose)
    assert backups.backup().result == "success"
    (reason,) = full_reasons(backups)
    assert "there is no 2100-01-01_0200" in reason


def test_an_archive_that_may_not_be_read_costs_a_full_upload(
    backups: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> bytes:
        raise ReadRefused("no permission to read it")

    backups.backup()
    for cached in (backups.paths.state / "manifests").rglob("*"):
        if cached.is_file():
            cached.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "read_range", refuse)
        record = backups.backup()
    assert record.unpruned == [f"{record.archive} was not read back: no permission to read it"]
    (reason,) = full_reasons(backups)
    assert "no permission to read it" in reason


def test_a_damaged_newest_archive_is_passed_over_and_named(
    backups: Generations, tmp_path: Path
) -> None:
    backups.backup()
    backups.backup()
    with open(backups.archive(), "r+b") as file:
        file.seek(-200, 2)
        file.write(b"damage")
    record = backups.backup()
    assert record.copied_bytes
    assert backups.manifest().header.copied_from == "2100-01-01_0200-backup.tar.gz"
    assert "nothing of 2100-01-02_0200-backup.tar.gz can be reused: " in backups.log()
    check_newest(backups, tmp_path)


@pytest.mark.parametrize("is_kept", [True, False])
def test_an_archive_that_was_replaced_by_one_with_its_manifest_is_not_built_on(
    backups: Generations, tmp_path: Path, is_kept: bool
) -> None:
    fill(backups, size=500)
    backups.backup()
    archive = backups.archive()
    body = bytearray(archive.read_bytes())
    body[backups.manifest().chunks[0].offset + 50] ^= 1
    archive.unlink()
    archive.write_bytes(body)
    if not is_kept:
        shutil.rmtree(backups.paths.state / "manifests")
    record = backups.backup()
    assert record.copied_bytes == 0
    assert "not the object that was made here" in full_reasons(backups)[0]
    assert backups.backup().copied_bytes
    check_newest(backups, tmp_path)


def test_a_note_that_does_not_say_which_objects_were_made_here_costs_nothing(
    backups: Generations,
) -> None:
    fill(backups, size=500)
    backups.backup()
    (file,) = (backups.paths.state / "newest").iterdir()
    note = json.loads(file.read_bytes())
    del note["made"]  # as versions before this one wrote it
    file.write_text(json.dumps(note))
    assert backups.backup().copied_bytes


def test_a_chunk_that_is_damaged_when_it_is_needed_costs_a_full_upload(
    backups: Generations, tmp_path: Path
) -> None:
    fill(backups, size=500)
    backups.backup()
    chunk = backups.manifest().chunks[backups.entry("file05").chunk]
    (backups.source / "file04").unlink()  # takes its chunk along
    (backups.source / "file05").write_bytes(noise(5, 600))
    body = bytearray(backups.archive().read_bytes())
    body[chunk.offset + 50] ^= 1
    status = backups.archive().stat()
    backups.archive().write_bytes(body)
    os.utime(backups.archive(), ns=(status.st_atime_ns, status.st_mtime_ns))  # as a bad disk would
    backups.on_write = lambda: (backups.source / "file05").unlink(missing_ok=True)
    record = backups.backup()
    assert record.copied_bytes == 0
    assert "is damaged" in full_reasons(backups)[0]
    backups.on_write = lambda: None
    check_newest(backups, tmp_path)


@pytest.mark.parametrize("difference", ["host", "name"])
def test_archives_of_others_under_the_same_prefix_are_not_built_on(
    backups: Generations, difference: str
) -> None:
    backups.backup()
    setattr(backups, difference, "another")
    record = backups.backup()
    assert record.copied_bytes == 0
    assert full_reasons(backups) == [], "a first archive needs no excuse"


def test_our_own_archive_is_found_behind_those_of_many_hosts(backups: Generations) -> None:
    backups.backup()
    for number in range(8):
        backups.host = f"host{number}"
        backups.backup(full=True)
    backups.host = "host"
    record = backups.backup()
    assert record.copied_bytes
    assert backups.manifest().header.copied_from == "2100-01-01_0200-backup.tar.gz"


def test_a_tar_that_somebody_else_made_is_not_built_on(backups: Generations) -> None:
    backups.backup()
    foreign = backups.store_folder / "2100-01-01_2300-backup.tar.gz"
    subprocess.run(["tar", "czf", foreign, "-C", backups.source, "."], check=True)
    backups.backup()
    assert backups.manifest().header.copied_from == "2100-01-01_0200-backup.tar.gz"


# When a full reading is due


def test_full_every_forces_a_full_reading(backups: Generations) -> None:
    backups.extra = 'full_every = "3d"'
    copied = []
    for _ in range(8):
        backups.backup()
        copied.append(backups.copied() > 0)
    assert copied == [False, True, True, False, True, True, False, True]
    assert len(full_reasons(backups)) == 2
    assert "last read on 2100-01-01" in full_reasons(backups)[0]


def test_a_full_reading_finds_what_a_forged_ctime_hid(
    backups: Generations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups.backup()
    with forged_ctime(backups, "file03", monkeypatch):
        backups.backup()
        ours = backups.in_target(restored(backups, -1, tmp_path / "hidden"))
        assert (ours / "file03").read_bytes() == noise(3, 1000)
        backups.backup(full=True)
    check_newest(backups, tmp_path)
    assert full_reasons(backups) == ["--full was asked for"]


@contextlib.contextmanager
def forged_ctime(
    backups: Generations, name: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Change a file; until the end of the block the walk sees its old ctime."""
    old_ctime_ns = backups.entry(name).ctime_ns
    RealTree(backups.source).sneak(name, 1003)
    walk = scan.Walk.entries

    def lying(self: scan.Walk) -> Iterator[Entry]:
        for entry in walk(self):
            if entry.name.endswith("/" + name):
                entry.ctime_ns = old_ctime_ns
            yield entry

    with monkeypatch.context() as patch:
        patch.setattr(scan.Walk, "entries", lying)
        yield


# What is told


def test_log_list_and_dry_run_tell_what_is_new(
    backups: Generations, capsys: pytest.CaptureFixture[str]
) -> None:
    first = backups.backup()
    assert "new" not in told(first)
    (backups.source / "file03").write_bytes(noise(1003, 1000))
    plan = backups.plan()
    assert (plan.same, plan.changed, plan.new, plan.gone) == (20, 1, 0, 0)
    assert plan.compared_with == "2100-01-01_0200-backup.tar.gz"
    record = backups.backup()
    size, new = render_bytes(record.archive_bytes), render_bytes(record.sent_bytes)
    assert told(record) == f"2100-01-02_0200-backup.tar.gz uploaded ({size}, 35s; {new} new)"
    print_backup_plan(plan, as_json=False)
    shown = capsys.readouterr().out
    assert "20 entries as before, 1 changed, 0 new, 0 gone" in shown
    assert "inside the store" in shown
    print_backups(details(backups), backups.now, as_json=False)
    assert f" {new} " in capsys.readouterr().out


def told(record: RunRecord) -> str:
    record.ended_at = record.started_at + timedelta(seconds=35)
    return render_result(record)


def details(backups: Generations) -> list[BackupDetails]:
    store = backups.open_store()
    return list(read_details(store, find_backups(store, UTC)))


def test_a_dry_run_says_why_nothing_can_be_kept(
    backups: Generations, capsys: pytest.CaptureFixture[str]
) -> None:
    print_backup_plan(backups.plan(), as_json=False)
    assert "there is no earlier archive" in capsys.readouterr().out
    backups.backup()
    backups.limits = PartLimits(smallest=2**30, largest=2**40, count=100)
    print_backup_plan(backups.plan(), as_json=False)
    shown = capsys.readouterr().out
    assert "compared with 2100-01-01_0200-backup.tar.gz: 21 entries as before" in shown
    assert "anew: run too short" in shown
