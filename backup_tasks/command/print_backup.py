"""Prints what a backup did, or would do, for people and for programs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict

from backup_tasks.command.printing import SHOWN_PROBLEMS, iso, print_json
from backup_tasks.common.printable import printable
from backup_tasks.common.terminal import print_table
from backup_tasks.common.units import render_bytes, render_count
from backup_tasks.errors import Incomplete
from backup_tasks.journal.run_record import RunRecord, render_result, summarize_problems

if TYPE_CHECKING:
    from backup_tasks.backup.scan import BackupPlan


def record_to_json(record: RunRecord) -> dict[str, Any]:
    """A run record in the form for programs."""
    fields = asdict(record)
    for key in ("started_at", "ended_at"):
        fields[key] = iso(fields[key]) if fields[key] else None
    return fields


def print_backup(record: RunRecord, *, as_json: bool) -> None:
    """Print the outcome of a backup: JSON, or a line on a terminal alone, as cron mails output."""
    if as_json:
        print_json(record_to_json(record))
    elif sys.stdout.isatty():
        print(render_result(record))


def end_backup(record: RunRecord, *, as_json: bool) -> None:
    """Print what a backup did.

    Raises:
        Incomplete: some files could not be stored, or nothing is deleted; names them and says why.
    """
    print_backup(record, as_json=as_json)
    if record.exit_code:
        raise Incomplete(render_missing(record))


def render_missing(record: RunRecord) -> str:
    """Text for stderr: what a finished backup could not store, and why nothing is deleted."""
    shown = [f"  {p.path}: {p.reason}" for p in record.problems[:SHOWN_PROBLEMS]]
    more = len(record.problems) - len(shown)
    if more:
        shown.append(f"  and {more:,} more, in logs/runs.jsonl")
    lines = []
    if shown and (record.torn or record.carried):
        lines = [f"{record.archive} is done, but not whole: {summarize_problems(record)}:", *shown]
    elif shown:
        files = render_count(record.unreadable or len(record.problems), "file")
        lines = [f"{record.archive} is done, but without {files}:", *shown]
    if record.unpruned:
        lines += ["nothing is deleted:", *(f"  {reason}" for reason in record.unpruned)]
    return "\n".join(lines)


def print_backup_plan(plan: BackupPlan, *, as_json: bool) -> None:
    """Print what a backup would read and send, and what would go wrong."""
    if as_json:
        print_json(plan)
        return
    rows = [
        (printable(source), f"{totals.entries:,}", render_bytes(totals.bytes))
        for source, totals in plan.totals.items()
    ]
    rows.append(("together", f"{plan.entries:,}", render_bytes(plan.content_bytes)))
    print_table(("source", "entries", "size"), rows)
    print(_reuse_lines(plan))
    if plan.sockets:
        print(f"{render_count(plan.sockets, 'socket')} would not be stored")
    if plan.marked:
        more = f" and {plan.marked - len(plan.marked_first):,} more"
        named = ", ".join(plan.marked_first) + (
            more if plan.marked > len(plan.marked_first) else ""
        )
        print(f"left out by a marker: {render_count(plan.marked, 'folder')}: {named}")
    for warning in plan.warnings:
        print(f"WARNING: {warning}", file=sys.stderr)
    if plan.refused:
        print(f"a backup would be refused: {plan.refused}", file=sys.stderr)
    for alarm in plan.alarms:
        print(f"nothing would be deleted: {alarm}", file=sys.stderr)
    for problem in plan.problems:
        what = problem.kind if problem.kind in ("carried", "unstorable") else "missing"
        print(f"{what}: {problem.path}: {problem.reason}", file=sys.stderr)


def _reuse_lines(plan: BackupPlan) -> str:
    """Lines that say what would be copied, read and sent, and why."""
    if not plan.same + plan.changed + plan.gone:
        return f"everything would be read and sent: {plan.compared_with}"
    lines = [
        f"compared with {plan.compared_with}: {plan.same:,} entries as before, "
        f"{plan.changed:,} changed, {plan.new:,} new, {plan.gone:,} gone",
        f"would copy {render_bytes(plan.copied_bytes)} inside the store, read "
        f"{render_bytes(plan.read_bytes)} of files, and send that compressed",
    ]
    lines += [
        f"would write {render_count(number, 'chunk')} anew: {why}"
        for why, number in plan.dropped_chunks.items()
    ]
    return "\n".join(lines)
