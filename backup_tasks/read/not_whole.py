"""Files of a backup that were not whole when it was made, or are of an earlier day."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from backup_tasks.common.printable import printable
from backup_tasks.common.units import render_count
from backup_tasks.format.manifest import PADDED, STRIPPED, TORN, Entry, Header, PlacedEntry
from backup_tasks.journal.problems import Problem
from backup_tasks.journal.run_record import RunRecord
from backup_tasks.read.findings import Findings
from backup_tasks.read.selection import WantedPaths

_TORN = {
    TORN: "changed while it was read",
    PADDED: "zeros stand for what could not be read",
    STRIPPED: "some of its extended attributes are missing",
}


def explain_entry(entry: Entry) -> str:
    """Say how an entry differs from the file on the backup's own day; "" if it does not."""
    parts = []
    if entry.torn:
        parts.append(_TORN.get(entry.torn, f"not whole: {printable(entry.torn)}"))
    if entry.carried:
        parts.append(f"of {printable(entry.carried[:10])}: a later backup could not read it")
    return "; ".join(parts)


@dataclass(slots=True)
class NotWhole:
    """Gathers torn and carried-over files from a manifest as its entries pass by.

    Attributes:
        torn: files with content or attributes of different moments, or padded with zeros.
        carried: files as they were on an earlier day, whole.
    """

    torn: Findings = field(default_factory=Findings)
    carried: Findings = field(default_factory=Findings)

    def __bool__(self) -> bool:
        return bool(self.torn.count or self.carried.count)

    def see(self, entry: Entry) -> None:
        """Note an entry if it is torn or carried over."""
        if entry.torn:
            self.torn.add(entry.name, explain_entry(entry))
        elif entry.carried and entry.type != "dir":
            self.carried.add(entry.name, explain_entry(entry))

    def passing(
        self, header: Header, entries: Iterator[PlacedEntry], wanted: WantedPaths | None = None
    ) -> Iterator[PlacedEntry]:
        """Pass the entries on; look at each if the header says that some are not whole.

        Args:
            wanted: the paths to report; None reports all.
        """
        return self._passing(entries, wanted) if header.torn or header.carried else entries

    def _passing(
        self, entries: Iterator[PlacedEntry], wanted: WantedPaths | None
    ) -> Iterator[PlacedEntry]:
        for placed in entries:
            entry = placed[0]
            if (entry.torn or entry.carried) and (
                wanted is None or wanted.match(entry.name, entry.type == "dir")
            ):
                self.see(entry)
            yield placed

    @property
    def summary(self) -> str:
        """`1 file was not whole when the backup was made, 12 are of an earlier day`; or ""."""
        parts = []
        if self.torn.count:
            verb = "was" if self.torn.count == 1 else "were"
            files = render_count(self.torn.count, "file")
            parts.append(f"{files} {verb} not whole when the backup was made")
        if self.carried.count:
            verb = "is" if self.carried.count == 1 else "are"
            parts.append(f"{render_count(self.carried.count, 'file')} {verb} of an earlier day")
        return ", ".join(parts)

    def render(self) -> list[str]:
        """The summary, then an indented line for each of the first; empty if all are whole."""
        if not self:
            return []
        return [self.summary, *self.torn.render(), *self.carried.render()]

    def problems(self) -> Iterator[Problem]:
        """A problem for each torn file; only the first ones are named."""
        for path, reason in self.torn.first:
            yield Problem(path, reason, "torn")
        more = Problem("(one more file)", "not named", "torn")
        for _ in range(self.torn.count - len(self.torn.first)):
            yield more

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {"torn": self.torn.to_json(), "earlier": self.carried.to_json()}


def note_torn(record: RunRecord, found: NotWhole) -> None:
    """Make a task that brings files back end as incomplete if some files are torn."""
    if found.torn.count and record.result == "success":
        record.result, record.exit_code = "incomplete", 3
        for problem in found.problems():
            record.add_problem(problem)
    if found.carried.count:
        verb = "is" if found.carried.count == 1 else "are"
        files = render_count(found.carried.count, "file")
        record.warnings.append(f"{files} {verb} of an earlier day than the backup")
