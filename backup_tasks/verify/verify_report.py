"""Report the findings of `verify` in words for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from backup_tasks.census.catalog import Backup
from backup_tasks.common.printable import one_line
from backup_tasks.common.units import render_bytes, render_count
from backup_tasks.errors import ArchiveError
from backup_tasks.format.manifest import Header
from backup_tasks.read.authenticity import NO_PROOF, Proof
from backup_tasks.read.findings import SHOWN, Findings
from backup_tasks.read.not_whole import NotWhole

_FAULTS_IN_A_LINE = 3


@dataclass(slots=True)
class VerifyReport:
    """The findings about one archive.

    Attributes:
        faults: faults of the archive as a whole, or of a chunk; the first SHOWN.
        fault_count: number of all faults.
        lost: entries that cannot be restored whole.
        chunks: number of chunks in the archive; checked_chunks: number of chunks that were read.
        checked_bytes: stored bytes that were read.
        entries, files, raw_bytes: entries whose headers are right and in their places, regular
            files whose content is right, and the content bytes of these files.
        fetched_again: chunks that came damaged at first, which is no fault of the archive.
        limit: why not everything could be checked, or "".
        proof: whose archive it is; doubts about it are in `faults` as well.
        header: the manifest's header; None for a plain tar.
        maker: whose archive it is, in words, if another profile or host made it.
        not_whole: files that were not whole when the backup was made, or are of an earlier day,
            which is no damage.
    """

    backup: Backup
    faults: list[str] = field(default_factory=list)
    fault_count: int = 0
    lost: Findings = field(default_factory=Findings)
    chunks: int = 0
    checked_chunks: int = 0
    checked_bytes: int = 0
    entries: int = 0
    files: int = 0
    raw_bytes: int = 0
    fetched_again: int = 0
    limit: str = ""
    proof: Proof = NO_PROOF
    header: Header | None = None
    maker: str = ""
    not_whole: NotWhole = field(default_factory=NotWhole)

    @property
    def is_damaged(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.fault_count or self.lost.count)

    def add_proof(self, proof: Proof) -> None:
        """Note whose archive it is; add doubts about it as faults."""
        self.proof = proof
        for doubt in proof.doubts:
            self.add_fault(doubt)

    @property
    def trouble(self) -> str:
        """The verdict on an archive with a fault, in words."""
        is_whole = not self.lost.count and self.fault_count == len(self.proof.doubts)
        return "is not to be believed" if is_whole else "is damaged"

    def add_fault(self, fault: str) -> None:
        """Count one more fault."""
        self.fault_count += 1
        if len(self.faults) < SHOWN:
            name = self.backup.stored.name
            self.faults.append(
                one_line(fault.removeprefix(f"{name}: ").removeprefix(f"{name} is "))
            )


def render_verify(reports: Sequence[VerifyReport]) -> Iterator[str]:
    """One line for each archive; after a damaged one, a line for each of the first lost files."""
    for report in reports:
        if report.is_damaged:
            yield f"{report.backup.stored.name} {report.trouble}: {_render_damage(report)}"
            yield from report.lost.render()
        else:
            state = "nothing wrong is found" if report.limit else "whole"
            maker = f"; {report.maker}" if report.maker else ""
            yield f"{report.backup.id}: {state} ({_render_figures(report)}); {report.proof}{maker}"
            yield from (f"  {line}" for line in report.not_whole.render())


def _render_figures(report: VerifyReport) -> str:
    parts = [render_count(report.files, "file"), render_bytes(report.raw_bytes)]
    if report.chunks:
        some = f"{report.checked_chunks:,} of " if report.checked_chunks < report.chunks else ""
        parts.insert(0, some + render_count(report.chunks, "chunk"))
    return ", ".join(parts) + (f"; {report.limit}" if report.limit else "")


def _render_damage(report: VerifyReport) -> str:
    told = report.faults[:_FAULTS_IN_A_LINE]
    if report.fault_count > len(told):
        told.append(f"{report.fault_count - len(told):,} more faults")
    if report.lost.count:
        told.append(f"it costs {render_count(report.lost.count, 'file')}")
    return "; ".join(told)


def damage_error(reports: Sequence[VerifyReport]) -> ArchiveError:
    """The error that names every damaged archive, and what the damage costs."""
    damaged = [report for report in reports if report.is_damaged]
    return ArchiveError("\n".join(render_verify(damaged)))


def verify_to_json(report: VerifyReport) -> dict[str, Any]:
    """For programs."""
    return {
        "name": report.backup.id,
        "object": report.backup.stored.name,
        "whole": not report.is_damaged,
        "faults": report.faults,
        "faults_total": report.fault_count,
        "lost": report.lost.to_json(),
        "chunks": report.chunks,
        "checked_chunks": report.checked_chunks,
        "checked_bytes": report.checked_bytes,
        "entries": report.entries,
        "files": report.files,
        "raw_bytes": report.raw_bytes,
        "fetched_again": report.fetched_again,
        "limit": report.limit,
        "signature": report.proof.to_json(),
        "not_whole": report.not_whole.to_json(),
    }
