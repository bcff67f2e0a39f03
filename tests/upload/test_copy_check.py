"""Copies that nothing pinned to their source: looked at before they count as a backup."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from backup_tasks.common.paths import Paths
from backup_tasks.errors import CopyUnsupported
from backup_tasks.format.manifest import Chunk
from backup_tasks.stores.base import CopySource
from backup_tasks.stores.directory import DirectoryStore
from backup_tasks.stores.directory_writer import DirectoryWriter
from backup_tasks.upload.copy_check import check_copies
from tests.support.backups import Backups

NAME = "2025-06-12_0200-backup.tar.gz"


@pytest.fixture
def backups(tmp_path: Path, paths: Paths) -> Backups:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(50):
        (source / f"file-{number}").write_bytes(os.urandom(3000))
    return Backups(source, tmp_path / "store", paths)


def copy_zeros(writer: DirectoryWriter, source: CopySource, start: int, length: int) -> None:
    writer.send(bytes(length))


def test_an_archive_of_wrong_copies_is_removed_and_everything_is_sent(
    backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = backups.backup()
    (backups.source / "new").write_bytes(b"new")
    monkeypatch.setattr(DirectoryStore, "copies_are_sure", False)
    monkeypatch.setattr(DirectoryWriter, "copy", copy_zeros)
    second = backups.backup()
    assert (second.result, second.copied_bytes) == ("success", 0)
    assert sorted(os.listdir(backups.store_folder)) == [first.archive, second.archive]
    assert len(list((backups.paths.state / "no-copy").iterdir())) == 1


def test_right_copies_are_kept(backups: Backups, monkeypatch: pytest.MonkeyPatch) -> None:
    backups.backup()
    (backups.source / "new").write_bytes(b"new")
    monkeypatch.setattr(DirectoryStore, "copies_are_sure", False)
    assert backups.backup().copied_bytes > 100_000


@pytest.mark.parametrize("count", [0, 1, 32, 33, 1000])
def test_a_sample_is_all_over_the_archive_and_has_its_last_chunk(
    tmp_path: Path, count: int
) -> None:
    """The chunk is no gzip member: of what is only compared, nothing is unpacked."""
    bodies = [b"%09d" % number for number in range(count)]
    (tmp_path / NAME).write_bytes(b"".join(bodies))
    store = DirectoryStore(tmp_path)
    chunks = [
        Chunk(number * 9, 9, hashlib.sha256(body).hexdigest(), 9)
        for number, body in enumerate(bodies)
    ]
    check_copies(store, store.stat(NAME), chunks)
    if not count:
        return
    wrong = [*chunks[:-1], Chunk((count - 1) * 9, 9, "0" * 64, 9)]
    with pytest.raises(CopyUnsupported, match=f"chunk {count - 1}"):
        check_copies(store, store.stat(NAME), wrong)
    assert store.list_objects() == []
