"""Opening an archive: once for each task, closed whatever happens, refused before it is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from backup_tasks.census.catalog import Backup
from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.errors import UnprovenError
from backup_tasks.read.authenticity import Trust
from backup_tasks.read.listing import list_entries
from backup_tasks.read.manifest_reader import read_footer
from backup_tasks.read.open_archive import open_archive
from backup_tasks.restore.request import RestoreRequest
from backup_tasks.restore.run_restore import run_restore
from backup_tasks.stores.base import Store, StoredObject
from backup_tasks.verify.run_drill import run_drill
from backup_tasks.verify.run_verify import run_verify
from tests.support.backups import Backups
from tests.support.details import find_backups


class RangesRead:
    """A store that remembers which ranges were read."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.ranges: list[tuple[int, int]] = []

    def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
        self.ranges.append((start, start + length))
        return self._inner.read_range(source, start, length)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def times_read(self, offset: int) -> int:
        """How often the byte there was fetched."""
        return sum(start <= offset < end for start, end in self.ranges)


@pytest.fixture
def made(tmp_path: Path, paths: Paths) -> Backups:
    source = tmp_path / "source"
    source.mkdir()
    (source / "large").write_bytes(os.urandom(300_000))
    (source / "small").write_text("content")
    backups = Backups(source, tmp_path / "store", paths)
    backups.backup()
    return backups


def tasks_that_read(
    made: Backups, store: Any, backup: Backup, target: Path
) -> dict[str, Callable[[], object]]:
    profile, progress = made.profile(), SilentProgress()
    return {
        "restore": lambda: run_restore(store, backup, RestoreRequest((), target), progress),
        "verify": lambda: run_verify(store, backup, progress),
        "files": lambda: list(list_entries(store, backup.stored, ())),
        "drill": lambda: run_drill(profile, store, backup, progress, against_sources=True),
    }


@pytest.mark.parametrize("task", ["restore", "verify", "files", "drill"])
def test_each_task_fetches_the_manifest_once(made: Backups, tmp_path: Path, task: str) -> None:
    store = RangesRead(made.open_store())
    backup = find_backups(store, UTC)[-1]  # type: ignore[arg-type]
    footer = read_footer(store, backup.stored)
    assert footer is not None
    store.ranges.clear()
    tasks_that_read(made, store, backup, tmp_path / "target")[task]()
    assert store.times_read(footer.offset + footer.length // 2) == 1


@contextmanager
def no_descriptor_stays_open() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_archive_is_closed_also_when_its_reader_fails(made: Backups) -> None:
    store = made.open_store()
    stored = find_backups(store, UTC)[-1].stored
    with (
        no_descriptor_stays_open(),
        pytest.raises(KeyError),
        open_archive(store, stored) as archive,
    ):
        raise KeyError(archive.proof.state)


def test_an_archive_of_somebody_else_is_refused_before_its_manifest_is_fetched(
    made: Backups,
) -> None:
    store = RangesRead(made.open_store())
    stored = find_backups(store, UTC)[-1].stored  # type: ignore[arg-type]
    footer = read_footer(store, stored)
    assert footer is not None
    store.ranges.clear()
    another = Trust(("ed25519:" + "A" * 43 + "=",))
    with (
        no_descriptor_stays_open(),
        pytest.raises(UnprovenError),
        open_archive(store, stored, trust=another),  # type: ignore[arg-type]
    ):
        pytest.fail("it was opened")
    assert store.times_read(footer.offset) == 0
