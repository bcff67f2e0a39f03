"""Pruning real stores: what goes, what stays, and what is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backup_tasks.errors import StoreError
from backup_tasks.profile_model import Profile
from backup_tasks.prune import PruneIncomplete, render_prune, run_prune
from backup_tasks.stores import open_store
from backup_tasks.stores.base import Store
from tests.conftest import S3Bucket

NOW = datetime(2025, 6, 12, 12, 0, tzinfo=UTC)
FOREIGN = [
    "notes.txt",
    "2025-06-01_0200-backup.tar.gz.partial",
    "2025-13-01_0200-backup.tar.gz",
    "my-2025-06-01_0200-backup.tar.gz",
]


@dataclass
class Place:
    """An empty store of one kind, and how to put an object there without our own code."""

    profile: Profile
    store: Store
    put: Callable[[str, bytes], None]

    def names(self) -> list[str]:
        return [stored.name for stored in self.store.list_objects()]


def profile_for(store: dict[str, Any], **retention: Any) -> Profile:
    return Profile.model_validate(
        {
            "name": "prod",
            "path": Path("/etc/backup-tasks/prod.toml"),
            "backup": {"sources": ["/etc"], "timezone": "Europe/Stockholm"},
            "store": store,
            "retention": {"keep_last": 2} | retention,
        }
    )


def directory_place(folder: Path, **retention: Any) -> Place:
    folder.mkdir(exist_ok=True)
    profile = profile_for({"url": f"file://{folder}/"}, **retention)

    def put(name: str, content: bytes) -> None:
        (folder / name).write_bytes(content)

    return Place(profile, open_store(profile.store), put)


def s3_place(bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("TEST_KEY", bucket.access_key)
    monkeypatch.setenv("TEST_SECRET", bucket.secret_key)
    settings = {
        "url": f"s3://{bucket.bucket}/backups/",
        "region": bucket.region,
        "endpoint_url": bucket.endpoint,
        "access_key_id": {"env": "TEST_KEY"},
        "secret_access_key": {"env": "TEST_SECRET"},
    }
    profile = profile_for(settings)

    def put(name: str, content: bytes) -> None:
        bucket.client.put_object(Bucket=bucket.bucket, Key=f"backups/{name}", Body=content)

    return Place(profile, open_store(profile.store), put)


@pytest.fixture(params=["directory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    if request.param == "directory":
        return directory_place(tmp_path / "store")
    return s3_place(request.getfixturevalue("s3_bucket"), monkeypatch)


def backup(day: int, clock: str = "0200") -> str:
    return f"2025-06-{day:02d}_{clock}-backup.tar.gz"


def test_run_prune_deletes_what_the_rules_do_not_keep_and_nothing_else(place: Place) -> None:
    for name in [*FOREIGN, *(backup(day) for day in (9, 10, 11, 12))]:
        place.put(name, b"content")
    report = run_prune(place.profile, place.store, NOW, dry_run=False)
    assert report.deleted == (backup(9), backup(10))
    assert report.foreign == len(FOREIGN)
    assert place.names() == sorted([*FOREIGN, backup(11), backup(12)])


def test_backups_beside_and_below_the_prefix_belong_to_others(
    s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = s3_place(s3_bucket, monkeypatch)
    others = [f"{prefix}{backup(1)}" for prefix in ("", "backups-of-others/", "backups/deeper/")]
    for key in others:
        s3_bucket.client.put_object(Bucket=s3_bucket.bucket, Key=key, Body=b"content")
    for day in (10, 11, 12):
        place.put(backup(day), b"content")
    assert run_prune(place.profile, place.store, NOW, dry_run=False).deleted == (backup(10),)
    ours = [f"backups/{backup(day)}" for day in (11, 12)]
    assert s3_bucket.keys() == sorted([*others, *ours])


def test_a_dry_run_deletes_nothing_and_plans_the_same(place: Place) -> None:
    for day in (9, 10, 11, 12):
        place.put(backup(day), b"content")
    planned = run_prune(place.profile, place.store, NOW, dry_run=True)
    assert planned.deleted == ()
    assert len(place.names()) == 4
    assert run_prune(place.profile, place.store, NOW, dry_run=False).plan == planned.plan


def test_pruning_twice_deletes_nothing_more(place: Place) -> None:
    for day in (9, 10, 11, 12):
        place.put(backup(day), b"content")
    run_prune(place.profile, place.store, NOW, dry_run=False)
    assert run_prune(place.profile, place.store, NOW, dry_run=False).deleted == ()
    assert place.names() == [backup(11), backup(12)]


def test_an_empty_store_is_nothing_to_complain_about(place: Place) -> None:
    report = run_prune(place.profile, place.store, NOW, dry_run=False)
    assert render_prune(report).endswith(": 0 kept, 0 deleted (0B)")


def test_an_empty_object_never_takes_a_backups_place(place: Place) -> None:
    """Named like the newest backup, it could push the last good one out."""
    for day in (9, 10):
        place.put(backup(day), b"content")
    for day in (11, 12):
        place.put(backup(day), b"")
    report = run_prune(place.profile, place.store, NOW, dry_run=False)
    assert (report.deleted, report.foreign) == ((), 2)
    assert len(place.names()) == 4


def test_encrypted_and_plain_backups_are_counted_together(tmp_path: Path) -> None:
    place = directory_place(tmp_path)
    sealed = "2025-06-12_0300-backup.tar.gz.age.tar"
    for name in (backup(10), backup(12), sealed):
        place.put(name, b"content")
    assert run_prune(place.profile, place.store, NOW, dry_run=False).deleted == (backup(10),)


def test_names_are_read_in_the_profiles_time_zone(tmp_path: Path) -> None:
    """01:00 in Stockholm is 13 hours before NOW; 01:00 in UTC would be 11."""
    place = directory_place(tmp_path, keep_last=0, keep_within="12h")
    for name in (backup(12, "0100"), backup(12, "0300")):
        place.put(name, b"content")
    report = run_prune(place.profile, place.store, NOW, dry_run=False)
    assert report.deleted == (backup(12, "0100"),)


def test_the_backup_stored_last_survives_although_its_name_is_not_the_newest(
    tmp_path: Path,
) -> None:
    """When summer time ends, 02:10 comes after 02:50."""
    place = directory_place(tmp_path, keep_last=1)
    for age, clock in ((60, "0200"), (40, "0250"), (0, "0210")):
        name = f"2025-10-26_{clock}-backup.tar.gz"
        place.put(name, b"content")
        os.utime(tmp_path / name, (1_000_000_000 - age * 60,) * 2)
    now = datetime(2025, 10, 26, 1, 11, tzinfo=UTC)
    report = run_prune(place.profile, place.store, now, dry_run=False)
    assert report.deleted == ("2025-10-26_0200-backup.tar.gz",)
    assert report.plan.keep["2025-10-26_0210-backup.tar.gz"] == ("stored last",)


class Stubborn:
    """A real store that refuses to delete some names, and notes the order of the calls."""

    def __init__(self, store: Store, refused: tuple[str, ...]) -> None:
        self._store = store
        self._refused = refused
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def delete(self, name: str) -> None:
        self.asked.append(name)
        if name in self._refused:
            raise StoreError("access denied\nby policy")
        self._store.delete(name)


def test_one_that_cannot_be_deleted_does_not_spare_the_others(tmp_path: Path) -> None:
    place = directory_place(tmp_path)
    for day in (8, 9, 10, 11, 12):
        place.put(backup(day), b"content")
    stubborn: Any = Stubborn(place.store, (backup(8),))
    with pytest.raises(StoreError) as caught:
        run_prune(place.profile, stubborn, NOW, dry_run=False)
    assert stubborn.asked == [backup(8), backup(9), backup(10)]
    assert place.names() == [backup(8), backup(11), backup(12)]
    assert str(caught.value) == (
        f"file://{tmp_path}/: 1 backup could not be deleted (2 were): {backup(8)}: "
        r"access denied\nby policy; the next prune tries again"
    )
    assert isinstance(caught.value, PruneIncomplete)
    assert caught.value.report.deleted == (backup(9), backup(10))
    assert f"FAILED  {backup(8)}" in render_prune(caught.value.report)


def test_a_store_that_cannot_be_listed_loses_nothing(tmp_path: Path) -> None:
    place = directory_place(tmp_path)

    def refuse() -> None:
        raise StoreError("cannot be listed")

    broken: Any = Stubborn(place.store, ())
    broken.list_objects = refuse
    with pytest.raises(StoreError, match="cannot be listed"):
        run_prune(place.profile, broken, NOW, dry_run=False)
    assert broken.asked == []


def test_render_prune_tells_what_goes_what_stays_and_why(tmp_path: Path) -> None:
    place = directory_place(tmp_path, keep_daily=2)
    for day in (10, 11, 12):
        place.put(backup(day), b"x" * 1234)
    place.put("notes.txt", b"x")
    report = run_prune(place.profile, place.store, NOW, dry_run=True)
    assert render_prune(report).splitlines() == [
        f"prod: 3 backups in file://{tmp_path}/: 2 kept, 1 would be deleted (1.2kB)",
        "  delete  2025-06-10_0200-backup.tar.gz   1.2kB",
        "  keep    2025-06-11_0200-backup.tar.gz   1.2kB  last 2 of 2, daily 2025-06-11",
        "  keep    2025-06-12_0200-backup.tar.gz   1.2kB  last 1 of 2, daily 2025-06-12",
        "  1 other object left alone",
    ]
    done = render_prune(run_prune(place.profile, place.store, NOW, dry_run=False))
    assert "2 kept, 1 deleted (1.2kB)" in done
