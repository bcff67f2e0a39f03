"""A list of nothing where a backup was seen: never taken for a store that is yet to be used."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from backup_tasks.census.newest_seen import NewestSeen
from backup_tasks.common.paths import Paths
from backup_tasks.errors import StoreError
from backup_tasks.stores.base import StoredObject
from backup_tasks.stores.directory import DirectoryStore
from tests.support.backups import Backups
from tests.support.cli import Cli, assert_refused, cli

__all__ = ["cli"]


@pytest.fixture
def backups(tmp_path: Path, paths: Paths) -> Backups:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"content")
    return Backups(source, tmp_path / "store", paths)


class LyingStore(DirectoryStore):
    """Lists nothing, and has everything."""

    def list_objects(self) -> list[StoredObject]:
        return []


def seen_in(backups: Backups, store: DirectoryStore) -> NewestSeen:
    return NewestSeen(backups.paths.state, backups.profile(), store)


def test_a_list_of_nothing_is_not_believed_while_the_newest_backup_is_there(
    backups: Backups,
) -> None:
    made = backups.backup().archive
    store = LyingStore(backups.store_folder)
    seen = seen_in(backups, store)
    for may_be_gone in (False, True):
        with pytest.raises(StoreError, match=f"lists no backup, but {made} is there"):
            seen.refuse_nothing(store.list_objects(), may_be_gone=may_be_gone)
    with pytest.raises(StoreError, match="not to be believed"):
        seen.list_objects()


def test_a_list_of_nothing_is_believed_by_who_makes_a_new_backup_where_all_are_gone(
    backups: Backups,
) -> None:
    made = backups.backup().archive
    (backups.store_folder / made).unlink()
    seen = seen_in(backups, DirectoryStore(backups.store_folder))
    with pytest.raises(StoreError, match=f"lists no backup, and {made}, .* is gone"):
        seen.list_objects()
    seen.refuse_nothing([], may_be_gone=True)
    record = backups.backup()
    assert record.result == "success"
    assert any("no backup is left" in warning for warning in record.warnings)
    assert record.archive in [one.name for one in seen.list_objects()]


def test_a_backup_that_is_told_of_an_empty_store_by_mistake_is_not_made(
    backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups.backup()
    before = os.listdir(backups.store_folder)
    monkeypatch.setattr(DirectoryStore, "list_objects", LyingStore.list_objects)
    with pytest.raises(StoreError, match="not to be believed"):
        backups.backup()
    assert os.listdir(backups.store_folder) == before


def test_a_store_that_was_never_used_lists_nothing(backups: Backups) -> None:
    store = DirectoryStore(backups.store_folder)
    seen_in(backups, store).refuse_nothing([])


def test_a_prune_keeps_the_newest_of_our_own_whatever_others_put_beside_it(
    backups: Backups,
) -> None:
    made = backups.backup().archive
    for minute in range(3):
        fake = backups.store_folder / f"2025-06-12_090{minute}-backup.tar.gz"
        fake.write_bytes(b"not ours")
    backups.extra = "[retention]\nkeep_last = 1\n"
    now = backups.now + timedelta(days=1)
    report = backups.prune(now=now)
    assert report.plan.keep[made] == ("last 1 of 1",)
    assert made in os.listdir(backups.store_folder)
    assert (report.deleted, len(report.left_alone)) == ((), 3)


def test_every_command_says_that_the_backups_are_gone(cli: Cli) -> None:
    cli.write_profile(more="[retention]\nkeep_last = 1\n")
    made = cli.back_up()
    (cli.store / f"{made}-backup.tar.gz").unlink()
    for task in ("list", "files", "restore", "verify", "drill", "prune"):
        told = assert_refused(cli, cli.run(task, "--profile", "test"), 1, made, "is gone")
        assert "no backup yet" not in told
