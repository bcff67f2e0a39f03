"""Which backups stay: whatever a clock says, and whatever lies beside them."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_tasks.census.newest_seen import NewestSeen
from backup_tasks.command.backup_job import run_backup_job
from backup_tasks.common.paths import PROJECT_ROOT, Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.format.archive_names import CLAIM_NAME
from backup_tasks.profile.model import RetentionSettings as Rules
from backup_tasks.prune.retention import FUTURE_SLACK, plan_prune
from tests.support.backups import Backups

NOW = datetime(2025, 6, 12, 12, 0, tzinfo=UTC)


@pytest.fixture
def backups(tmp_path: Path, paths: Paths) -> Backups:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("content")
    return Backups(tmp_path / "source", tmp_path / "store", paths, host=platform.node())


def with_rules(backups: Backups, rules: str) -> Path:
    """The profile's file, with these rules of retention."""
    file = backups.write_profile()
    file.write_text(file.read_text() + f"[retention]\n{rules}\n")
    return file


def invoke(backups: Backups, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a task of the project."""
    command = [sys.executable, "-m", "invoke", "-r", str(PROJECT_ROOT), *arguments]
    environ = {**os.environ, **backups.environ()}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done
    return done


@pytest.mark.parametrize("strangers", ["notes.txt", "2025-06-01_0200-backup.tar.gz"])
def test_what_was_stored_last_stays_also_beside_a_strangers_younger_object(
    backups: Backups, strangers: str
) -> None:
    """Its name is older than another's where a clock went back in between."""
    backups.now = datetime.now(UTC) - timedelta(days=2)
    newest = backups.backup().archive
    backups.now -= timedelta(days=3)
    backups.backup()
    stored_last = backups.backup().archive
    (backups.store_folder / strangers).write_text("a stranger's")
    moments = {stored_last: 200, strangers: 300}
    for name in os.listdir(backups.store_folder):
        when = backups.now.timestamp() + moments.get(name, 100)
        os.utime(backups.store_folder / name, (when, when))
    shutil.rmtree(backups.paths.state / "newest")  # it is kept by its own merit
    invoke(backups, "prune", "--profile", str(with_rules(backups, "keep_last = 1")))
    left = {name for name in os.listdir(backups.store_folder) if name[0] != "."}
    assert left - {CLAIM_NAME} == {newest, stored_last, strangers}


def test_the_newest_true_backup_stays_beside_one_from_the_future_when_all_are_too_old() -> None:
    taken_at = {f"day {day}": NOW - timedelta(days=day) for day in (10, 20, 30)}
    taken_at["future"] = NOW + FUTURE_SLACK + timedelta(seconds=1)
    plan = plan_prune(taken_at, Rules(keep_within=timedelta(days=5)), NOW)
    assert set(plan.keep) == {"future", "day 10"}
    assert plan.delete == ("day 30", "day 20")


def test_protected_backups_stay_whatever_the_rules_say() -> None:
    taken_at = {f"day {day}": NOW - timedelta(days=day) for day in range(5)}
    plan = plan_prune(taken_at, Rules(keep_last=1), NOW, protected={"day 3": "stored last"})
    assert plan.keep == {"day 0": ("last 1 of 1",), "day 3": ("stored last",)}
    assert "nobody" not in plan_prune(taken_at, Rules(), NOW, protected={"nobody": "x"}).keep


def test_a_backup_of_the_same_minute_that_is_there_means_that_none_has_vanished(
    backups: Backups,
) -> None:
    """As where encryption was turned on: two objects of one minute, of which one was replaced."""
    name = backups.backup().archive
    profile = with_rules(backups, "")
    taken_at = backups.now - timedelta(days=1)
    seen = NewestSeen(backups.paths.state, backups.profile(), backups.open_store())
    seen.note(f"{name}.age.tar", taken_at.isoformat())
    assert "vanished" not in invoke(backups, "list", "--profile", str(profile)).stderr
    later = taken_at + timedelta(minutes=1)
    seen.note(f"{later:%Y-%m-%d_%H%M}-backup.tar.gz", later.isoformat())
    told = invoke(backups, "list", "--profile", str(profile)).stderr
    assert "newer backups have vanished" in told


def test_nothing_is_pruned_while_a_source_is_missing_whose_name_cannot_be_shown(
    backups: Backups,
) -> None:
    """Perhaps its disk is not mounted: then only the older backups hold what is on it."""
    gone = backups.source.with_name("gone\x1b\u202e")
    gone.mkdir()
    (gone / "file").write_text("here for now")
    file = with_rules(backups, "keep_last = 1")
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
    assert len(list(backups.store_folder.glob("*-backup.tar.gz"))) == 3
