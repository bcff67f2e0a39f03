"""How time and memory grow: ever more small files, and one large one. This project alone.

.venv/bin/python -m bench.scale --size small
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bench.growth import Growth, Point, render_growth
from bench.machine import describe_machine
from bench.measure import Cost, WorkFailed, measure
from bench.noise import noise, numbers
from bench.peer import Scene
from bench.peers import Us
from bench.phases import Phase
from bench.rubbish import Rubbish
from bench.server import fresh_bucket, give_room_back
from bench.session import HERE, ends_tidily, report_folder, working_folder
from bench.trees import differences, fingerprint, summarize
from tests.support.s3_server import S3Server, start_s3_server

_GIB = 2**30
_WRITE_BYTES = 16 * 2**20
_FILES_OF_A_FOLDER = 100
_PHASES = (Phase.FIRST, Phase.UNCHANGED, Phase.LIST, Phase.RESTORE)
_SCALES = {"full": 1, "small": 20, "tiny": 1000}


@dataclass(frozen=True)
class Load:
    """One tree.

    Attributes:
        needed_bytes, needed_files: of the disk, at the worst moment.
    """

    name: str
    fill: Callable[[Path], None]
    needed_bytes: int
    needed_files: int


def plan_loads(divisor: int) -> Iterator[Load]:
    """100 thousand, 300 thousand and a million files, and one of 20 GiB; all of it divided."""
    for thousands in (100, 300, 1000):
        count = thousands * 1000 // divisor
        # Each takes a block of its own, in the tree or restored, and its share of the archives.
        fill = functools.partial(fill_many, count=count)
        yield Load(f"{count:,} files", fill, 8192 * count, 2 * count)
    size = 20 * _GIB // divisor
    # The file and two archives; while the first is made, what is staged takes the second's place,
    # and what is restored takes the file's.
    fill = functools.partial(fill_one, size=size)
    yield Load(f"one file of {size / _GIB:.3g} GiB", fill, size * 32 // 10, 1000)


def fill_many(place: Path, count: int) -> None:
    """Small files, of 20 to 270 bytes, in folders of a hundred."""
    for start in range(0, count, _FILES_OF_A_FOLDER):
        folder = place / f"{start // 100_000:03}" / f"{start:08}"
        folder.mkdir(parents=True)
        for number, size in enumerate(numbers(f"{start}", min(_FILES_OF_A_FOLDER, count - start))):
            content = f"{start + number:020}".encode() + noise(f"{size}", size & 127).hex().encode()
            (folder / f"{start + number:08}").write_bytes(content)


def fill_one(place: Path, size: int) -> None:
    """One file that does not compress."""
    with open(place / "large", "wb") as file:
        for start in range(0, size, _WRITE_BYTES):
            file.write(noise(f"large {start}", min(_WRITE_BYTES, size - start)))


@dataclass(frozen=True)
class Bench:
    """What all loads share. `folder` is empty between them."""

    server: S3Server
    folder: Path
    rubbish: Rubbish = field(default_factory=Rubbish)

    def measure(self, number: int, load: Load) -> Iterator[Point]:
        """All works on one load, of which nothing is left afterwards."""
        folder, source = self.folder / f"load{number}", self.folder / "source"
        try:
            for place in (folder, source):
                place.mkdir()
                self.rubbish.add(place)
            load.fill(source)
            wanted = fingerprint(source)
            sizes = [(source / path).stat().st_size for path, one in wanted.items() if one.sha256]
            with fresh_bucket(self.server.client(), f"load{number}") as bucket:
                us = self._peer(folder, source, bucket)
                target = folder / "restored"
                for phase in _PHASES:
                    if phase is Phase.RESTORE:
                        if len(sizes) == 1:
                            shutil.rmtree(source)  # to have room for another one
                        self.rubbish.wait()
                    cost = self._cost(us, phase, target)
                    yield Point(
                        load.name,
                        len(sizes),
                        sum(sizes),
                        phase.value,
                        cost.wall_seconds,
                        cost.cpu_seconds,
                        cost.largest_kib,
                        us.stored_bytes(),
                    )
                lines = differences(wanted, fingerprint(target / str(source).lstrip("/")))
                if lines:
                    raise WorkFailed(f"{load.name}: restored something else:\n{summarize(lines)}")
        finally:
            self.rubbish.clear()

    def _peer(self, folder: Path, source: Path, bucket: str) -> Us:
        us = Us(
            Scene(
                folder=folder,
                corpus=source,
                one_file=source,
                bucket=bucket,
                endpoint=self.server.endpoint,
                access_key=self.server.access_key,
                secret_key=self.server.secret_key,
                client=self.server.client(),
            )
        )
        us.prepare()
        return us

    def _cost(self, us: Us, phase: Phase, target: Path) -> Cost:
        give_room_back(self.server)
        work = us.work(phase, target)
        assert work is not None
        return measure(work)


def run_bench(size: str, work: Path, file: Path) -> Growth:
    """Measure every load that there is room for; `file` has those that came to their end."""
    growth = Growth(datetime.now(UTC).strftime("%Y-%m-%d"), describe_machine())
    # In small files, so that what is deleted makes room at once.
    with working_folder(work) as place, start_s3_server(place / "server") as server:
        bench = Bench(server, place)
        for number, load in enumerate(plan_loads(_SCALES[size])):
            if why := _what_is_missing(place, load):
                growth.skipped[load.name] = why
                print(f"{load.name}: not measured: {why}", flush=True)
            else:
                for point in bench.measure(number, load):
                    growth.points.append(point)
                    _tell(point)
            growth.save(file)
    return growth


def _tell(point: Point) -> None:
    print(
        f"{point.load:<22} {point.phase:<24} {point.wall_seconds:8.2f} s "
        f"{point.cpu_seconds:8.2f} s CPU {point.largest_kib / 1024:6.0f} MiB",
        flush=True,
    )


def _what_is_missing(place: Path, load: Load) -> str:
    there = os.statvfs(place)
    free = there.f_bavail * there.f_frsize
    if free < load.needed_bytes:
        needed = load.needed_bytes / _GIB
        return f"{needed:.1f} GiB of disk are needed, {free / _GIB:.1f} are free"
    if there.f_files > 0 and there.f_favail < load.needed_files:
        return f"{load.needed_files:,} inodes are needed, {there.f_favail:,} are free"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=_SCALES, default="full")
    parser.add_argument("--folder", type=Path, default=HERE / "work", help="for all that is made")
    parser.add_argument("--results", type=Path, help="folder of the report")
    asked = parser.parse_args()
    work = asked.folder.resolve()
    results = asked.results or report_folder(asked.size, work)
    with ends_tidily():
        growth = run_bench(asked.size, work, results / "scale.json")
        (results / "scale.md").write_text(render_growth(growth))
        print(f"wrote scale.md to {results}")


if __name__ == "__main__":
    main()
