"""What is written through mmap is in the next backup, whenever the system lets a ctime tell."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_tasks.backup import scan
from backup_tasks.common.paths import Paths
from backup_tasks.filesystem import writeback
from backup_tasks.filesystem.mountinfo import Mount, Mounts, parse_mounts
from backup_tasks.filesystem.writeback import (
    LEAST_MARGIN_NS,
    blind_devices,
    file_systems_of,
    keeps_ctime,
    read_margin_ns,
    write_back,
)
from tests.support.generations import Generations, restored

PAGE = mmap.PAGESIZE


@pytest.fixture
def backups(tmp_path: Path, paths: Paths) -> Generations:
    (tmp_path / "source").mkdir()
    return Generations(tmp_path / "source", tmp_path / "store", paths)


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """A file of some pages, written to through memory as databases do."""
    path.write_bytes(bytes(4 * PAGE))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        yield memory


def last_content(backups: Generations, place: Path) -> bytes:
    target = restored(backups, -1, place)
    return (backups.in_target(target) / "database").read_bytes()


def written_twice(backups: Generations, place: Path, after: timedelta) -> None:
    """Back up so long after the first write to a page, by the clock; write to it once more."""
    backups.now = datetime.now(UTC) + after
    path = backups.source / "database"
    with mapped(path) as memory:
        memory[0:5] = b"first"
        backups.backup()
        memory[0:6] = b"second"
        expected = path.read_bytes()
        backups.backup()
        assert last_content(backups, place / "ours") == expected
        assert expected.startswith(b"second")


def test_a_page_written_to_again_after_the_backup_is_seen_as_it_was_written_back_before_it(
    backups: Generations, tmp_path: Path
) -> None:
    written_twice(backups, tmp_path, timedelta(hours=1))


def test_a_page_that_was_dirty_within_the_margin_is_looked_at_again(
    backups: Generations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "write_back", lambda folders: [])
    written_twice(backups, tmp_path, timedelta(seconds=45))


def test_what_is_looked_at_again_and_is_the_same_is_not_sent_again(
    backups: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "blind_devices", lambda *_: frozenset())
    backups.now = datetime.now(UTC) + timedelta(seconds=45)
    (backups.source / "large").write_bytes(os.urandom(3_000_000))
    backups.backup()
    assert backups.plan().read_bytes == 3_000_000
    backups.backup()
    assert backups.sent() < 10_000
    assert backups.plan().read_bytes == 0, "a day later its ctime is old enough"


def test_in_memory_where_nothing_is_written_back_files_are_read_each_time(
    backups: Generations, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        backups.source = Path(place)
        written_twice(backups, tmp_path, timedelta(hours=1))
        before = backups.sent()
        backups.backup()
        assert backups.sent() < before, "it was read, and is the same"


def test_the_margin_is_a_minute_or_as_long_as_the_system_lets_pages_be_dirty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writeback, "_VM", tmp_path)
    assert read_margin_ns() == LEAST_MARGIN_NS == 60 * 10**9
    (tmp_path / "dirty_expire_centisecs").write_text("3000\n")
    (tmp_path / "dirty_writeback_centisecs").write_text("500\n")
    assert read_margin_ns() == LEAST_MARGIN_NS
    (tmp_path / "dirty_expire_centisecs").write_text("60000\n")
    assert read_margin_ns() == 605 * 10**9


def test_trouble_with_writing_back_is_a_warning_and_costs_no_backup(
    backups: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(writeback, "_sync_file_system", failing)
    (backups.source / "file").write_bytes(b"here")
    record = backups.backup()
    assert (record.result, record.exit_code) == ("success", 0)
    (warning,) = record.warnings[-1:]
    assert str(backups.source) in warning
    assert "may be seen a day late: Input/output error" in warning


def test_each_file_system_is_written_back_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def note(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(writeback, "_sync_file_system", note)
    inner = tmp_path / "inner"
    inner.mkdir()
    assert write_back([str(tmp_path), str(inner), str(tmp_path / "gone")]) == []
    assert synced == [str(tmp_path)]


class FakeMounts(Mounts):
    def __init__(self, *mounts: Mount) -> None:
        self.all = list(mounts)  # type: ignore[misc]


def test_what_is_mounted_below_a_source_is_written_back_too(tmp_path: Path) -> None:
    inside = f"{tmp_path}/data".lstrip("/")
    mounts = FakeMounts(
        Mount("", 1, "ext4"),
        Mount(inside, 2, "xfs"),
        Mount(f"{inside}/proc", 3, "proc"),
        Mount(f"{inside}-other", 4, "xfs"),
        Mount("elsewhere", 5, "xfs"),
    )
    sources = [str(tmp_path)]
    assert file_systems_of(sources, mounts, one_file_system=True) == sources
    found = file_systems_of(sources, mounts, one_file_system=False)
    assert found == [*sources, f"/{inside}", f"/{inside}-other"]
    found = file_systems_of(
        sources, mounts, one_file_system=False, is_left_out=lambda path: path == inside
    )
    assert found == [*sources, f"/{inside}-other"], "its server may not answer"


@pytest.mark.parametrize(
    ("kind", "keeps", "is_blind"),
    [
        ("ext4", False, False),
        ("tmpfs", True, True),
        ("fuse.sshfs", False, True),
        ("fuse.mergerfs", True, False),
        ("fuseblk", False, True),
        ("vfat", False, True),
    ],
)
def test_file_systems_that_make_a_ctime_up_are_found_by_looking(
    tmp_path: Path, kind: str, keeps: bool, is_blind: bool
) -> None:
    device = os.stat(tmp_path).st_dev
    mounts = FakeMounts(Mount("", device, kind))
    blind = blind_devices([str(tmp_path)], mounts, lambda folder: keeps)
    assert blind == (frozenset({device}) if is_blind else frozenset())


def test_a_ctime_of_its_own_shows_in_any_file_that_was_copied_or_renamed(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_text("x")
    for path in (tmp_path / "inner" / "file", tmp_path / "inner"):
        status = path.stat()
        if status.st_ctime_ns != status.st_mtime_ns:
            pytest.fail("a file just written has the same times")
    assert not keeps_ctime(str(tmp_path))
    os.utime(tmp_path / "inner" / "file", (1, 1))
    assert keeps_ctime(str(tmp_path))


def test_on_such_a_file_system_every_file_is_read_and_nothing_is_sent(
    backups: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "blind_devices", lambda *_: frozenset())
    backups.now = datetime.now(UTC) + timedelta(hours=1)
    (backups.source / "large").write_bytes(os.urandom(3_000_000))
    backups.backup()
    assert backups.plan().read_bytes == 0
    device = os.stat(backups.source).st_dev
    monkeypatch.setattr(scan, "blind_devices", lambda *_: frozenset({device}))
    assert backups.plan().read_bytes == 3_000_000
    backups.backup()
    assert backups.sent() < 10_000


def test_mounts_are_read_as_proc_has_them() -> None:
    text = (
        b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        b"41 22 0:36 / /home/a\\040b/\\134x rw master:2 shared:3 - fuse.sshfs host: rw\n"
        b"nonsense\n"
    )
    assert parse_mounts(text) == [
        Mount("", os.makedev(8, 1), "ext4"),
        Mount("home/a b/\\x", os.makedev(0, 36), "fuse.sshfs"),
    ]
    here = Mounts().all
    assert any(mount.path == "" for mount in here)
