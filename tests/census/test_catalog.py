"""Finding backups in a store, and choosing the one that is meant."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_tasks.census.catalog import Backup, choose_backup
from backup_tasks.errors import StoreError, UsageError
from backup_tasks.stores.base import StoredObject
from backup_tasks.stores.directory import DirectoryStore
from tests.support.details import find_backups, read_details

STOCKHOLM = ZoneInfo("Europe/Stockholm")
MOMENTS = st.datetimes(min_value=datetime(1990, 1, 1), max_value=datetime(2200, 1, 1))  # noqa: DTZ001


def backup(name: str) -> Backup:
    taken_at = datetime.strptime(name, "%Y-%m-%d_%H%M").replace(tzinfo=UTC)
    stored = StoredObject(f"{name}-backup.tar.gz", 1, taken_at, "etag")
    return Backup(name, taken_at, stored)


def fill(folder: Path, *names: str) -> DirectoryStore:
    for name in names:
        (folder / name).write_bytes(b"not empty")
    return DirectoryStore(folder)


def test_find_backups_passes_over_everything_else(tmp_path: Path) -> None:
    store = fill(
        tmp_path,
        "2025-06-13_0200-backup.tar.gz",
        "2025-06-12_0200-backup.tar.gz",
        "2025-06-12_0200-backup.tar.gz.partial",
        "2025-13-12_0200-backup.tar.gz",  # no such month
        "x2025-06-12_0200-backup.tar.gz",
        "readme.txt",
    )
    found = find_backups(store, STOCKHOLM)
    assert [one.id for one in found] == ["2025-06-12_0200", "2025-06-13_0200"]
    assert found[0].taken_at == datetime(2025, 6, 12, 0, 0, tzinfo=UTC)


def test_read_details_tells_trouble_of_one_and_reads_the_others(tmp_path: Path) -> None:
    fill(tmp_path, "2025-06-12_0200-backup.tar.gz")
    (tmp_path / "2025-06-13_0200-backup.tar.gz").write_bytes(b"")

    class Flaky(DirectoryStore):
        def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
            raise StoreError("the network is gone")

    big = tmp_path / "2025-06-14_0200-backup.tar.gz"
    big.write_bytes(os.urandom(5000))
    store = Flaky(tmp_path)
    details = read_details(store, find_backups(store, UTC))
    assert [one.trouble for one in details][1:] == ["it is empty", "the network is gone"]
    assert all(one.header is None for one in details)


def test_choose_backup_takes_the_newest_when_nothing_is_said() -> None:
    assert choose_backup([backup("2025-06-12_0200"), backup("2025-06-13_0200")]).id == (
        "2025-06-13_0200"
    )


@settings(deadline=None)
@given(moments=st.lists(MOMENTS, min_size=1, unique_by=lambda m: f"{m:%Y-%m-%d_%H%M}"))
def test_choose_backup_finds_the_last_of_every_day_that_has_one(moments: list[datetime]) -> None:
    backups = [backup(f"{moment:%Y-%m-%d_%H%M}") for moment in sorted(moments)]
    for day in {moment.date() for moment in moments}:
        chosen = choose_backup(backups, day=day.isoformat())
        assert chosen.taken_at == max(b.taken_at for b in backups if b.taken_at.date() == day)


@given(
    moments=st.lists(MOMENTS, min_size=1, max_size=9), asked=st.dates(max_value=date(1989, 1, 1))
)
def test_choose_backup_names_the_nearest_when_the_day_has_none(
    moments: list[datetime], asked: date
) -> None:
    backups = [backup(f"{moment:%Y-%m-%d_%H%M}") for moment in sorted(moments)]
    with pytest.raises(UsageError) as caught:
        choose_backup(backups, day=asked.isoformat())
    assert backups[0].id in str(caught.value)  # all are later, so the oldest is the nearest
    assert "\n" not in str(caught.value)


def test_choose_backup_takes_the_day_in_the_time_zone_of_the_profile(tmp_path: Path) -> None:
    store = fill(tmp_path, "2025-06-13_0030-backup.tar.gz")
    [found] = find_backups(store, STOCKHOLM)
    assert found.taken_at.astimezone(UTC).date() == date(2025, 6, 12)
    assert choose_backup([found], day="2025-06-13") == found


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"name": "2025-06-12_0201"}, "the nearest are 2025-06-12_0200"),
        ({"name": "yesterday"}, "the newest is 2025-06-12_0200; `invoke list`"),
        ({"day": "yesterday"}, "write it as 2025-06-12"),
        ({"name": "a", "day": "b"}, "not both"),
    ],
)
def test_choose_backup_says_what_to_ask_instead(asked: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        choose_backup([backup("2025-06-12_0200")], **asked)


def test_choose_backup_of_an_empty_store_says_how_to_make_one() -> None:
    with pytest.raises(UsageError, match="invoke backup"):
        choose_backup([], day="2025-06-12")


def test_names_sort_as_times_do() -> None:
    start = datetime(2025, 12, 31, 23, 58, tzinfo=UTC)
    names = [f"{start + timedelta(minutes=n):%Y-%m-%d_%H%M}" for n in range(5)]
    assert names == sorted(names)
