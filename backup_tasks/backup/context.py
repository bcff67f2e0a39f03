"""Everything a backup run has at hand: profile, store, clocks, places in the state directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from backup_tasks.census.accepted import open_census, whose_count
from backup_tasks.census.census import Census
from backup_tasks.census.newest_seen import NewestSeen
from backup_tasks.claim.clock import Clocks
from backup_tasks.claim.keeper import ClaimKeeper
from backup_tasks.claim.proof_notes import ProofNotes
from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import Progress
from backup_tasks.common.state_files import state_key
from backup_tasks.filesystem.writeback import LEAST_MARGIN_NS
from backup_tasks.keys.identities import Keyring
from backup_tasks.previous.archive import CopyMemory
from backup_tasks.profile.model import Profile
from backup_tasks.read.manifest_cache import ManifestCache
from backup_tasks.staging.journal import StagingFolder
from backup_tasks.staging.leftovers import UploadNote
from backup_tasks.stores.base import Store, StoredObject


@dataclass(frozen=True, slots=True)
class BackupRun:
    """One run: whose backup, where to, when, and how.

    Attributes:
        now: the run's start, aware; it gives the backup its name.
        clock: reads the time, for the moment when the manifest is written.
        full: read and send everything, even if chunks could be reused.
        margin_ns: how long after its ctime a file may still be written to unseen.
        accept_shrink: accept that what the sources lost is gone on purpose.
        keeper: keeps the store's claim; None leaves claims alone.
        take_over: make the store this profile's, whoever owned it.
        clocks: this machine's and the store's clock when the run began; None: they agree.
        proofs: notes on the store's backups.
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
        # Read once and written once, although a run lists the store several times.
        object.__setattr__(self, "proofs", ProofNotes(self.paths.state, self.store.place))

    @property
    def earliest_now(self) -> datetime:
        """The time by the earlier of the two clocks: by it, nothing seems older than it is."""
        return min(self.now, self.clocks.earliest) if self.clocks else self.now

    def census(self, listed: Iterable[StoredObject], host: str) -> Census:
        """The backups among the listed objects, and which of them count."""
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
        """The name of everything in the state directory that belongs to this profile and store."""
        return state_key(self.profile.name, self.store.url)

    @property
    def cache(self) -> ManifestCache:
        return ManifestCache(self.paths.state, self.state_key)

    @property
    def keys(self) -> Keyring:
        """The keys of the profile's identity file, if it names one; nobody is asked for its
        passphrase."""
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
