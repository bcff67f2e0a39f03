"""Scans the sources, and finds out how much of them the previous backup holds already."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from backup_tasks.archive.pending_lines import FOLDER_LINE, LATE_LINK_LINE
from backup_tasks.common.gitignore import PathPatterns
from backup_tasks.common.printable import printable
from backup_tasks.common.progress import Progress
from backup_tasks.errors import SourceError
from backup_tasks.filesystem.mountinfo import Mounts
from backup_tasks.filesystem.writeback import blind_devices, file_systems_of, write_back
from backup_tasks.format.manifest import MANIFEST_PATH, Entry, decode_entries
from backup_tasks.journal.problems import Problem, ProblemKind
from backup_tasks.previous.archive import EntryIndex, PreviousBackup
from backup_tasks.previous.versions import NOTHING_BEFORE, Before, PreviousVersions
from backup_tasks.profile.model import Profile
from backup_tasks.reuse.late_links import LateLinks, Surroundings
from backup_tasks.reuse.plan import NO_REUSE, PlannedEntry, Reuse, ReusePlanner
from backup_tasks.reuse.walk_log import Steps
from backup_tasks.snapshot.content_check import ContentCheck
from backup_tasks.snapshot.private_content import Private
from backup_tasks.snapshot.source_counts import SourceCounter, SourceTotals
from backup_tasks.snapshot.source_tree import GONE, plan_sources
from backup_tasks.snapshot.walk import Walk, WalkRules
from backup_tasks.spools.folder_stack import OPEN_FOLDER
from backup_tasks.spools.records import Spool
from backup_tasks.stores.base import PartLimits
from backup_tasks.upload.part_assembler import most_ranges

_BATCH = 256
Report = Callable[[Problem], None]


@dataclass(slots=True)
class Scan:
    """The sources as one walk saw them, compared with the previous backup.

    Attributes:
        steps: all entries, in the order of the walk.
        folders: the entries of folders.
        late_links: the entries of late links, in the order of the walk. A folder's entry comes
            before the first late link in it.
        reuse: the chunks that are reused of the previous backup.
        totals: source -> its totals.
        missing: source that is not there -> why.
        entered: watched folder that the walk entered -> the mount on which it lay.
        content_bytes: content bytes of all files.
        hole_bytes: content bytes that are holes, counted in files with many.
        read_bytes: content bytes of the files that must be read.
        rechecked_bytes: bytes read only to see whether files had changed.
        sockets: number of sockets met, which are not stored.
        marked, marked_first, ignored_markers: as in `Walk`.
        notes: lines for the log that are no problems of files.
    """

    steps: Steps = field(default_factory=Steps)
    folders: Spool[Entry] = field(default_factory=lambda: Spool(Entry))
    late_links: Spool[Entry] = field(default_factory=lambda: Spool(Entry))
    reuse: Reuse = NO_REUSE
    totals: dict[str, SourceTotals] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    entered: dict[str, str] = field(default_factory=dict)
    content_bytes: int = 0
    hole_bytes: int = 0
    read_bytes: int = 0
    rechecked_bytes: int = 0
    sockets: int = 0
    marked: int = 0
    marked_first: list[str] = field(default_factory=list)
    ignored_markers: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Entries of any kind."""
        return self.steps.entries

    def close(self) -> None:
        """Free memory and temporary files."""
        self.steps.close()
        self.folders.close()
        self.late_links.close()


def scan_sources(
    profile: Profile,
    ground: Ground,
    last: PreviousBackup | None,
    limits: PartLimits,
    report: Report,
    progress: Progress,
    *,
    private: Private,
    before: Before = NOTHING_BEFORE,
    written_back: Callable[[], Sequence[str]] = tuple,
) -> Scan:
    """Walk the profile's sources and decide what to keep of the previous backup.

    Args:
        ground: of these sources, found just now.
        last: the backup to compare with; None means that everything is read.
        limits: the store's limits, for the shortest range that can be copied.
        report: called for everything that cannot be stored as it is.
        private: this program's own secrets, which are left out.
        before: the backup with the last versions of unreadable files.
        written_back: called before the walk; from `written_back_aside`.

    Raises:
        SourceError: none of the sources is there; or none can be read, and none has an earlier
            version.
    """
    rules = profile.backup
    tree, missing = plan_sources(rules.sources)
    unread = _Unread(report)
    versions = PreviousVersions(before, ground.rules, unread.report, ground.mounts)
    for path, reason in missing.items():
        last_whole = before.name if versions.holds_below(path) else ""
        report(Problem(printable(path), reason, "missing", is_source=True, last_whole=last_whole))
    walk = Walk(tree, ground.rules, unread.of_walk, versions)
    counter = SourceCounter(source for source in rules.sources if source not in missing)
    scan = Scan(totals=counter.totals, missing=missing)
    scan.notes += written_back()
    progress.start("looking", 0, 0)
    try:
        leaves = _sort_out(walk.entries(), scan, counter, progress)
        if last is not None:
            blind = blind_devices(ground.file_systems, ground.mounts)
            _compare(leaves, last, scan, limits, progress, private, blind)
        elif before.index is not None:
            _compare_for_versions(leaves, before.index, scan, private)
        else:
            for entry in leaves:
                scan.steps.add(PlannedEntry(entry))
            scan.read_bytes = scan.content_bytes - scan.hole_bytes
        if unread.sources and len(unread.sources) + len(missing) == len(rules.sources):
            _refuse_nothing(scan, unread.sources)
    except BaseException:
        scan.close()
        raise
    scan.sockets, scan.entered = walk.sockets, walk.entered
    scan.marked, scan.marked_first = walk.marked, walk.marked_first
    scan.ignored_markers = walk.ignored_markers
    scan.notes += versions.notes
    return scan


class Ground(Struct, frozen=True):
    """The ground that a walk of the sources goes over.

    Attributes:
        rules: what the walk leaves out, and which folders it watches.
        mounts: the mounts of this moment.
        file_systems: a folder on each file system that the walk comes to.
    """

    rules: WalkRules
    mounts: Mounts
    file_systems: list[str]


def find_ground(profile: Profile, private: Private, watched: Collection[str] = ()) -> Ground:
    """Look at what the profile's sources lie on.

    Args:
        private: this program's own secrets, which are left out.
        watched: folders, as paths relative to /, for which `Scan.entered` is wanted.
    """
    rules, mounts = walk_rules(profile, private, watched), Mounts()
    file_systems = file_systems_of(
        profile.backup.sources,
        mounts,
        one_file_system=rules.one_file_system,
        is_left_out=lambda path: rules.excludes.match(path, True),
    )
    return Ground(rules, mounts, file_systems)


@contextmanager
def written_back_aside(ground: Ground) -> Iterator[Callable[[], list[str]]]:
    """Write the sources' file systems back in the background, so that later writes through `mmap`
    show in a ctime.

    Yields:
        A function that waits for the write-back, and returns what went wrong, a line each.
    """
    with ThreadPoolExecutor(1) as aside:
        yield aside.submit(write_back, ground.file_systems).result


class _Unread:
    """Passes reports on, and remembers sources that can be neither read nor carried over."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.sources: dict[str, str] = {}

    def report(self, problem: Problem) -> None:
        """Report a path that cannot be looked at."""
        if problem.is_source and problem.kind == "unreadable":
            self.sources[problem.path] = problem.reason
        self._report(problem)

    def of_walk(self, path: str, reason: str) -> None:
        """Report a path that vanished just now, or that no archive can hold."""
        kind: ProblemKind = "vanished" if reason in _GONE_REASONS else "unstorable"
        self._report(Problem(printable(path), reason, kind))


_GONE_REASONS = {os.strerror(number) for number in GONE}


def _refuse_nothing(scan: Scan, unread: Mapping[str, str]) -> None:
    """Refuse a backup that would hold nothing but folders.

    Raises:
        SourceError: no source could be read, and none has an earlier version.
    """
    if all(step.stand_in == FOLDER_LINE for step in scan.steps):
        named = ", ".join(f"/{path} ({reason})" for path, reason in unread.items())
        raise SourceError(f"none of the sources can be read: {named}; check backup.sources")


def scan_warnings(scan: Scan) -> list[str]:
    """One line for each marker that did not leave out its folder, and the scan's notes."""
    ignored = [
        f"/{printable(path)} would leave out a whole source, and is not obeyed: remove it, or take "
        "that folder out of backup.sources"
        for path in scan.ignored_markers
    ]
    return ignored + scan.notes


def walk_rules(profile: Profile, private: Private, watched: Collection[str] = ()) -> WalkRules:
    """The rules of a walk over the profile's sources; they leave out the paths in `private` too."""
    rules = profile.backup
    return WalkRules(
        excludes=PathPatterns(rules.exclude),
        exclude_caches=rules.exclude_caches,
        exclude_if_present=rules.exclude_if_present,
        one_file_system=rules.one_file_system,
        skip=frozenset({MANIFEST_PATH, *map(_in_walk, [*_own_folder(profile), *private.paths])}),
        watched=frozenset(watched),
    )


def _in_walk(path: Path) -> str:
    return os.path.realpath(path).lstrip("/")


def _own_folder(profile: Profile) -> list[Path]:
    """The store's folder, if it is one: archives in archives would double with each run."""
    folder = profile.store.folder
    return [folder] if folder is not None else []


def _sort_out(
    entries: Iterator[Entry], scan: Scan, counter: SourceCounter, progress: Progress
) -> Iterator[Entry]:
    """Count every entry, put folders and late links aside, and pass the others on.

    Works in batches: a processor runs the code of the walk and that of the comparison faster if it
    does not switch between them for every entry.
    """
    late, surroundings = LateLinks(), Surroundings()
    while batch := list(itertools.islice(entries, _BATCH)):
        progress.advance(0, len(batch))
        content_bytes = hole_bytes = 0
        for entry in batch:
            content_bytes += entry.size
            if entry.span:
                hole_bytes += entry.size - entry.read_size
            if entry.type == "dir":
                surroundings.enter(entry)
                scan.folders.append(entry)
                scan.steps.add_last(FOLDER_LINE)
            elif entry.type != "file" and late.has(entry):
                if folder := surroundings.new_around(entry):
                    scan.late_links.append(folder)
                scan.late_links.append(entry)
                scan.steps.add_last(LATE_LINK_LINE)
            else:
                yield entry
        scan.content_bytes += content_bytes
        scan.hole_bytes += hole_bytes
        counter.count(batch, content_bytes, hole_bytes)


def _compare(
    leaves: Iterator[Entry],
    last: PreviousBackup,
    scan: Scan,
    limits: PartLimits,
    progress: Progress,
    private: Private,
    blind: frozenset[int],
) -> None:
    root = os.open("/", OPEN_FOLDER)
    check = ContentCheck(root, progress)
    try:
        chunks = last.base.chunks
        planner = ReusePlanner(chunks, last.settled_before_ns, check.is_same, private, blind=blind)
        for plan in planner.join(leaves, last.index.placed_entries()):
            scan.steps.add(plan)
    finally:
        check.close()
        os.close(root)
    scan.rechecked_bytes = check.read_bytes
    scan.reuse = planner.decide(limits.smallest, most_ranges(limits))
    scan.read_bytes = scan.steps.not_reused_bytes
    if not scan.reuse.is_all_reused:
        scan.read_bytes += _bytes_in_dropped_chunks(last, scan)


def _compare_for_versions(
    leaves: Iterator[Entry], index: EntryIndex, scan: Scan, private: Private
) -> None:
    """Plan to read everything; note earlier entries, for files that turn out to be unreadable."""
    planner = ReusePlanner((), 0, lambda *_: False, private, reads_all=True)
    for plan in planner.join(leaves, index.placed_entries()):
        scan.steps.add(plan)
    scan.read_bytes = scan.steps.not_reused_bytes


def _bytes_in_dropped_chunks(last: PreviousBackup, scan: Scan) -> int:
    """Content bytes of unchanged files that are read again because their chunk is not reused."""
    content_bytes = 0
    for step in scan.steps:
        if step.plan is not None:
            entries: Iterable[Entry] = (step.plan.entry,) if step.plan.is_same else ()
        elif step.stand_in:
            continue
        else:
            entries = decode_entries(last.index.lines_between(step.first, step.end))
        content_bytes += sum(e.read_size for e in entries if not scan.reuse.keeps(e))
    return content_bytes


class BackupPlan(Struct, frozen=True):
    """The report of a dry run.

    Attributes:
        totals: source -> its totals (entries that two sources share count in both).
        entries, content_bytes: of all sources together.
        read_bytes: bytes to be read.
        compared_with: the previous backup's name, or why there is none whose chunks can be reused.
        copied_bytes: stored bytes that would be copied in the store.
        same, changed, new, gone: numbers of entries, compared with the previous backup.
        dropped_chunks: reason -> number of its chunks that are not reused for this reason.
        problems: sources and files that are missing or cannot be looked at.
        sockets: number of sockets met, which are not stored.
        marked: number of folders whose content a marker leaves out.
        marked_first: paths of the first of these folders.
        warnings: the warnings that a backup would give.
        alarms: what the sources lost, so that nothing would be deleted.
        refused: why `backup` would refuse to run, or "".
    """

    totals: dict[str, SourceTotals]
    entries: int
    content_bytes: int
    read_bytes: int
    compared_with: str
    copied_bytes: int
    same: int
    changed: int
    new: int
    gone: int
    dropped_chunks: dict[str, int]
    problems: list[Problem]
    sockets: int = 0
    marked: int = 0
    marked_first: list[str] = []
    warnings: list[str] = []
    alarms: list[str] = []
    refused: str = ""


class Lookout(Protocol):
    """Compares a scan with what earlier backups held."""

    @property
    def watched(self) -> Collection[str]:
        """The folders to watch, for `find_ground`."""

    def look(self, scan: Scan) -> list[str]:
        """What the sources lost, a line each."""


def plan_backup(
    profile: Profile,
    last: PreviousBackup | None,
    why_full: str,
    limits: PartLimits,
    progress: Progress,
    private: Private,
    lookout: Lookout | None = None,
    before: Before = NOTHING_BEFORE,
) -> BackupPlan:
    """Find out what a backup would read, copy and send now, and why; without private files.

    Args:
        lookout: says what the sources lost.
    """
    problems: list[Problem] = []
    watched = lookout.watched if lookout is not None else ()
    with progress:
        scan = scan_sources(
            profile,
            find_ground(profile, private, watched),
            last,
            limits,
            problems.append,
            progress,
            private=private,
            before=before,
        )
    scan.close()
    alarms = lookout.look(scan) if lookout is not None else []
    reuse = scan.reuse
    return BackupPlan(
        totals=scan.totals,
        entries=scan.count,
        content_bytes=scan.content_bytes,
        read_bytes=scan.read_bytes + scan.rechecked_bytes,
        compared_with=last.name if last else why_full,
        copied_bytes=reuse.reused_bytes,
        same=reuse.counts.same,
        changed=reuse.counts.changed,
        new=reuse.counts.new,
        gone=reuse.counts.gone,
        dropped_chunks={why: number for why, number in reuse.dropped.items() if number},
        problems=problems,
        sockets=scan.sockets,
        marked=scan.marked,
        marked_first=[printable(f"/{path}") for path in scan.marked_first],
        warnings=scan_warnings(scan),
        alarms=alarms,
    )
