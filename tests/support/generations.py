"""Backups of one folder, generation after generation, and what other programs make of them."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from backup_tasks.common.progress import SilentProgress
from backup_tasks.format.manifest import Entry
from backup_tasks.format.manifest_lines import Manifest
from backup_tasks.read.manifest_reader import read_manifest
from backup_tasks.restore.request import RestoreRequest
from backup_tasks.restore.run_restore import run_restore
from backup_tasks.stores.base import PartLimits, Store, StoredObject
from backup_tasks.stores.registry import open_store
from tests.support.backups import Backups
from tests.support.details import find_backups
from tests.support.histories import CHUNK, noise
from tests.support.keys import decrypt
from tests.support.recording_store import RecordingStore

ANY = PartLimits(smallest=1, largest=2**62, count=2**31)
# As S3's, for archives of some tens of KiB.
NARROW = PartLimits(smallest=6_000, largest=2**20, count=40)
# The ctimes of a test are older than this, so that what they say is believed.
LATER = datetime(2100, 1, 1, 2, 0, tzinfo=UTC)
# ... and younger than this, so that every file is read to be sure.
EARLIER = datetime(2020, 1, 1, 2, 0, tzinfo=UTC)
# For a run at this time a test's files are new, and written after those that have been there long.
TODAY = datetime.now(UTC)


@dataclass
class Generations(Backups):
    """Backups whose stores keep a list of what was asked of them."""

    limits: PartLimits = ANY
    stores: list[RecordingStore] = field(default_factory=list)

    on_write: Callable[[], None] = lambda: None
    on_copy: Callable[[StoredObject], None] = lambda source: None

    def open_store(self) -> RecordingStore:
        store = RecordingStore(self._opened(), self.limits)
        store.on_write, store.on_copy = self.on_write, self.on_copy
        self.stores.append(store)
        return store

    def _opened(self) -> Store:
        return open_store(self.profile().store)

    def sent(self) -> int:
        """Bytes that the newest backup sent."""
        return sum(parts.sent_bytes for parts in self.stores[-1].written)

    def copied(self) -> int:
        """Bytes that it copied."""
        return sum(parts.copied_bytes for parts in self.stores[-1].written)

    def manifest(self) -> Manifest:
        """Of the newest archive."""
        store = self._opened()
        manifest = read_manifest(store, find_backups(store, UTC)[-1].stored, self.keys)
        assert manifest is not None
        return manifest

    def entry(self, name: str) -> Entry:
        """The newest archive's entry of a file below the source."""
        wanted = f"{self.source}/{name}".lstrip("/")
        return next(entry for entry in self.manifest().entries() if entry.name == wanted)


def fill(backups: Backups, count: int = 20, size: int = 1000) -> None:
    """Some files, and one of several chunks."""
    for number in range(count):
        (backups.source / f"file{number:02}").write_bytes(noise(number, size))
    (backups.source / "large").write_bytes(noise(99, 5 * CHUNK))


def untar(archive: Path, target: Path, program: str = "tar", key: Path | None = None) -> Path:
    """What a tar program makes of an archive alone, without the manifest.

    Args:
        key: opens it with age first.
    """
    if key is not None:
        plain = target.with_name(f"{target.name}.tar.gz")
        plain.write_bytes(decrypt(archive, key))
        archive = plain
    target.mkdir()
    command = {
        "tar": ["tar", "-xpf", archive, "--xattrs", "--xattrs-include=*", "--acls"],
        "bsdtar": ["bsdtar", "-xpf", archive, "--xattrs", "--acls"],
    }[program]
    subprocess.run([*command, "-C", target], check=True, capture_output=True)
    shutil.rmtree(target / ".backup")
    return target


def untar_by_python(archive: Path, target: Path) -> Path:
    with gzip.open(archive) as raw, tarfile.open(fileobj=raw, mode="r|") as tar:
        # Debian 12's Python knows no filters yet, and has none to trust fully.
        tar.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        tar.extractall(target)
    shutil.rmtree(target / ".backup")
    return target


def restored(backups: Backups, number: int, target: Path) -> Path:
    """What our own restore makes of the backup with this number."""
    store = open_store(backups.profile().store)
    backup = find_backups(store, UTC)[number]
    request = RestoreRequest(paths=(), target=target)
    report = run_restore(store, backup, request, SilentProgress(), backups.keys)
    assert not report.extracted.problems
    return target
