"""Interrupted runs: what had arrived is not sent again, and nothing of them stays."""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import backup_tasks.backup.writers
import backup_tasks.staging.objects
from backup_tasks.archive.builder import Base, join_bases
from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.common.state_files import state_key
from backup_tasks.errors import CopyRefused, CopyUnsupported, ObjectMissing, StoreError
from backup_tasks.format.archive_names import is_backup_name
from backup_tasks.format.manifest import Chunk, Entry, Header, PlacedEntry
from backup_tasks.previous.archive import PreviousBackup
from backup_tasks.read.manifest_reader import read_header
from backup_tasks.staging.journal import StagedRun, Staging, StagingJournal
from backup_tasks.staging.leftovers import UploadNote, do_each, end_leftovers
from backup_tasks.staging.salvage import Salvaged, build_on, salvage_runs
from backup_tasks.stores.base import PartLimits, StoredObject
from backup_tasks.stores.directory import DirectoryStore
from backup_tasks.stores.registry import open_store
from backup_tasks.verify.run_verify import run_verify
from tests.support.backups import Backups, paths_in
from tests.support.chunks import laid_out
from tests.support.details import find_backups
from tests.support.generations import untar
from tests.support.histories import (
    CHUNK,
    Change,
    RealTree,
    fingerprint,
    histories,
    play,
    use_small_chunks,
)
from tests.support.mortal_store import Killed, MortalStore

# As S3's, for trees of some tens of KiB; a part is 8,000 bytes.
NARROW = PartLimits(smallest=6_000, largest=8_000, count=1000)
# Every chunk can be copied, and what was sent has soon arrived.
TINY = PartLimits(smallest=1, largest=2_000, count=1000)
# The ctimes of a test are older than this, so that what they say is believed.
LATER = datetime(2100, 1, 1, 2, 0, tzinfo=UTC)


@dataclass
class Interrupted(Backups):
    """Backups that can be cut short.

    Attributes:
        can_rename: as of a directory; False writes as to S3, into a staging object.
        stores: one for each run, in their order.
    """

    can_rename: bool = False
    limits: PartLimits = NARROW
    fuse: int = 2**62
    after: bool = False
    prepare: Callable[[MortalStore], None] = lambda store: None
    stores: list[MortalStore] = field(default_factory=list)

    def open_store(self) -> MortalStore:
        store = open_store(self.profile().store)
        limits = self.limits
        self.stores.append(MortalStore(store, limits, self.can_rename, self.fuse, self.after))
        self.prepare(self.stores[-1])
        return self.stores[-1]

    def killed(self, fuse: int, *, after: bool = False, full: bool = False) -> bool:
        """Run a backup that dies at that step. Returns whether it did, or ended before it."""
        self.fuse, self.after = fuse, after
        try:
            self.backup(full=full)
        except Killed:
            self.now += timedelta(hours=1)
            return True
        finally:
            self.fuse, self.after = 2**62, False
        return False

    def sent(self) -> int:
        """Bytes that all runs sent."""
        return sum(store.sent_bytes for store in self.stores)

    def header(self) -> Header:
        """Of the newest backup."""
        store = DirectoryStore(self.store_folder)
        found = read_header(store, find_backups(store, UTC)[-1].stored, self.keys)
        assert found is not None
        return found

    def left(self) -> list[str]:
        """What is there beside backups, in the store and in the state directory."""
        state = self.paths.state
        found = [str(path.relative_to(state)) for path in state.glob("staging/*")]
        found += [str(path.relative_to(state)) for path in state.glob("uploads/*")]
        names = os.listdir(self.store_folder)
        return found + [name for name in names if not is_backup_name(name)]

    def assert_newest_is_the_tree(self) -> None:
        """GNU tar's extraction and our own restore of the newest backup equal the source."""
        with tempfile.TemporaryDirectory() as folder:
            plain, ours = Path(folder, "plain"), Path(folder, "ours")
            untar(self.archive(), plain, key=self.key)
            report = self.restore(ours)
            assert not report.extracted.problems
            expected = fingerprint(self.source)
            assert fingerprint(self.in_target(plain)) == expected
            assert fingerprint(self.in_target(ours)) == expected


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_chunks(monkeypatch)
    monkeypatch.setattr(backup_tasks.backup.writers, "RESUMABLE_BYTES", 1)


@pytest.fixture(params=["renames", "stages"])
def backups(request: pytest.FixtureRequest, tmp_path: Path, paths: Paths) -> Interrupted:
    (tmp_path / "source").mkdir()
    renames = request.param == "renames"
    made = Interrupted(tmp_path / "source", tmp_path / "store", paths, now=LATER)
    made.can_rename = renames
    made.write_profile()
    return made


@pytest.fixture
def staged(tmp_path: Path, paths: Paths) -> Interrupted:
    (tmp_path / "source").mkdir()
    made = Interrupted(tmp_path / "source", tmp_path / "store", paths, now=LATER)
    made.write_profile()
    return made


def fill(backups: Backups, count: int = 40, size: int = 3000) -> None:
    """Some files, two that are one, and one of several chunks; each third one is new."""
    for number in range(count):
        file = backups.source / f"file{number:02}"
        file.write_bytes(random_bytes(number, size))
        if number % 3 == 0:
            os.utime(file, (0, backups.now.timestamp()))
    os.link(backups.source / "file10", backups.source / "file30link")
    (backups.source / "file20large").write_bytes(random_bytes(99, 6 * CHUNK + 11))


def random_bytes(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def steps_of_a_run(backups: Interrupted) -> int:
    return backups.stores[-1].steps


@pytest.fixture
def whole_run(backups: Interrupted) -> tuple[int, int]:
    """How many steps a first backup takes, and how many bytes it sends."""
    fill(backups)
    backups.backup()
    steps, sent = steps_of_a_run(backups), backups.sent()
    start_anew(backups)
    return steps, sent


def start_anew(backups: Interrupted) -> None:
    shutil.rmtree(backups.store_folder)
    shutil.rmtree(backups.paths.state)
    backups.paths.state.mkdir()
    backups.write_profile()
    backups.stores.clear()


def test_a_kill_at_any_step_costs_what_was_under_way_and_leaves_nothing(
    backups: Interrupted, whole_run: tuple[int, int]
) -> None:
    steps, sent = whole_run
    assert steps > 30
    for fuse in range(1, steps + 1):
        after = fuse % 2 > 0  # the steps before and after it stand for the other case
        assert backups.killed(fuse, after=after)
        committed = [name for name in os.listdir(backups.store_folder) if name[-3:] == ".gz"]
        assert len(committed) <= (fuse >= steps - 4)
        backups.backup()
        assert backups.left() == []
        # A part that had not arrived, and what fills up the one before a large file's pieces.
        slack = 3 * NARROW.largest + 2 * CHUNK
        assert backups.sent() <= sent + slack, (fuse, after)
        backups.assert_newest_is_the_tree()
        start_anew(backups)


def test_what_was_written_in_a_later_turn_is_not_sent_again_either(backups: Interrupted) -> None:
    fill(backups, count=90)
    backups.backup()
    steps, sent = steps_of_a_run(backups), backups.sent()
    start_anew(backups)
    assert backups.killed(steps - 9)
    assert backups.sent() > sent * 0.8
    backups.backup()
    # A third of the 270 kB of files came late.
    assert backups.sent() <= sent + 3 * NARROW.largest + 2 * CHUNK
    backups.assert_newest_is_the_tree()


@pytest.fixture
def many_stages(staged: Interrupted, monkeypatch: pytest.MonkeyPatch) -> Interrupted:
    """Another staging object as soon as the store would copy what is in the one before."""
    monkeypatch.setattr(backup_tasks.staging.objects, "STAGING_OBJECT_BYTES", 1)
    return staged


def test_a_kill_at_any_step_is_made_good_where_a_run_has_many_staging_objects(
    many_stages: Interrupted,
) -> None:
    backups = many_stages
    fill(backups)
    backups.backup()
    steps, sent = steps_of_a_run(backups), backups.sent()
    assert sum(name.endswith(".partial") for name in backups.stores[-1].written) > 5
    for fuse in range(1, steps, 5):
        start_anew(backups)
        backups.killed(fuse, after=fuse % 2 > 0)  # or ended: runs differ by some steps
        store = DirectoryStore(backups.store_folder)
        for backup in find_backups(store, UTC):  # none, or one after the commit
            assert not run_verify(store, backup, SilentProgress()).is_damaged
        backups.backup()
        assert backups.left() == []
        assert backups.sent() <= sent + 3 * NARROW.largest + 2 * CHUNK, fuse
        backups.assert_newest_is_the_tree()


def test_many_staging_objects_are_copied_from_by_the_run_after(many_stages: Interrupted) -> None:
    fill(many_stages)
    assert many_stages.killed(60)
    (killed,) = many_stages.stores
    left = set(os.listdir(many_stages.store_folder))
    assert len(left) > 3
    many_stages.backup()
    assert len(left & set(many_stages.stores[-1].copies)) > 3
    assert killed.sent_bytes > 10 * CHUNK
    many_stages.assert_newest_is_the_tree()


def test_a_staging_object_is_committed_while_the_next_is_filled_and_stands_before_it(
    many_stages: Interrupted,
) -> None:
    fill(many_stages)
    overlapped: list[bool] = []

    def prepare(store: MortalStore) -> None:
        store.is_late = True
        begun = threading.Event()

        def on_send() -> None:
            if sum(name.endswith(".partial") for name in store.written) > 1:
                begun.set()

        def on_commit(name: str) -> None:
            if name.endswith(".partial"):
                overlapped.append(begun.wait(30))

        store.on_send, store.on_commit = on_send, on_commit

    many_stages.prepare = prepare
    many_stages.backup()
    assert len(overlapped) > 5
    assert all(overlapped)
    assert many_stages.left() == []
    copied = many_stages.stores[-1].copies
    staged = [name for name in many_stages.stores[-1].written if name.endswith(".partial")]
    assert list(dict.fromkeys(copied)) == [name for name in staged if name in copied]
    many_stages.assert_newest_is_the_tree()


# How many staging objects there are depends on how fast the background is: six or more.
@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_staging_object_whose_commit_fails_ends_the_run_and_costs_the_next_one_nothing(
    many_stages: Interrupted, number: int
) -> None:
    fill(many_stages)
    many_stages.backup()
    sent = many_stages.sent()
    start_anew(many_stages)

    def prepare(store: MortalStore) -> None:
        store.is_late = True
        commits = itertools.count(1)

        def on_commit(name: str) -> None:
            if next(commits) == number:
                raise StoreError("the store is away")

        store.on_commit = on_commit

    many_stages.prepare = prepare
    with pytest.raises(StoreError, match=r"^the store is away$"):
        many_stages.backup()
    assert list(many_stages.store_folder.glob("*-backup.tar.gz")) == []
    many_stages.prepare = lambda store: None
    many_stages.backup()
    assert many_stages.left() == []
    assert many_stages.sent() <= sent + 3 * NARROW.largest + 2 * CHUNK
    many_stages.assert_newest_is_the_tree()


def test_a_run_that_is_killed_again_and_again_comes_to_its_end(
    backups: Interrupted, whole_run: tuple[int, int]
) -> None:
    _, sent = whole_run
    kills = 0
    while backups.killed(16 + 8 * kills):
        kills += 1
        assert kills < 60
    assert kills > 3
    assert backups.left() == []
    assert backups.sent() < 2 * sent
    backups.assert_newest_is_the_tree()


def interrupted(backups: Interrupted, **changes: bool) -> None:
    """A run that was killed after about half of its parts."""
    assert backups.killed(22, **changes)


def uses_what_arrived(backups: Interrupted) -> bool:
    """Whether the last run copied from what an earlier one had sent."""
    run = backups.stores[-1]
    return any(name.endswith(".partial") and name not in run.written for name in run.copies)


def iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_a_resumed_first_run_counts_as_full_from_its_first_start(backups: Interrupted) -> None:
    fill(backups)
    began = backups.now
    interrupted(backups)
    backups.backup()
    header = backups.header()
    assert (header.full_at, header.copied_from) == (iso(began), "")
    assert header.started_at > header.full_at


def test_a_resumed_later_run_builds_on_archive_and_interrupted_run(backups: Interrupted) -> None:
    fill(backups)
    backups.backup()
    first = backups.header()
    for number in range(0, 40, 2):
        (backups.source / f"file{number:02}").write_bytes(random_bytes(500 + number, 3000))
    (backups.source / "file01").unlink()
    backups.prepare = fail_after(5, Killed())
    assert backups.killed(10_000)
    backups.prepare = lambda store: None
    (backups.source / "file02").write_bytes(b"changed once more")
    (backups.source / "file04").unlink()
    backups.backup()
    header = backups.header()
    assert header.full_at == first.full_at
    assert header.copied_from == min(os.listdir(backups.store_folder))
    assert uses_what_arrived(backups)
    assert backups.left() == []
    backups.assert_newest_is_the_tree()


def test_full_forgets_what_an_interrupted_run_sent(backups: Interrupted) -> None:
    fill(backups)
    interrupted(backups)
    began = backups.now
    backups.backup(full=True)
    assert backups.header().full_at == iso(began)
    assert not uses_what_arrived(backups)
    assert backups.left() == []
    (run,) = backups.stores[1:]
    assert run.sent_bytes > 40 * 3000
    backups.assert_newest_is_the_tree()


def test_an_interrupted_full_run_goes_on_while_it_is_young(backups: Interrupted) -> None:
    backups.extra = 'full_every = "2d"'
    fill(backups)
    backups.backup()
    backups.now += timedelta(days=3)
    began = backups.now
    interrupted(backups)
    backups.stores.clear()
    backups.backup()
    assert backups.header().full_at == iso(began)
    assert backups.sent() < 100_000
    assert backups.left() == []


def test_an_interrupted_full_run_that_is_too_old_is_done_again(backups: Interrupted) -> None:
    backups.extra = 'full_every = "2d"'
    fill(backups)
    interrupted(backups)
    backups.now += timedelta(days=3)
    backups.stores.clear()
    backups.backup()
    assert backups.header().full_at == backups.header().started_at
    assert backups.sent() > 40 * 3000
    assert backups.left() == []


def test_what_a_committed_backup_holds_is_not_taken_from_a_staging_object_again(
    backups: Interrupted, whole_run: tuple[int, int]
) -> None:
    """Killed after the commit, before the tidying up."""
    steps, _ = whole_run
    committed = []
    for fuse in range(steps - 6, steps):
        assert backups.killed(fuse, after=True)
        is_there = bool(list(backups.store_folder.glob("*.gz")))
        backups.backup()
        committed.append(is_there)
        assert uses_what_arrived(backups) != is_there
        assert backups.left() == []
        start_anew(backups)
    assert True in committed


@pytest.mark.parametrize("salvage_is_sure", [False, True])
def test_a_staging_object_that_is_not_what_the_journal_says_harms_nothing(
    backups: Interrupted, salvage_is_sure: bool
) -> None:
    fill(backups)
    interrupted(backups)
    (partial,) = backups.store_folder.glob(".*.????????.partial.*.partial")
    content = bytearray(partial.read_bytes())
    for place in range(len(content) // 2, len(content)):
        content[place] ^= 1
    partial.write_bytes(content)

    def prepare(store: MortalStore) -> None:
        store.salvage_is_sure = salvage_is_sure

    backups.prepare = prepare
    backups.backup()
    assert backups.left() == []
    assert uses_what_arrived(backups) != salvage_is_sure
    backups.assert_newest_is_the_tree()


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.floats(0, 1), st.binary(max_size=30), st.booleans())
def test_a_journal_that_is_cut_or_ends_in_garbage_harms_nothing(
    where: float, garbage: bytes, can_rename: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        backups = _backups_in(Path(folder))
        backups.can_rename = can_rename
        fill(backups)
        interrupted(backups)
        (journal,) = backups.paths.state.glob("staging/*")
        content = journal.read_bytes()
        first_line = content.index(b"\n") + 1
        cut = first_line + int(where * (len(content) - first_line))
        journal.write_bytes(content[:cut] + garbage)
        backups.backup()
        assert backups.left() == []
        backups.assert_newest_is_the_tree()


def test_a_journal_without_its_first_line_is_removed(backups: Interrupted) -> None:
    fill(backups)
    backups.backup()
    folder = backups.paths.state / "staging"
    folder.mkdir(exist_ok=True)
    key = key_of(backups)
    (folder / f"{key}-00000000.jsonl").write_bytes(bytes(100))
    backups.backup()
    assert backups.left() == []


def key_of(backups: Interrupted) -> str:
    return state_key("test", backups.profile().store.url)


def test_the_journal_is_for_the_owner_only(backups: Interrupted) -> None:
    fill(backups)
    interrupted(backups)
    (journal,) = backups.paths.state.glob("staging/*")
    assert journal.stat().st_mode & 0o777 == 0o600
    assert journal.parent.stat().st_mode & 0o777 == 0o700
    first = json.loads(journal.read_bytes().split(b"\n")[0])["staging"]
    assert first["store"] == f"file://{backups.store_folder}/"


def raising(error: StoreError) -> Callable[[StoredObject], None]:
    def on_copy(source: StoredObject) -> None:
        if source.name.endswith(".partial"):
            raise error

    return on_copy


@pytest.mark.parametrize(
    "error", [CopyRefused("no"), CopyUnsupported("never"), ObjectMissing("gone")]
)
def test_a_staging_object_that_cannot_be_copied_costs_a_run_without_one(
    staged: Interrupted, error: StoreError
) -> None:
    fill(staged)

    def prepare(store: MortalStore) -> None:
        store.on_copy = raising(error)

    staged.prepare = prepare
    staged.backup()
    (run,) = staged.stores
    assert [name.endswith(".partial") for name in run.written] == [True, False, False]
    assert staged.left() == []
    staged.assert_newest_is_the_tree()
    staged.backup()
    is_remembered = isinstance(error, CopyUnsupported)
    assert any(".partial" in name for name in staged.stores[-1].written) is False
    assert ("the store refused to copy" in staged.log()) == is_remembered


def test_a_last_archive_that_vanishes_is_no_reason_to_forget_staging(staged: Interrupted) -> None:
    fill(staged)
    staged.backup()
    (staged.source / "file05").write_bytes(random_bytes(1, 20_000))

    def prepare(store: MortalStore) -> None:
        store.on_copy = lambda source: raising_for_archives(source)

    staged.prepare = prepare
    staged.backup()
    run = staged.stores[-1]
    # The archive begins with copies of the last one; then all over again, by way of staging.
    assert [name.endswith(".partial") for name in run.written] == [False, True, False]
    assert staged.left() == []
    staged.assert_newest_is_the_tree()


@pytest.mark.parametrize("gone", ["", "file01", "file34"])
def test_a_kill_at_any_step_is_made_good_where_copies_began_before_the_sources_were_looked_at(
    staged: Interrupted, gone: str
) -> None:
    fill(staged)
    staged.backup()
    if gone:  # of the copies, those from there on are withdrawn
        (staged.source / gone).unlink()
    for fuse in itertools.count(1):
        (staged.source / "file05").write_bytes(random_bytes(fuse, 9_000))
        after = fuse % 2 > 0
        if not staged.killed(fuse, after=after):
            break
        staged.backup()
        assert staged.left() == []
        staged.assert_newest_is_the_tree()
    assert fuse > 15
    # The archive itself, and only then a staging object.
    assert [name.endswith(".partial") for name in staged.stores[-1].written] == [False, True]
    staged.assert_newest_is_the_tree()


def raising_for_archives(source: StoredObject) -> None:
    if not source.name.endswith(".partial"):
        raise ObjectMissing("gone")


def test_who_may_not_delete_leaves_one_staging_object_and_is_told(staged: Interrupted) -> None:
    fill(staged)

    def refuse(name: str) -> None:
        raise StoreError("you may not delete")

    def prepare(store: MortalStore) -> None:
        store.on_delete = refuse

    staged.prepare = prepare
    record = staged.backup()
    assert ["you may not delete" in warning for warning in record.warnings] == [True]
    (left,) = [name for name in staged.left() if name.endswith(".partial")]
    for number in range(40):
        (staged.source / f"file{number:02}").write_bytes(random_bytes(700 + number, 3000))
    record = staged.backup()
    assert record.warnings
    assert not any(name.endswith(".partial") for name in staged.stores[-1].written)
    assert [name for name in staged.left() if name.endswith(".partial")] == [left]
    staged.prepare = lambda store: None
    assert staged.backup().warnings == []
    assert staged.left() == []


def test_what_compresses_well_is_not_staged_although_much_is_read(staged: Interrupted) -> None:
    (staged.source / "zeros").write_bytes(bytes(20 * CHUNK))
    staged.backup()
    assert staged.stores[-1].copies == []
    assert staged.left() == []
    staged.assert_newest_is_the_tree()


def fail_after(sends: int, error: BaseException) -> Callable[[MortalStore], None]:
    def prepare(store: MortalStore) -> None:
        left = iter(range(sends))

        def on_send() -> None:
            if next(left, None) is None:
                store.fuse = store.steps if isinstance(error, Killed) else store.fuse
                raise error

        store.on_send = on_send

    return prepare


def test_a_disk_that_runs_full_gets_back_what_interrupted_runs_took(backups: Interrupted) -> None:
    fill(backups)
    interrupted(backups)
    backups.prepare = fail_after(3, StoreError("disk full"))
    with pytest.raises(StoreError, match="disk full"):
        backups.backup()
    assert (backups.left() == []) == backups.can_rename
    backups.prepare = lambda store: None
    backups.backup()
    assert backups.left() == []
    backups.assert_newest_is_the_tree()


def test_a_lost_connection_loses_nothing_that_had_arrived(staged: Interrupted) -> None:
    fill(staged)
    staged.prepare = fail_after(12, StoreError("no connection"))
    with pytest.raises(StoreError, match="no connection"):
        staged.backup()
    assert list(staged.store_folder.glob("*-backup.tar.gz")) == []
    staged.prepare = lambda store: None
    staged.backup()
    assert staged.left() == []
    first, second = staged.stores
    assert first.sent_bytes > 80_000
    assert second.sent_bytes < 110_000


def test_a_small_run_is_not_staged(backups: Interrupted, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(backups)
    total = sum(path.stat().st_size for path in backups.source.iterdir()) - 3000
    monkeypatch.setattr(backup_tasks.backup.writers, "RESUMABLE_BYTES", total + 1)
    interrupted(backups)
    assert list(backups.paths.state.glob("staging/*")) == []
    backups.backup()
    assert backups.left() == []
    assert not any(".partial" in name for run in backups.stores for name in run.written)


# Leftovers


NAME = "2025-06-12_0200-backup.tar.gz"
STAGED = f"{NAME}.0123abcd.partial"


@pytest.fixture
def crowded(tmp_path: Path) -> DirectoryStore:
    """Objects and uploads, ours and others', all of this moment."""
    store = DirectoryStore(tmp_path / "crowded", makeable_in=tmp_path)
    for name in (NAME, STAGED, "other.tar.gz", f"x-{STAGED}", "notes.partial"):
        writer = store.write(name, in_flight_bytes=1)
        writer.send(b"x")
        writer.commit()
    for name in ("2025-06-13_0200-backup.tar.gz", f"{NAME}.ffffffff.partial", "other.bin"):
        store.write(name, in_flight_bytes=1).send(b"x")
    return store


def there(store: DirectoryStore) -> set[str]:
    uploads = {f"upload of {upload.name}" for upload in store.list_unfinished()}
    return uploads | {stored.name for stored in store.list_objects()}


def test_what_is_younger_than_two_days_belongs_to_somebody(
    crowded: DirectoryStore, tmp_path: Path
) -> None:
    before = there(crowded)
    assert len(before) == 8
    soon = datetime.now(UTC) + timedelta(hours=47)
    assert end_leftovers(crowded, UploadNote(tmp_path, "k"), soon) == 0
    assert there(crowded) == before


def test_after_two_days_only_what_has_our_names_is_removed(
    crowded: DirectoryStore, tmp_path: Path
) -> None:
    before = there(crowded)
    later = datetime.now(UTC) + timedelta(hours=49)
    assert end_leftovers(crowded, UploadNote(tmp_path, "k"), later) == 3
    assert before - there(crowded) == {
        STAGED,
        "upload of 2025-06-13_0200-backup.tar.gz",
        f"upload of {NAME}.ffffffff.partial",
    }


def test_what_is_still_of_use_is_never_too_old(crowded: DirectoryStore, tmp_path: Path) -> None:
    later = datetime.now(UTC) + timedelta(days=9)
    wanted = [STAGED, f"{NAME}.ffffffff.partial"]
    assert end_leftovers(crowded, UploadNote(tmp_path, "k"), later, wanted) == 1
    assert STAGED in there(crowded)


def test_an_upload_that_was_announced_is_told_from_another_of_its_name(tmp_path: Path) -> None:
    """Killed between the server's answer and our note of it."""
    store = DirectoryStore(tmp_path / "store", makeable_in=tmp_path)
    store.write(NAME, in_flight_bytes=1).send(b"somebody else's")
    note = UploadNote(tmp_path / "state", "k")
    (other,) = store.list_unfinished()
    note.announce(NAME, [other])
    store.write(NAME, in_flight_bytes=1).send(b"ours")
    assert end_leftovers(store, note, datetime.now(UTC)) == 1
    assert store.list_unfinished() == [other]
    assert end_leftovers(store, note, datetime.now(UTC)) == 0


def put(backups: Backups, size: int, *names: str) -> None:
    for name in names:
        (backups.source / name).write_bytes(random_bytes(hash_of(name), size))


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode(), "big")


def kill_after_sends(backups: Interrupted, sends: int) -> None:
    backups.prepare = fail_after(sends, Killed())
    assert backups.killed(10_000)
    backups.prepare = lambda store: None


@pytest.fixture
def tiny(staged: Interrupted) -> Interrupted:
    """Four files of ten bytes make a chunk; every chunk can be copied; parts are small."""
    staged.limits = TINY
    put(staged, 10, "a", "b", "c", "d")
    return staged


def test_what_an_interrupted_run_made_stale_is_known_as_stale(tiny: Interrupted) -> None:
    """Else tar would bring the file back once it is deleted."""
    tiny.backup()
    (tiny.source / "a").write_bytes(b"changed!!!")
    put(tiny, 1000, *(f"a{number}" for number in range(9)))
    kill_after_sends(tiny, 3)
    tiny.backup()
    assert uses_what_arrived(tiny)
    tiny.assert_newest_is_the_tree()
    (tiny.source / "a").unlink()
    tiny.backup()
    tiny.assert_newest_is_the_tree()


def test_a_link_that_was_kept_never_comes_before_what_was_sent_of_its_file(
    tiny: Interrupted,
) -> None:
    os.link(tiny.source / "a", tiny.source / "link")
    put(tiny, 10, "x", "y", "z")
    put(tiny, 3000, *(f"e{number}" for number in range(6)))
    tiny.backup()
    (tiny.source / "b").unlink()
    for number in range(5):
        (tiny.source / f"e{number}").write_bytes(random_bytes(number, 3000))
    kill_after_sends(tiny, 4)
    tiny.backup()
    assert uses_what_arrived(tiny)
    tiny.assert_newest_is_the_tree()


def test_a_path_that_became_something_else_takes_its_old_chunk_along(tiny: Interrupted) -> None:
    os.symlink("b", tiny.source / "Alink")
    tiny.backup()
    name = tiny.archive().name
    (tiny.source / "Alink").unlink()
    put(tiny, 10, "Alink")
    put(tiny, 1000, *(f"Am{number}" for number in range(9)))
    kill_after_sends(tiny, 3)
    tiny.backup()
    assert uses_what_arrived(tiny)
    assert (name, 0) not in tiny.stores[-1].starts
    tiny.assert_newest_is_the_tree()


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_file_that_changed_while_an_interrupted_run_began_is_looked_at_again(
    backups: Interrupted, seconds: int
) -> None:
    """Within the grain of the clock a change leaves no trace but in the content."""
    fill(backups)
    status = (backups.source / "file01").stat()
    backups.now = datetime.fromtimestamp(int(status.st_ctime) + seconds, UTC)
    kill_after_sends(backups, 12)
    (backups.source / "file01").write_bytes(random_bytes(4711, 3000))
    os.utime(backups.source / "file01", ns=(status.st_atime_ns, status.st_mtime_ns))
    forge_ctime(backups, "file01")
    backups.backup()
    assert uses_what_arrived(backups)
    backups.assert_newest_is_the_tree()


def forge_ctime(backups: Interrupted, name: str) -> None:
    """Let the journal have seen the ctime of now, as if the clock had not moved on."""
    (journal,) = backups.paths.state.glob("staging/*")
    ctime_ns = (backups.source / name).stat().st_ctime_ns
    lines = []
    for line in journal.read_bytes().splitlines():
        told = json.loads(line)
        if told.get("entry", {}).get("path", "").endswith(f"/{name}"):
            told["entry"]["ctime_ns"] = ctime_ns
        lines.append(json.dumps(told).encode() + b"\n")
    journal.write_bytes(b"".join(lines))


kills = st.lists(st.tuples(st.integers(8, 90), st.booleans()), max_size=2)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data(), histories(5), st.booleans())
def test_whatever_changes_between_kills_the_next_backup_is_the_tree(
    data: st.DataObject, history: list[list[Change]], can_rename: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        backups = _backups_in(Path(folder))
        backups.can_rename, backups.limits = can_rename, TINY
        tree = RealTree(backups.source)
        for number, changes in enumerate(history):
            for change in changes:
                play(tree, change)
            for fuse, after in data.draw(kills, label="kills"):
                backups.killed(fuse, after=after)
            if number + 1 == len(history) or data.draw(st.booleans(), label="comes to its end"):
                backups.backup()
                assert backups.left() == []
                backups.assert_newest_is_the_tree()


def _backups_in(folder: Path) -> Interrupted:
    (folder / "source").mkdir()
    backups = Interrupted(folder / "source", folder / "store", paths_in(folder), now=LATER)
    backups.write_profile()
    return backups


# What the previous backup and an interrupted run hold together


class Index:
    """The entries of an archive, without one."""

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = entries

    def placed_entries(self) -> Iterator[PlacedEntry]:
        return ((entry, -1, -1) for entry in self._entries)

    def lines_between(self, start: int, end: int) -> bytes:
        raise AssertionError

    def close(self) -> None:
        self._entries = []


def chunks_of(count: int) -> list[Chunk]:
    return [Chunk(10 * number, 10, "a" * 64, 4096) for number in range(count)]


def stored(name: str) -> StoredObject:
    return StoredObject(name, 10**6, LATER, name)


def joined(tmp_path: Path, old: list[Entry], new: list[Entry]) -> list[Entry]:
    """What the next run is told, where the previous backup has ten chunks, begun at 1000 ns."""
    base = Base([(0, stored("last"))], chunks_of(10))
    last = PreviousBackup(
        base=base,
        index=Index(old),
        name="last",
        started_at="",
        full_at="",
        settled_before_ns=1000,
    )
    staging = Staging(name="s", store="", started_at="2025-06-12T02:00:00Z", first_chunk=0)
    journal = StagingJournal(tmp_path / "journal", staging)
    for entry in new:
        journal.add_entry(entry)
    journal.close()
    run = Salvaged(StagedRun(tmp_path / "journal"), staging, stored("s"), chunks_of(5))
    return [entry for entry, _, _ in build_on(last, [run]).index.placed_entries()]


def file_of(path: str, chunk: int, **fields: Any) -> Entry:
    return Entry(**{"path": path, "type": "file", "size": 5, "chunk": chunk, **fields})


def test_a_file_that_was_too_young_for_the_last_archive_is_read_behind_an_interrupted_run_too(
    tmp_path: Path,
) -> None:
    """It may have changed in the same tick of the clock, after it was read."""
    old = [file_of("old", 0, ctime_ns=999), file_of("young", 1, ctime_ns=1000)]
    found = joined(tmp_path, old, [file_of("z", 0)])
    assert [(entry.path, entry.ctime_ns) for entry in found[:2]] == [("old", 999), ("young", -1)]


def test_an_earlier_entry_of_a_path_and_those_before_it_are_known_as_stale(tmp_path: Path) -> None:
    (entry,) = joined(tmp_path, [file_of("a", 4, stale=(1, 2))], [file_of("a", 3)])
    assert (entry.chunk, entry.stale) == (14, (1, 2, 4))


@pytest.mark.parametrize("kinds", [("symlink", "file"), ("file", "symlink"), ("fifo", "fifo")])
def test_what_became_something_else_is_told_of_as_both(
    tmp_path: Path, kinds: tuple[str, str]
) -> None:
    old, new = (file_of("a", 3, type=kind, size=0) for kind in kinds)
    assert [(entry.type, entry.chunk) for entry in joined(tmp_path, [old], [new])] == [
        (kinds[1], 14),
        (kinds[0], 3),
    ]


@pytest.mark.parametrize(
    "entry",
    [
        file_of("a", 5),
        file_of("a", 5, size=10**6),
        file_of("a", 4, size=10**6),
        file_of("a", 4, size=4096),
        file_of("a", 0, offset=-1),
        file_of("a", 0, offset=2048, size=600),
    ],
)
def test_an_entry_that_is_not_there_whole_is_none(tmp_path: Path, entry: Entry) -> None:
    assert joined(tmp_path, [], [entry]) == []


def test_a_chunk_of_two_objects_is_read_from_the_one_that_holds_it() -> None:
    """No run may go from one to the other: each is copied from one object."""
    first, second = stored("first"), stored("second")
    base = join_bases([(first, chunks_of(3)), (second, chunks_of(2))])
    assert [base.source_of(number) for number in (0, 2, 4, 5)] == [first, first, second, second]
    assert base.chunks[4:] == chunks_of(2)
    assert base.chunks[3].length == 0


def test_chunks_that_a_staging_object_has_no_more_are_not_told_of(tmp_path: Path) -> None:
    """A journal may know more than arrived, and a crash of the machine may have cut it."""
    packed, table = laid_out([bytes([number]) * 2000 for number in range(5)])
    store = DirectoryStore(tmp_path / "store")
    store.folder.mkdir()
    (store.folder / STAGED).write_bytes(packed[: table[3].offset + 5])
    staging = Staging(
        name=STAGED, store=store.url, started_at="2025-06-12T02:00:00Z", first_chunk=0
    )
    journal = StagingJournal(tmp_path / "journal", staging)
    for chunk in table:
        journal.add_chunk(chunk, chunk.offset)
    journal.close()
    (found,) = salvage_runs(store, [StagedRun(tmp_path / "journal")], [])
    assert found.chunks == table[:3]


def test_what_one_step_is_refused_does_not_keep_what_the_others_would_remove() -> None:
    done: list[int] = []

    def step(number: int) -> None:
        if number in (1, 3):
            raise StoreError(f"no {number}")
        done.append(number)

    with pytest.raises(StoreError, match="no 1"):
        do_each(functools.partial(step, number) for number in range(5))
    assert done == [0, 2, 4]
