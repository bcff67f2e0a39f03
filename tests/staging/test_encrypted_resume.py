"""Interrupted encrypted runs: gone on with by a server that has no key, and never mixed."""

from __future__ import annotations

from pathlib import Path

import pytest

import backup_tasks.backup.writers
from backup_tasks.common.paths import Paths
from tests.staging.test_salvage import (
    LATER,
    Interrupted,
    fill,
    random_bytes,
    start_anew,
    steps_of_a_run,
)
from tests.support.histories import use_small_chunks
from tests.support.keys import KeyPair, make_key


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_chunks(monkeypatch)
    monkeypatch.setattr(backup_tasks.backup.writers, "RESUMABLE_BYTES", 1)


@pytest.fixture(params=["renames", "stages"])
def backups(request: pytest.FixtureRequest, tmp_path: Path, paths: Paths) -> Interrupted:
    (tmp_path / "source").mkdir()
    made = Interrupted(tmp_path / "source", tmp_path / "store", paths, now=LATER)
    made.can_rename = request.param == "renames"
    use(made, make_key(tmp_path))
    made.write_profile()
    fill(made)
    return made


def use(backups: Interrupted, pair: KeyPair) -> None:
    """Encrypt for this key alone."""
    backups.recipients, backups.key = (pair.recipient,), pair.file


def test_a_kill_at_any_step_costs_what_was_under_way(backups: Interrupted) -> None:
    backups.backup()
    steps, whole = steps_of_a_run(backups), backups.sent()
    resumed = 0
    for fuse in range(1, steps, max(1, steps // 9)):
        for after in (False, True):
            start_anew(backups)
            if backups.killed(fuse, after=after):
                backups.backup()
                resumed += "an interrupted run goes on" in backups.log()
                assert backups.sent() < 1.5 * whole
            backups.assert_newest_is_the_tree()
            assert backups.left() == []
            (backups.paths.logs / "backup.log").unlink(missing_ok=True)
    assert resumed > 3


def test_what_was_sent_for_other_recipients_is_not_gone_on_with(
    backups: Interrupted, tmp_path: Path
) -> None:
    backups.backup()
    steps = steps_of_a_run(backups)
    start_anew(backups)
    assert backups.killed(steps * 2 // 3)
    use(backups, make_key(tmp_path, name="new"))
    backups.backup()
    assert "goes on" not in backups.log()
    backups.assert_newest_is_the_tree()
    assert backups.left() == []


def test_what_was_sent_in_the_clear_is_not_gone_on_with(backups: Interrupted) -> None:
    recipients, key = backups.recipients, backups.key
    backups.recipients, backups.key = (), None
    backups.backup()
    steps = steps_of_a_run(backups)
    start_anew(backups)
    assert backups.killed(steps * 2 // 3)
    backups.recipients, backups.key = recipients, key
    backups.backup()
    backups.assert_newest_is_the_tree()
    assert backups.left() == []
    assert backups.killed(steps * 2 // 3, full=True)
    backups.recipients, backups.key = (), None
    backups.backup()
    backups.assert_newest_is_the_tree()


def test_a_resumed_later_run_builds_on_archive_and_interrupted_run(backups: Interrupted) -> None:
    backups.backup()
    for number in range(0, 40, 2):
        (backups.source / f"file{number:02}").write_bytes(random_bytes(1000 + number, 3000))
    backups.killed(steps_of_a_run(backups) // 2)
    backups.backup()
    backups.assert_newest_is_the_tree()
    assert backups.left() == []
