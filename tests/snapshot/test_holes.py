"""A sparse file costs what its data costs, wherever it is read, and every byte of it is checked."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_tasks.census.catalog import Backup
from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.common.time_zones import find_zone
from backup_tasks.errors import ArchiveError
from backup_tasks.format.content_hash import BLOCK_BYTES, PlainHash, SparseHash
from backup_tasks.format.limits import HOLES_LIMIT, SPARSE_FROM_BYTES
from backup_tasks.format.manifest import Chunk, Entry
from backup_tasks.read.manifest_reader import read_manifest
from backup_tasks.snapshot import data_segments
from backup_tasks.verify.compare_tree import hash_file
from backup_tasks.verify.run_drill import run_drill
from backup_tasks.verify.run_verify import run_verify
from backup_tasks.verify.verified_chunks import digest_group
from backup_tasks.verify.verify_report import VerifyReport
from tests.support import attacks
from tests.support.attacks import Item
from tests.support.backups import Backups
from tests.support.details import find_backups

UTC = find_zone("UTC")
MIB = 2**20
TIB = 2**40
BYTES = st.sampled_from([b"\0", b"x"])


def reference(content: bytes) -> str:
    """As docs/format.md describes it, in a few lines."""
    runs: list[list[int]] = []
    data = b""
    for offset in range(0, len(content), BLOCK_BYTES):
        block = content[offset : offset + BLOCK_BYTES]
        if any(block):
            if not runs or sum(runs[-1]) != offset:
                runs.append([offset, 0])
            runs[-1][1] += len(block)
            data += block
    lines = ["backup-tasks sparse 1", f"{len(content)}", *(f"{o} {n}" for o, n in runs)]
    text = "\n".join([*lines, hashlib.sha256(data).hexdigest(), ""])
    return hashlib.sha256(text.encode()).hexdigest()


@given(
    parts=st.lists(st.tuples(BYTES, st.integers(0, 3 * BLOCK_BYTES)), max_size=12),
    cuts=st.lists(st.integers(1, 3 * BLOCK_BYTES), min_size=1, max_size=6),
    holes=st.lists(st.booleans(), min_size=1, max_size=6),
)
def test_the_sparse_hash_is_one_of_the_content_however_it_is_cut_and_wherever_holes_are(
    parts: list[tuple[bytes, int]], cuts: list[int], holes: list[bool]
) -> None:
    content = b"".join(byte * length for byte, length in parts)
    found = SparseHash(len(content))
    offset = number = 0
    while offset < len(content):
        piece = content[offset : offset + cuts[number % len(cuts)]]
        if any(piece) or not holes[number % len(holes)]:
            found.add(offset, memoryview(piece))
        offset += len(piece)
        number += 1
    assert found.finish() == reference(content)
    assert content == b"" or reference(content) != reference(content[:-1])


def test_the_plain_hash_takes_holes_as_zeros() -> None:
    found = PlainHash(3 * MIB)
    found.add(MIB + 5, memoryview(b"middle"))
    whole = bytes(MIB + 5) + b"middle" + bytes(2 * MIB - 11)
    assert found.finish() == hashlib.sha256(whole).hexdigest()


@pytest.fixture
def memory(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backups]:
    """Backups of a tree in tmpfs, where files can be of any size, and drills too."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    backups = Backups(folder / "source", tmp_path / "store", paths)
    backups.source.mkdir()
    yield backups
    subprocess.run(["rm", "-rf", folder], check=True)


def make_huge(path: Path, size: int = 10 * TIB) -> None:
    with path.open("wb") as file:
        file.truncate(size)
        for offset in (0, 3 * MIB + 7, size // 2, size - 5):
            file.seek(offset)
            file.write(b"data!")
        file.seek(size // 4)
        file.write(bytes(MIB))
    os.utime(path, ns=(1, 1))


def newest(backups: Backups) -> Backup:
    return find_backups(backups.open_store(), UTC)[-1]


def entry_of(backups: Backups, name: str) -> Entry:
    manifest = read_manifest(backups.open_store(), newest(backups).stored)
    assert manifest
    [entry] = [entry for entry in manifest.entries() if entry.name.endswith(name)]
    manifest.close()
    return entry


def verify(backups: Backups) -> VerifyReport:
    return run_verify(backups.open_store(), newest(backups), SilentProgress())


def test_ten_terabytes_of_holes_cost_nothing_in_backup_verify_restore_and_drill(
    memory: Backups,
) -> None:
    """An hour and a half each, if they were hashed."""
    huge = memory.source / "huge"
    make_huge(huge)
    assert memory.plan().read_bytes < 3 * MIB
    record = memory.backup()
    assert (record.problems, record.raw_bytes) == ([], 10 * TIB)
    entry = entry_of(memory, "huge")
    assert (entry.sha256, len(entry.sparse_sha256)) == ("", 64)
    report = verify(memory)
    assert (report.faults, report.lost.first, report.files) == ([], [], 1)
    memory.restore(memory.source.parent / "target")
    twin = memory.in_target(memory.source.parent / "target") / "huge"
    assert (twin.stat().st_size, twin.stat().st_mtime_ns) == (10 * TIB, 1)
    assert twin.stat().st_blocks * 512 <= 2 * MIB
    drill = run_drill(
        memory.profile(),
        memory.open_store(),
        newest(memory),
        SilentProgress(),
        against_sources=True,
    )
    assert drill.failures == []


def test_a_file_of_holes_that_was_only_touched_is_compared_by_what_it_holds(
    memory: Backups,
) -> None:
    huge = memory.source / "huge"
    make_huge(huge)
    memory.backup()
    before = entry_of(memory, "huge")
    for changed in (False, True):
        huge.chmod(0o600)
        huge.chmod(before.mode)
        if changed:
            with huge.open("r+b") as file:
                file.seek(TIB)
                file.write(b"x")
            os.utime(huge, ns=(1, 1))
        plan = memory.plan()
        assert (plan.same, plan.changed) == (not changed, changed)
        memory.backup()
        after = entry_of(memory, "huge")
        assert (after.sparse_sha256 != before.sparse_sha256) is changed
        assert verify(memory).lost.first == []


def test_a_drill_finds_one_byte_in_a_hole(memory: Backups, monkeypatch: pytest.MonkeyPatch) -> None:
    make_huge(memory.source / "huge")
    memory.backup()
    twin = memory.source.parent / "twin"
    make_huge(twin)
    folder = os.open(twin.parent, os.O_RDONLY)
    expected = entry_of(memory, "huge").sparse_sha256
    assert hash_file(folder, "twin", SilentProgress(), is_sparse=True) == expected
    with twin.open("r+b") as file:
        file.seek(5 * TIB - 1)
        file.write(b"\1")
    assert hash_file(folder, "twin", SilentProgress(), is_sparse=True) != expected
    os.close(folder)


def test_a_restored_file_without_holes_has_the_same_hash(tmp_path: Path) -> None:
    """As on a file system that knows none."""
    content = b"a" + bytes(10 * MIB) + b"b" * 5000
    (tmp_path / "dense").write_bytes(content)
    with (tmp_path / "sparse").open("wb") as file:
        file.write(b"a")
        file.seek(1 + 10 * MIB)
        file.write(b"b" * 5000)
    folder = os.open(tmp_path, os.O_RDONLY)
    for name in ("dense", "sparse"):
        assert hash_file(folder, name, SilentProgress(), is_sparse=True) == reference(content)
    os.close(folder)


@pytest.mark.parametrize("extra", [0, 1])
def test_up_to_a_gigabyte_of_holes_the_hash_stays_that_of_all_bytes(
    memory: Backups, extra: int
) -> None:
    with (memory.source / "file").open("wb") as file:
        file.write(bytes(4096))
        file.truncate(4096 + SPARSE_FROM_BYTES + extra)
    memory.backup()
    entry = entry_of(memory, "file")
    assert (bool(entry.sha256), bool(entry.sparse_sha256)) == (not extra, bool(extra))
    assert verify(memory).lost.first == []


# What an archive claims

HUGE = {"content": b"first" + b"last!", "sparse": [(0, 5), (20 * TIB, 5)], "size": 20 * TIB + 5}


def sparse_sum_of(item: Item) -> str:
    found = SparseHash(item.size or 0)
    position = 0
    for offset, length in item.sparse or ():
        found.add(offset, memoryview(item.content)[position : position + length])
        position += length
    return found.finish()


def claim(sparse_sha256: str, entry: Entry, sha256: str = "") -> None:
    entry.sha256, entry.sparse_sha256 = sha256, sparse_sha256


def claiming(sparse_sha256: str, sha256: str = "") -> Item:
    return Item("huge", claim=partial(claim, sparse_sha256, sha256=sha256), **HUGE)  # type: ignore[arg-type]


RIGHT = sparse_sum_of(claiming(""))


@pytest.mark.parametrize(
    ("item", "fault"),
    [
        (claiming(RIGHT), ""),
        (claiming("0" * 64), "its content does not have the hash that the manifest says"),
        (claiming(""), "the manifest has no hash of its content"),
        (claiming(RIGHT, "0" * 64), "its holes take more than 16 TiB"),
    ],
    ids=["right", "wrong", "none", "both"],
)
def test_verify_checks_the_hash_of_map_and_data(tmp_path: Path, item: Item, fault: str) -> None:
    assert HUGE["size"] > HOLES_LIMIT  # type: ignore[operator]
    store, backup = attacks.put(tmp_path, attacks.forge_ours([item, Item("z")]))
    report = run_verify(store, backup, SilentProgress())
    assert [reason.startswith(fault) for _, reason in report.lost.first] == [True] * bool(fault)
    assert report.files == 1 + (not fault)


def test_restore_refuses_content_that_has_not_the_sparse_hash(tmp_path: Path) -> None:
    size = 2 * TIB
    item = Item("huge", content=b"data!", sparse=[(TIB, 5)], size=size)
    for number, claimed in enumerate([sparse_sum_of(item), "0" * 64]):
        item.claim = partial(claim, claimed)
        archive = attacks.forge_ours([item])
        store, target = tmp_path / f"store {number}", tmp_path / f"target {number}"
        if number:
            with pytest.raises(ArchiveError, match="hash"):
                attacks.restore(store, archive, target)
            assert not (target / "huge").exists()
        else:
            attacks.restore(store, archive, target)
            assert (target / "huge").stat().st_size == size


def test_a_group_is_known_only_with_the_same_sparse_hash() -> None:
    chunk = Chunk(0, 1, "a", 1)
    digests = {
        digest_group([chunk], [Entry(path="a", type="file", sparse_sha256=one)]) for one in "ab"
    }
    assert len(digests) == 2


# What a file system answers


@pytest.mark.parametrize(
    "answers",
    [{0: (0, 0)}, {0: (4096, 1)}, {0: (8192, 12288), 12288: (4096, 8192)}, {0: (0, 5), 5: (5, 5)}],
    ids=["stuck", "backwards", "before", "endless"],
)
def test_what_no_file_system_may_answer_ends_the_search(
    monkeypatch: pytest.MonkeyPatch, answers: dict[int, tuple[int, int]]
) -> None:
    ends = dict(answers.values())

    def lseek(_: int, position: int, whence: int) -> int:
        return answers[position][0] if whence == os.SEEK_DATA else ends[position]

    monkeypatch.setattr(data_segments.os, "lseek", lseek)
    found = list(data_segments.extents(0, 2**20))
    assert sum(found[-1]) == 2**20
    assert len(found) <= 2


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), max_size=60))
def test_no_list_of_runs_grows_too_long_or_loses_a_byte(parts: list[tuple[int, int]]) -> None:
    found = data_segments.SegmentList(8)
    position = 0
    added = []
    for gap, length in parts:
        found.add(position + gap, length)
        added.append((position + gap, length))
        position += gap + length
    assert len(found.segments) <= 8
    assert found.data_bytes == sum(length for _, length in added)
    for offset, length in added:
        assert any(s <= offset and offset + length <= s + n for s, n in found.segments)
    assert len(added) > 8 or found.segments == added
