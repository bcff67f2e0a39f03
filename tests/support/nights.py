"""Night after night: a whole backup job with its prune, in this process, and time that passes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_tasks.backup.key_check import ProvenKeys
from backup_tasks.backup.scan import BackupPlan
from backup_tasks.census.catalog import Backup
from backup_tasks.claim.hold_note import SourcesMemory, SourcesNote
from backup_tasks.command.backup_job import BackupWish, run_backup_job, run_backup_plan_job
from backup_tasks.command.job import Job, journaled
from backup_tasks.command.prune_job import run_prune_job
from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.common.state_files import state_key
from backup_tasks.errors import BackupError
from backup_tasks.journal.run_record import RunRecord
from backup_tasks.prune.run_prune import PruneReport
from backup_tasks.read.listing import list_entries
from backup_tasks.stores.base import Store
from tests.support.cli import s3_store
from tests.support.details import find_backups
from tests.support.keys import make_key


@dataclass
class Nights:
    """A server with its profile.

    Attributes:
        store: the lines of [store].
        sources: what is backed up; more: further lines of [backup].
        recipients: public keys that the backups are encrypted for; no private key is here.
        keep: what `keep_last` says.
        now: what the clock shows. A night takes a minute, for the store has a clock too.
        starts: when each night began.
    """

    folder: Path
    paths: Paths
    store: str
    sources: Sequence[Path | str]
    more: str = ""
    recipients: tuple[str, ...] = ()
    keep: int = 2
    now: datetime = field(default_factory=lambda: _some_minutes_ago())
    starts: list[datetime] = field(default_factory=list)

    def write_profile(self) -> None:
        """The profile as a file."""
        file = self.paths.profiles / "prod.toml"
        named = json.dumps([str(source) for source in self.sources])
        file.write_text(
            f'[backup]\nsources = {named}\ntimezone = "UTC"\n{self.more}\n'
            f"[store]\n{self.store}\n[retention]\nkeep_last = {self.keep}\n"
            + (
                f"[encryption]\nrecipients = {json.dumps(self.recipients)}\n"
                * bool(self.recipients)
            )
        )
        file.chmod(0o600)

    def pass_night(self, *, accept_shrink: bool = False, full: bool = False) -> RunRecord:
        """Back up and prune, as cron does it; then a minute passes."""
        self.write_profile()
        self.starts.append(self.now)
        if self.recipients:
            ProvenKeys(self.paths.state).add(self.recipients, "skipped", self.now)
        try:
            return run_backup_job(
                "prod",
                self.paths,
                lambda: self.now,
                SilentProgress(),
                BackupWish(full, accept_shrink),
            )
        finally:
            self.now += timedelta(minutes=1)

    def plan(self) -> BackupPlan:
        """What a backup would do."""
        with self._job("backup") as job:
            return run_backup_plan_job(job, SilentProgress())

    def prune(self, *, dry_run: bool = False) -> tuple[PruneReport, RunRecord]:
        """What `invoke prune` does."""
        with self._job("prune") as job:
            return run_prune_job(job, dry_run=dry_run), job.record

    def _job(self, task: str):  # type: ignore[no-untyped-def]
        self.write_profile()
        return journaled(task, "prod", self.paths, lambda: self.now)

    def open_store(self) -> Store:
        """The profile's store."""
        with self._job("list") as job:
            assert isinstance(job, Job)
            return job.store

    def backups(self) -> list[Backup]:
        """Those that are in the store, oldest first."""
        return find_backups(self.open_store(), UTC)

    def names(self) -> list[str]:
        """Their objects' names."""
        return [backup.stored.name for backup in self.backups()]

    def holds(self, backup: str, file: Path) -> bool:
        """Whether a plain backup has this file."""
        store = self.open_store()
        [meant] = [one for one in self.backups() if one.stored.name == backup]
        wanted = str(file).lstrip("/")
        return any(entry.name == wanted for entry in list_entries(store, meant.stored, ()))

    def note(self) -> SourcesNote:
        """What this machine remembers of the sources."""
        return SourcesMemory(self.paths.state, state_key("prod", self.open_store().url)).read()

    def lose_memory(self) -> None:
        """The state directory is lost, but for the key that signs."""
        for place in self.paths.state.iterdir():
            if place.is_dir():
                shutil.rmtree(place)


def _some_minutes_ago() -> datetime:
    return datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=20)


def fill(folder: Path, files: int = 30, size: int = 100) -> None:
    """So many files in a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        (folder / f"file{number:03}").write_bytes(bytes([number % 256]) * size)


def refused(nights: Nights) -> str:
    """The words of a night that made no backup."""
    try:
        nights.pass_night()
    except BackupError as error:
        return str(error)
    raise AssertionError("there is a backup")


def server(
    request: pytest.FixtureRequest, folder: Path, *, is_encrypted: bool, on_s3: bool
) -> Nights:
    """A server with two sources; encrypted, it has no private key."""
    paths: Paths = request.getfixturevalue("paths")
    (folder / "store").mkdir()
    store = f'url = "file://{folder}/store/"'
    if on_s3:
        store = s3_store(request.getfixturevalue("s3_bucket"))
    nights = Nights(folder, paths, store, [folder / "etc", folder / "srv"])
    nights.recipients = (make_key(folder).recipient,) if is_encrypted else ()
    fill(folder / "etc")
    fill(folder / "srv")
    return nights


@pytest.fixture(params=["plain folder", "encrypted folder", "plain S3", "encrypted S3"])
def everywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Nights:
    is_encrypted, on_s3 = "encrypted" in request.param, "S3" in request.param
    return server(request, tmp_path, is_encrypted=is_encrypted, on_s3=on_s3)


@pytest.fixture(params=["plain folder", "encrypted S3"])
def nights(request: pytest.FixtureRequest, tmp_path: Path) -> Nights:
    is_encrypted, on_s3 = "encrypted" in request.param, "S3" in request.param
    return server(request, tmp_path, is_encrypted=is_encrypted, on_s3=on_s3)


@pytest.fixture
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Nights:
    return server(request, tmp_path, is_encrypted=False, on_s3=False)


def empty(folder: Path) -> None:
    """Delete all that is in it."""
    for place in folder.iterdir():
        shutil.rmtree(place) if place.is_dir() else place.unlink()
