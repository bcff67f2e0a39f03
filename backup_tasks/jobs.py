"""Around every task: profile, store, lock, signals, and afterwards mail, log line and record."""

from __future__ import annotations

import contextlib
import platform
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from types import FrameType

from backup_tasks.backup import BackupRun, run_backup
from backup_tasks.errors import BackupError, Interrupted
from backup_tasks.journal import RunRecord, append_record, log_result
from backup_tasks.locks import hold_lock
from backup_tasks.notify import notify
from backup_tasks.paths import Paths
from backup_tasks.profile import describe_profiles, load_profile
from backup_tasks.profile_model import Profile
from backup_tasks.progress import Progress
from backup_tasks.prune import run_prune
from backup_tasks.stores import open_store
from backup_tasks.stores.base import Store
from backup_tasks.text import one_line

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Job:
    """What a task works with, while its outcome is being watched."""

    profile: Profile
    store: Store
    paths: Paths
    record: RunRecord
    clock: Clock


@contextlib.contextmanager
def watched(
    task: str, profile_name: str, paths: Paths, clock: Clock, *, recorded: bool = True
) -> Iterator[_Watch]:
    """See to it that the outcome of a task is known.

    Whatever ends the block, a signal included, leaves a log line and a run record.

    Args:
        profile_name: as the operator gave it; "" for the default.
        clock: reads the time, aware.
        recorded: log a success too; a failure always is.
    """
    watch = _Watch(RunRecord(task, profile_name or "-", platform.node(), "", clock()))
    record = watch.record
    failed = True
    try:
        with _signals_raised():
            yield watch
        failed = False
    except KeyboardInterrupt:
        interrupted = Interrupted(signal.SIGINT)
        _fail(record, str(interrupted), interrupted.exit_code)
        raise interrupted from None
    except BackupError as error:
        _fail(record, str(error), error.exit_code)
        raise
    except Exception as error:
        _fail(record, f"a bug in backup-tasks: {type(error).__name__}", 1)
        raise
    finally:
        record.ended_at = clock()
        if recorded or failed:
            if watch.mail_for is not None:
                record.notifications = notify(record, watch.mail_for, paths)
            log_result(record, paths)
            append_record(record, paths)


@dataclass(slots=True)
class _Watch:
    """What is being watched: the record, and the profile whose people get a mail, if any."""

    record: RunRecord
    mail_for: Profile | None = None


@contextlib.contextmanager
def journaled(
    task: str,
    profile_name: str,
    paths: Paths,
    clock: Clock,
    *,
    exclusive: bool = False,
    recorded: bool = True,
    mailed: bool = False,
) -> Iterator[Job]:
    """Load the profile and open its store, with the outcome watched; a wrong profile included.

    Args:
        exclusive: hold the locks of profile and store.
        mailed: tell those whom the profile names.
    """
    with (
        watched(task, profile_name, paths, clock, recorded=recorded) as watch,
        contextlib.ExitStack() as held,
    ):
        profile = load_profile(profile_name, paths)
        watch.record.profile, watch.record.store = profile.name, profile.store.url
        watch.mail_for = profile if mailed else None
        if exclusive:
            names = (f"profile {profile.name}", f"store {profile.store.url}")
            held.enter_context(hold_lock(names, paths, f"{task} {profile.name}"))
        yield Job(profile, open_store(profile.store), paths, watch.record, clock)


def _fail(record: RunRecord, reason: str, exit_code: int) -> None:
    record.result, record.exit_code = "failure", exit_code
    record.error = "\n".join(one_line(line) for line in reason.splitlines())


@contextlib.contextmanager
def _signals_raised() -> Iterator[None]:
    """SIGTERM and SIGHUP become Interrupted, so that uploads are ended and the run recorded.

    The first one is enough: those that follow while the run cleans up are ignored.
    """

    def interrupt(number: int, _: FrameType | None) -> None:
        for watched in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(watched, signal.SIG_IGN)
        raise Interrupted(number)

    before = {n: signal.signal(n, interrupt) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_backup_job(profile_name: str, paths: Paths, clock: Clock, progress: Progress) -> RunRecord:
    """Back up, then prune what retention no longer keeps; both or neither under one lock.

    A prune that fails does not fail the backup: it is told as a warning.
    """
    with (
        journaled("backup", profile_name, paths, clock, exclusive=True, mailed=True) as job,
        progress,
    ):
        record = job.record
        run = BackupRun(job.profile, job.store, paths, record.started_at, clock, progress)
        run_backup(run, record)
        if job.profile.retention.is_set:
            try:
                report = run_prune(job.profile, job.store, clock(), dry_run=False)
                record.pruned = list(report.deleted)
            except Interrupted:
                raise
            except BackupError as error:
                record.warnings.append(f"prune: {one_line(str(error))}")
    return record


def load_scheduled(profile_name: str, paths: Paths) -> list[Profile]:
    """The profiles that have [schedule], or the one that is named, whether or not it has.

    Raises ProfileError when one of them is broken.
    """
    if profile_name:
        return [load_profile(profile_name, paths)]
    summaries = describe_profiles(paths)
    return [load_profile(s.name, paths) for s in summaries if s.schedule and not s.base_only]
