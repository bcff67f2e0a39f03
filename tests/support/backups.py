"""Backups of a small tree into a directory store, without the command line."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_tasks.backup.context import BackupRun
from backup_tasks.backup.run_backup import run_backup, run_backup_plan
from backup_tasks.backup.scan import BackupPlan
from backup_tasks.census.accepted import open_census, whose_count
from backup_tasks.claim.machine_key import open_own_key
from backup_tasks.common.paths import PROJECT_ROOT, Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.journal.run_record import RunRecord
from backup_tasks.keys.identities import Keyring
from backup_tasks.keys.signing import render_public_key
from backup_tasks.profile.load import load_profile
from backup_tasks.profile.model import Profile
from backup_tasks.prune.run_prune import PruneReport, demand_complete, run_prune
from backup_tasks.restore.request import RestoreReport, RestoreRequest
from backup_tasks.restore.run_restore import run_restore
from backup_tasks.stores.base import Store
from backup_tasks.stores.registry import open_store
from tests.support.details import find_backups
from tests.support.histories import use_small_chunks

# What the log says of a signing key that was just made.
NEW_KEY = "archives are signed from now on with this machine's new key"


def paths_in(folder: Path) -> Paths:
    """New folders below this one for all that a run writes, and the project's own templates."""
    folders = {name: folder / name for name in ("profiles", "logs", "state")}
    for path in folders.values():
        path.mkdir(mode=0o700)
    return Paths(root=PROJECT_ROOT, templates=PROJECT_ROOT / "templates", **folders)


@dataclass
class Backups:
    """A source, a store, and a clock that moves a day with every backup.

    Attributes:
        source: the folder that is backed up.
        store_folder: where the archives lie.
        extra: more TOML for the profile's [backup] table.
        name: the profile's.
        host: the machine's name, as record and manifest get it.
        recipients: public keys that the archives are encrypted for.
        key: file with the private key that the tests read them with; the profile names none.
        signers: public signing keys that the profile names.
    """

    source: Path
    store_folder: Path
    paths: Paths
    extra: str = ""
    now: datetime = field(default=datetime(2025, 6, 12, 2, 0, tzinfo=UTC))
    name: str = "test"
    host: str = "host"
    recipients: tuple[str, ...] = ()
    key: Path | None = None
    server_has_key: bool = False
    signers: tuple[str, ...] = ()

    def write_profile(self) -> Path:
        """The profile as a file."""
        self.store_folder.mkdir(exist_ok=True)
        file = self.paths.profiles / f"{self.name}.toml"
        file.write_text(
            f'[backup]\nsources = ["{self.source}"]\ntimezone = "UTC"\n{self.extra}\n'
            f'[store]\nurl = "file://{self.store_folder}/"\n'
            f"[signing]\npublic_key = {json.dumps(self.signers)}\n" + self._encryption()
        )
        file.chmod(0o600)  # whatever the umask: what others may write is refused
        return file

    def _encryption(self) -> str:
        if not self.recipients:
            return ""
        text = f"[encryption]\nrecipients = {json.dumps(self.recipients)}\n"
        return text + (f'identity_file = "{self.key}"\n' if self.server_has_key else "")

    @property
    def keys(self) -> Keyring:
        return Keyring(self.key)

    def profile(self) -> Profile:
        return load_profile(str(self.write_profile()), self.paths)

    def open_store(self) -> Store:
        return open_store(self.profile().store)

    def backup(self, *, full: bool = False) -> RunRecord:
        """Run one backup; returns its record."""
        profile = self.profile()
        record = RunRecord("backup", profile.name, self.host, profile.store.url, self.now)
        run_backup(self._run(profile, full=full), record)
        self.now += timedelta(days=1)
        return record

    def plan(self) -> BackupPlan:
        """What a backup would do now."""
        return run_backup_plan(self._run(self.profile(), full=False), self.host)

    def prune(
        self, profile: Profile | None = None, *, now: datetime | None = None, dry_run: bool = False
    ) -> PruneReport:
        """What `invoke prune` does."""
        profile, store = profile or self.profile(), self.open_store()
        accepted = whose_count(profile, self.paths.state, self.host)
        now, listed = now or self.now, store.list_objects()
        census = open_census(profile, store, self.paths.state, listed, accepted, now=now)
        census.look_at_all()
        census.save()
        return demand_complete(run_prune(profile, store, census, now, dry_run=dry_run))

    def _run(self, profile: Profile, *, full: bool) -> BackupRun:
        return BackupRun(
            profile,
            self.open_store(),
            self.paths,
            self.now,
            lambda: self.now + timedelta(seconds=35),
            SilentProgress(),
            full,
        )

    def trust_own_key(self) -> str:
        """Have the profile name this machine's public key from now on; returns it."""
        key, _ = open_own_key(self.paths.state)
        self.signers = (render_public_key(key.public_key),)
        return self.signers[0]

    def log(self) -> str:
        """What stands in logs/backup.log, without the dates and the news of a first key."""
        file = self.paths.logs / "backup.log"
        lines = file.read_text().splitlines() if file.exists() else []
        told = [line for line in lines if NEW_KEY not in line]
        return "\n".join(line.split("] ", 1)[-1] for line in told)

    def archive(self) -> Path:
        """The newest archive's file."""
        return max(self.store_folder.glob("*-backup.tar.gz*"))

    def restore(self, target: Path) -> RestoreReport:
        """Restore the newest backup below `target`."""
        store = self.open_store()
        newest = find_backups(store, UTC)[-1]
        request = RestoreRequest(paths=(), target=target)
        return run_restore(store, newest, request, SilentProgress(), self.keys)

    def in_target(self, target: Path) -> Path:
        """Where the source's restored twin lies."""
        return target / str(self.source).lstrip("/")

    def environ(self) -> dict[str, str]:
        """The variables that make the command line use the same folders."""
        return {
            "BACKUP_TASKS_PROFILES": str(self.paths.profiles),
            "BACKUP_TASKS_LOGS": str(self.paths.logs),
            "BACKUP_TASKS_STATE": str(self.paths.state),
        }


@contextlib.contextmanager
def small_backups() -> Iterator[Backups]:
    """Backups of an empty source in small chunks, in a folder of their own: one for each example
    of a test, where fixtures would be shared by all."""
    with (
        tempfile.TemporaryDirectory(prefix="test-backups-") as place,
        pytest.MonkeyPatch.context() as patch,
    ):
        use_small_chunks(patch)
        here = Path(place)
        (here / "source").mkdir()
        yield Backups(here / "source", here / "store", paths_in(here))
