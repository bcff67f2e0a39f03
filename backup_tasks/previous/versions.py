"""Finds earlier versions of paths that cannot be read now, and reports these paths."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from msgspec import Struct

from backup_tasks.common.printable import printable
from backup_tasks.common.units import render_bytes, render_count
from backup_tasks.filesystem.mountinfo import Mounts
from backup_tasks.format.manifest import Entry, carry_entry, walk_key
from backup_tasks.journal.problems import Problem, ProblemKind
from backup_tasks.previous.archive import EntryIndex
from backup_tasks.snapshot.walk import Unread, WalkRules


class Before(Struct, frozen=True):
    """The previous backup, as far as it is known.

    Attributes:
        name: the name of its object; "" if there is none.
        started_at: when its run began, as in its header.
        index: its entries, or those of later interrupted runs; None if no entries are known.
        may_carry: whether its versions of files can be carried over.
        needed: names of older backups that hold files which it lacks itself.
        is_known: whether the index has all its entries.
    """

    name: str = ""
    started_at: str = ""
    index: EntryIndex | None = None
    may_carry: bool = False
    needed: tuple[str, ...] = ()
    is_known: bool = False


NOTHING_BEFORE = Before()


@dataclass(slots=True)
class _Tally:
    """Files and their content bytes, and entries of any kind."""

    files: int = 0
    bytes: int = 0
    entries: int = 0
    earliest: str = ""

    def add(self, entry: Entry, *, counts: bool) -> None:
        self.entries += counts
        if entry.type in ("file", "hardlink"):
            self.files += 1
            self.bytes += entry.size
        if entry.carried and (not self.earliest or entry.carried < self.earliest):
            self.earliest = entry.carried

    @property
    def text(self) -> str:
        """`12 files (3.4MB)`."""
        return f"{render_count(self.files, 'file')} ({render_bytes(self.bytes)})"


class PreviousVersions:
    """Gives the last versions of paths that a walk cannot read.

    Implements `snapshot.walk.PreviousVersions`.

    Args:
        before: the backup that has the versions.
        rules: what the profile leaves out now.
        report: called for everything that cannot be read.
        mounts: the mounts of this machine.

    Attributes:
        notes: lines for the log that are no problems.
    """

    def __init__(
        self,
        before: Before,
        rules: WalkRules,
        report: Callable[[Problem], None],
        mounts: Mounts,
    ) -> None:
        self._before = before
        self._rules = rules
        self._report = report
        self._mounts = mounts
        self._entries: Iterator[Entry] | None = None
        self._ahead: Entry | None = None
        self._is_given_up = False
        self._told_of_limit = False
        self.notes: list[str] = []

    def of(self, unread: Unread) -> Iterator[Entry]:
        """As `snapshot.walk.PreviousVersions.of`."""
        carried, lost = _Tally(), _Tally()
        is_folder = False
        for entry in self._wanted(unread):
            is_folder |= entry.name != unread.path
            # The folder's own entry says nothing of its content.
            counts = entry.name != unread.path or entry.type != "dir"
            if not self._before.may_carry:
                lost.add(entry, counts=counts)
                continue
            carry_entry(entry, self._before.started_at)
            self._is_given_up = False
            yield entry
            (lost if self._is_given_up else carried).add(entry, counts=counts)
        self._tell(unread, carried, lost, is_folder=is_folder)

    def give_up(self) -> None:
        """As `snapshot.walk.PreviousVersions.give_up`."""
        self._is_given_up = True

    def holds_below(self, source: str) -> bool:
        """Whether the previous backup has anything of a source, given as an absolute path.

        If its entries are not all known: whether there is a previous backup.
        """
        if self._before.index is None or not self._before.is_known:
            return bool(self._before.name)
        path = source.strip("/")
        for entry, _, _ in self._before.index.placed_entries():
            if entry.name == path or entry.name.startswith(f"{path}/"):
                return True
        return False

    def _tell(self, unread: Unread, carried: _Tally, lost: _Tally, *, is_folder: bool) -> None:
        if not is_folder and self._covers_nothing(unread) and self._refuses_root(unread):
            self.notes.append(
                f"/{printable(unread.path)} is a FUSE mount that refuses root, and is not backed "
                "up: exclude it, or mount it with allow_root"
            )
            return
        why = unread.error.strerror or str(unread.error)
        below = " below it" if is_folder else ""
        path, name = printable(unread.path), self._before.name
        if carried.entries:
            day = carried.earliest[:10]
            if is_folder:
                then = f"{carried.text}{below} keep their last version, of {day}"
            else:
                then = f"the version of {day} was kept"
            problem = Problem(path, f"{why}; {then}", "carried", unread.is_source)
            self._report(_counted(problem, carried, carried_from=carried.earliest))
        if lost.entries:
            then = f"{lost.text}{below} are not in this backup; {name} still has them"
            problem = Problem(path, f"{why}; {then}", "unreadable", unread.is_source)
            self._report(_counted(problem, lost, last_whole=name))
        elif not carried.entries and self._is_worth_telling(unread):
            unknown = "" if self._before.is_known else name
            then = f"; {unknown} may still have what is in it" if unknown else ""
            kind: ProblemKind = "unstorable" if unread.is_limit else "unreadable"
            self._report(Problem(path, why + then, kind, unread.is_source, last_whole=unknown))

    def _is_worth_telling(self, unread: Unread) -> bool:
        """Whether to report a path. Of the folders that lie too deep only the first is reported,
        since a user may make any number."""
        if not unread.is_limit:
            return True
        is_first, self._told_of_limit = not self._told_of_limit, True
        return is_first

    def _covers_nothing(self, unread: Unread) -> bool:
        """Whether the unreadable path hides neither a source nor anything that an earlier backup
        may have."""
        return not unread.is_source and (self._before.is_known or not self._before.name)

    def _refuses_root(self, unread: Unread) -> bool:
        return unread.error.errno == errno.EACCES and self._mounts.is_fuse(unread.path)

    def _wanted(self, unread: Unread) -> Iterator[Entry]:
        """The entries of a path and of all below it, without those that the profile now leaves
        out."""
        excludes, skip = self._rules.excludes, self._rules.skip
        left_out = ""  # the last path that was left out, or is no folder, with a slash behind it
        depth = unread.path.count("/") + 1
        for entry in self._below(unread.path):
            name = entry.name
            if left_out and (name.startswith(left_out) or name == left_out[:-1]):
                continue
            names = name.split("/")[depth:]
            is_folder = entry.type == "dir"
            is_excluded = not unread.is_named(names) and excludes.match(name, is_folder)
            is_wanted = not is_excluded and name not in skip and unread.belongs(names)
            if not is_wanted or not is_folder:
                left_out = f"{name}/"
            if is_wanted:
                yield entry

    def _below(self, path: str) -> Iterator[Entry]:
        """All entries of a path and below it. The index is read once, in step with the walk."""
        index = self._before.index
        if index is None:
            return
        if self._entries is None:
            self._entries = (entry for entry, _, _ in index.placed_entries())
            self._ahead = next(self._entries, None)
        key = walk_key(path)
        below = key + b"\0"
        while self._ahead is not None and self._ahead.walk_key < key:
            self._ahead = next(self._entries, None)
        while (entry := self._ahead) is not None:
            if entry.walk_key != key and not entry.walk_key.startswith(below):
                return
            self._ahead = next(self._entries, None)
            yield entry


def _counted(
    problem: Problem, tally: _Tally, *, carried_from: str = "", last_whole: str = ""
) -> Problem:
    return Problem(
        problem.path,
        problem.reason,
        problem.kind,
        problem.is_source,
        tally.files,
        tally.bytes,
        carried_from,
        last_whole,
    )
