"""Supervises every task: handles signals; afterwards sends mail, writes log line and run record."""

from __future__ import annotations

import contextlib
import errno
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from traceback import clear_frames
from typing import TYPE_CHECKING

from msgspec.structs import replace

from backup_tasks.command.signals import SignalCame, Signals, signals_raised
from backup_tasks.common.memory import TASK_BYTES, demand_memory, explain_memory
from backup_tasks.common.paths import Paths
from backup_tasks.common.printable import one_line, printable
from backup_tasks.errors import BackupError, Incomplete, Interrupted
from backup_tasks.journal.run_record import (
    RunRecord,
    append_record,
    log_result,
    open_log,
)
from backup_tasks.permissions.installation import check_installation, check_logs
from backup_tasks.verify.drill_notes import remove_dead_drills

if TYPE_CHECKING:
    from backup_tasks.notify.channel import ToldProfile

Clock = Callable[[], datetime]


@dataclass(slots=True)
class Supervision:
    """The supervised run: its record, and the profile that says who is told, if any.

    Attributes:
        told_error: the text of the failure in messages; "" for the record's own.
    """

    record: RunRecord
    told: ToldProfile | None = None
    told_error: str = ""


@contextlib.contextmanager
def supervised(
    task: str, profile_name: str, paths: Paths, clock: Clock, *, recorded: bool = True
) -> Iterator[Supervision]:
    """Make the outcome of a task known.

    However the block ends, also by a signal, there is a log line and a run record. Incomplete
    passes, as the record says so already. BrokenPipeError passes too, and the task counts as done:
    the reader of our output has seen enough. Nothing is written to logs that others may write.

    Args:
        profile_name: as the operator gave it; "" for no particular one.
        clock: reads the time, aware.
        recorded: log a success too; a failure is always logged.

    Raises:
        TrustError: others may change code, templates or one of the project's folders; raised
            before anything is done.
        Interrupted: a signal came.
        BackupError: the task failed, or the machine did: a full disk, no more descriptors, no
            memory.
    """
    check_logs(paths)
    supervision = Supervision(RunRecord(task, profile_name or "-", platform.node(), "", clock()))
    with signals_raised() as signals:
        try:
            check_installation(paths)
            demand_memory(TASK_BYTES)
            _clear_up(supervision.record, paths)
            yield supervision
        except (BrokenPipeError, Incomplete):
            raise
        except SignalCame as came:
            interrupted = Interrupted(came.number)
            _note_failure(supervision.record, interrupted)
            raise interrupted from None
        except BackupError as error:
            _note_failure(supervision.record, error)
            raise
        except OSError as error:
            trouble = BackupError(explain_memory(error) or _explain(error))
            _note_failure(supervision.record, trouble)
            raise trouble from error
        except Exception as error:
            if told := explain_memory(error):
                clear_frames(error.__traceback__)  # frees memory, which the report needs
                trouble = BackupError(told)
                _note_failure(supervision.record, trouble)
                raise trouble from None
            bug = BackupError(f"a bug in backup-tasks: {type(error).__name__}")
            _note_failure(supervision.record, bug)
            raise
        finally:
            signals.armed = False
            supervision.record.ended_at = clock()
            if recorded or supervision.record.result == "failure":
                _tell(supervision, paths, signals)


def _clear_up(record: RunRecord, paths: Paths) -> None:
    """Remove what killed drills left; every task does so."""
    for line in remove_dead_drills(paths.state):
        open_log(paths).warning(f"{record.task} {record.profile}: {line}")


def _tell(supervision: Supervision, paths: Paths, signals: Signals) -> None:
    record, profile = supervision.record, supervision.told
    if profile is not None:
        from backup_tasks.notify.tell import notify, perhaps_told

        try:
            # A mail server may be slow, and a signal must be able to end the wait.
            signals.armed = True
            told = replace(record, error=supervision.told_error or record.error)
            record.notifications = notify(told, profile, paths)
        except SignalCame as came:
            record.notifications = perhaps_told(profile, str(Interrupted(came.number)))
        finally:
            signals.armed = False
    log_result(record, paths)
    _tell_of_silence(record, paths)
    append_record(record, paths)


def _tell_of_silence(record: RunRecord, paths: Paths) -> None:
    """Warn on stderr and in the log about undelivered messages; cron passes stderr on."""
    for notification in record.notifications:
        if notification.error:
            from backup_tasks.notify.registry import noun_of

            noun = noun_of(notification.channel)
            line = f"no {noun} to {notification.to}: {notification.error}"
            open_log(paths).warning(f"{record.task} {record.profile}: {line}")
            print(f"WARNING: {one_line(line)}", file=sys.stderr)


def _note_failure(record: RunRecord, error: BackupError) -> None:
    record.result, record.exit_code = "failure", error.exit_code
    record.error = "\n".join(one_line(line) for line in str(error).splitlines())


def _explain(error: OSError) -> str:
    place = f"{printable(str(error.filename))}: " if error.filename else ""
    full = "; free some space, also for temporary files" if error.errno == errno.ENOSPC else ""
    return f"{place}{error.strerror or one_line(str(error)) or type(error).__name__}{full}"
