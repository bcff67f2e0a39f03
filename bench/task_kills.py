"""Kill restore, prune, verify and drill at random moments: what must still be there afterwards.

Each task works on a few real backups in a bucket. Whatever moment it is killed at (kill -9), no
backup that it does not delete on purpose may be lost, no half file may have its name, and the same
command must succeed when it is given again.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.cli import finish
from tests.support.histories import fingerprint
from tests.support.interruptions import KillingProxy, Scene

TASKS = ("restore", "prune", "verify", "drill")
KEPT, TOO_MANY = 2, 2
RETENTION = f"[retention]\nkeep_last = {KEPT}\n"


class TaskRounds:
    """Rounds of all these tasks on the backups of one scene.

    Args:
        scene: its source is filled, and its bucket empty; proxy: before its server.
    """

    def __init__(self, scene: Scene, proxy: KillingProxy, rng: random.Random) -> None:
        self._scene, self._proxy, self._rng = scene, proxy, rng
        self._target = scene.cli.here / "target"
        self._temporary = scene.cli.here / "tmp"
        self._temporary.mkdir()
        self._requests: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._changes = 0
        self.killed = dict.fromkeys(TASKS, 0)
        self.played = dict.fromkeys(TASKS, 0)

    def measure(self) -> None:
        """Make the backups, and let each task come to its end once."""
        self._make_backups()
        for task in TASKS:
            before, began = self._proxy.requests, time.monotonic()
            self._run(*self._command(task))
            self._requests[task] = self._proxy.requests - before
            self._seconds[task] = time.monotonic() - began
            shutil.rmtree(self._target, ignore_errors=True)

    def play(self, task: str) -> None:
        """Kill the task at a random moment, look, and let it succeed."""
        if task == "prune":
            self._make_backups()
        before = self._scene.backups()
        killed = self._kill(task)
        self.played[task] += 1
        self.killed[task] += killed
        after = self._scene.backups()
        assert after[-KEPT:] == before[-KEPT:], f"{task} lost a backup: {before} -> {after}"
        assert task == "prune" or after == before, f"{task} deleted: {before} -> {after}"
        getattr(self, f"_after_{task}", lambda: None)()
        self._run(*self._command(task))
        getattr(self, f"_in_the_end_of_{task}", lambda: None)()
        self._scene.assert_newest_is_the_tree()
        shutil.rmtree(self._target, ignore_errors=True)

    def _after_restore(self) -> None:
        """What has a name is whole."""
        source = self._scene.cli.source
        restored = self._target / str(source).lstrip("/")
        for folder, folders, names in os.walk(restored):
            folders[:] = [name for name in folders if not name.startswith(".backup-tasks-")]
            for name in names:
                place = Path(folder, name)
                whole = source / place.relative_to(restored)
                assert place.read_bytes() == whole.read_bytes(), f"half a file: {place}"

    def _in_the_end_of_restore(self) -> None:
        restored = self._target / str(self._scene.cli.source).lstrip("/")
        assert fingerprint(restored) == fingerprint(self._scene.cli.source)
        left = [name for name in os.listdir(self._target) if name.startswith(".backup-tasks-")]
        assert not left, left

    def _in_the_end_of_prune(self) -> None:
        left = self._scene.backups()
        assert len(left) == KEPT, f"prune left {left}"

    def _after_drill(self) -> None:
        """The next run of anything removes what a killed drill had restored."""
        self._run("list", "--profile", "test")
        left = [name for name in os.listdir(self._temporary) if "drill" in name]
        assert not left, left

    def _in_the_end_of_drill(self) -> None:
        self._after_drill()

    def _command(self, task: str) -> Sequence[str]:
        more = ("--to", str(self._target), "--overwrite", "never") if task == "restore" else ()
        return (task, "--profile", "test", *more)

    def _kill(self, task: str) -> bool:
        if task == "restore":
            self._target.mkdir()  # a folder that is there: files are made beside others' names
        process = self._scene.cli.start(*self._command(task), TMPDIR=str(self._temporary))
        # Before the first request it only starts, which nothing can be lost by.
        delay = self._rng.uniform(0, 0.1) * self._seconds[task]
        timer = threading.Timer(delay, process.kill)
        self._proxy.arm(timer.start, after_requests=self._rng.randint(1, self._requests[task]))
        done = finish(process)
        timer.cancel()
        self._proxy.disarm()
        assert done.code in (0, -9), done
        return done.code == -9

    def _run(self, *command: str) -> None:
        done = self._scene.cli.run(*command, TMPDIR=str(self._temporary))
        assert done.code == 0, done

    def _make_backups(self) -> None:
        """As many as are kept, and some more, where nothing was before: a name that prune has freed
        would be given to a backup of the same minute."""
        self._scene.start_anew()
        self._scene.write_profile()  # without [retention]: a backup must prune nothing itself
        for _ in range(KEPT + TOO_MANY):
            self._changes += 1
            (self._scene.cli.source / "changes").write_text(f"{self._changes}\n" * 1000)
            self._run("backup", "--profile", "test")
        self._scene.write_profile(more=RETENTION)

    def tell(self) -> None:
        """The sum."""
        for task in TASKS:
            print(f"{task}: killed {self.killed[task]} times of {self.played[task]}, 0 lost")
