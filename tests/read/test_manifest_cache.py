"""The manifest that is kept beside the archives: a convenience that nothing depends on."""

from __future__ import annotations

import os
import stat
from datetime import UTC
from pathlib import Path

import pytest

from backup_tasks.common.paths import Paths
from backup_tasks.format.footer import FOOTER_BYTES
from backup_tasks.read.manifest_cache import ManifestCache
from backup_tasks.read.manifest_reader import read_manifest
from backup_tasks.stores.base import StoredObject
from tests.support.details import find_backups
from tests.support.generations import LATER, Generations, fill, restored


@pytest.fixture
def backups(tmp_path: Path, paths: Paths) -> Generations:
    (tmp_path / "source").mkdir()
    made = Generations(tmp_path / "source", tmp_path / "store", paths, now=LATER)
    fill(made)
    return made


def kept_files(backups: Generations) -> list[Path]:
    return [path for path in (backups.paths.state / "manifests").rglob("*") if path.is_file()]


def newest(backups: Generations) -> StoredObject:
    return find_backups(backups.open_store(), UTC)[-1].stored


def fetched(backups: Generations) -> int:
    """Bytes that the newest backup read of earlier ones."""
    return sum(size for _, size in backups.stores[-1].reads_but_of(newest(backups).name))


def test_the_next_run_fetches_nothing(backups: Generations) -> None:
    backups.backup()
    record = backups.backup()
    assert record.copied_bytes
    assert fetched(backups) == 0


def test_the_whole_manifest_is_read_from_what_is_kept(backups: Generations) -> None:
    backups.backup()
    (kept,) = kept_files(backups)
    store, stored = backups.open_store(), newest(backups)
    cache = ManifestCache(backups.paths.state, kept.parent.name)
    manifest = read_manifest(*cache.in_front_of(store, stored))
    assert manifest is not None
    assert list(manifest.entries()) == list(backups.manifest().entries())
    assert store.reads == []
    assert kept.read_bytes() == backups.archive().read_bytes()[-kept.stat().st_size :]


def test_nobody_else_can_read_it(backups: Generations) -> None:
    backups.write_profile().chmod(0o600)  # before anybody may write what is made
    old = os.umask(0)
    try:
        backups.backup()
    finally:
        os.umask(old)
    (kept,) = kept_files(backups)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700


def test_only_the_newest_is_kept(backups: Generations) -> None:
    for _ in range(3):
        backups.backup()
    assert len(kept_files(backups)) == 1


def test_losing_it_costs_a_download_and_nothing_else(backups: Generations) -> None:
    backups.backup()
    (kept,) = kept_files(backups)
    size = kept.stat().st_size
    kept.unlink()
    record = backups.backup()
    assert record.copied_bytes
    assert size - 100 < fetched(backups) < 3 * size
    assert len(kept_files(backups)) == 1


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_one_is_not_believed(backups: Generations, damage: str, tmp_path: Path) -> None:
    backups.backup()
    (kept,) = kept_files(backups)
    end = bytearray(kept.read_bytes())
    end[len(end) // 3] ^= 1
    kept.write_bytes({"flipped": end, "cut": end[: -FOOTER_BYTES - 5], "empty": b""}[damage])
    backups.backup()
    ours = backups.in_target(restored(backups, -1, tmp_path / "ours"))
    assert (ours / "file03").read_bytes() == (backups.source / "file03").read_bytes()
    backups.backup()
    assert backups.copied(), "what is kept of the newest one is sound again"


def test_an_object_replaced_under_the_same_name_is_not_taken_for_it(
    backups: Generations, tmp_path: Path
) -> None:
    backups.backup()
    first = backups.archive().read_bytes()
    (backups.source / "file03").write_bytes(b"another")
    backups.backup()
    archive = backups.archive()
    archive.unlink()
    archive.write_bytes(first)
    record = backups.backup()
    assert record.copied_bytes
    assert fetched(backups) > 0
    ours = backups.in_target(restored(backups, -1, tmp_path / "ours"))
    assert (ours / "file03").read_bytes() == b"another"


def test_a_state_folder_that_cannot_be_written_fails_no_backup(
    backups: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    (backups.paths.state / "manifests").write_text("in the way")
    backups.backup()
    record = backups.backup()
    assert record.result == "success"
    assert record.copied_bytes
