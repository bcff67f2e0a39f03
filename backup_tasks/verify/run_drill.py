"""Drill: restore a backup into a temporary folder, to prove that restoring works."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

from msgspec import Struct

from backup_tasks.census.accepted import Accepted, choose_and_tell, list_census, whose_count
from backup_tasks.census.catalog import Backup, render_maker
from backup_tasks.census.newest_seen import NewestSeen
from backup_tasks.claim.machine_key import private_files
from backup_tasks.common.printable import printable
from backup_tasks.common.progress import Progress
from backup_tasks.errors import ArchiveError, ProfileError, RestoreError, UsageError
from backup_tasks.format.manifest_lines import Manifest
from backup_tasks.journal.run_record import RunRecord, warn
from backup_tasks.keys.identities import NO_KEYS, Keyring
from backup_tasks.keys.secret import Secret
from backup_tasks.profile.model import Profile
from backup_tasks.profile.strict_table import Settings
from backup_tasks.read.authenticity import Trust, demand_signature
from backup_tasks.read.manifest_reader import read_manifest
from backup_tasks.read.not_whole import note_torn
from backup_tasks.restore.policy import ExtractReport
from backup_tasks.restore.request import RestoreReport, RestoreRequest
from backup_tasks.restore.run_restore import run_restore
from backup_tasks.snapshot.private_content import NOTHING_PRIVATE, Private
from backup_tasks.spools.folder_stack import OPEN_FOLDER
from backup_tasks.stores.base import Store
from backup_tasks.verify.command import run_command
from backup_tasks.verify.compare_sources import SourceComparer, SourceComparison
from backup_tasks.verify.compare_tree import TreeComparer, TreeComparison
from backup_tasks.verify.drill_report import DrillReport, render_drill
from backup_tasks.verify.temporary_tree import temporary_tree


class DrillWish(Struct, frozen=True):
    """What an operator typed after `invoke drill`; "" where nothing."""

    name: str = ""
    day: str = ""
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

    The folder is gone afterwards, whatever happens. What is found wrong stands in the report.

    Args:
        private: what no backup holds, for the comparison with the sources.
        state: the state directory, for a note of the folder in case of a kill; None makes none.

    Raises:
        ArchiveError: the archive is damaged, or somebody else's.
        RestoreError: the folder for temporary files cannot take it.
        UsageError: `against_sources`, but the archive has no manifest of ours.
        DrillError: the command cannot be started.
        SourceError, StoreError.
    """
    trust = Trust(profile.signing.public_key)
    believe = partial(demand_signature, stored_name=backup.stored.name, trust=trust)
    with contextlib.ExitStack() as opened:
        manifest = read_manifest(store, backup.stored, keys, believe)
        if manifest is not None:
            opened.callback(manifest.close)
        elif against_sources:
            raise UsageError(
                f"{backup.stored.name} has no manifest of ours to compare the sources with; "
                "leave out --against-sources"
            )
        place = opened.enter_context(temporary_tree(state))
        restored = _restore(store, backup, place, trust, progress, keys)
        extracted = restored.extracted
        report = DrillReport(backup, extracted.files, extracted.bytes, restored.proof)
        report.header, report.fault_at_end = restored.header, restored.fault_at_end
        report.notes, report.not_whole = sorted(extracted.notes), restored.not_whole
        if manifest is not None:
            report.tree = _compare_tree(place, manifest, extracted, progress)
            if against_sources:
                report.sources = _compare_sources(profile, place, private, manifest, progress)
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
    store: Store,
    backup: Backup,
    place: Path,
    trust: Trust,
    progress: Progress,
    keys: Keyring,
) -> RestoreReport:
    # Setuid bits and devices too: nobody but us can enter the folder that holds the tree.
    request = RestoreRequest(paths=(), target=place, trusted=True, is_unattended=True, trust=trust)
    try:
        return run_restore(store, backup, request, progress, keys)
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


def run_drill_job(
    profile: Profile,
    store: Store,
    wish: DrillWish,
    state: Path,
    record: RunRecord,
    progress: Progress,
    keys: Keyring = NO_KEYS,
    accepted: Accepted | None = None,
) -> DrillReport:
    """Choose the backup that is meant and drill it; fills in `record`.

    Args:
        state: the state directory.
        accepted: whose backups count; None: as far as this machine knows without a claim.

    Raises: as `choose_and_tell` and `run_drill`.
    """
    seen = NewestSeen(state, profile, store)
    accepted = accepted or whose_count(profile, state, record.host)
    census = list_census(profile, store, state, accepted, seen, record.started_at, keys)
    chosen = choose_and_tell(census, seen, record, name=wish.name, day=wish.day)
    record.archive = chosen.stored.name
    record.archive_bytes = chosen.stored.size
    with progress:
        report = run_drill(
            profile,
            store,
            chosen,
            progress,
            keys,
            against_sources=wish.against_sources,
            private=private_files(state),
            state=state,
        )
    if report.fault_at_end:
        warn(record, f"{chosen.stored.name}: {report.fault_at_end}")
    if maker := render_maker(report.header, profile.name, record.host):
        report.notes.append(f"the archive was {maker}")
    if not report.failures:
        seen.note_proven(report.header, report.proof, record.started_at)
    record.files, record.raw_bytes = report.restored_files, report.restored_bytes
    record.outcome = report.outcome
    if not report.failures:
        note_torn(record, report.not_whole)
    record.evidence = list(render_drill(report))
    return report
