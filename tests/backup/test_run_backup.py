"""Promises 1 and 2: a backup is there whole or not at all, and the next run always works."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_tasks.common.paths import Paths
from backup_tasks.common.time_zones import find_zone
from backup_tasks.errors import SourceError, StoreError
from tests.support.attacks import fingerprint
from tests.support.backups import Backups
from tests.support.details import find_backups
from tests.support.other_process import killed_after
from tests.support.source_trees import assert_same_tree, make_files, make_links, run

MIB = 2**20


@pytest.fixture
def backups(tmp_path: Path, paths: Paths) -> Backups:
    found = Backups(tmp_path / "source", tmp_path / "store", paths)
    found.source.mkdir()
    return found


def names(backups: Backups) -> list[str]:
    """The backups that are listed."""
    return [one.id for one in find_backups(backups.open_store(), find_zone("UTC"))]


def leftovers(backups: Backups) -> list[str]:
    """What lies in the store's folder besides them."""
    return [n for n in os.listdir(backups.store_folder) if not n.endswith("-backup.tar.gz")]


def test_the_record_tells_what_was_done(backups: Backups) -> None:
    (backups.source / "a").write_bytes(os.urandom(3 * MIB))
    (backups.source / "b").write_text("small")
    (backups.source / "c").symlink_to("b")
    record = backups.backup()
    assert (record.result, record.exit_code, record.problems) == ("success", 0, [])
    assert record.archive == "2025-06-12_0200-backup.tar.gz"
    assert (record.files, record.raw_bytes) == (2, 3 * MIB + 5)
    assert record.archive_bytes == backups.archive().stat().st_size
    assert record.sent_bytes == record.archive_bytes


def test_two_backups_in_one_minute_both_get_a_name(backups: Backups) -> None:
    for _ in range(2):
        backups.now = datetime(2025, 6, 12, 2, 0, tzinfo=UTC)
        backups.backup()
    assert names(backups) == ["2025-06-12_0200", "2025-06-12_0201"]


def test_a_name_that_a_folder_a_link_or_a_pipe_has_taken_stops_no_backup(backups: Backups) -> None:
    backups.store_folder.mkdir()
    taken = [f"2025-06-12_02{minute:02}-backup.tar.gz" for minute in range(4)]
    (backups.store_folder / taken[0]).mkdir()
    os.mkfifo(backups.store_folder / taken[1])
    (backups.store_folder / taken[2]).symlink_to("/etc/passwd")
    (backups.store_folder / taken[3]).symlink_to("nowhere")
    assert backups.backup().archive == "2025-06-12_0204-backup.tar.gz"
    assert names(backups) == ["2025-06-12_0204"]


def test_a_backup_whose_name_something_else_has_now_stops_no_other(backups: Backups) -> None:
    made = backups.store_folder / backups.backup().archive
    made.unlink()
    os.mkfifo(made)
    backups.backup()
    assert names(backups) == ["2025-06-13_0200"]


def test_an_empty_source_is_a_backup_too(backups: Backups, tmp_path: Path) -> None:
    record = backups.backup()
    assert (record.result, record.files) == ("success", 0)
    backups.restore(tmp_path / "target")
    assert_same_tree(backups.source, backups.in_target(tmp_path / "target"))


def test_a_missing_source_beside_others_is_named_and_the_result_is_incomplete(
    backups: Backups, tmp_path: Path
) -> None:
    (backups.source / "file").write_text("x")
    profile = backups.write_profile()
    wanted = f'sources = ["{backups.source}", "{tmp_path}/missing"]'
    text = profile.read_text().replace(f'sources = ["{backups.source}"]', wanted)
    backups.write_profile = lambda: (profile.write_text(text), profile)[1]  # type: ignore[method-assign]
    record = backups.backup()
    assert (record.result, record.exit_code) == ("incomplete", 3)
    assert [(p.path, p.reason) for p in record.problems] == [
        (f"{tmp_path}/missing", "source: No such file or directory")
    ]
    assert len(names(backups)) == 1


def test_without_any_source_there_is_no_backup(backups: Backups) -> None:
    backups.source.rmdir()
    with pytest.raises(SourceError, match="none of the sources can be read"):
        backups.backup()
    assert names(backups) == []
    assert leftovers(backups) == []


def test_the_store_inside_the_source_is_left_out(tmp_path: Path, paths: Paths) -> None:
    backups = Backups(tmp_path / "source", tmp_path / "source" / "store", paths)
    backups.source.mkdir()
    (backups.source / "file").write_text("x")
    backups.backup()
    backups.backup()
    backups.restore(tmp_path / "target")
    assert os.listdir(backups.in_target(tmp_path / "target")) == ["file"]


@pytest.mark.parametrize("call", [1, 2, 3, 7])
def test_a_disk_that_fails_leaves_no_backup_and_those_before_it_untouched(
    backups: Backups, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    make_files(backups.source / "files")
    backups.backup()
    archive = backups.archive()
    before = archive.read_bytes()
    (backups.source / "new").write_bytes(os.urandom(40 * MIB))
    calls = 0
    real = os.write

    def fail(descriptor: int, data: Any) -> int:
        nonlocal calls
        if "partial" in os.readlink(f"/proc/self/fd/{descriptor}"):
            calls += 1
            if calls >= call:
                raise OSError(28, "No space left on device")
        return real(descriptor, data)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fail)
        with pytest.raises(StoreError, match="disk full"):
            backups.backup()
    assert names(backups) == ["2025-06-12_0200"]
    assert archive.read_bytes() == before
    assert backups.backup().result == "success"


CALLS = ("open", "write", "fsync", "rename", "link", "mkdir", "unlink", "replace", "ftruncate")


def test_a_backup_killed_at_any_point_harms_nothing_and_the_next_one_works(
    backups: Backups, tmp_path: Path
) -> None:
    make_links(backups.source / "links")
    backups.backup()
    earlier = backups.archive()
    at_call, kills = 1, 0
    while True:
        (backups.source / "new").write_bytes(os.urandom(2 * MIB))
        kept = {name: (backups.store_folder / name).read_bytes() for name in [earlier.name]}
        listed = names(backups)
        if not killed_after(at_call, CALLS, Backups.backup, backups):
            break
        # Either it is there whole, or it is not there.
        assert set(names(backups)) - set(listed) <= {f"{backups.now:%Y-%m-%d_%H%M}"}
        for name, content in kept.items():
            assert (backups.store_folder / name).read_bytes() == content
        record = backups.backup()
        assert record.result == "success"
        target = tmp_path / f"target {at_call}"
        assert backups.restore(target).extracted.problems == []
        assert_same_tree(backups.source, backups.in_target(target))
        run("find", target, "-depth", "-delete")
        for name in sorted(os.listdir(backups.store_folder))[1:-1]:
            if name.endswith("-backup.tar.gz"):
                (backups.store_folder / name).unlink()
        kills += 1
        at_call += 1 + at_call // 3
    assert kills > 8
    assert leftovers(backups) == []


def test_an_exception_at_any_point_leaves_nothing_behind(
    backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    (backups.source / "a").write_bytes(os.urandom(20 * MIB))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    from backup_tasks.archive import builder as archive

    for name in ("reserve", "end_entries", "add_manifest"):
        with monkeypatch.context() as patched:
            patched.setattr(archive.ArchiveBuilder, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                backups.backup()
        assert names(backups) == []
    backups.backup()
    assert leftovers(backups) == []
    assert len(names(backups)) == 1


def test_what_a_run_left_two_days_ago_is_ended_and_what_others_left_is_not(
    backups: Backups,
) -> None:
    (backups.source / "a").write_text("x")
    backups.write_profile()
    old = backups.store_folder / f".2025-06-01_0200-backup.tar.gz.{'a' * 16}.partial"
    young = backups.store_folder / f".2025-06-11_0200-backup.tar.gz.{'b' * 16}.partial"
    others = backups.store_folder / f".something-else.{'c' * 16}.partial"
    for file, age in ((old, 10), (young, 1), (others, 10)):
        file.write_text("half")
        then = (backups.now - timedelta(days=age)).timestamp()
        os.utime(file, (then, then))
    backups.backup()
    assert sorted(leftovers(backups)) == sorted([young.name, others.name])


def test_the_sources_are_only_read(backups: Backups) -> None:
    make_files(backups.source / "files")
    make_links(backups.source / "links")
    before = fingerprint(backups.source)
    backups.backup()
    assert fingerprint(backups.source) == before
