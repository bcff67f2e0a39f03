"""Kill backups at random moments, on a real S3 server, and tell what the next run sent.

    .venv/bin/python bench/kills.py --kills 100 --mebibytes 160 --seed 1

Each round begins with nothing: one run of the real command is killed for good (kill -9), the
next one must succeed, GNU tar must find the source in its archive, and nothing of the killed run
may be left. The bytes are counted by a proxy between the command and the server.

    .venv/bin/python bench/kills.py --tasks --kills 200 --mebibytes 8

kills restore, prune, verify and drill in turns instead, see `task_kills`.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.task_kills import TASKS, TaskRounds
from tests.support.interruptions import KillingProxy, Scene, fill, make_cli, new_bucket
from tests.support.s3_server import S3Server, start_s3_server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--mebibytes", type=int, default=160, help="size of the source")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tasks", action="store_true", help="kill other tasks than backup")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="kills-") as folder,
        start_s3_server(Path(folder, "server")) as server,
        KillingProxy(server.endpoint) as proxy,
    ):
        scene = _scene(Path(folder, "project"), server, proxy, options.mebibytes)
        rng = random.Random(options.seed)  # noqa: S311
        if options.tasks:
            _kill_tasks(TaskRounds(scene, proxy, rng), options.kills)
            return
        rounds = _Rounds(scene, proxy, rng)
        rounds.measure()
        for number in range(options.kills):
            rounds.play(number)
        rounds.tell()


def _kill_tasks(rounds: TaskRounds, kills: int) -> None:
    """Play until so many were killed: those that had ended already do not count."""
    rounds.measure()
    for task in itertools.cycle(TASKS):
        if sum(rounds.killed.values()) >= kills:
            break
        rounds.play(task)
        print(f"{sum(rounds.killed.values()):3} killed, {task}", flush=True)
    rounds.tell()


def _scene(here: Path, server: S3Server, proxy: KillingProxy, mebibytes: int) -> Scene:
    here.mkdir()
    keys = (server.access_key, server.secret_key)
    bucket = new_bucket(server.endpoint, *keys, server.client())
    scene = Scene(make_cli(here), proxy, bucket)
    scene.write_profile()
    fill(scene.cli.source, mebibytes)
    return scene


class _Rounds:
    def __init__(self, scene: Scene, proxy: KillingProxy, rng: random.Random) -> None:
        self._scene, self._proxy, self._rng = scene, proxy, rng
        self._full_bytes = 0
        self._full_seconds = 0.0
        self._ratios: list[float] = []
        self._late = 0

    def measure(self) -> None:
        """One run that nobody disturbs."""
        self._scene.start_anew()
        began = time.monotonic()
        self._scene.back_up()
        self._full_seconds = time.monotonic() - began
        self._full_bytes = self._proxy.sent_bytes
        print(f"a whole run: {self._full_bytes:,} bytes, {self._full_seconds:.1f} s", flush=True)

    def play(self, number: int) -> None:
        """Kill at a random moment of the run's time or of its bytes, then let one succeed."""
        scene, proxy = self._scene, self._proxy
        scene.start_anew()
        if number % 2:
            seconds = self._rng.uniform(0, self._full_seconds)
            killed, what = scene.kill_backup(after_seconds=seconds), f"after {seconds:.2f} s"
        else:
            sent = self._rng.randrange(self._full_bytes)
            killed, what = scene.kill_backup(after_bytes=sent), f"after {sent:,} bytes"
        first = proxy.sent_bytes
        committed = scene.backups()
        assert scene.listed() == committed
        scene.back_up()
        assert len(scene.backups()) == len(committed) + 1
        scene.assert_clean()
        scene.assert_newest_is_the_tree()
        ratio = proxy.sent_bytes / self._full_bytes
        self._ratios.append(ratio)
        self._late += bool(committed)
        state = "killed" if killed else "had ended"
        state += ", backup was there" if committed else ""
        print(
            f"{number:3} {what:>22}: {state}; sent {first / self._full_bytes:5.3f} + "
            f"{ratio - first / self._full_bytes:5.3f} = {ratio:5.3f}",
            flush=True,
        )

    def tell(self) -> None:
        """The sum."""
        ratios = sorted(self._ratios)
        print(
            f"{len(ratios)} kills, {self._late} of them after the commit; sent by both runs, as a "
            f"multiple of a whole run: median {statistics.median(ratios):.3f}, "
            f"mean {statistics.mean(ratios):.3f}, largest {ratios[-1]:.3f}"
        )


if __name__ == "__main__":
    main()
