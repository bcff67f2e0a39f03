"""What one backup run has at hand: its place in the state directory, and where it writes to."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from backup_tasks.backup.assembly import Writers, utc_text
from backup_tasks.backup.read_back import NotedCopies
from backup_tasks.backup.survey import Survey
from backup_tasks.census.accepted import open_census, whose_count
from backup_tasks.census.census import Census
from backup_tasks.census.newest_seen import NewestSeen
from backup_tasks.claim.clock import Clocks
from backup_tasks.claim.keeper import ClaimKeeper
from backup_tasks.claim.proof_notes import ProofNotes
from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import Progress
from backup_tasks.common.state_files import state_key
from backup_tasks.errors import ObjectExists
from backup_tasks.filesystem.writeback import LEAST_MARGIN_NS
from backup_tasks.format.archive_names import render_staging_name
from backup_tasks.keys.identities import Keyring
from backup_tasks.previous.archive import CopyMemory, LastArchive
from backup_tasks.profile.model import Profile
from backup_tasks.read.manifest_cache import ManifestCache
from backup_tasks.staging.journal import Staging, StagingFolder
from backup_tasks.staging.leftovers import UploadNote
from backup_tasks.staging.objects import Stage, Stages
from backup_tasks.stores.base import Store, StoredObject
from backup_tasks.upload.early_copies import CopiesAhead, plan_ahead
from backup_tasks.upload.part_assembler import IN_FLIGHT_BYTES

# A run that reads less is repeated sooner than it is resumed.
RESUMABLE_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class BackupRun:
    """What one run needs: whose backup, where to, when, and what to call.

    Attributes:
        now: the run's start, aware; it gives the backup its name.
        clock: reads the time, for the moment when the manifest is written.
        full: read and send everything, whatever could be kept.
        margin_ns: how long after its ctime a file may still be written to unseen.
        accept_shrink: what the sources lost is meant to be gone.
        keeper: of the store's claim; None leaves claims alone.
        take_over: the store is to be this profile's, whosever it was.
        clocks: this machine's and the store's, as they were when the run began; None: they go
            together.
        proofs: what is noted of the store's backups.
    """

    profile: Profile
    store: Store
    paths: Paths
    now: datetime
    clock: Callable[[], datetime]
    progress: Progress
    full: bool = False
    margin_ns: int = LEAST_MARGIN_NS
    accept_shrink: bool = False
    keeper: ClaimKeeper | None = None
    take_over: bool = False
    clocks: Clocks | None = None
    proofs: ProofNotes = field(init=False)

    def __post_init__(self) -> None:
        # Read once, and written once, though the store is listed several times in a run.
        object.__setattr__(self, "proofs", ProofNotes(self.paths.state, self.store.place))

    @property
    def earliest_now(self) -> datetime:
        """What the earlier of the two clocks says: by it nothing is thought older than it is."""
        return min(self.now, self.clocks.earliest) if self.clocks else self.now

    def census(self, listed: Iterable[StoredObject], host: str) -> Census:
        """What the store listed, and which backups there count."""
        claim = self.keeper.standing.claim if self.keeper is not None else None
        accepted = whose_count(self.profile, self.paths.state, host, claim)
        return open_census(
            self.profile,
            self.store,
            self.paths.state,
            listed,
            accepted,
            now=self.now,
            keys=self.keys,
            notes=self.proofs,
        )

    @property
    def state_key(self) -> str:
        """Names what belongs to this profile and store in the state directory."""
        return state_key(self.profile.name, self.store.url)

    @property
    def cache(self) -> ManifestCache:
        return ManifestCache(self.paths.state, self.state_key)

    @property
    def keys(self) -> Keyring:
        """Where the profile names an identity file: nobody is asked for its passphrase."""
        return Keyring(self.profile.identity_file, recipients=self.profile.recipients)

    @property
    def upload_note(self) -> UploadNote:
        return UploadNote(self.paths.state, self.state_key)

    @property
    def copy_memory(self) -> CopyMemory:
        return CopyMemory(self.paths.state, self.state_key)

    @property
    def newest_seen(self) -> NewestSeen:
        return NewestSeen(self.paths.state, self.profile, self.store)

    @property
    def staging(self) -> StagingFolder:
        return StagingFolder(self.paths.state, self.state_key)


def fill(writers: Writers, name: str, write: Callable[[], None]) -> StoredObject:
    """Write and commit; what fails leaves what the next run can use, and nothing else."""
    in_place = writers.journal is not None
    try:
        write()
        return writers.archive.commit(name if in_place else "")
    except BaseException:
        _give_up(writers)
        raise
    finally:
        if writers.journal is not None:
            writers.journal.close()
        if writers.stages is not None:
            writers.stages.close()


def _give_up(writers: Writers) -> None:
    try:
        # First, for the archive waits for staging objects that it copies from.
        if writers.stages is not None:
            writers.stages.leave()
    finally:
        if writers.journal is not None:
            writers.archive.leave()
        else:
            writers.archive.abort()


def begin_ahead(
    run: BackupRun, name: str, last: LastArchive | None
) -> CopiesAhead[NotedCopies] | None:
    """Start the archive with copies of the last one, before the sources are looked at.

    None where copies are not made in the background, or are too few to matter.
    """
    if last is None or run.store.can_rename or len(last.base.objects) > 1:
        return None
    chunks, limits = last.base.chunks, run.store.limits
    ranges = plan_ahead(chunks, limits)
    if not ranges:
        return None
    archive = _open_archive(run, name)
    ahead = CopiesAhead(archive, last.base.source_of(0), chunks, ranges, limits)
    try:
        ahead.begin()
    except BaseException:
        archive.abort()
        raise
    return ahead


def open_writers(
    run: BackupRun,
    name: str,
    survey: Survey,
    ahead: CopiesAhead[NotedCopies] | None,
    *,
    may_stage: bool,
) -> Writers:
    """Start what is written to, with a note for each that a crash leaves to the next run."""
    stage = None
    if may_stage and survey.read_bytes >= RESUMABLE_BYTES:
        stage = _open_stage(run, name, sum(len(kept) for kept in survey.reuse.runs))
    if stage is not None and run.store.can_rename:
        return Writers(NotedCopies(stage.writer), journal=stage.journal)
    try:
        stages = Stages(partial(_open_stage, run, name), stage) if stage else None
        if ahead is None:
            return Writers(_open_archive(run, name), stages=stages)
        return Writers(ahead.writer, ahead.settle(survey.reuse.runs), stages=stages)
    except BaseException:
        if stage is not None:
            stage.leave()
        raise


def _open_stage(run: BackupRun, name: str, first_chunk: int) -> Stage | None:
    """Start a staging object; None where there is no room for its journal."""
    run_id = secrets.token_hex(4)
    staging = Staging(
        name=render_staging_name(name, run_id),
        store=run.store.url,
        started_at=utc_text(run.now),
        first_chunk=first_chunk,
        recipients=run.profile.recipients,
    )
    try:
        journal = run.staging.begin(run_id, staging)
    except OSError:  # the backup goes on without one
        return None
    try:
        writer = run.store.write(staging.name, in_flight_bytes=IN_FLIGHT_BYTES)
        journal.note_upload(writer.upload_id)
    except BaseException:
        journal.close()
        raise
    return Stage(journal, writer)


def _open_archive(run: BackupRun, name: str) -> NotedCopies:
    others = run.store.list_unfinished()
    if any(other.name == name for other in others):
        raise ObjectExists(f"{run.store.url}: somebody else is writing {name} just now")
    run.upload_note.announce(name, others)
    try:
        writer = run.store.write(name, in_flight_bytes=IN_FLIGHT_BYTES)
    except ObjectExists:
        run.upload_note.clear()
        raise
    run.upload_note.write(writer.upload_id)
    return NotedCopies(writer)
