"""Write log lines for people to logs/backup.log, run records for programs to logs/runs.jsonl."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct

from backup_tasks.common.paths import Paths, make_private, sync_folder
from backup_tasks.common.printable import one_line, printable
from backup_tasks.common.units import render_bytes, render_count, render_seconds
from backup_tasks.errors import TrustError
from backup_tasks.journal.problems import Problem as Problem
from backup_tasks.journal.problems import ProblemKind as ProblemKind
from backup_tasks.journal.problems import summarize
from backup_tasks.permissions.trusted_paths import trusted_folder

SUCCESS = 25  # between INFO and WARNING
FAILURE = 45  # between ERROR and CRITICAL
logging.addLevelName(SUCCESS, "SUCCESS")
logging.addLevelName(FAILURE, "FAILURE")

Result = Literal["success", "incomplete", "failure"]
_LEVELS: dict[Result, int] = {
    "success": SUCCESS,
    "incomplete": logging.WARNING,
    "failure": FAILURE,
}
_LOGGED_PROBLEMS = 5
_RECORDED_PROBLEMS = 1000


class Notification(Struct, frozen=True):
    """One attempt to notify somebody: the channel, the recipient, and the error, if any."""

    channel: str
    to: str
    error: str = ""


class RunRecord(Struct):
    """One execution of a task; becomes one line of logs/runs.jsonl.

    Attributes:
        task: "backup", "prune", "restore", ...
        started_at, ended_at: aware.
        result: "incomplete" means done, but some source files could not be read whole, or nothing
            may be deleted.
        archive: the object's name, or "".
        raw_bytes: content bytes of the files; archive_bytes: size of the object;
            sent_bytes: bytes that this run sent to the store; copied_bytes: bytes that the
            store copied from the archive before.
        files: number of entries that are regular files.
        sockets: number of sockets met; a socket exists only while a program listens, and is not
            stored.
        problems: every source file that was not stored whole.
        torn, carried, unreadable: files in all problems of that kind; a "missing" problem counts
            as unreadable.
        carried_bytes, unreadable_bytes: content bytes of these files, as the backup before had
            them.
        needed_backups: names of backups that hold what this one could neither read nor carry over.
        error: the message to the operator, or "".
        warnings: troubles beside the task itself, such as a failed prune after a good backup.
        unpruned: why nothing was, or would be, deleted, one reason each, added by `hold_back`; a
            run with any reason ends with exit code 3 at best.
        outcome: what was done with the archive, such as "restored and compared"; "" means "done".
        evidence: findings from a look at the archive, one line each, fit to print.
    """

    task: str
    profile: str
    host: str
    store: str
    started_at: datetime
    ended_at: datetime | None = None
    result: Result = "success"
    exit_code: int = 0
    archive: str = ""
    raw_bytes: int = 0
    archive_bytes: int = 0
    sent_bytes: int = 0
    copied_bytes: int = 0
    files: int = 0
    sockets: int = 0
    problems: list[Problem] = []
    torn: int = 0
    carried: int = 0
    carried_bytes: int = 0
    unreadable: int = 0
    unreadable_bytes: int = 0
    needed_backups: list[str] = []
    pruned: list[str] = []
    error: str = ""
    warnings: list[str] = []
    unpruned: list[str] = []
    outcome: str = ""
    evidence: list[str] = []
    notifications: list[Notification] = []

    def add_problem(self, problem: Problem, most: int = 0) -> None:
        """Count a problem, and note it.

        Args:
            most: how many problems are noted in full; a further one is noted only as one more.
                0: no limit. A problem of a source is always noted in full.
        """
        if problem.kind == "torn":
            self.torn += problem.files
        elif problem.kind == "carried":
            self.carried += problem.files
            self.carried_bytes += problem.bytes
        elif problem.kind in ("unreadable", "missing"):
            self.unreadable += problem.files
            self.unreadable_bytes += problem.bytes
        if problem.last_whole and problem.last_whole not in self.needed_backups:
            self.needed_backups.append(problem.last_whole)
        is_noted = not most or len(self.problems) < most or problem.is_source
        self.problems.append(problem if is_noted else _ONE_MORE[problem.kind])

    def forget_problems(self) -> None:
        """Forget all problems: the run starts again, as it has to send everything after all."""
        self.problems.clear()
        self.needed_backups.clear()
        self.torn = self.carried = self.carried_bytes = 0
        self.unreadable = self.unreadable_bytes = 0


# One shared object for each kind, so that any number of further problems takes no memory.
_ONE_MORE = {
    kind: Problem("(one more file)", "not named: there are too many to name all", kind)
    for kind in get_args(ProblemKind)
}


def open_log(paths: Paths) -> logging.Logger:
    """Open the log of all runs, logs/backup.log: one line a message, for INFO and above.

    Besides logging's own levels there are SUCCESS and FAILURE. At any time several processes may
    write the file, and logrotate may rename it. If the log cannot be written, a warning goes to
    stderr, and the run goes on.
    """
    logger = logging.Logger("backup_tasks", logging.INFO)
    logger.addHandler(_LineHandler(paths.logs / "backup.log"))
    return logger


def log_result(record: RunRecord, paths: Paths) -> None:
    """Log the line of a finished run, dated with its end (or its start, if it has no end)."""
    logger = open_log(paths)
    level = _LEVELS[record.result]
    line = logger.makeRecord(logger.name, level, "", 0, render_result(record), (), None)
    line.created = (record.ended_at or record.started_at).timestamp()
    logger.handle(line)


def render_result(record: RunRecord) -> str:
    """Render a run's result in one line: `2025-06-12_0200-backup.tar.gz uploaded (120MB, 35s)`."""
    ended_at = record.ended_at or record.started_at
    duration = render_seconds((ended_at - record.started_at).total_seconds())
    # Tasks such as cron-install concern all profiles.
    what = record.task if record.profile in ("", "-") else f"{record.task} {record.profile}"
    if record.result == "failure":
        reason = "; ".join(line.strip() for line in record.error.splitlines() if line.strip())
        text = f"{what}: {reason or 'failed'} ({duration})"
    elif record.task == "backup" and record.archive:
        new = f"; {render_bytes(record.sent_bytes)} new" if record.copied_bytes else ""
        text = f"{record.archive} uploaded ({render_bytes(record.archive_bytes)}, {duration}{new})"
    else:
        subject = f" {record.archive}" if record.archive else ""
        figures = f"{_render_figures(record)}, " if record.outcome else ""
        text = f"{what}:{subject} {record.outcome or 'done'} ({figures}{duration})"
    if record.result == "incomplete" and record.problems:
        text += "; " + _render_problems(record)
    for reason in record.unpruned:
        text += f"; nothing is deleted: {reason}"
    for warning in record.warnings:
        text += f"; {warning}"
    return one_line(text)


def _render_figures(record: RunRecord) -> str:
    return f"{render_count(record.files, 'file')}, {render_bytes(record.raw_bytes)}"


def hold_back(record: RunRecord, reasons: Iterable[str]) -> None:
    """Note why nothing may be deleted; the run then ends with exit code 3 at best."""
    record.unpruned += [reason for reason in reasons if reason not in record.unpruned]
    if record.unpruned and record.result == "success":
        record.result, record.exit_code = "incomplete", 3


def warn(record: RunRecord, message: str) -> None:
    """Warn of trouble beside the task: at once on stderr, later in log, mail and record."""
    record.warnings.append(message)
    _warn(message)


def append_record(record: RunRecord, paths: Paths) -> None:
    """Add the run as one JSON line to logs/runs.jsonl.

    It has the fields of RunRecord, with times as ISO 8601 in UTC and only the first 1000 problems,
    and `problems_total`. If the file cannot be written, a warning goes to stderr.
    """
    shown = msgspec.structs.replace(record, problems=record.problems[:_RECORDED_PROBLEMS])
    fields = msgspec.to_builtins(shown, builtin_types=(datetime,))
    fields["started_at"] = _utc(record.started_at)
    fields["ended_at"] = _utc(record.ended_at) if record.ended_at else None
    fields["problems_total"] = len(record.problems)
    # json writes a lone surrogate raw; backslashreplace turns it into JSON's own escape, \udc...
    line = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    file = paths.logs / "runs.jsonl"
    try:
        _append_line(file, line, durable=True)
    except OSError as error:
        _warn(f"this run is not recorded: {printable(str(file))}: {error.strerror}")


def read_records(paths: Paths) -> Iterator[dict[str, Any]]:
    """Read the recorded runs, oldest first, as `append_record` wrote them.

    Torn lines, for example after a power cut, are skipped.
    """
    file = paths.logs / "runs.jsonl"
    try:
        with open(file, "rb") as lines:
            for line in lines:
                record = _parse_record(line)
                if record is not None:
                    yield record
    except FileNotFoundError:
        return
    except OSError as error:
        _warn(f"earlier runs cannot be read: {printable(str(file))}: {error.strerror}")


def _parse_record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:  # also bytes that are not UTF-8
        return None
    return record if isinstance(record, dict) else None


def summarize_problems(record: RunRecord) -> str:
    """Say in figures what became of the files that were not stored whole."""
    count = len(record.problems)
    return summarize(record.torn, record.carried, record.unreadable, count, record.carried_bytes)


def _render_problems(record: RunRecord) -> str:
    problems = record.problems
    shown = [f"{problem.path}: {problem.reason}" for problem in problems[:_LOGGED_PROBLEMS]]
    if len(problems) > _LOGGED_PROBLEMS:
        shown.append(f"and {len(problems) - _LOGGED_PROBLEMS:,} more")
    return f"{summarize_problems(record)}: {'; '.join(shown)}"


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _warn(message: str) -> None:
    print(f"WARNING: {one_line(message)}", file=sys.stderr)


class _LineHandler(logging.Handler):
    """Append one line a message to a file that is opened anew for each message.

    So no rename by logrotate is missed. It costs little, as a run writes only a handful of lines.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file
        self._warned = False
        self.setFormatter(
            logging.Formatter("[%(asctime)s] %(levelname)s: %(message)s", "%Y-%m-%d %H:%M:%S")
        )

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _append_line(self._file, one_line(self.format(record)))
        except OSError as error:
            if not self._warned:
                self._warned = True
                place = printable(str(self._file))
                _warn(f"the log cannot be written: {place}: {error.strerror}")


def _append_line(file: Path, line: str, *, durable: bool = False) -> None:
    """Append one line, whole or not at all, also beside other processes.

    After a crash in the middle the file ends with a torn line; the next call ends that line
    before it writes its own.

    Args:
        durable: return only when the line is on the disk.

    Raises:
        OSError: the file cannot be written, or others may write its folder.
    """
    make_private(file.parent)
    try:
        # During a long run, a service that may write the folder above can put a link there.
        with trusted_folder(file.parent, near_services=True) as folder:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
            descriptor = os.open(file.name, flags, 0o600, dir_fd=folder)
            try:
                is_new = not os.fstat(descriptor).st_size
                _append(descriptor, line)
                if durable:
                    os.fsync(descriptor)
                if durable and is_new:
                    sync_folder(".", dir_fd=folder)
            finally:
                os.close(descriptor)
    except TrustError as error:
        raise PermissionError(errno.EPERM, error.what) from None


def _append(descriptor: int, line: str) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    size = os.fstat(descriptor).st_size
    torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
    body = ("\n" if torn else "") + line + "\n"
    rest = body.encode("utf-8", "backslashreplace")
    try:
        while rest:  # a disk that fills up takes a part first and refuses the rest
            rest = rest[os.write(descriptor, rest) :]
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
        raise
