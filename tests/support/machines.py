"""Machines that back up to stores, each with profiles, state, host name and id of its own."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_tasks.backup.key_check import ProvenKeys
from backup_tasks.claim import machine as machine_module
from backup_tasks.claim.claim_file import CLAIM_BYTES, Claim, parse_claim
from backup_tasks.command.backup_job import BackupWish, run_backup_job
from backup_tasks.command.job import journaled
from backup_tasks.command.prune_job import run_prune_job
from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.format.archive_names import CLAIM_NAME
from backup_tasks.journal.run_record import RunRecord
from backup_tasks.profile.load import load_profile
from backup_tasks.prune.run_prune import PruneReport
from backup_tasks.stores.base import Store
from backup_tasks.stores.registry import open_store
from backup_tasks.stores.s3.store import S3Store
from tests.conftest import S3Bucket
from tests.support.backups import paths_in
from tests.support.cli import s3_store

START = datetime(2025, 6, 12, 2, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Place:
    """Where backups go, and for whom.

    Attributes:
        lines: of a profile's [store].
        recipients: public keys; none for plain backups.
    """

    lines: str
    recipients: tuple[str, ...] = ()

    @staticmethod
    def folder(folder: Path, recipients: tuple[str, ...] = ()) -> Place:
        """A folder as a store."""
        folder.mkdir(exist_ok=True)
        return Place(f'url = "file://{folder}/"', recipients)

    @staticmethod
    def bucket(bucket: S3Bucket, recipients: tuple[str, ...] = ()) -> Place:
        """A prefix of a bucket as a store."""
        return Place(s3_store(bucket), recipients)


@dataclass
class Machine:
    """See the module.

    Attributes:
        host, machine: what the system would say; machine "" for one without an id.
        now: the clock, a day on after each backup.
        store_ahead: how far the clock of a bucket is ahead of this one; None: what it truly says.
    """

    here: Path
    host: str
    machine: str
    paths: Paths = field(init=False)
    now: datetime = START
    store_ahead: timedelta | None = timedelta(0)

    def __post_init__(self) -> None:
        self.here.mkdir()
        self.paths = paths_in(self.here)
        (self.here / "source").mkdir()
        (self.here / "source" / "file").write_text(f"of {self.host}")

    def write_profile(self, name: str, place: Place, retention: str = "keep_last = 1") -> None:
        """A profile of this machine's source."""
        file = self.paths.profiles / f"{name}.toml"
        lines = [
            f'[backup]\nsources = ["{self.here}/source"]\ntimezone = "UTC"',
            f"[store]\n{place.lines}\n[retention]\n{retention}",
        ]
        if place.recipients:
            ProvenKeys(self.paths.state).add(place.recipients, "skipped", self.now)
            named = ", ".join(f'"{one}"' for one in place.recipients)
            lines.append(f"[encryption]\nrecipients = [{named}]")
        file.write_text("\n".join(lines) + "\n")
        file.chmod(0o600)

    def back_up(self, name: str, *, take_over: bool = False) -> RunRecord:
        """Run `invoke backup`; a day later it is then."""
        with self.here_and_now():
            wish = BackupWish(take_over=take_over)
            record = run_backup_job(name, self.paths, lambda: self.now, SilentProgress(), wish)
        self.now += timedelta(days=1)
        return record

    def prune(self, name: str, adopted: Sequence[str] = ()) -> tuple[RunRecord, PruneReport]:
        """Run `invoke prune`."""
        with (
            self.here_and_now(),
            journaled("prune", name, self.paths, lambda: self.now, exclusive=True) as job,
        ):
            return job.record, run_prune_job(job, dry_run=False, adopted=adopted)

    def store(self, name: str) -> Store:
        """The profile's."""
        return open_store(load_profile(name, self.paths).store)

    def claim(self, name: str) -> Claim:
        """What lies in the profile's store."""
        return parse_claim(self.store(name).read_small(CLAIM_NAME, CLAIM_BYTES)[0])

    def log(self) -> str:
        """What stands in logs/backup.log."""
        return (self.paths.logs / "backup.log").read_text()

    def lose_state(self, *, but_proven_recipients: bool = True) -> None:
        """Empty the state directory."""
        proven = self.paths.state / "proven-recipients.json"
        kept = proven.read_bytes() if but_proven_recipients and proven.exists() else b""
        shutil.rmtree(self.paths.state)
        self.paths.state.mkdir(mode=0o700)
        if kept:
            proven.write_bytes(kept)

    def clone(self, here: Path, host: str, machine: str) -> Machine:
        """A copy of this machine's disk that runs under another name and id."""
        other = Machine(here, host, machine)
        other.now = self.now
        for name in ("profiles", "state"):
            shutil.copytree(self.here / name, here / name, dirs_exist_ok=True)
        return other

    @contextmanager
    def here_and_now(self) -> Iterator[None]:
        """What asks for host name and machine id gets this machine's."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(platform, "node", lambda: self.host)
            if (ahead := self.store_ahead) is not None:
                patch.setattr(S3Store, "store_time", lambda _: self.now + ahead)
            patch.setattr(machine_module, "hash_machine", lambda: self.machine)
            yield
