"""Prints what a restore, a verification or a drill found, and ends each with its exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backup_tasks.command.printing import SHOWN_PROBLEMS, print_json
from backup_tasks.common.printable import printable
from backup_tasks.common.units import render_bytes, render_count
from backup_tasks.errors import Incomplete, RestoreError
from backup_tasks.journal.run_record import RunRecord

if TYPE_CHECKING:
    from backup_tasks.read.not_whole import NotWhole
    from backup_tasks.restore.request import RestoreReport
    from backup_tasks.verify.drill_report import DrillReport
    from backup_tasks.verify.verify_report import VerifyReport


def print_restore(report: RestoreReport, *, as_json: bool) -> None:
    """Print what was restored, or would be."""
    done = report.extracted
    if as_json:
        print_json(
            {
                "backup": report.backup.id,
                "target": str(report.target),
                "dry_run": report.dry_run,
                "entries": report.entries,
                "fetched_bytes": report.fetched_bytes,
                "files": done.files,
                "bytes": done.bytes,
                "kept": done.kept,
                "problems": [{"path": p, "reason": reason} for p, reason in done.problems],
                "problems_total": done.lost,
                "notes": sorted(done.notes),
                "signature": report.proof.to_json(),
                "not_whole": report.not_whole.to_json(),
            }
        )
        return
    verb = "would restore" if report.dry_run else "restored"
    fetched = render_bytes(report.fetched_bytes) + (" to fetch" if report.dry_run else " fetched")
    print(
        f"{report.backup.id}: {verb} {render_count(done.files, 'file')} "
        f"({render_bytes(done.bytes)}, {report.entries:,} entries, {fetched}) "
        f"to {printable(str(report.target))}"
    )
    if done.kept:
        print(f"kept {done.kept:,} that were there already; --overwrite older or always replaces")
    for note in sorted(done.notes):
        print(f"note: {note}", file=sys.stderr)
    if not report.not_whole.torn.count:  # with torn files, `end_restore` names both kinds
        for line in report.not_whole.render():
            print(line, file=sys.stderr)


def end_restore(report: RestoreReport, record: RunRecord, *, as_json: bool) -> None:
    """Print what was restored, or would be.

    Raises:
        RestoreError: some entries could not be restored; names them.
        Incomplete: all were restored, but some were not whole when the backup was made.
    """
    print_restore(report, as_json=as_json)
    if report.extracted.lost:
        raise unrestored(report)
    if record.exit_code:
        raise Incomplete(render_torn(report.backup.id, report.not_whole))


def print_verify(reports: Sequence[VerifyReport], *, as_json: bool) -> None:
    """Print the archives that are whole; JSON has all. The error of the task names the damaged."""
    from backup_tasks.verify.verify_report import render_verify, verify_to_json

    if as_json:
        print_json([verify_to_json(report) for report in reports])
        return
    for line in render_verify([report for report in reports if not report.is_damaged]):
        print(line)


def end_verify(reports: Sequence[VerifyReport], *, as_json: bool) -> None:
    """Print which archives are whole.

    Raises:
        ArchiveError: some archives are damaged; names them.
    """
    from backup_tasks.verify.verify_report import damage_error

    print_verify(reports, as_json=as_json)
    if any(report.is_damaged for report in reports):
        raise damage_error(reports)


def print_drill(report: DrillReport, *, as_json: bool) -> None:
    """Print what was done and found. If the drill failed, the error of the task says why."""
    from backup_tasks.verify.drill_report import drill_to_json, render_drill

    if as_json:
        print_json(drill_to_json(report))
        return
    state = "drill passed" if report.passed else "drill failed"
    if not report.failures and not report.passed:
        state = "drill restored what there is, but not every file was whole"
    print(f"{report.backup.id}: {state}")
    for line in render_drill(report):
        print(f"  {line}")


def end_drill(report: DrillReport, record: RunRecord, *, as_json: bool) -> None:
    """Print what a drill did and found.

    Raises:
        DrillError: the drill failed; says why.
        Incomplete: some restored files were not whole when the backup was made.
    """
    from backup_tasks.verify.drill_report import drill_error

    print_drill(report, as_json=as_json)
    if report.failures:
        raise drill_error(report)
    if record.exit_code:
        raise Incomplete(render_torn(report.backup.id, report.not_whole))


def unrestored(report: RestoreReport) -> RestoreError:
    """The error that names the entries that could not be restored."""
    lost, problems = report.extracted.lost, report.extracted.problems
    shown = [f"  {printable(p)}: {reason}" for p, reason in problems[:SHOWN_PROBLEMS]]
    if lost > len(shown):
        shown.append(f"  and {lost - len(shown):,} more")
    head = f"{lost:,} of {report.entries:,} entries could not be restored:"
    return RestoreError("\n".join([head, *shown]))


def render_torn(name: str, found: NotWhole) -> str:
    """Text for stderr: the restored files that were not whole when the backup was made."""
    return "\n".join([f"{name}: {found.summary}:", *found.torn.render(), *found.carried.render()])
