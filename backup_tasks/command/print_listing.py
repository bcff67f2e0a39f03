"""Prints the backups of a store, and the entries of a backup, as tables and as JSON."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from backup_tasks.command.printing import iso, print_json
from backup_tasks.common.printable import escaped, printable
from backup_tasks.common.terminal import print_table
from backup_tasks.common.units import render_bytes, render_seconds
from backup_tasks.journal.problems import summarize

if TYPE_CHECKING:
    from backup_tasks.census.catalog import BackupDetails
    from backup_tasks.format.manifest import Entry

_TYPE_BITS = {
    "file": stat.S_IFREG,
    "hardlink": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
}


def print_backups(details: Sequence[BackupDetails], now: datetime, *, as_json: bool) -> None:
    """Print the backups in their given order, oldest first."""
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
        # The first column has the name already.
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
    stored, verdict = found.backup.stored, found.backup.verdict
    return {
        "name": found.backup.id,
        "object": stored.name,
        "taken_at": iso(found.backup.taken_at),
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
    """Print each entry as it comes: a line like that of `ls -l`, or its manifest line as JSON.

    The JSON list is valid even if the entries break off with an error.
    """
    if not as_json:
        for entry in entries:
            print(_entry_line(entry))
        return
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
