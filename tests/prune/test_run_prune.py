"""Pruning real stores: what goes, what stays, and what is told."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backup_tasks.census.census import Census
from backup_tasks.claim.acceptance import Acceptance
from backup_tasks.claim.claim_file import Name
from backup_tasks.claim.proof_notes import ProofNotes
from backup_tasks.common.units import render_bytes
from backup_tasks.errors import StoreError
from backup_tasks.keys.identities import NO_KEYS, Keyring
from backup_tasks.profile.model import Profile
from backup_tasks.prune.run_prune import (
    PruneIncomplete,
    PruneReport,
    demand_complete,
    render_prune,
    run_prune,
)
from backup_tasks.stores.base import Store
from backup_tasks.stores.registry import open_store
from tests.conftest import S3Bucket
from tests.support.keys import make_key
from tests.support.proven import KEY_TEXT, proven_archive

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

    def put_backup(self, name: str, started_at: datetime | None = None, **how: Any) -> None:
        """A small one that proves itself; its manifest says the time of its name, or another."""
        self.put(name, proven_archive(name, started_at, zone=self.profile.tzinfo, **how))

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


def prune(
    place: Place,
    now: datetime,
    *,
    dry_run: bool,
    store: Store | None = None,
    keys: Keyring = NO_KEYS,
) -> PruneReport:
    """Prune with nothing noted, for a machine that has `KEY` as its own."""
    acceptance = Acceptance(frozenset({KEY_TEXT}), frozenset({Name("prod", "web1")}))
    store = store or place.store
    with tempfile.TemporaryDirectory(prefix="test-prune-") as state:
        notes = ProofNotes(Path(state), store.place)
        listed, zone = store.list_objects(), place.profile.tzinfo
        census = Census(store, zone, listed, notes, acceptance, now=now, keys=keys)
        census.look_at_all()
        return demand_complete(run_prune(place.profile, store, census, now, dry_run=dry_run))


def backup(day: int, clock: str = "0200") -> str:
    return f"2025-06-{day:02d}_{clock}-backup.tar.gz"


def test_run_prune_deletes_what_the_rules_do_not_keep_and_nothing_else(place: Place) -> None:
    for name in FOREIGN:
        place.put(name, b"content")
    for day in (9, 10, 11, 12):
        place.put_backup(backup(day))
    report = prune(place, NOW, dry_run=False)
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
        place.put_backup(backup(day))
    assert prune(place, NOW, dry_run=False).deleted == (backup(10),)
    ours = [f"backups/{backup(day)}" for day in (11, 12)]
    assert s3_bucket.keys() == sorted([*others, *ours])


def test_a_dry_run_deletes_nothing_and_plans_the_same(place: Place) -> None:
    for day in (9, 10, 11, 12):
        place.put_backup(backup(day))
    planned = prune(place, NOW, dry_run=True)
    assert planned.deleted == ()
    assert len(place.names()) == 4
    assert prune(place, NOW, dry_run=False).plan == planned.plan


def test_pruning_twice_deletes_nothing_more(place: Place) -> None:
    for day in (9, 10, 11, 12):
        place.put_backup(backup(day))
    prune(place, NOW, dry_run=False)
    assert prune(place, NOW, dry_run=False).deleted == ()
    assert place.names() == [backup(11), backup(12)]


def test_an_empty_store_is_nothing_to_complain_about(place: Place) -> None:
    report = prune(place, NOW, dry_run=False)
    assert render_prune(report).endswith(": 0 kept, 0 deleted (0B)")


def test_an_empty_object_never_takes_a_backups_place(place: Place) -> None:
    """Named like the newest backup, it could push the last good one out."""
    for day in (9, 10):
        place.put_backup(backup(day))
    for day in (11, 12):
        place.put(backup(day), b"")
    report = prune(place, NOW, dry_run=False)
    assert (report.deleted, report.foreign) == ((), 0)
    assert set(report.left_alone) == {backup(11), backup(12)}
    assert len(place.names()) == 4


def test_encrypted_and_plain_backups_are_counted_together(tmp_path: Path) -> None:
    place = directory_place(tmp_path)
    sealed = "2025-06-12_0300-backup.tar.gz.age.tar"
    pair = make_key(tmp_path)
    for name in (backup(10), backup(12), sealed):
        place.put_backup(name, recipients=[pair.recipient])
    keys = Keyring(pair.file)
    assert prune(place, NOW, dry_run=False, keys=keys).deleted == (backup(10),)


def test_names_are_read_in_the_profiles_time_zone(tmp_path: Path) -> None:
    """01:00 in Stockholm is 13 hours before NOW; 01:00 in UTC would be 11."""
    place = directory_place(tmp_path, keep_last=0, keep_within="12h")
    for name in (backup(12, "0100"), backup(12, "0300")):
        place.put_backup(name)
    report = prune(place, NOW, dry_run=False)
    assert report.deleted == (backup(12, "0100"),)


def test_the_backup_stored_last_survives_although_a_clock_was_behind(tmp_path: Path) -> None:
    place = directory_place(tmp_path, keep_last=1)
    for age, day in ((60, 9), (40, 12), (0, 10)):
        place.put_backup(backup(day))
        os.utime(tmp_path / backup(day), (1_000_000_000 - age * 60,) * 2)
    report = prune(place, NOW, dry_run=False)
    assert report.deleted == (backup(9),)
    assert report.plan.keep[backup(10)] == ("stored last",)


def test_what_does_not_count_is_never_the_one_stored_last(tmp_path: Path) -> None:
    place = directory_place(tmp_path, keep_last=1)
    for age, day in ((60, 9), (40, 12), (20, 10)):
        place.put_backup(backup(day))
        os.utime(tmp_path / backup(day), (1_000_000_000 - age * 60,) * 2)
    place.put(backup(11), b"junk")
    report = prune(place, NOW, dry_run=False)
    assert report.plan.keep[backup(10)] == ("stored last",)


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
        place.put_backup(backup(day))
    stubborn: Any = Stubborn(place.store, (backup(8),))
    with pytest.raises(StoreError) as caught:
        prune(place, NOW, dry_run=False, store=stubborn)
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
        prune(place, NOW, dry_run=False, store=broken)
    assert broken.asked == []


def test_render_prune_tells_what_goes_what_stays_and_why(tmp_path: Path) -> None:
    place = directory_place(tmp_path, keep_daily=2)
    for day in (10, 11, 12):
        place.put_backup(backup(day))
    place.put("notes.txt", b"x")
    report = prune(place, NOW, dry_run=True)
    gone, older, newest = (render_bytes(report.sizes[backup(day)]) for day in (10, 11, 12))
    assert render_prune(report).splitlines() == [
        f"prod: 3 backups in file://{tmp_path}/: 2 kept, 1 would be deleted ({gone})",
        f"  delete  2025-06-10_0200-backup.tar.gz  {gone:>6}",
        f"  keep    2025-06-11_0200-backup.tar.gz  {older:>6}  last 2 of 2, daily 2025-06-11",
        f"  keep    2025-06-12_0200-backup.tar.gz  {newest:>6}  last 1 of 2, daily 2025-06-12",
        "  1 other object left alone",
    ]
    done = render_prune(prune(place, NOW, dry_run=False))
    assert f"2 kept, 1 deleted ({gone})" in done


def test_render_prune_tells_what_does_not_count_with_its_size(tmp_path: Path) -> None:
    place = directory_place(tmp_path)
    place.put_backup(backup(11))
    place.put(backup(12), b"x")
    report = prune(place, NOW, dry_run=True)
    first, *rows, advice = render_prune(report).splitlines()
    assert first.endswith("1 kept, 0 would be deleted (0B); 1 left alone (1B)")
    assert "`invoke prune --profile prod --adopt NAME`" in advice
    assert rows[-1].split(maxsplit=3) == [
        "left",
        backup(12),
        "1B",
        "it is too short to be a backup",
    ]
