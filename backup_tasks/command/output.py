"""What a task found, for people as tables and lines, for programs as JSON."""

from __future__ import annotations

import dataclasses
import json
import stat
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backup_tasks.common.printable import escaped, printable
from backup_tasks.common.terminal import print_table
from backup_tasks.common.units import render_bytes, render_count, render_seconds
from backup_tasks.errors import RestoreError
from backup_tasks.journal.problems import summarize
from backup_tasks.journal.run_record import RunRecord, render_result, summarize_problems

if TYPE_CHECKING:
    # A task imports the room it works in; the others would only cost time here.
    from backup_tasks.backup.scan import BackupPlan
    from backup_tasks.census.catalog import BackupDetails
    from backup_tasks.format.manifest import Entry
    from backup_tasks.keys.signing import SigningKey
    from backup_tasks.profile.load import ProfileSummary
    from backup_tasks.prune.lifecycle import LifecycleReport
    from backup_tasks.prune.run_prune import PruneReport
    from backup_tasks.read.not_whole import NotWhole
    from backup_tasks.restore.request import RestoreReport
    from backup_tasks.schedule.install import CronReport
    from backup_tasks.verify.drill_report import DrillReport
    from backup_tasks.verify.verify_report import VerifyReport

_SHOWN_PROBLEMS = 20
_TYPE_BITS = {
    "file": stat.S_IFREG,
    "hardlink": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
}


def print_json(value: Any) -> None:
    """JSON on stdout, ASCII alone, so that any locale takes it."""
    json.dump(value, sys.stdout, indent=2, default=str)
    print()


def record_to_json(record: RunRecord) -> dict[str, Any]:
    """A run record as programs read it."""
    fields = dataclasses.asdict(record)
    for key in ("started_at", "ended_at"):
        fields[key] = _iso(fields[key]) if fields[key] else None
    return fields


def print_backup(record: RunRecord, *, as_json: bool) -> None:
    """The outcome of a backup: JSON, or one line for a terminal; cron shall get nothing."""
    if as_json:
        print_json(record_to_json(record))
    elif sys.stdout.isatty():
        print(render_result(record))


def render_missing(record: RunRecord) -> str:
    """What a backup that is done could not store, and why nothing is deleted, for stderr."""
    shown = [f"  {p.path}: {p.reason}" for p in record.problems[:_SHOWN_PROBLEMS]]
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
    """What a backup would read."""
    if as_json:
        print_json(dataclasses.asdict(plan))
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
    """What would be copied, read and sent, and why."""
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


def print_backups(details: Sequence[BackupDetails], now: datetime, *, as_json: bool) -> None:
    """The backups, oldest first."""
    if as_json:
        print_json([_backup_to_json(found) for found in details])
        return
    if not details:
        print("no backups yet; `invoke backup` makes one", file=sys.stderr)
        return
    columns = ("name", "age", "size", "new", "files", "duration", "result")
    print_table(columns, [_backup_row(found, now) for found in details])


def _backup_row(found: BackupDetails, now: datetime) -> tuple[str, ...]:
    is_ahead = found.backup.verdict.state == "ahead"
    age = "ahead" if is_ahead else render_seconds((now - found.backup.taken_at).total_seconds())
    size = render_bytes(found.backup.stored.size)
    header = found.header
    if header is None:
        # The name stands in the first column.
        trouble = found.trouble.removeprefix(f"{found.backup.stored.name}: ")
        result = f"unreadable: {trouble}" if trouble else "plain .tar.gz"
        if found.is_locked:
            result = _not_counted(found) or "encrypted"
        return (found.backup.id, age, size, "-", "-", "-", result)
    result = summarize(header.torn, header.carried, header.unreadable, header.problems)
    if header.name not in ("", found.backup.stored.name):
        result = f"another backup's bytes: those of {printable(header.name)}"
    result = _not_counted(found) or result
    new = render_bytes(found.backup.stored.size - header.copied_bytes)
    duration = render_seconds(_seconds_between(header.started_at, header.written_at))
    return (found.backup.id, age, size, new, f"{header.files:,}", duration, result)


def _not_counted(found: BackupDetails) -> str:
    """Why a backup is neither the latest nor counted for retention, or ""."""
    verdict = found.backup.verdict
    if verdict.state in ("proven", "likely", "unknown"):
        return ""
    return f"not counted: {verdict.why}"


def _backup_to_json(found: BackupDetails) -> dict[str, Any]:
    import msgspec

    stored, verdict = found.backup.stored, found.backup.verdict
    return {
        "name": found.backup.id,
        "object": stored.name,
        "taken_at": _iso(found.backup.taken_at),
        "archive_bytes": stored.size,
        "manifest": msgspec.to_builtins(found.header) if found.header else None,
        "trouble": found.trouble,
        "is_locked": found.is_locked,
        "proof": {"state": verdict.state, "why": verdict.why},
    }


def _seconds_between(start: str, end: str) -> float:
    try:
        return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
    except (ValueError, TypeError):
        return 0.0


def print_entries(entries: Iterable[Entry], *, as_json: bool) -> None:
    """One line an entry as `ls -l` has it, or a JSON list of what the manifest says, as they come.

    What was printed is valid JSON also when the entries break off with an error.
    """
    if not as_json:
        for entry in entries:
            print(_entry_line(entry))
        return
    import msgspec

    before = "[\n"
    try:
        for entry in entries:
            sys.stdout.write(before + msgspec.json.encode(entry).decode("utf-8"))
            before = ",\n"
        if before == "[\n":
            sys.stdout.write("[")
            before = ""
    finally:
        if before != "[\n":
            sys.stdout.write("\n]\n")


def _entry_line(entry: Entry) -> str:
    from backup_tasks.read.not_whole import explain_entry

    mode = stat.filemode(_TYPE_BITS[entry.type] | entry.mode)
    owner = f"{entry.user or entry.uid}/{entry.group or entry.gid}"
    when = _minute(entry.mtime_ns // 10**9)
    arrows = {"symlink": " -> ", "hardlink": " link to "}
    link = arrows[entry.type] + escaped(entry.link_name) if entry.type in arrows else ""
    size = render_bytes(entry.size) if entry.type == "file" else "-"
    mark = f"  ({explain_entry(entry)})" if entry.torn or entry.carried else ""
    return f"{mode} {printable(owner):<15} {size:>7} {when} {escaped(entry.name)}{link}{mark}"


def _minute(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return f"@{seconds}"  # file systems know years beyond 9999, datetime does not


def print_restore(report: RestoreReport, *, as_json: bool) -> None:
    """What was restored, or would be."""
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
    if not report.not_whole.torn.count:  # else the end of the task tells of both
        for line in report.not_whole.render():
            print(line, file=sys.stderr)


def print_verify(reports: Sequence[VerifyReport], *, as_json: bool) -> None:
    """Which archives are whole; those that are not stand in the error."""
    from backup_tasks.verify.verify_report import render_verify, verify_to_json

    if as_json:
        print_json([verify_to_json(report) for report in reports])
        return
    for line in render_verify([report for report in reports if not report.is_damaged]):
        print(line)


def print_drill(report: DrillReport, *, as_json: bool) -> None:
    """What was done and found; why it failed, if it did, stands in the error."""
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


def unrestored(report: RestoreReport) -> RestoreError:
    """The error that names what could not be restored."""
    lost, problems = report.extracted.lost, report.extracted.problems
    shown = [f"  {printable(p)}: {reason}" for p, reason in problems[:_SHOWN_PROBLEMS]]
    if lost > len(shown):
        shown.append(f"  and {lost - len(shown):,} more")
    head = f"{lost:,} of {report.entries:,} entries could not be restored:"
    return RestoreError("\n".join([head, *shown]))


def render_torn(name: str, found: NotWhole) -> str:
    """What a restore or a drill brought back that is not whole, for stderr."""
    return "\n".join([f"{name}: {found.summary}:", *found.torn.render(), *found.carried.render()])


def print_signing_key(key: SigningKey, file: Path, *, is_new: bool, as_json: bool) -> None:
    """The public half, as lines that can be appended to a profile."""
    from backup_tasks.keys.signing import render_public_key

    public_key = render_public_key(key.public_key)
    if is_new:
        print(f"made a new key: {printable(str(file))}", file=sys.stderr)
    if as_json:
        print_json({"public_key": public_key, "file": str(file), "is_new": is_new})
    else:
        print(f'[signing]\npublic_key = "{public_key}"')


def print_prune(report: PruneReport, *, as_json: bool) -> None:
    """What was deleted and kept, with the reasons."""
    from backup_tasks.prune.run_prune import render_prune

    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        print(render_prune(report))


def print_lifecycle(report: LifecycleReport, *, as_json: bool) -> None:
    """The bucket's rules and ours."""
    from backup_tasks.prune.lifecycle import render_lifecycle

    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        print(render_lifecycle(report))


def print_cron(report: CronReport, profile: str, *, as_json: bool) -> None:
    """What is installed, of all profiles or of one."""
    from backup_tasks.schedule.install import CronReport, render_cron

    shown = CronReport(tuple(e for e in report.entries if profile in ("", e.profile)))
    if as_json:
        print_json(dataclasses.asdict(shown))
    else:
        print(render_cron(shown))


def print_profiles(found: Sequence[ProfileSummary], *, as_json: bool) -> None:
    """One line a profile."""
    if as_json:
        print_json([dataclasses.asdict(summary) for summary in found])
        return
    rows = [
        (
            summary.name,
            summary.description,
            summary.store or ("for others to inherit" if summary.base_only else "-"),
            summary.schedule or "-",
            summary.problem or _sharing(summary) or "ok",
        )
        for summary in found
    ]
    print_table(("profile", "description", "store", "schedule", "state"), rows)


def _sharing(summary: ProfileSummary) -> str:
    if not summary.shares:
        return ""
    names = ", ".join(map(printable, summary.shares))
    return f"shares its store with {names}: give each a prefix of its own"


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
