"""How much an incremental backup sends, counted on the wire between us and a real S3 server.

    .venv/bin/python -m bench.incremental                 the full size, some minutes and 15 GB
    .venv/bin/python -m bench.incremental --scale 0.05    a look

It needs the development dependencies: SeaweedFS serves, and a proxy counts every byte that comes
from us, headers included. Everything lies in a temporary folder and is removed in the end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from backup_tasks.common.paths import PROJECT_ROOT, Paths
from backup_tasks.stores.s3.store import LIMITS
from tests.conftest import S3Bucket
from tests.support.faulty_proxy import FaultyProxy
from tests.support.generations_s3 import (
    MIB,
    S3Generations,
    change_some,
    compressed,
    fill,
    let_age,
    live_a_day,
    text,
)
from tests.support.s3_server import S3Server, start_s3_server

# Later than every ctime, so that what files say of themselves is believed.
_START = datetime(2100, 1, 1, 2, 0, tzinfo=UTC)
_MOST_BYTES = 8000
_MB = 1e6


@dataclass(frozen=True)
class Bench:
    """The server, and where scenes are built up.

    Attributes:
        scale: 1 is the full size.
    """

    server: S3Server
    folder: Path
    scale: float

    @contextlib.contextmanager
    def scene(self, name: str) -> Iterator[S3Generations]:
        """An empty source and bucket, both gone afterwards."""
        client = self.server.client()
        with (
            tempfile.TemporaryDirectory(dir=self.folder) as folder,
            FaultyProxy(self.server.endpoint) as proxy,
        ):
            places = {key: Path(folder, key) for key in ("profiles", "logs", "state", "source")}
            for place in places.values():
                place.mkdir()
            source = places.pop("source")
            paths = Paths(root=PROJECT_ROOT, templates=PROJECT_ROOT / "templates", **places)
            keys = self.server.access_key, self.server.secret_key
            bucket = S3Bucket(self.server.endpoint, name, *keys, client)
            client.create_bucket(Bucket=name)
            try:
                yield S3Generations(
                    source,
                    Path(folder, "unused"),
                    paths,
                    extra='full_every = "365d"',
                    now=_START,
                    limits=LIMITS,
                    bucket=bucket,
                    proxy=proxy,
                )
            finally:
                client.delete_bucket(Bucket=name)


def measure(backups: S3Generations, what: str, allowed: int | None = None) -> int:
    """Make a backup and print its line; returns the bytes that were counted."""
    started = time.monotonic()
    sent = backups.counted()
    seconds = time.monotonic() - started
    limit = "-" if allowed is None else f"{allowed / _MB:,.2f}"
    verdict = "" if allowed is None else "  ok" if sent <= allowed else "  TOO MUCH"
    size = backups.archive_bytes() / _MB
    print(f"{what:<52} {size:>9,.1f} {sent / _MB:>10,.2f} {limit:>10} {seconds:>7.1f}{verdict}")
    return sent


def small_files(bench: Bench) -> None:
    """Many small files: nothing changed, one percent changed, 21 days later."""
    chooser = random.Random(1)  # noqa: S311
    with bench.scene("small") as backups:
        count = int(100_000 * bench.scale)
        files = fill(backups, count, chooser, most=_MOST_BYTES)
        let_age(backups, files, chooser)
        measure(backups, f"{count:,} small files, first backup")
        measure(backups, "  nothing changed")
        overhead = backups.overhead()
        print(f"    of which folders, manifest and end: {overhead / _MB:.2f} MB")
        for file in (changed := chooser.sample(files, count // 100)):
            file.write_bytes(text(chooser, chooser.randrange(200, _MOST_BYTES)))
        budget = int(1.5 * compressed(changed, backups)) + overhead
        measure(backups, f"  {len(changed):,} of them changed, anywhere", budget)
        _days_of_mixed_change(backups, files, chooser)


def files_without_age(bench: Bench) -> None:
    """The same where no file's time tells whether it changes often: all were just put there."""
    chooser = random.Random(1)  # noqa: S311
    with bench.scene("ageless") as backups:
        count = int(100_000 * bench.scale)
        files = fill(backups, count, chooser, most=_MOST_BYTES)
        measure(backups, f"{count:,} small files of one age, first backup")
        _days_of_mixed_change(backups, files, chooser)


def _days_of_mixed_change(
    backups: S3Generations, files: list[Path], chooser: random.Random
) -> None:
    for day in range(21):
        live_a_day(backups, files, day, chooser, most=_MOST_BYTES)
        measure(backups, f"  day {day + 1} of mixed change")
    changed = change_some(backups, files, chooser, _MOST_BYTES)
    budget = int(1.5 * compressed(changed, backups)) + backups.overhead()
    measure(backups, f"  {len(changed):,} changed on the day after", budget)
    aged = backups.archive_bytes()
    backups.backup(full=True)
    print(f"    archive {aged / backups.archive_bytes():.3f} times a fresh full one")


def changed_anywhere(bench: Bench) -> None:
    """The hardest case: each day another percent, so that stale entries are everywhere."""
    chooser = random.Random(2)  # noqa: S311
    with bench.scene("anywhere") as backups:
        count = int(100_000 * bench.scale)
        files = fill(backups, count, chooser, most=_MOST_BYTES)
        measure(backups, f"{count:,} small files, first backup")
        for day in range(30):
            for file in (changed := chooser.sample(files, count // 100)):
                file.write_bytes(text(chooser, chooser.randrange(200, _MOST_BYTES)))
            budget = int(1.5 * compressed(changed, backups)) + backups.overhead()
            measure(backups, f"  day {day + 1}: 1 % changed, anywhere", budget)
        aged = backups.archive_bytes()
        backups.backup(full=True)
        print(f"    archive {aged / backups.archive_bytes():.3f} times a fresh full one")


def large_files(bench: Bench) -> None:
    """A log that grew, and an image that changed in one place."""
    for name, mebibytes in (("log", 2048), ("image", 1024)):
        size = int(mebibytes * bench.scale) * MIB
        with bench.scene(name) as backups:
            path = backups.source / name
            with open(path, "wb") as file:
                for _ in range(size // MIB):
                    file.write(os.urandom(MIB))
            measure(backups, f"{name} of {size // MIB:,} MiB, first backup")
            if name == "log":
                with open(path, "ab") as file:
                    file.write(os.urandom(10 * MIB))
                measure(backups, "  grown by 10 MiB", 16 * MIB)
            else:
                with open(path, "r+b") as file:
                    file.seek(size // 2 + 12_345)
                    file.write(b"changed")
                measure(backups, "  changed in one place", 12 * MIB)


SCENES: dict[str, Callable[[Bench], None]] = {
    "small": small_files,
    "large": large_files,
    "ageless": files_without_age,
    "anywhere": changed_anywhere,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="1 is the full size")
    parser.add_argument("--scene", choices=SCENES, action="append", help="default: small and large")
    parser.add_argument("--folder", type=Path, help="for the sources and the server's files")
    asked = parser.parse_args()
    head = ("", "archive MB", "sent MB", "at most", "seconds")
    print(f"{head[0]:<51} {head[1]:>9} {head[2]:>10} {head[3]:>10} {head[4]:>7}")
    with (
        tempfile.TemporaryDirectory(dir=asked.folder) as folder,
        start_s3_server(Path(folder, "server")) as server,
    ):
        bench = Bench(server, Path(folder), asked.scale)
        for scene in asked.scene or ("small", "large"):
            SCENES[scene](bench)


if __name__ == "__main__":
    main()
