"""In which order entries are written: what will soon be dead lies together."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from backup_tasks.archive.write_order import LaterGroups, WriteGroup, group_of
from backup_tasks.common.paths import Paths
from backup_tasks.format.manifest import Entry
from backup_tasks.reuse.plan import PlannedEntry
from tests.support.generations import LATER, Generations, untar
from tests.support.histories import CHUNK, fingerprint, use_small_chunks

DAY_NS = 24 * 3600 * 10**9
NOW_NS = 1_000 * DAY_NS


def entry(days_old: float, path: str = "file", **fields: object) -> Entry:
    mtime_ns = NOW_NS - int(days_old * DAY_NS)
    return Entry(path=path, type="file", mtime_ns=mtime_ns, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("plan", "turn"),
    [
        (PlannedEntry(entry(0)), WriteGroup.YOUNG),
        (PlannedEntry(entry(7)), WriteGroup.YOUNG),
        (PlannedEntry(entry(-1)), WriteGroup.YOUNG),
        (PlannedEntry(entry(30)), WriteGroup.LASTING),
        (PlannedEntry(entry(-30)), WriteGroup.LASTING),
        (PlannedEntry(entry(0), old=entry(1)), WriteGroup.CHANGING),
        (PlannedEntry(entry(0), old=entry(7)), WriteGroup.CHANGING),
        (PlannedEntry(entry(0), old=entry(30)), WriteGroup.LASTING),
        (PlannedEntry(entry(200), old=entry(201)), WriteGroup.CHANGING),
        (PlannedEntry(entry(5), is_same=True), WriteGroup.CHANGING),
        (PlannedEntry(entry(300), is_same=True), WriteGroup.LASTING),
    ],
)
def test_what_was_left_alone_for_long_comes_first_and_what_is_new_last(
    plan: PlannedEntry, turn: WriteGroup
) -> None:
    assert group_of(plan, NOW_NS) == turn


def test_a_hardlink_has_the_turn_of_its_file() -> None:
    link = Entry(path="link", type="hardlink", link="file", nlink=2, mtime_ns=0)
    with LaterGroups(NOW_NS) as later:
        assert later.postpone(PlannedEntry(link)) == b""
        stand_in = later.postpone(PlannedEntry(entry(1, nlink=2)))
        assert stand_in
        assert later.postpone(PlannedEntry(link)) == stand_in
        (turn,) = later.in_order()
        assert [plan.entry.path for plan in turn.plans] == ["file", "link"]


@pytest.fixture
def backups(tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Generations:
    use_small_chunks(monkeypatch)
    source = tmp_path / "source"
    source.mkdir()
    backups = Generations(source, tmp_path / "store", paths, now=LATER)
    for number in range(40):
        write(backups, f"file{number:02}", days_old=100)
    return backups


def write(backups: Generations, name: str, days_old: float = 0, size: int = 700) -> None:
    file = backups.source / name
    file.write_bytes(os.urandom(size))
    moment = (backups.now - timedelta(days=days_old)).timestamp()
    os.utime(file, (moment, moment))


def test_files_that_change_every_day_share_no_chunk_with_one_that_changed_once(
    backups: Generations,
) -> None:
    busy = {f"file{number:02}" for number in range(3, 40, 9)}
    for day in range(3):
        backups.backup()
        for name in {*busy, f"file{day:02}"}:
            write(backups, name)
    backups.backup()
    among = {backups.entry(name).chunk for name in busy}
    assert backups.entry("file02").chunk not in among


def test_a_new_file_that_goes_again_takes_nothing_old_along(backups: Generations) -> None:
    write(backups, "file10-new")
    os.link(backups.source / "file10-new", backups.source / "file11-link")
    backups.backup()
    (backups.source / "file10-new").unlink()
    (backups.source / "file11-link").unlink()
    backups.backup()
    end = backups.archive().stat().st_size - backups.manifest().header.chunk_bytes
    assert backups.sent() < end + 1000 < CHUNK


def test_plain_tar_makes_the_tree_of_an_archive_with_all_turns(
    backups: Generations, tmp_path: Path
) -> None:
    write(backups, "file05-new")
    os.link(backups.source / "file05-new", backups.source / "file01-link")
    write(backups, "file06-large", size=3 * CHUNK)
    backups.backup()
    write(backups, "file06-large", size=4 * CHUNK)
    write(backups, "file05-new", size=900)
    write(backups, "file07")
    backups.backup()
    untarred = untar(backups.archive(), tmp_path / "tar")
    assert fingerprint(backups.in_target(untarred)) == fingerprint(backups.source)
