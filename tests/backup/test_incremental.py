"""Incremental backups end to end: every archive stands alone, whatever came before it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.format.manifest_lines import Manifest
from backup_tasks.reuse.copy_ranges import DEAD_LIMIT
from backup_tasks.reuse.late_links import LateLinks, Surroundings
from backup_tasks.reuse.plan import is_large, piece_numbers
from backup_tasks.stores.base import PartLimits
from backup_tasks.verify.run_verify import run_verify
from tests.support.backups import paths_in
from tests.support.details import find_backups
from tests.support.generations import (
    ANY,
    EARLIER,
    LATER,
    NARROW,
    TODAY,
    Generations,
    fill,
    restored,
    untar,
    untar_by_python,
)
from tests.support.histories import (
    CHUNK,
    Change,
    RealTree,
    Twin,
    fingerprint,
    histories,
    noise,
    play,
    use_small_chunks,
)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_chunks(monkeypatch)


@pytest.fixture
def backups(tmp_path: Path, paths: Paths) -> Generations:
    (tmp_path / "source").mkdir()
    return Generations(tmp_path / "source", tmp_path / "store", paths, now=LATER)


def rsync_differences(one: Path, other: Path) -> str:
    """What rsync would have to do."""
    command = ["rsync", "-aHAXn", "--delete", "--checksum", "--itemize-changes"]
    command += ["--modify-window=-1"]  # to the nanosecond
    done = subprocess.run(
        [*command, f"{one}/", f"{other}/"], check=True, capture_output=True, text=True
    )
    return done.stdout


def check_dead_bytes(manifest: Manifest) -> None:
    """What the manifest does not name stays below its limit, but for the entry of a folder that
    every archive writes once more before the links in it that tar makes late."""
    live = [0] * len(manifest.chunks)
    late, around, announced = LateLinks(), Surroundings(), 0
    for entry in manifest.entries():
        if entry.type == "dir":
            around.enter(entry)
        elif late.has(entry) and (folder := around.new_around(entry)):
            announced += folder.raw_span
        if is_large(entry):
            for number in (entry.chunk, *piece_numbers(entry, manifest.chunks)):
                live[number] = manifest.chunks[number].raw
        else:
            live[entry.chunk] += entry.raw_span
    dead = sum(chunk.raw for chunk in manifest.chunks) - sum(live)
    assert dead - announced <= DEAD_LIMIT * sum(live)


@dataclass
class Replay:
    """A history played on a disk with a backup after each generation."""

    folder: Path
    backups: Generations
    trees: list[dict[str, Twin]] = field(default_factory=list)

    def play(self, history: list[list[Change]]) -> Iterator[Path]:
        """Yields the archive of each generation."""
        tree = RealTree(self.backups.source)
        for changes in history:
            for change in changes:
                play(tree, change)
            record = self.backups.backup()
            # A history may delete most of a source, and then nothing is pruned.
            assert record.problems == []
            self.trees.append(fingerprint(self.backups.source))
            yield self.backups.archive()

    def twin(self, target: Path) -> dict[str, Twin]:
        return fingerprint(self.backups.in_target(target))


def new_replay(folder: Path, now: datetime, limits: PartLimits) -> Replay:
    (folder / "source").mkdir()
    paths = paths_in(folder)
    made = Generations(folder / "source", folder / "store", paths, now=now, limits=limits)
    return Replay(folder, made)


on_disk = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("limits", [ANY, NARROW], ids=["any parts", "narrow parts"])
@pytest.mark.parametrize(
    "now", [LATER, EARLIER, TODAY], ids=["ctime believed", "ctime too young", "files new"]
)
@on_disk
@given(history=histories(6))
def test_every_generation_is_what_the_tree_was(
    history: list[list[Change]], now: datetime, limits: PartLimits
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        replay = new_replay(Path(folder), now, limits)
        for number, archive in enumerate(replay.play(history)):
            untarred = untar(archive, replay.folder / f"tar{number}")
            assert replay.twin(untarred) == replay.trees[-1]
            check_dead_bytes(replay.backups.manifest())
            for written in replay.backups.stores[-1].written:
                written.check(limits)
        for number, tree in enumerate(replay.trees):
            ours = restored(replay.backups, number, replay.folder / f"ours{number}")
            assert replay.twin(ours) == tree
        for backup in find_backups(replay.backups.open_store(), UTC):
            report = run_verify(replay.backups.open_store(), backup, SilentProgress())
            assert not report.is_damaged


LONG = [
    [Change("write", path, 0, path % 8) for path in range(23)],
    [Change("replace", 0, 0, 3), Change("link", 13, 1, 0), Change("symlink", 14, 0, 0)],
    [Change("edit", 7, 0, 0), Change("edit", 0, 0, 1), Change("delete", 3, 0, 0)],
    [Change("write", 13, 0, 2), Change("fifo", 14, 0, 0), Change("xattr", 15, 0, 0)],
    [Change("grow", 7, 0, 5), Change("rename", 15, 14, 0), Change("write", 3, 0, 2)],
    [Change("delete", 0, 0, 0), Change("delete", 1, 0, 0), Change("folder", 0, 0, 0)],
    [Change("shrink", 7, 0, 3), Change("sneak", 16, 0, 0), Change("chmod", 17, 0, 0)],
]


@pytest.fixture
def replay(tmp_path: Path) -> Replay:
    return new_replay(tmp_path, LATER, ANY)


def test_rsync_bsdtar_and_python_agree_on_every_generation(replay: Replay) -> None:
    for number, archive in enumerate(replay.play(LONG)):
        inner = str(replay.backups.source).lstrip("/")
        by_tar = untar(archive, replay.folder / f"tar{number}") / inner
        assert rsync_differences(replay.backups.source, by_tar) == ""
        by_bsdtar = untar(archive, replay.folder / f"bsdtar{number}", "bsdtar") / inner
        assert rsync_differences(replay.backups.source, by_bsdtar) == ""
        by_python = untar_by_python(archive, replay.folder / f"python{number}") / inner
        # Python knows no xattrs and rounds times.
        same = {
            path: (t.mode, t.content, t.link, t.names) for path, t in fingerprint(by_python).items()
        }
        assert same == {
            p: (t.mode, t.content, t.link, t.names) for p, t in replay.trees[-1].items()
        }
    assert replay.backups.copied() > 0


def test_deleting_all_but_one_backup_harms_that_one_never(replay: Replay) -> None:
    archives = list(replay.play(LONG))
    kept = replay.folder / "kept"
    shutil.copytree(replay.backups.store_folder, kept)
    for number, left in enumerate(archives):
        for archive in archives:
            archive.unlink(missing_ok=True)
        shutil.copy2(kept / left.name, left)
        ours = restored(replay.backups, 0, replay.folder / f"ours{number}")
        assert replay.twin(ours) == replay.trees[number]
        assert replay.twin(untar(left, replay.folder / f"tar{number}")) == replay.trees[number]


def test_an_unchanged_tree_sends_only_folders_manifest_and_end(backups: Generations) -> None:
    fill(backups)
    backups.backup()
    full = backups.sent()
    record = backups.backup()
    end = backups.archive().stat().st_size - backups.manifest().header.chunk_bytes
    assert backups.sent() < end + 1000 < full / 10
    assert record.copied_bytes == backups.copied()
    assert record.sent_bytes == backups.sent()
    assert record.archive_bytes == backups.sent() + backups.copied()


def test_a_changed_file_sends_little_more_than_itself(backups: Generations) -> None:
    fill(backups, size=500)  # of which four fill a chunk
    backups.backup()
    backups.backup()
    unchanged = backups.sent()
    (backups.source / "file07").write_bytes(noise(1007, 500))
    backups.backup()
    assert backups.sent() < unchanged + 1000


def test_a_large_file_that_grew_sends_its_new_end(backups: Generations) -> None:
    fill(backups)
    backups.backup()
    backups.backup()
    unchanged = backups.sent()
    with open(backups.source / "large", "ab") as file:
        file.write(os.urandom(100))
    backups.backup()
    assert backups.sent() < unchanged + 600, "the last chunk was a whole one"
    with open(backups.source / "large", "ab") as file:
        file.write(os.urandom(100))
    backups.backup()
    assert backups.sent() < unchanged + 800


def test_a_large_file_changed_in_one_place_sends_one_chunk(backups: Generations) -> None:
    (backups.source / "large").write_bytes(os.urandom(20 * CHUNK))
    backups.backup()
    with open(backups.source / "large", "r+b") as file:
        file.seek(7 * CHUNK + 5)
        file.write(b"changed")
    backups.backup()
    assert CHUNK < backups.sent() < 1.5 * CHUNK


def test_a_touched_large_file_is_read_and_not_sent(backups: Generations) -> None:
    (backups.source / "large").write_bytes(os.urandom(20 * CHUNK))
    backups.backup()
    os.utime(backups.source / "large", (1, 1))
    backups.backup()
    assert backups.sent() < CHUNK / 2
    assert backups.entry("large").mtime_ns == 10**9


def test_a_known_run_is_copied_only_where_the_parts_before_it_are_large_enough(
    backups: Generations,
) -> None:
    backups.limits = NARROW
    (backups.source / "large").write_bytes(os.urandom(20 * CHUNK))
    backups.backup()
    with open(backups.source / "large", "r+b") as file:
        for place in (0, 9, 19):
            file.seek(place * CHUNK)
            file.write(b"changed")
    backups.backup()
    (written,) = backups.stores[-1].written
    written.check(NARROW)
    assert [how for how, _ in written.parts] == ["sent", "copied", "sent", "copied", "sent"]
    assert written.sent_bytes < 6 * CHUNK


def test_a_file_system_moved_elsewhere_is_read_and_not_sent(backups: Generations) -> None:
    fill(backups)
    os.link(backups.source / "file01", backups.source / "link")
    os.setxattr(backups.source / "file01", "user.note", b"x")
    backups.backup()
    backups.backup()
    unchanged = backups.sent()
    moved = backups.source.with_name("moved")
    subprocess.run(["cp", "-a", backups.source, moved], check=True)
    shutil.rmtree(backups.source)
    moved.rename(backups.source)
    plan = backups.plan()
    assert plan.read_bytes >= 20 * 1000 + 5 * CHUNK
    backups.backup()
    assert backups.sent() <= unchanged + 1000, "other inodes make the manifest a little longer"
    assert backups.plan().read_bytes == 0


def test_same_size_and_mtime_with_another_ctime_is_noticed(
    backups: Generations, tmp_path: Path
) -> None:
    fill(backups)
    backups.backup()
    RealTree(backups.source).sneak("file03", 1003)
    backups.backup()
    ours = backups.in_target(restored(backups, -1, tmp_path / "ours"))
    assert (ours / "file03").read_bytes() == noise(1003, 1000)


def test_a_file_stored_torn_is_read_again_and_named_again(
    backups: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    import backup_tasks.snapshot.source_file

    fill(backups, count=3)
    read = backup_tasks.snapshot.source_file.os.preadv

    def failing(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("large") and offset >= CHUNK:
            raise OSError(5, "Input/output error")
        return read(descriptor, buffers, offset)

    with monkeypatch.context() as patch:
        patch.setattr(backup_tasks.snapshot.source_file.os, "preadv", failing)
        for _ in range(3):
            record = backups.backup()
            assert [problem.path for problem in record.problems] == [
                str(backups.source / "large").lstrip("/")
            ]
            assert record.exit_code == 3
    assert backups.backup().problems == []


# A file that cannot be read any more: here it vanishes between the look and the reading


def vanishing(backups: Generations, name: str, tmp_path: Path) -> tuple[str, dict[str, Twin]]:
    """Make a backup while that file vanishes; what was told of it, and what tar finds."""
    path = backups.source / name
    backups.on_write = lambda: path.unlink(missing_ok=True)
    record = backups.backup()
    backups.on_write = lambda: None
    (problem,) = record.problems
    assert problem.path == str(path).lstrip("/")
    assert record.exit_code == 3
    untarred = backups.in_target(untar(backups.archive(), tmp_path / f"tar-{name}"))
    ours = backups.in_target(restored(backups, -1, tmp_path / f"ours-{name}"))
    assert fingerprint(untarred) == fingerprint(ours)
    return problem.reason, fingerprint(untarred)


def test_a_file_that_cannot_be_read_keeps_its_last_version_and_is_named(
    backups: Generations, tmp_path: Path
) -> None:
    fill(backups, size=500)
    backups.backup()
    before = fingerprint(backups.source)["file05"]
    (backups.source / "file05").write_bytes(noise(5, 600))
    reason, found = vanishing(backups, "file05", tmp_path)
    assert "vanished" in reason
    assert "the version of 2100-01-01 was kept" in reason
    assert found["file05"] == before
    assert backups.sent() < 4000, "it stands in a chunk that was kept"


def test_a_chunk_is_fetched_once_for_all_files_in_it_that_cannot_be_read(
    backups: Generations, tmp_path: Path
) -> None:
    fill(backups, size=100)
    backups.backup()
    before = fingerprint(backups.source)
    names = [f"file{number:02}" for number in range(20)]
    chunks = {backups.entry(name).chunk for name in names}
    for name in names:
        (backups.source / name).write_bytes(noise(5, 130))

    def vanish() -> None:
        for name in names:
            (backups.source / name).unlink(missing_ok=True)

    backups.on_write = vanish
    record = backups.backup()
    assert len(record.problems) == len(names)
    fetched = backups.stores[-1].reads_but_of(record.archive)
    assert len(fetched) <= len(chunks) < len(names)
    found = fingerprint(backups.in_target(untar(backups.archive(), tmp_path / "tar")))
    assert {name: found[name] for name in names} == {name: before[name] for name in names}


def test_its_last_version_is_fetched_where_the_chunk_is_not_kept(
    backups: Generations, tmp_path: Path
) -> None:
    fill(backups, size=500)
    backups.backup()
    before = fingerprint(backups.source)["file05"]
    (backups.source / "file04").unlink()  # takes its chunk along
    (backups.source / "file05").write_bytes(noise(5, 600))
    _, found = vanishing(backups, "file05", tmp_path)
    assert found["file05"] == before


def test_no_older_version_comes_back_in_its_place(backups: Generations, tmp_path: Path) -> None:
    fill(backups, size=500)
    backups.backup()
    (backups.source / "file05").write_bytes(noise(6, 500))
    backups.backup()
    assert backups.entry("file05").stale
    before = fingerprint(backups.source)["file05"]
    (backups.source / "file05").write_bytes(noise(7, 500))
    (backups.source / "file00").unlink()
    _, found = vanishing(backups, "file05", tmp_path)
    assert found["file05"] == before
    assert backups.entry("file05").stale == (0,), "what was chunk 1, as the first one is gone"
    backups.backup()
    assert "file05" not in fingerprint(
        backups.in_target(untar(backups.archive(), tmp_path / "after"))
    )


def test_a_large_file_keeps_its_last_version_by_copying_it(
    backups: Generations, tmp_path: Path
) -> None:
    backups.limits = NARROW
    for number in range(10):
        (backups.source / f"file{number}").write_bytes(noise(number, 500))
    (backups.source / "m").write_bytes(noise(8, 500))
    backups.backup()
    (backups.source / "m").write_bytes(os.urandom(20 * CHUNK))
    backups.backup()
    before = fingerprint(backups.source)["m"]
    os.truncate(backups.source / "m", 19 * CHUNK)
    (backups.source / "file0").write_bytes(noise(9, 500))
    _, found = vanishing(backups, "m", tmp_path)
    assert found["m"] == before
    (written,) = backups.stores[-1].written
    written.check(NARROW)
    assert written.sent_bytes < 4 * CHUNK
    fetched = sum(size for _, size in backups.stores[-1].reads)
    assert fetched < 4 * CHUNK


def test_a_path_deleted_two_backups_after_it_changed_does_not_come_back(
    backups: Generations, tmp_path: Path
) -> None:
    fill(backups, size=500)
    backups.backup()
    (backups.source / "file05").write_bytes(noise(6, 500))
    backups.backup()
    backups.backup()
    assert backups.entry("file05").stale == (1,)
    (backups.source / "file05").unlink()
    backups.backup()
    untarred = backups.in_target(untar(backups.archive(), tmp_path / "tar"))
    assert fingerprint(untarred) == fingerprint(backups.source)
    assert backups.copied() > 5 * CHUNK, "all other chunks were kept"
