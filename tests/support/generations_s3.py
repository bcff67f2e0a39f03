"""Backups of generations into a bucket, counted on the wire; for the tests and the benchmark."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from backup_tasks.stores.base import Store
from backup_tasks.stores.s3.store import LIMITS
from tests.conftest import S3Bucket
from tests.support.cli import s3_store
from tests.support.faulty_proxy import FaultyProxy
from tests.support.generations import Generations

MIB = 2**20
# Requests that send nothing: their lines, headers and signatures.
TALK = 40_000


@dataclass
class S3Generations(Generations):
    """Backups into a bucket through a counting proxy."""

    bucket: S3Bucket = field(kw_only=True)
    proxy: FaultyProxy = field(kw_only=True)
    opened: Store | None = None

    def write_profile(self) -> Path:
        file = self.paths.profiles / f"{self.name}.toml"
        store = s3_store(self.bucket, endpoint_url=self.proxy.endpoint)
        file.write_text(
            f'[backup]\nsources = ["{self.source}"]\ntimezone = "UTC"\n{self.extra}\n'
            f"[store]\n{store}\n"
        )
        file.chmod(0o600)
        return file

    def _opened(self) -> Store:
        # Making a client takes longer than a small backup.
        self.opened = self.opened or super()._opened()
        return self.opened

    def counted(self) -> int:
        """Make a backup; returns the bytes that went to the server meanwhile."""
        before = self.proxy.sent_bytes
        assert self.backup().problems == []
        for written in self.stores[-1].written:
            written.check(LIMITS)
        return self.proxy.sent_bytes - before

    def fetch(self, target: Path) -> Path:
        """The newest archive as any other client gets it."""
        key = self.bucket.keys()[-1]
        self.bucket.client.download_file(self.bucket.bucket, key, str(target))
        return target

    def archive_bytes(self) -> int:
        """Of the newest archive."""
        return self.open_store().list_objects()[-1].size

    def overhead(self) -> int:
        """Stored bytes of the newest archive's folders, manifest, end mark and footer."""
        manifest = self.manifest()
        folders = {entry.chunk for entry in manifest.entries() if entry.type == "dir"}
        end = self.archive_bytes() - manifest.header.chunk_bytes
        return end + sum(manifest.chunks[number].length for number in folders)


def text(chooser: random.Random, size: int) -> bytes:
    """Bytes that compress to about half, as files mostly do."""
    return chooser.randbytes(size // 2).hex().encode()


def fill(backups: Generations, count: int, chooser: random.Random, most: int = 8000) -> list[Path]:
    """Small files in folders of a hundred."""
    made = []
    for number in range(count):
        file = backups.source / f"folder{number // 100:03}" / f"file{number:05}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(text(chooser, chooser.randrange(200, most)))
        made.append(file)
    return made


def compressed(files: list[Path], backups: Generations) -> int:
    """What tar and gzip make of these files alone."""
    names = b"\0".join(os.fsencode(file.relative_to(backups.source)) for file in files)
    tar = subprocess.run(
        ["tar", "-cf", "-", "-C", backups.source, "--null", "-T", "-"],
        input=names,
        check=True,
        capture_output=True,
    )
    return len(gzip.compress(tar.stdout, 1))


def _change_often(files: list[Path]) -> list[Path]:
    """Those of which four of five changes are: three percent of all."""
    return files[:: len(files) // (len(files) * 3 // 100)]


def let_age(backups: Generations, files: list[Path], chooser: random.Random) -> None:
    """Set the times of files as if they had long been changing as `change_some` does it."""
    often, a_day = set(_change_often(files)), len(files) // 100
    for file in files:
        chance = 0.8 * a_day / len(often) if file in often else 0.2 * a_day / len(files)
        _set_age(file, backups, chooser.expovariate(chance))


def _set_age(file: Path, backups: Generations, days: float) -> None:
    moment = backups.now.timestamp() - days * 24 * 3600
    os.utime(file, (moment, moment))


def change_some(
    backups: Generations, files: list[Path], chooser: random.Random, most: int
) -> list[Path]:
    """One percent, as on most servers: mainly a few that change every day."""
    often, count = _change_often(files), len(files) // 100
    changed = chooser.sample(often, count * 4 // 5)
    changed += chooser.sample([file for file in files if file not in changed], count // 5)
    for file in changed:
        file.write_bytes(text(chooser, chooser.randrange(200, most)))
        _set_age(file, backups, chooser.random())
    return changed


def live_a_day(
    backups: Generations, files: list[Path], day: int, chooser: random.Random, most: int
) -> None:
    """Mixed change: content, growth, times, modes, new files, and those of last week gone."""
    change_some(backups, files, chooser, most)
    with open(files[10], "ab") as file:
        file.write(text(chooser, 3000))
    _set_age(files[10], backups, 0)
    os.utime(files[20], (day, day))
    files[30].chmod(0o600 + day)
    new = backups.source / f"day{day:02}"
    new.mkdir()
    (new / "new").write_bytes(text(chooser, 20_000))
    _set_age(new / "new", backups, 0)
    os.link(new / "new", new / "link")
    old = backups.source / f"day{day - 7:02}"
    if old.exists():
        shutil.rmtree(old)
