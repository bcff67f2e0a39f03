"""Bring files back: choose entries, fetch only their chunks, check them, write them safely."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from backup_tasks.catalog import Backup, choose_backup, find_backups
from backup_tasks.errors import ArchiveError, RestoreError, UsageError
from backup_tasks.extract import Extractor, ExtractPolicy, ExtractReport, Overwrite
from backup_tasks.folders import OPEN_FOLDER, allow_deep_folders
from backup_tasks.foreign import foreign_members
from backup_tasks.journal import RunRecord
from backup_tasks.manifest import Entry, Manifest
from backup_tasks.members import MemberStream
from backup_tasks.profile_model import Profile
from backup_tasks.progress import Progress
from backup_tasks.reader import read_chunks, read_manifest
from backup_tasks.selection import Selection, WantedPaths
from backup_tasks.stores.base import Store
from backup_tasks.tarstream import Member
from backup_tasks.text import printable


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """What to restore and where to.

    Attributes:
        paths: patterns as gitignore writes them; none means everything.
        target: the folder to write below; "/" when in place.
        overwrite: None refuses a target that is not empty (in place: as "never").
        trusted: devices and setuid bits are restored too.
        skip_damaged: leave out the files that a damaged chunk costs, instead of stopping.
    """

    paths: tuple[str, ...]
    target: Path
    in_place: bool = False
    overwrite: Overwrite | None = None
    trusted: bool = False
    dry_run: bool = False
    skip_damaged: bool = False


@dataclass(frozen=True, slots=True)
class RestoreWish:
    """What an operator typed after `invoke restore`; "" where nothing."""

    name: str = ""
    day: str = ""
    paths: tuple[str, ...] = ()
    to: str = ""
    in_place: bool = False
    overwrite: str = ""
    trusted: bool = False
    dry_run: bool = False
    skip_damaged: bool = False


def parse_wish(wish: RestoreWish, backup: Backup, folder: Path) -> RestoreRequest:
    """What the operator means.

    Args:
        folder: relative paths start here.

    Raises UsageError when the words do not go together.
    """
    if wish.to and wish.in_place:
        raise UsageError("give --to or --in-place, not both")
    if wish.overwrite not in ("", *get_args(Overwrite)):
        raise UsageError(f"--overwrite {wish.overwrite!r}: choose never, older or always")
    target = Path("/") if wish.in_place else folder / (wish.to or f"restored/{backup.id}")
    return RestoreRequest(
        paths=wish.paths,
        target=target,
        in_place=wish.in_place,
        overwrite=cast(Overwrite, wish.overwrite) if wish.overwrite else None,
        trusted=wish.trusted or (wish.in_place and os.geteuid() == 0),
        dry_run=wish.dry_run,
        skip_damaged=wish.skip_damaged,
    )


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was restored, or in a dry run would be.

    Attributes:
        fetched_bytes: stored bytes that the wanted entries need.
    """

    backup: Backup
    target: Path
    entries: int
    fetched_bytes: int
    extracted: ExtractReport
    dry_run: bool


def run_restore(
    store: Store, backup: Backup, request: RestoreRequest, progress: Progress
) -> RestoreReport:
    """Restore the wanted entries of a backup.

    Every chunk and every file is checked against its hash; a file appears under its name only
    when it is whole. A run that was killed can be run again with `--overwrite never`.

    Raises:
        UsageError: a pattern matches nothing.
        RestoreError: the target is not empty, or cannot be written.
        ArchiveError: the archive is damaged; what was restored before stays.
        StoreError: the store failed.
    """
    if not request.dry_run:
        _check_target(request)
    allow_deep_folders()
    wanted = WantedPaths(request.paths)
    manifest = read_manifest(store, backup.stored)
    if manifest is None:
        return _restore_foreign(store, backup, request, wanted, progress)
    try:
        return _restore_ours(store, backup, request, wanted, manifest, progress)
    finally:
        manifest.close()


def _restore_ours(
    store: Store,
    backup: Backup,
    request: RestoreRequest,
    wanted: WantedPaths,
    manifest: Manifest,
    progress: Progress,
) -> RestoreReport:
    selection = Selection(manifest, wanted)
    wanted.check_all_met(backup.stored.name)
    numbers = selection.chunk_numbers()
    fetched = sum(manifest.chunks[number].length for number in numbers)
    if request.dry_run:
        planned = ExtractReport(files=selection.files, bytes=selection.bytes)
        return RestoreReport(backup, request.target, selection.count, fetched, planned, True)
    progress.start("restoring", selection.bytes, selection.count)
    with _Target(request) as extractor:
        damaged = extractor.report.problems if request.skip_damaged else None
        stream = MemberStream(
            read_chunks(store, backup.stored, manifest.chunks, numbers),
            None if damaged is None else lambda path, why: damaged.append((path, why)),
        )
        for found in stream.members(selection.entries()):
            member = found.member
            member.path = found.wanted.restore_as.encode("utf-8", "surrogateescape")
            sha256 = found.wanted.entry.sha256
            try:
                extractor.add(member, _counted(found.pieces, progress), sha256)
            except ArchiveError as error:
                if damaged is None:
                    raise ArchiveError(_damaged(backup, error)) from error
                damaged.append((found.wanted.entry.name, str(error)))
        for path, joined in selection.extra_links:
            extractor.add(_link_member(path, joined), ())
        _add_upper_folders(extractor, selection.upper_folders)
        report = extractor.finish()
    return RestoreReport(backup, request.target, selection.count, fetched, report, False)


def _damaged(backup: Backup, error: ArchiveError) -> str:
    return (
        f"{backup.stored.name} is damaged: {printable(str(error))}; nothing more was restored. "
        "`--skip-damaged` brings back the other files, or choose another backup"
    )


def _counted(pieces: Iterator[memoryview], progress: Progress) -> Iterator[memoryview]:
    for piece in pieces:
        yield piece
        progress.advance(len(piece))
    progress.advance(0, 1)


def _link_member(path: str, joined: str) -> Member:
    encode = "utf-8", "surrogateescape"
    return Member(path.encode(*encode), "hardlink", link=joined.encode(*encode))


def _add_upper_folders(extractor: Extractor, folders: Sequence[Entry]) -> None:
    """Give folders that were made on the way their own mode and owner; others stay as they are."""
    for entry in folders:
        member = Member(
            entry.name.encode("utf-8", "surrogateescape"),
            "dir",
            mode=entry.mode,
            uid=entry.uid,
            gid=entry.gid,
            user=entry.user.encode("utf-8", "surrogateescape"),
            group=entry.group.encode("utf-8", "surrogateescape"),
            mtime_ns=entry.mtime_ns,
        )
        extractor.add_upper_folder(member)


def _restore_foreign(
    store: Store,
    backup: Backup,
    request: RestoreRequest,
    wanted: WantedPaths,
    progress: Progress,
) -> RestoreReport:
    """An ordinary .tar.gz without our manifest: read from front to end."""
    progress.start("restoring", 0, 0)
    entries = files = content = 0
    if request.dry_run:
        for member, _ in foreign_members(store, backup.stored):
            if wanted.match(os.fsdecode(member.path), member.kind == "dir"):
                entries += 1
                files += member.kind == "file"
                content += member.size
        wanted.check_all_met(backup.stored.name)
        planned = ExtractReport(files=files, bytes=content)
        size = backup.stored.size
        return RestoreReport(backup, request.target, entries, size, planned, True)
    with _Target(request) as extractor:
        for member, pieces in foreign_members(store, backup.stored):
            if wanted.match(os.fsdecode(member.path), member.kind == "dir"):
                entries += 1
                extractor.add(member, _counted(pieces, progress))
        report = extractor.finish()
    wanted.check_all_met(backup.stored.name)
    return RestoreReport(backup, request.target, entries, backup.stored.size, report, False)


def _check_target(request: RestoreRequest) -> None:
    """Refuse a target that is not empty, unless the operator said what to do with it."""
    target = request.target
    try:
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        is_empty = next(os.scandir(target), None) is None
    except OSError as error:
        raise RestoreError(f"{target}: {error.strerror}; choose another --to") from error
    if not is_empty and request.overwrite is None and not request.in_place:
        raise RestoreError(
            f"{target} is not empty; choose another --to, or say what to do with files that are "
            "there: --overwrite never, older or always"
        )


class _Target:
    """The open target folder with its extractor; a full disk becomes one clear line."""

    def __init__(self, request: RestoreRequest) -> None:
        self._request = request
        self._root = -1

    def __enter__(self) -> Extractor:
        self._root = os.open(self._request.target, OPEN_FOLDER & ~os.O_NOFOLLOW)
        policy = ExtractPolicy(self._request.overwrite or "never", self._request.trusted)
        self._extractor = Extractor(self._root, policy)
        return self._extractor

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._extractor.close()
        os.close(self._root)
        if isinstance(error, OSError):
            free_up = "free some space and " if error.errno == errno.ENOSPC else ""
            raise RestoreError(
                f"{self._request.target}: {error.strerror}; {free_up}run the same command again "
                "with --overwrite never, which keeps what is already restored"
            ) from error


def run_restore_job(
    profile: Profile,
    store: Store,
    wish: RestoreWish,
    folder: Path,
    record: RunRecord,
    progress: Progress,
) -> RestoreReport:
    """Choose the backup that is meant and restore it; fills in `record`.

    Args:
        folder: where relative paths start.

    Raises: as `parse_wish`, `choose_backup` and `run_restore`.
    """
    backups = find_backups(store, profile.tzinfo)
    chosen = choose_backup(backups, name=wish.name, day=wish.day)
    request = parse_wish(wish, chosen, folder)
    record.archive = chosen.stored.name
    with progress:
        report = run_restore(store, chosen, request, progress)
    record.files, record.raw_bytes = report.extracted.files, report.extracted.bytes
    return report
