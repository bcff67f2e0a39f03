"""Drill: restore a backup into a temporary folder, to prove that restoring works."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from msgspec import Struct

from backup_tasks.census.catalog import Backup
from backup_tasks.census.reading import Reading
from backup_tasks.claim.machine_key import private_files
from backup_tasks.common.printable import printable
from backup_tasks.common.progress import Progress
from backup_tasks.errors import ArchiveError, ProfileError, RestoreError, UsageError
from backup_tasks.format.manifest_lines import Manifest
from backup_tasks.journal.run_record import warn
from backup_tasks.keys.identities import NO_KEYS, Keyring
from backup_tasks.keys.secret import Secret
from backup_tasks.profile.model import Profile
from backup_tasks.read.authenticity import Trust
from backup_tasks.read.not_whole import note_torn
from backup_tasks.read.open_archive import OpenArchive, open_archive
from backup_tasks.restore.policy import ExtractReport
from backup_tasks.restore.request import RestoreReport, RestoreRequest
from backup_tasks.restore.run_restore import restore_opened
from backup_tasks.snapshot.private_content import NOTHING_PRIVATE, Private
from backup_tasks.spools.folder_stack import OPEN_FOLDER
from backup_tasks.stores.base import Store
from backup_tasks.tables.strict_table import Settings
from backup_tasks.verify.command import run_command
from backup_tasks.verify.compare_sources import SourceComparer, SourceComparison
from backup_tasks.verify.compare_tree import TreeComparer, TreeComparison
from backup_tasks.verify.drill_report import DrillReport, render_drill
from backup_tasks.verify.temporary_tree import temporary_tree


class DrillWish(Struct, frozen=True):
    """The options of `invoke drill` as typed, in the task's order; "" if not given."""

    date: str = ""
    name: str = ""
    against_sources: bool = False


def run_drill(
    profile: Profile,
    store: Store,
    backup: Backup,
    progress: Progress,
    keys: Keyring = NO_KEYS,
    *,
    against_sources: bool,
    private: Private = NOTHING_PRIVATE,
    state: Path | None = None,
) -> DrillReport:
    """Restore a backup into a temporary folder, compare it, and run the profile's command there.

    The folder is gone afterwards, whatever happens. Faults are not raised, but reported.

    Args:
        private: content that no backup holds, for the comparison with the sources.
        state: the state directory, for a note of the folder in case of a kill; None makes none.

    Raises:
        ArchiveError: the archive is damaged, or somebody else's.
        RestoreError: the folder for temporary files cannot take the backup.
        UsageError: `against_sources` is set, but the archive has no manifest of ours.
        DrillError: the command cannot be started.
        SourceError: none of the sources is there.
        IdentityError: the archive is encrypted, and `keys` do not open it.
        StoreError: the store failed.
        BackupError: there is no room for temporary files.
    """
    trust = Trust(profile.signing.public_key)
    with contextlib.ExitStack() as opened:
        archive = opened.enter_context(open_archive(store, backup.stored, keys, trust))
        if archive.manifest is None and against_sources:
            raise UsageError(
                f"{backup.stored.name} has no manifest of ours to compare the sources with; "
                "leave out --against-sources"
            )
        place = opened.enter_context(temporary_tree(state))
        restored = _restore(archive, backup, place, progress)
        extracted = restored.extracted
        report = DrillReport(backup, extracted.files, extracted.bytes, restored.proof)
        report.header, report.fault_at_end = restored.header, restored.fault_at_end
        report.notes, report.not_whole = sorted(extracted.notes), restored.not_whole
        if archive.manifest is not None:
            report.tree = _compare_tree(place, archive.manifest, extracted, progress)
            if against_sources:
                report.sources = _compare_sources(
                    profile, place, private, archive.manifest, progress
                )
        if profile.drill.command:
            progress.start("running drill.command", 0, 0)
            report.command = run_command(
                profile.drill.command,
                place,
                profile.drill.timeout_seconds,
                list(_known_secrets(profile)),
            )
    return report


def _restore(
    archive: OpenArchive, backup: Backup, place: Path, progress: Progress
) -> RestoreReport:
    # Setuid bits and devices too: nobody but us can enter the folder that holds the tree.
    request = RestoreRequest(paths=(), target=place, trusted=True, is_unattended=True)
    try:
        return restore_opened(archive, backup, request, progress)
    except RestoreError as error:
        reason = str(error).split(";")[0]
        raise RestoreError(
            f"{reason}; a drill restores the whole backup: set TMPDIR to a folder that takes it"
        ) from error


def _compare_tree(
    place: Path, manifest: Manifest, extracted: ExtractReport, progress: Progress
) -> TreeComparison:
    header = manifest.header
    progress.start("comparing", header.raw_bytes, header.entries)
    root = os.open(place, OPEN_FOLDER)
    try:
        comparer = TreeComparer(root, dict(extracted.problems), progress)
        return comparer.compare(manifest.entries())
    finally:
        os.close(root)


def _compare_sources(
    profile: Profile,
    place: Path,
    private: Private,
    manifest: Manifest,
    progress: Progress,
) -> SourceComparison:
    header = manifest.header
    progress.start("comparing with the sources", header.raw_bytes, header.entries)
    try:
        since_ns = int(datetime.fromisoformat(header.started_at).timestamp()) * 10**9
    except (ValueError, OverflowError) as error:
        start = printable(header.started_at)
        raise ArchiveError(f"the manifest's start is no time: {start}") from error
    own = str(place).lstrip("/")
    return SourceComparer(profile, since_ns, own, private, progress).compare(manifest.entries())


def _known_secrets(settings: Settings) -> Iterator[str]:
    """The text of each secret of a profile that can be read without asking anybody."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Settings):
                yield from _known_secrets(one)
            elif isinstance(one, Secret) and one.kind != "command":
                with contextlib.suppress(ProfileError):
                    yield one.reveal()


def run_drill_job(reading: Reading, wish: DrillWish, progress: Progress) -> DrillReport:
    """Choose the backup that is meant, drill it, and fill in the run's record.

    Raises:
        BackupError: as `Reading.choose` and `run_drill`.
    """
    record = reading.record
    chosen = reading.choose(wish.name, wish.date)
    record.archive_bytes = chosen.stored.size
    with progress:
        report = run_drill(
            reading.profile,
            reading.store,
            chosen,
            progress,
            reading.keys,
            against_sources=wish.against_sources,
            private=private_files(reading.state),
            state=reading.state,
        )
    if report.fault_at_end:
        warn(record, f"{chosen.stored.name}: {report.fault_at_end}")
    if maker := reading.maker(report.header):
        report.notes.append(f"the archive was {maker}")
    if not report.failures:
        reading.note_proven(report.header, report.proof)
    record.files, record.raw_bytes = report.restored_files, report.restored_bytes
    record.outcome = report.outcome
    if not report.failures:
        note_torn(record, report.not_whole)
    record.evidence = list(render_drill(report))
    return report
