"""`verify --all`: equal chunks are unpacked once, and every archive is told of as if by itself."""

from __future__ import annotations

import dataclasses
import random
from datetime import UTC
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backup_tasks.chunks.reader
from backup_tasks.chunks.compress import decompress_chunk
from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.format.manifest import Chunk, Entry
from backup_tasks.read.manifest_reader import read_manifest
from backup_tasks.verify.run_verify import run_verify
from backup_tasks.verify.verified_chunks import VerifiedBefore, digest_group
from backup_tasks.verify.verify_report import VerifyReport
from tests.support.backups import Backups, small_backups
from tests.support.details import find_backups
from tests.support.histories import CHUNK, Change, RealTree, histories, play, use_small_chunks


@pytest.fixture
def backups(tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Backups:
    use_small_chunks(monkeypatch)
    (tmp_path / "source").mkdir()
    made = Backups(tmp_path / "source", tmp_path / "store", paths)
    fill(made)
    return made


def fill(backups: Backups) -> None:
    """Small files, and a large one among them."""
    for number in range(30):
        content = random.Random(number).randbytes(1500)
        (backups.source / f"file{number:02}").write_bytes(content)
    (backups.source / "file15large").write_bytes(random.Random(99).randbytes(5 * CHUNK + 7))


def verify_each(backups: Backups, before: VerifiedBefore | None) -> list[VerifyReport]:
    """All archives, the oldest first."""
    store = backups.open_store()
    return [
        run_verify(store, backup, SilentProgress(), before=before)
        for backup in find_backups(store, UTC)
    ]


def chunks_of(backups: Backups, which: int) -> set[str]:
    """The hashes of what an archive's chunks hold."""
    store = backups.open_store()
    manifest = read_manifest(store, find_backups(store, UTC)[which].stored)
    assert manifest is not None
    hashes = {chunk.sha256 for chunk in manifest.chunks}
    manifest.close()
    return hashes


def flip(archive: Path, place: float) -> None:
    """Change one bit."""
    content = bytearray(archive.read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    archive.write_bytes(content)


@settings(max_examples=40, deadline=None)
@given(
    histories(generations=3),
    st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1)), max_size=4),
)
def test_whatever_is_damaged_each_archive_is_told_of_as_if_by_itself(
    history: list[list[Change]], damage: list[tuple[int, float]]
) -> None:
    with small_backups() as backups:
        fill(backups)
        tree = RealTree(backups.source)
        for changes in history:
            for change in changes:
                play(tree, change)
            backups.backup()
        archives = sorted(backups.store_folder.iterdir())
        for which, where in damage:
            flip(archives[which % len(archives)], where)
        alone = verify_each(backups, None)
        before = VerifiedBefore()
        for _ in range(2):  # the second time as much as can be is known
            together = verify_each(backups, before)
            assert [told(report) for report in together] == [told(report) for report in alone]


def told(report: VerifyReport) -> dict[str, object]:
    """All that a report says, but for the objects behind it."""
    return {
        field.name: getattr(report, field.name)
        for field in dataclasses.fields(report)
        if field.name not in ("header", "backup")
    }


@pytest.mark.parametrize("number", range(7))
def test_a_large_file_that_was_whole_is_lost_where_any_of_its_chunks_is_damaged(
    backups: Backups, number: int
) -> None:
    backups.backup()
    backups.backup()
    before = VerifiedBefore()
    assert not any(report.is_damaged for report in verify_each(backups, before))
    store = backups.open_store()
    manifest = read_manifest(store, find_backups(store, UTC)[-1].stored)
    assert manifest is not None
    (large,) = (entry for entry in manifest.entries() if entry.path.endswith("large"))
    chunk = manifest.chunks[large.chunk + number]  # of its headers, or a piece
    manifest.close()
    newest = backups.archive()
    content = bytearray(newest.read_bytes())
    content[chunk.offset + chunk.length // 2] ^= 1
    newest.write_bytes(content)
    whole, damaged = verify_each(backups, before)
    assert not whole.is_damaged
    ((path, reason),) = damaged.lost.first
    assert path.endswith("file15large")
    assert reason == f"chunk {large.chunk + number} is damaged: its hash is wrong"


def test_chunks_that_were_found_whole_are_not_unpacked_again(
    backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[int] = []

    def counted(stored: bytes | memoryview, raw_length: int) -> bytes:
        unpacked.append(raw_length)
        return decompress_chunk(stored, raw_length)

    monkeypatch.setattr(backup_tasks.chunks.reader, "decompress_chunk", counted)
    backups.backup()
    before = VerifiedBefore()
    verify_each(backups, before)
    once = len(unpacked)
    assert once > 10
    (backups.source / "file20").write_bytes(b"changed")
    backups.backup()
    reports = verify_each(backups, before)
    old, newest = (chunks_of(backups, which) for which in (0, 1))
    # The file and its folders (of those above, others change some meanwhile), and the chunk whose
    # entry of the file no longer counts.
    assert len(unpacked) - once == len(newest - old) + 1 < 5
    assert [report.checked_chunks for report in reports] == [report.chunks for report in reports]


_FIELDS = {
    "path": "b",
    "path_b64": "Yg==",
    "type": "symlink",
    "size": 2,
    "mode": 0o600,
    "uid": 2,
    "gid": 2,
    "mtime_ns": 2,
    "link": "b",
    "link_b64": "Yg==",
    "sha256": "b",
    "offset": 512,
}


@pytest.mark.parametrize("name", _FIELDS)
def test_the_same_chunk_with_another_entry_in_it_is_no_known_one(name: str) -> None:
    entry = Entry(path="a", type="file", size=1, sha256="a")
    other = msgspec.structs.replace(entry, **{name: _FIELDS[name]})
    chunks = [Chunk(0, 100, "c" * 64, 512)]
    assert digest_group(chunks, [entry]) != digest_group(chunks, [other])
    moved = msgspec.structs.replace(entry, chunk=7, inode=3, ctime_ns=5)
    assert digest_group(chunks, [entry]) == digest_group(chunks, [moved])
