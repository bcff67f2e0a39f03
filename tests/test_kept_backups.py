"""Which backups stay: whatever a clock says, and whatever lies beside them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_tasks.catalog import find_backups
from backup_tasks.jobs import run_backup_job
from backup_tasks.newest_seen import NewestSeen
from backup_tasks.paths import Paths
from backup_tasks.profile import load_profile
from backup_tasks.profile_model import Profile
from backup_tasks.progress import SilentProgress
from backup_tasks.prune import run_prune
from backup_tasks.retention import FUTURE_SLACK, plan_prune
from tests.backups import Backups

NOW = datetime(2025, 6, 12, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Rules:
    keep_last: int = 0
    keep_within: timedelta | None = None
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0


@pytest.fixture
def backups(tmp_path: Path, paths: Paths) -> Backups:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("content")
    return Backups(tmp_path / "source", tmp_path / "store", paths)


def with_rules(backups: Backups, rules: str) -> Profile:
    file = backups.write_profile()
    file.write_text(file.read_text() + f"[retention]\n{rules}\n")
    return load_profile(str(file), backups.paths)


def test_what_was_stored_last_stays_also_beside_a_strangers_younger_object(
    backups: Backups,
) -> None:
    """Its name is older than another's where a clock went back in between."""
    backups.backup()
    backups.now -= timedelta(days=3)
    stored_last = backups.backup().archive
    (backups.store_folder / "notes.txt").write_text("a stranger's")
    moments = {stored_last: 200, "notes.txt": 300}
    for name in os.listdir(backups.store_folder):
        when = NOW.timestamp() + moments.get(name, 100)
        os.utime(backups.store_folder / name, (when, when))
    run_prune(with_rules(backups, "keep_last = 1"), backups.open_store(), NOW, dry_run=False)
    assert stored_last in os.listdir(backups.store_folder)
    assert "notes.txt" in os.listdir(backups.store_folder)


def test_the_newest_true_backup_stays_beside_one_from_the_future_when_all_are_too_old() -> None:
    taken_at = {f"day {day}": NOW - timedelta(days=day) for day in (10, 20, 30)}
    taken_at["future"] = NOW + FUTURE_SLACK + timedelta(seconds=1)
    plan = plan_prune(taken_at, Rules(keep_within=timedelta(days=5)), NOW)
    assert set(plan.keep) == {"future", "day 10"}
    assert plan.delete == ("day 30", "day 20")


def test_what_this_machine_saw_last_stays_beside_any_number_of_others() -> None:
    taken_at = {f"day {day}": NOW - timedelta(days=day) for day in range(5)}
    plan = plan_prune(taken_at, Rules(keep_last=1), NOW, seen="day 4", protected=["day 3"])
    assert set(plan.keep) == {"day 0", "day 3", "day 4"}


def test_a_backup_of_the_same_minute_that_is_there_means_that_none_has_vanished(
    backups: Backups,
) -> None:
    """As where encryption was turned on: two objects of one minute, of which one was replaced."""
    backups.backup()
    store = backups.open_store()
    (backup,) = find_backups(store, UTC)
    seen = NewestSeen(backups.paths.state, backups.profile(), store)
    seen.note(f"{backup.stored.name}.age.tar", backup.taken_at.isoformat())
    assert seen.what_vanished([backup]) == ""
    seen.note("2025-06-12_0201-backup.tar.gz", backup.taken_at.isoformat())
    assert "newer backups have vanished" in seen.what_vanished([backup])


def test_nothing_is_pruned_while_a_source_is_missing_whose_name_cannot_be_shown(
    backups: Backups,
) -> None:
    """Perhaps its disk is not mounted: then only the older backups hold what is on it."""
    gone = backups.source.with_name("gone\x1b\u202e")
    gone.mkdir()
    (gone / "file").write_text("here for now")
    file = with_rules(backups, "keep_last = 1").path
    written = file.read_text().replace(
        "sources = [", f'sources = ["{backups.source.parent}/gone\\u001b\\u202e", '
    )
    file.write_text(written)
    for day in range(3):
        if day == 1:
            (gone / "file").unlink()
            gone.rmdir()
        now = NOW + timedelta(days=day)
        record = run_backup_job(str(file), backups.paths, lambda now=now: now, SilentProgress())
    assert record.exit_code == 3
    assert len(list(backups.store_folder.iterdir())) == 3
