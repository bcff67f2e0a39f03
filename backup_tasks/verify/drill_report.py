"""Report a drill in words for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from backup_tasks.census.catalog import Backup
from backup_tasks.common.units import render_bytes, render_count
from backup_tasks.errors import DrillError
from backup_tasks.format.manifest import Header
from backup_tasks.read.authenticity import NO_PROOF, Proof
from backup_tasks.read.not_whole import NotWhole
from backup_tasks.verify.command import CommandResult
from backup_tasks.verify.compare_sources import SourceComparison
from backup_tasks.verify.compare_tree import TreeComparison


@dataclass(slots=True)
class DrillReport:
    """The results of one drill.

    Attributes:
        restored_files, restored_bytes: regular files restored, with their content bytes.
        proof: whose archive it is; header: the manifest's header, None for a plain tar.
        tree: how the tree compares with the manifest; None for a plain tar.
        sources: how the sources compare with the manifest; None if not asked for.
        command: how the profile's command ended; None without a command.
        notes: remarks on what could not be restored here, each made once.
        fault_at_end: the fault behind the manifest, where no file depends on it; "" if none.
        not_whole: files that were not whole when the backup was made, or are of an earlier day.
    """

    backup: Backup
    restored_files: int = 0
    restored_bytes: int = 0
    proof: Proof = NO_PROOF
    header: Header | None = None
    tree: TreeComparison | None = None
    sources: SourceComparison | None = None
    command: CommandResult | None = None
    notes: list[str] = field(default_factory=list)
    fault_at_end: str = ""
    not_whole: NotWhole = field(default_factory=NotWhole)

    @property
    def passed(self) -> bool:
        """Whether nothing failed, and every file is whole."""
        return not self.failures and not self.not_whole.torn.count

    @property
    def failures(self) -> list[str]:
        """The reasons why the drill failed, in words; empty if nothing failed."""
        failures = []
        if self.tree and self.tree.wrong.count:
            failures.append(f"{_are(self.tree.wrong.count)} not as the manifest says")
        if self.sources and self.sources.wrong.count:
            failures.append(f"{_are(self.sources.wrong.count)} not as in the sources")
        if self.command and not self.command.passed:
            failures.append(f"{self.command.shown} {self.command.outcome}")
        return failures

    @property
    def outcome(self) -> str:
        """The work done on the archive, in words."""
        return "restored and compared" if self.tree else "restored"


def _are(count: int) -> str:
    return "1 entry is" if count == 1 else f"{count:,} entries are"


def render_drill(report: DrillReport) -> Iterator[str]:
    """The evidence, line by line; an indented line belongs to the last one without indent."""
    figures = (
        f"{render_count(report.restored_files, 'file')}, {render_bytes(report.restored_bytes)}"
    )
    yield f"restored into a temporary folder: {figures}; the archive is {report.proof}"
    if report.tree is None:
        yield "not compared: the archive has no manifest of ours"
    else:
        yield f"as the manifest says: {_alike(report.tree.entries, report.tree.wrong.count)}"
        yield from report.tree.wrong.render()
        if report.tree.nodes:
            yield f"not restored: {render_count(report.tree.nodes, 'device')}, which need root"
    if report.sources is not None:
        alike = _alike(report.sources.entries, report.sources.wrong.count)
        yield f"as in the sources: {alike}; changed since: {report.sources.changed.count:,}"
        yield from report.sources.wrong.render()
        yield from report.sources.changed.render()
    yield from report.not_whole.render()
    if report.command is not None:
        yield f"{report.command.shown} {report.command.outcome}"
        yield from (f"  | {line}" for line in report.command.tail)
    for note in report.notes:
        yield f"note: {note}"


def _alike(same: int, wrong: int) -> str:
    entries = "1 entry" if same == 1 else f"{same:,} entries"
    return f"{entries}; not so: {wrong:,}" if wrong else entries


def drill_error(report: DrillReport) -> DrillError:
    """The error of a drill that failed: one line, and the evidence below it."""
    head = f"{report.backup.stored.name}: {'; '.join(report.failures)}"
    lines: list[str] = []
    for part in (report.tree, report.sources):
        if part is not None:
            lines += part.wrong.render()
    if report.command is not None and not report.command.passed:
        lines += [f"  | {line}" for line in report.command.tail]
    return DrillError("\n".join([head, *lines]))


def drill_to_json(report: DrillReport) -> dict[str, Any]:
    """For programs."""
    tree, sources, command = report.tree, report.sources, report.command
    return {
        "name": report.backup.id,
        "object": report.backup.stored.name,
        "passed": report.passed,
        "files": report.restored_files,
        "raw_bytes": report.restored_bytes,
        "signature": report.proof.to_json(),
        "manifest": tree and {"alike": tree.entries, "wrong": tree.wrong.to_json()},
        "sources": sources
        and {
            "alike": sources.entries,
            "wrong": sources.wrong.to_json(),
            "changed": sources.changed.to_json(),
        },
        "command": command
        and {
            "command": command.shown,
            "exit_code": command.exit_code,
            "output": list(command.tail),
        },
        "notes": report.notes,
        "not_whole": report.not_whole.to_json(),
    }
