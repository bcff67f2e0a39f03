"""Bring files back: choose entries, fetch only their chunks, check them, write them safely."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path

from msgspec.structs import replace

from backup_tasks.census.catalog import Backup
from backup_tasks.census.reading import Reading
from backup_tasks.chunks.reader_process import ReadChunks, read_chunks_apart
from backup_tasks.common.printable import printable
from backup_tasks.common.progress import Progress
from backup_tasks.errors import ArchiveError
from backup_tasks.format.archive_names import is_encrypted_name
from backup_tasks.format.manifest import Entry, PlacedEntry
from backup_tasks.format.manifest_lines import Manifest
from backup_tasks.format.tar_headers import Member
from backup_tasks.journal.run_record import warn
from backup_tasks.keys.identities import NO_KEYS, Keyring
from backup_tasks.read.member_stream import MemberStream, render_fetched_again
from backup_tasks.read.not_whole import NotWhole, note_torn
from backup_tasks.read.open_archive import OpenArchive, open_archive
from backup_tasks.read.selection import Selection, WantedPaths
from backup_tasks.restore.extract import Extractor
from backup_tasks.restore.extract_in_order import InOrderExtractor
from backup_tasks.restore.policy import ExtractReport
from backup_tasks.restore.request import RestoreReport, RestoreRequest, RestoreWish, parse_wish
from backup_tasks.restore.target_check import OpenTarget, check_room, open_target
from backup_tasks.spools.folder_stack import allow_deep_folders
from backup_tasks.stores.base import Store


def run_restore(
    store: Store,
    backup: Backup,
    request: RestoreRequest,
    progress: Progress,
    keys: Keyring = NO_KEYS,
) -> RestoreReport:
    """Restore the wanted entries of a backup.

    Every chunk and every file is checked against its hash; a file appears under its name only
    when it is whole. A run that was killed can be run again with `--overwrite never`.

    Raises:
        UsageError: a pattern matches nothing.
        UnprovenError: the archive is somebody else's; nothing was written.
        RestoreError: the target is not empty, or cannot be written.
        ArchiveError: the archive is damaged; what was restored before stays.
        IdentityError: it is encrypted, and `keys` do not open it.
        StoreError: the store failed.
        BackupError: there is no room for temporary files.
    """
    with (
        _opened_target(request) as root,
        open_archive(store, backup.stored, keys, request.trust) as archive,
    ):
        return _restore(archive, backup, request, root, progress)


def restore_opened(
    archive: OpenArchive, backup: Backup, request: RestoreRequest, progress: Progress
) -> RestoreReport:
    """As `run_restore`, from an archive that is open already."""
    with _opened_target(request) as root:
        return _restore(archive, backup, request, root, progress)


@contextmanager
def _opened_target(request: RestoreRequest) -> Iterator[int | None]:
    """The target's descriptor; None in a dry run."""
    if request.dry_run:
        yield None
        return
    root = open_target(request.target, may_hold_files=request.is_told_what_to_do)
    try:
        yield root
    finally:
        os.close(root)


def _restore(
    archive: OpenArchive,
    backup: Backup,
    request: RestoreRequest,
    root: int | None,
    progress: Progress,
) -> RestoreReport:
    allow_deep_folders()
    wanted = WantedPaths(request.paths)
    if archive.manifest is None:
        return _restore_plain_tar(archive, backup, request, root, wanted, progress)
    fault = archive.find_fault_at_end()
    report = _restore_ours(archive, archive.manifest, backup, request, root, wanted, progress)
    return replace(report, fault_at_end=fault)


def _restore_ours(
    archive: OpenArchive,
    manifest: Manifest,
    backup: Backup,
    request: RestoreRequest,
    root: int | None,
    wanted: WantedPaths,
    progress: Progress,
) -> RestoreReport:
    def read(numbers: Sequence[int]) -> AbstractContextManager[ReadChunks]:
        if root is not None and not request.is_told_what_to_do:
            raw = sum(map(manifest.raw_lengths.__getitem__, numbers))
            check_room(request.target, root, raw)
        chunks = manifest.chunks
        return closing(
            read_chunks_apart(archive.store, archive.stored, chunks, numbers, archive.keys)
        )

    not_whole = NotWhole()
    asked = None if wanted.are_all else WantedPaths(request.paths)

    def passing(entries: Iterator[PlacedEntry]) -> Iterator[PlacedEntry]:
        return not_whole.passing(manifest.header, entries, asked)

    numbers: Sequence[int] = range(len(manifest.chunks))
    with ExitStack() as opened:
        if wanted.are_all and root is not None:
            # Every chunk is needed, so reading begins before the selection is made.
            chunks = opened.enter_context(read(numbers))
            selection = opened.enter_context(closing(Selection(manifest, wanted, passing)))
            extracted = _write(backup, request, root, selection, chunks, progress)
        else:
            selection = opened.enter_context(closing(Selection(manifest, wanted, passing)))
            wanted.check_all_met(backup.stored.name)
            numbers = selection.chunk_numbers()
            extracted = ExtractReport(files=selection.files, bytes=selection.bytes)
            if root is not None:
                chunks = opened.enter_context(read(numbers))
                extracted = _write(backup, request, root, selection, chunks, progress)
    return RestoreReport(
        backup,
        request.target,
        selection.count,
        sum(manifest.chunks[number].length for number in numbers),
        extracted,
        request.dry_run,
        archive.proof,
        manifest.header,
        not_whole=not_whole,
    )


def _write(
    backup: Backup,
    request: RestoreRequest,
    root: int,
    selection: Selection,
    chunks: ReadChunks,
    progress: Progress,
) -> ExtractReport:
    """Write the selected entries; `chunks` may give more chunks than they need."""
    progress.start("restoring", selection.bytes, selection.count)
    with OpenTarget(request.target, root, request.policy) as extractor:
        on_damage = extractor.leave_out if request.skip_damaged else None
        stream = MemberStream(chunks, selection.entries_in, on_damage, progress.advance)
        for found in stream.members():
            member = found.member
            entry, restore_as = found.wanted
            if restore_as != entry.name:
                member.path = restore_as.encode("utf-8", "surrogateescape")
            try:
                extractor.add(member, stream.pieces(found), entry.sha256, entry.sparse_sha256)
            except ArchiveError as error:
                if not request.skip_damaged:
                    raise ArchiveError(_damaged(backup, error)) from error
                extractor.leave_out(restore_as, str(error))
            progress.advance(0, 1)
            del found, member  # their headers may be long, and the next are read meanwhile
        for path, first in selection.lost_links:
            extractor.leave_out(path, f"{first!r}, which it is a link to, is not in the archive")
        for path, joined in selection.extra_links:
            extractor.add(_link_member(path, joined), ())
        _add_upper_folders(extractor, selection.upper_folders)
        report = extractor.finish()
        if stream.fetched_again:
            report.notes.add(render_fetched_again(stream.fetched_again))
        return report


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


def _add_upper_folders(extractor: Extractor, folders: Iterable[Entry]) -> None:
    """Give folders made on the way their own mode and owner; leave others as they are."""
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


def _restore_plain_tar(
    archive: OpenArchive,
    backup: Backup,
    request: RestoreRequest,
    root: int | None,
    wanted: WantedPaths,
    progress: Progress,
) -> RestoreReport:
    """Restore from a plain tar, which is read from front to end."""
    progress.start("restoring", 0, 0)
    entries = files = content = 0
    if root is None:
        for member, _ in archive.plain_members():
            if wanted.match(os.fsdecode(member.path), member.kind == "dir"):
                entries += 1
                files += member.kind == "file"
                content += member.size
        wanted.check_all_met(backup.stored.name)
        planned = ExtractReport(files=files, bytes=content)
        size = backup.stored.size
        return RestoreReport(backup, request.target, entries, size, planned, True, archive.proof)
    notes: set[str] = set()
    takes_any_size = request.trusted and not request.is_unattended
    found = archive.plain_members(trusted=takes_any_size, notes=notes)
    with (
        closing(found) as members,
        OpenTarget(request.target, root, request.policy, InOrderExtractor) as extractor,
    ):
        above: list[Member] = []
        for member, pieces in members:
            while above and not member.path.startswith(above[-1].path + b"/"):
                above.pop()
            is_folder = member.kind == "dir"
            if wanted.match(os.fsdecode(member.path), is_folder):
                entries += 1
                for upper in above:
                    extractor.add_upper_folder(upper)
                above.clear()
                extractor.add(member, _counted(pieces, progress))
            elif is_folder:
                above.append(member)
        report = extractor.finish()
    report.notes |= notes
    wanted.check_all_met(backup.stored.name)
    size = backup.stored.size
    return RestoreReport(backup, request.target, entries, size, report, False, archive.proof)


def run_restore_job(
    reading: Reading, wish: RestoreWish, folder: Path, progress: Progress
) -> RestoreReport:
    """Choose the backup that is meant, restore it, and fill in the run's record.

    Args:
        folder: relative paths start here.

    Raises:
        BackupError: as `Reading.choose`, `parse_wish` and `run_restore`.
    """
    profile, record = reading.profile, reading.record
    chosen = reading.choose(wish.name, wish.date)
    request = parse_wish(wish, chosen, folder, profile.signing.public_key)
    with progress:
        report = run_restore(reading.store, chosen, request, progress, reading.keys)
    if report.fault_at_end:
        warn(record, f"{chosen.stored.name}: {report.fault_at_end}")
    for doubt in report.proof.doubts:
        warn(record, f"{chosen.stored.name}: {doubt}; restored all the same, as --unproven asks")
    reading.note_proven(report.header, report.proof)
    if maker := reading.maker(report.header):
        report.extracted.notes.add(f"{chosen.stored.name} was {maker}")
    if profile.recipients and not is_encrypted_name(chosen.stored.name):
        report.extracted.notes.add(
            f"{chosen.stored.name} is not encrypted, although backups of this profile are"
        )
    record.files, record.raw_bytes = report.extracted.files, report.extracted.bytes
    note_torn(record, report.not_whole)
    return report
