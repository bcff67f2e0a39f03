"""Promises about one store for several: no run is lost to one that begins in the same second."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup_tasks.backup.context import BackupRun
from backup_tasks.backup.run_backup import run_backup
from backup_tasks.common.progress import SilentProgress
from backup_tasks.errors import ObjectExists
from backup_tasks.journal.run_record import RunRecord
from backup_tasks.profile.load import load_profile
from backup_tasks.stores.base import Store
from backup_tasks.stores.registry import open_store
from tests.conftest import S3Bucket
from tests.support.details import find_backups, read_details
from tests.support.machines import START, Machine, Place

ROUNDS = 3
TOGETHER = 4


# moto lists every upload as begun in 2010, so that each run would end those of the others.
@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return Place.folder(tmp_path / "store")
    bucket: S3Bucket = request.getfixturevalue(f"{request.param}_bucket")
    return Place.bucket(bucket)


def machines(folder: Path, place: Place) -> list[Machine]:
    """Machines whose profiles share a store."""
    found = [Machine(folder / f"m{i}", f"web{i}", str(i) * 64) for i in range(TOGETHER)]
    for machine in found:
        machine.write_profile("prod", place)
    return found


def back_up(machine: Machine, now: datetime) -> RunRecord:
    """One backup, as a host of its own. The name is not patched: there are threads."""
    profile = load_profile("prod", machine.paths)
    record = RunRecord("backup", "prod", machine.host, profile.store.url, now)
    store = open_store(profile.store)
    run_backup(BackupRun(profile, store, machine.paths, now, lambda: now, SilentProgress()), record)
    return record


def test_runs_that_begin_in_the_same_second_all_make_their_backup(
    tmp_path: Path, place: Place
) -> None:
    together = machines(tmp_path, place)
    made: list[RunRecord] = []
    with ThreadPoolExecutor(TOGETHER) as pool:
        for _ in range(ROUNDS):
            made += pool.map(lambda machine: back_up(machine, START), together)
    store = together[0].store("prod")
    found = find_backups(store, UTC)
    assert len({record.archive for record in made}) == ROUNDS * TOGETHER
    assert {one.stored.name for one in found} == {record.archive for record in made}
    hosts = {one.backup.stored.name: one.header for one in read_details(store, found)}
    for record in made:
        header = hosts[record.archive]
        assert header is not None
        assert (header.host, header.name) == (record.host, record.archive)
    assert store.list_unfinished() == []


@pytest.mark.parametrize("moment", ["begin", "commit"])
def test_a_name_that_is_taken_meanwhile_moves_on_to_the_next(
    tmp_path: Path, place: Place, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = machines(tmp_path, place)
    kind = type(first.store("prod"))
    write: Callable[..., object] = kind.write

    def late(self: Store, name: str, *, in_flight_bytes: int) -> object:
        monkeypatch.setattr(kind, "write", write)
        if moment == "begin":
            back_up(second, START)
            return write(self, name, in_flight_bytes=in_flight_bytes)
        writer = write(self, name, in_flight_bytes=in_flight_bytes)
        # One that began before us, and so did not see our upload.
        with monkeypatch.context() as patch:
            patch.setattr(kind, "list_unfinished", lambda self: [])
            back_up(second, START)
        return writer

    monkeypatch.setattr(kind, "write", late)
    record = back_up(first, START)
    assert record.archive == "2025-06-12_0201-backup.tar.gz"
    assert len(first.store("prod").list_objects()) == 2


def test_a_name_whose_upload_is_under_way_is_not_taken(tmp_path: Path, place: Place) -> None:
    first, *_ = machines(tmp_path, place)
    other = first.store("prod").write("2025-06-12_0200-backup.tar.gz", in_flight_bytes=2**20)
    assert back_up(first, START).archive == "2025-06-12_0201-backup.tar.gz"
    other.send(b"x")
    assert other.commit().name == "2025-06-12_0200-backup.tar.gz"


def test_a_name_that_is_always_taken_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = machines(tmp_path, Place.folder(tmp_path / "store"))

    def refuse(*_: object, **__: object) -> None:
        raise ObjectExists("taken")

    monkeypatch.setattr(type(first.store("prod")), "write", refuse)
    with pytest.raises(ObjectExists):
        back_up(first, START)


def test_a_run_whose_upload_another_host_ended_moves_on_to_the_next_name(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third, *_ = machines(tmp_path, place)
    kind = type(first.store("prod"))
    write: Callable[..., object] = kind.write

    def late(self: Store, name: str, *, in_flight_bytes: int) -> object:
        monkeypatch.setattr(kind, "write", write)
        writer = write(self, name, in_flight_bytes=in_flight_bytes)
        with monkeypatch.context() as patch:
            patch.setattr(kind, "list_unfinished", lambda self: [])
            back_up(second, START)
        back_up(third, START)  # finds an upload of which nothing can come
        return writer

    monkeypatch.setattr(kind, "write", late)
    assert back_up(first, START).archive == "2025-06-12_0202-backup.tar.gz"
    assert len(first.store("prod").list_objects()) == 3
    assert first.store("prod").list_unfinished() == []
