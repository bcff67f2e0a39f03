"""What surrounds a task: signals, locks, names by the clock, prune after a backup, the record."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from freezegun import freeze_time

from backup_tasks.command.backup_job import run_backup_job
from backup_tasks.command.job import journaled
from backup_tasks.command.supervise import supervised
from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.errors import BackupError, Interrupted, LockedError, SourceError, StoreError
from backup_tasks.format.archive_names import CLAIM_NAME
from backup_tasks.journal.locks import hold_lock
from backup_tasks.journal.run_record import RunRecord, read_records
from backup_tasks.stores.directory import DirectoryStore

NOW = datetime(2025, 6, 12, 2, 0, 1, tzinfo=UTC)


def clock() -> datetime:
    """The clock as tasks.py reads it; the tests freeze it."""
    return datetime.now(UTC)


@pytest.fixture
def store(paths: Paths, tmp_path: Path) -> Path:
    """The store of the profile `test`, whose source holds one file."""
    for folder in ("source", "store"):
        (tmp_path / folder).mkdir()
    (tmp_path / "source" / "file").write_text("content")
    write_profile(paths, "keep_last = 2")
    return tmp_path / "store"


def write_profile(paths: Paths, retention: str, sources: str = "source") -> None:
    named = json.dumps([str(paths.logs.parent / name) for name in sources.split()])
    (paths.profiles / "test.toml").write_text(
        f'[backup]\nsources = {named}\ntimezone = "Europe/Stockholm"\n'
        f'[store]\nurl = "file://{paths.logs.parent}/store/"\n[retention]\n{retention}\n'
    )


def back_up(paths: Paths, progress: SilentProgress | None = None) -> RunRecord:
    return run_backup_job("test", paths, clock, progress or SilentProgress())


def names(store: Path) -> list[str]:
    """What lies in the store, but for the claim."""
    return sorted(set(os.listdir(store)) - {CLAIM_NAME})


# --- a backup and its name


def test_backup_is_named_by_the_clock_in_the_time_zone_of_the_profile(
    paths: Paths, store: Path
) -> None:
    with freeze_time(NOW):
        record = back_up(paths)
    assert names(store) == [record.archive] == ["2025-06-12_0400-backup.tar.gz"]
    [written] = read_records(paths)
    assert written["started_at"] == "2025-06-12T02:00:01.000Z"


def test_second_backup_in_the_same_minute_gets_the_name_of_the_next(
    paths: Paths, store: Path
) -> None:
    with freeze_time(NOW):
        back_up(paths)
        back_up(paths)
    with freeze_time(NOW + timedelta(seconds=70)):  # whose own name is taken by now
        back_up(paths)
    assert [record["archive"] for record in read_records(paths)] == [
        f"2025-06-12_040{minute}-backup.tar.gz" for minute in (0, 1, 2)
    ]


def test_log_line_gives_size_and_duration(paths: Paths, store: Path) -> None:
    class Slow(SilentProgress):
        def __exit__(self, *_: object) -> None:
            frozen.tick(timedelta(seconds=35))

    with freeze_time(NOW) as frozen:
        record = back_up(paths, Slow())
    line = (paths.logs / "backup.log").read_text()
    size = f"{record.archive_bytes / 1000:.1f}kB"
    assert line.endswith(f"] SUCCESS: 2025-06-12_0400-backup.tar.gz uploaded ({size}, 35s)\n")


# --- prune


def test_backup_job_prunes_by_the_rules_of_the_profile(paths: Paths, store: Path) -> None:
    for day in range(4):
        with freeze_time(NOW + timedelta(days=day)):
            record = back_up(paths)
    assert names(store) == [f"2025-06-{day}_0400-backup.tar.gz" for day in (14, 15)]
    assert record.pruned == ["2025-06-13_0400-backup.tar.gz"]


def test_prune_that_fails_is_a_warning_that_tells_what_is_gone(
    paths: Paths, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_profile(paths, "")
    for day in range(3):
        with freeze_time(NOW + timedelta(days=day)):
            back_up(paths)
    really_delete = DirectoryStore.delete

    def delete(self: DirectoryStore, name: str) -> None:
        if name.startswith("2025-06-12"):
            raise StoreError("no permission")
        really_delete(self, name)

    monkeypatch.setattr(DirectoryStore, "delete", delete)
    write_profile(paths, "keep_last = 1")
    with freeze_time(NOW + timedelta(days=3)):
        record = back_up(paths)
    assert (record.result, record.exit_code) == ("success", 0)
    assert record.pruned == [f"2025-06-{day}_0400-backup.tar.gz" for day in (13, 14)]
    [warning] = record.warnings
    assert warning.startswith("prune: ")
    assert "no permission" in warning
    assert "no permission" in (paths.logs / "backup.log").read_text().splitlines()[-1]


def test_nothing_is_pruned_while_a_source_is_missing(paths: Paths, store: Path) -> None:
    write_profile(paths, "keep_last = 1", "source gone")
    for day in range(2):
        with freeze_time(NOW + timedelta(days=day)):
            record = back_up(paths)
    assert len(names(store)) == 2
    assert record.exit_code == 3
    assert any("gone" in reason for reason in record.unpruned)


def test_nothing_is_pruned_after_a_failure(paths: Paths, store: Path) -> None:
    write_profile(paths, "")
    for day in range(3):
        with freeze_time(NOW + timedelta(days=day)):
            back_up(paths)
    write_profile(paths, "keep_last = 1", "gone")
    with pytest.raises(SourceError):
        back_up(paths)
    assert len(names(store)) == 3


# --- signals


class Struck(SilentProgress):
    """Sends this process a signal while the backup is in the middle of its files."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._label = ""

    def start(self, label: str, total_bytes: int, total_files: int) -> None:
        self._label = label

    def advance(self, bytes_done: int = 0, files_done: int = 0) -> None:
        if self._label == "backing up":
            os.kill(os.getpid(), self._number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_in_the_middle_leaves_no_backup_and_nothing_behind(
    paths: Paths, store: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=number.name) as caught:
        back_up(paths, Struck(number))
    assert caught.value.exit_code == 128 + number
    assert names(store) == []
    [record] = read_records(paths)
    assert (record["result"], record["exit_code"]) == ("failure", 128 + number)
    assert signal.getsignal(number) == before
    assert back_up(paths).result == "success"


def test_signal_is_not_mistaken_for_an_error_that_is_tried_again(paths: Paths) -> None:
    went_on = []

    def request() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:  # as botocore does
            went_on.append(True)

    with pytest.raises(Interrupted), supervised("test", "", paths, clock):
        request()
    assert not went_on


def test_signals_after_the_first_are_passed_over(paths: Paths) -> None:
    cleaned_up = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(os.getpid(), number)
            cleaned_up.append(True)

    with pytest.raises(Interrupted, match="SIGINT"), supervised("test", "", paths, clock):
        work()
    assert cleaned_up


def striking_condition(at: str, done: list[str]) -> threading.Condition:
    """One whose lock a signal follows as soon as it is taken, or given back to wait."""
    parts = {
        "__enter__": lambda: done.append("taken"),
        "__exit__": lambda *_: done.append("given back"),
        "acquire": lambda: True,
        "release": lambda: None,
        "_is_owned": lambda: True,
        "_release_save": lambda: None,
        "_acquire_restore": lambda _: done.append("taken again"),
        # No function of Python's: the handler is to find Condition's own frame.
        at: partial(os.kill, os.getpid(), signal.SIGTERM),
    }
    return threading.Condition(SimpleNamespace(**parts))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("__enter__", ["taken again", "given back"]),
        ("_release_save", ["taken", "taken again", "given back"]),
    ],
)
def test_a_signal_leaves_no_lock_as_nobody_expects_it(
    paths: Paths, at: str, expected: list[str]
) -> None:
    """A thread that waited for it would never end, nor would whoever waits for the thread."""
    done: list[str] = []
    condition = striking_condition(at, done)
    with pytest.raises(Interrupted), supervised("test", "", paths, clock), condition:
        condition.wait(60)
    assert done == expected


def is_in_threading(thread: threading.Thread) -> bool:
    """Whether it goes through a function of `threading` now, as all that wait do."""
    frame = sys._current_frames()[thread.ident or 0]
    return frame.f_globals["__name__"] == "threading" and frame.f_code.co_name != "set"


@pytest.mark.parametrize("waits", ["for a thread", "for a result", "for an event"])
def test_a_signal_ends_every_wait_at_once(paths: Paths, waits: str) -> None:
    begun = threading.Event()
    over = threading.Event()
    ended = threading.Event()

    def work() -> None:
        while not (begun.is_set() and is_in_threading(threading.main_thread())):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)
        over.wait(15)
        ended.set()

    thread = threading.Thread(target=work)
    wait = {
        "for a thread": thread.join,
        "for a result": Future[None]().result,
        "for an event": threading.Event().wait,
    }[waits]

    def start_and_wait() -> None:
        thread.start()
        begun.set()
        wait(20)

    with pytest.raises(Interrupted), supervised("test", "", paths, clock):
        start_and_wait()
    assert not ended.is_set()
    over.set()
    assert ended.wait(20)


# --- what is recorded


def fail_with(error: Exception, paths: Paths) -> None:
    with supervised("restore", "prod", paths, clock):
        raise error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), "No space left on device; free some space"),
        (OSError(24, "Too many open files", "/x"), "/x: Too many open files"),
        (OSError("odd"), "odd"),
    ],
)
def test_trouble_of_the_machine_is_one_line(paths: Paths, error: OSError, told: str) -> None:
    with pytest.raises(BackupError) as caught:
        fail_with(error, paths)
    assert str(caught.value).startswith(told)
    [record] = read_records(paths)
    assert record["error"] == str(caught.value)


def test_bug_is_recorded_without_what_it_quotes(paths: Paths) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_with(ZeroDivisionError("secret"), paths)
    [record] = read_records(paths)
    assert record["error"] == "a bug in backup-tasks: ZeroDivisionError"
    assert "FAILURE: restore prod: a bug" in (paths.logs / "backup.log").read_text()


def test_reader_that_goes_away_is_no_failure(paths: Paths) -> None:
    with pytest.raises(BrokenPipeError):
        fail_with(BrokenPipeError(32, "Broken pipe"), paths)
    [record] = read_records(paths)
    assert record["result"] == "success"


@pytest.mark.parametrize("recorded", [True, False])
def test_success_is_recorded_only_where_it_is_wanted(paths: Paths, recorded: bool) -> None:
    with supervised("list", "prod", paths, clock, recorded=recorded):
        pass
    assert len(list(read_records(paths))) == recorded


def test_record_of_a_wrong_profile_names_the_one_that_was_meant(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def try_profile(given: str) -> str:
        with pytest.raises(BackupError), journaled("list", given, paths, clock):
            pass
        return str(list(read_records(paths))[-1]["profile"])

    assert try_profile("") == "local"
    monkeypatch.setenv("BACKUP_PROFILE", "prod")
    assert try_profile("") == "prod"
    assert try_profile("other") == "other"


# --- locks


@pytest.mark.parametrize("lock", ["profile test", "store file://{store}/"])
def test_exclusive_job_waits_for_nobody(paths: Paths, store: Path, lock: str) -> None:
    with hold_lock([lock.format(store=store)], paths, "backup other"):
        with pytest.raises(LockedError, match="backup other"):
            back_up(paths)
        with journaled("list", "test", paths, clock) as reading:
            assert reading.store.list_objects() == []
    assert back_up(paths).result == "success"
