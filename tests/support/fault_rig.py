"""Whole runs of the tool, in this process, through a `FaultProxy`; and what is there afterwards.

Run as a script it prints what each fault does to each kind of run, as a table:

    python -m tests.support.fault_rig [word of a fault's name, or numbers as 0:25]
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from unittest import mock

from backup_tasks.census.reading import Reading
from backup_tasks.command.backup_job import run_backup_job
from backup_tasks.command.job import journaled
from backup_tasks.command.prune_job import run_prune_job
from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.errors import BackupError
from backup_tasks.format.archive_names import CLAIM_NAME
from backup_tasks.prune.run_prune import demand_complete
from backup_tasks.restore.request import RestoreWish
from backup_tasks.restore.run_restore import run_restore_job
from backup_tasks.stores.s3 import store as s3
from backup_tasks.verify.run_verify import VerifyWish, run_verify_job
from tests.conftest import S3Bucket
from tests.support.backups import paths_in
from tests.support.cli import s3_store
from tests.support.fault_proxy import FAULTS, FaultProxy, NamedFault
from tests.support.faulty_proxy import Answer, PassOn, Request
from tests.support.histories import fingerprint
from tests.support.interruptions import new_bucket
from tests.support.s3_server import start_s3_server

KINDS: Final = ("first", "incremental", "resumed", "restore", "verify", "prune")
_make_client = s3.make_client
# Enough for two parts and a copy; and for those runs that need neither.
LARGE_BYTES: Final = 11 * 2**20
SMALL_BYTES: Final = 100_000
# Shorter than a stall, and long for any other answer.
_SHORT_SECONDS: Final = 2.5


def _first_alone() -> NamedFault:
    """Of all parts the first arrives, and the others fail only then."""
    arrived = threading.Event()

    def fault(request: Request, pass_on: PassOn) -> Answer | None:
        if not re.search(r"partNumber=1(&|$)", request.path):
            arrived.wait(60)
            return None
        answer = pass_on(request)
        arrived.set()
        return answer

    return NamedFault("the first part arrives alone", ("UploadPart",), fault)


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its exit code, and the line that it says then."""

    code: int
    said: str = ""


_clients: dict[tuple[object, ...], Any] = {}


def _one_client(settings: Any, endpoint: str, place: Any) -> Any:
    """One client for all runs that want the same: making one takes longer than a small run."""
    wanted = (endpoint, settings.max_attempts, s3._READ_SECONDS)
    if wanted not in _clients:
        _clients[wanted] = _make_client(settings, endpoint, place)
    return _clients[wanted]


@contextlib.contextmanager
def impatient(read_seconds: float = 60) -> Iterator[None]:
    """Nobody waits before a request is repeated; less is worth staging.

    Args:
        read_seconds: how long an answer is waited for.
    """
    with (
        mock.patch("botocore.retries.standard.ExponentialBackoff.delay_amount", return_value=0),
        mock.patch("backup_tasks.stores.s3.client._LONGEST_PAUSE_SECONDS", 0.0),
        mock.patch("backup_tasks.stores.s3.store._READ_SECONDS", read_seconds),
        mock.patch("backup_tasks.stores.s3.store.make_client", _one_client),
        mock.patch("backup_tasks.backup.writers.RESUMABLE_BYTES", 2**20),
    ):
        yield


@dataclass
class Rig:
    """A source, a profile, a bucket behind a proxy, and a clock that moves with each run.

    Attributes:
        here: an empty folder; its name is that of the prefix, too, as a new bucket takes long.
    """

    here: Path
    paths: Paths
    bucket: S3Bucket
    proxy: FaultProxy
    runs: int = 0
    start: datetime = field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def make(cls, here: Path, bucket: S3Bucket, proxy: FaultProxy) -> Rig:
        rig = cls(here, paths_in(here), bucket, proxy)
        rig.source.mkdir()
        rig.write_profile()
        return rig

    @property
    def prefix(self) -> str:
        return f"{self.here.name}/"

    @property
    def source(self) -> Path:
        return self.here / "source"

    def write_profile(self, more: str = "", **store: str | int) -> None:
        """`store` replaces keys of [store]."""
        url = f"s3://{self.bucket.bucket}/{self.prefix}"
        others = {"url": url, "endpoint_url": self.proxy.endpoint, "max_attempts": 2, **store}
        lines = s3_store(self.bucket, **others)
        file = self.paths.profiles / "test.toml"
        file.write_text(
            f'[backup]\nsources = ["{self.source}"]\ntimezone = "UTC"\n[store]\n{lines}\n{more}'
        )
        file.chmod(0o600)

    def fill(self, size: int, seed: int = 0) -> None:
        """Two files: one of this size, and a small one that changes with the seed."""
        large = self.source / "large"
        if not large.exists():
            large.write_bytes(random.Random(size).randbytes(size))
        (self.source / f"small-{seed}").write_bytes(random.Random(seed).randbytes(5000))

    def clock(self) -> datetime:
        return self.start + timedelta(minutes=self.runs)

    def _outcome(self, run: Callable[[], None]) -> Outcome:
        """Whatever is no BackupError would be a traceback: it passes."""
        self.runs += 1
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                run()
        except BackupError as error:
            return Outcome(error.exit_code, str(error))
        return Outcome(0, said.getvalue())

    def back_up(self) -> Outcome:
        return self._outcome(
            lambda: run_backup_job("test", self.paths, self.clock, SilentProgress()) and None
        )

    def _job(self, task: str, work: Callable[[Any], None]) -> Outcome:
        def run() -> None:
            with journaled(task, "test", self.paths, self.clock) as job:
                work(job)

        return self._outcome(run)

    def restore(self) -> Outcome:
        """Into the folder `restored`, made anew."""
        target = self.here / "restored"
        shutil.rmtree(target, ignore_errors=True)

        def work(job: Any) -> None:
            wish = RestoreWish(to=str(target))
            reading = Reading(job.profile, job.store, self.paths.state, job.record)
            done = run_restore_job(reading, wish, self.here, SilentProgress())
            if done.extracted.problems:
                raise BackupError(f"not restored: {done.extracted.problems}")

        return self._job("restore", work)

    def verify(self) -> Outcome:
        def work(job: Any) -> None:
            reading = Reading(job.profile, job.store, self.paths.state, job.record)
            found = run_verify_job(reading, VerifyWish(), self.clock(), SilentProgress())
            if any(one.is_damaged for one in found):
                raise BackupError("damaged")

        return self._job("verify", work)

    def prune(self) -> Outcome:
        def work(job: Any) -> None:
            demand_complete(run_prune_job(job, dry_run=False))

        return self._job("prune", work)

    # What is there

    def objects(self) -> dict[str, tuple[str, int]]:
        """Every key of the store but the claim's -> its ETag and size."""
        listed = self.bucket.client.list_objects_v2(Bucket=self.bucket.bucket, Prefix=self.prefix)
        return {
            one["Key"]: (one["ETag"], one["Size"])
            for one in listed.get("Contents", [])
            if not one["Key"].endswith(CLAIM_NAME)
        }

    def left_over(self) -> list[str]:
        """What is no backup: staging objects, uploads, and state of a run under way."""
        uploads = self.bucket.client.list_multipart_uploads(
            Bucket=self.bucket.bucket, Prefix=self.prefix
        )
        state = self.paths.state
        return [
            *(key for key in self.objects() if not key.endswith("-backup.tar.gz")),
            *(f"upload of {one['Key']}" for one in uploads.get("Uploads", [])),
            *map(str, [*state.glob("staging/*"), *state.glob("uploads/*")]),
        ]

    def newest_is_the_tree(self) -> bool:
        """Whether the newest backup, restored without faults, is the source."""
        done = self.restore()
        assert done.code == 0, done
        restored = self.here / "restored" / str(self.source).lstrip("/")
        return fingerprint(restored) == fingerprint(self.source)


@dataclass(frozen=True)
class Verdict:
    """What a fault did to a run.

    Attributes:
        met: how many requests met it; without any it is another run that shows it.
        wrong: what a fault must never do, in words.
    """

    outcome: Outcome
    met: int
    wrong: tuple[str, ...]


def prepare(rig: Rig, kind: str, size: int) -> None:
    """What is there before a run of this kind."""
    rig.fill(size)
    if kind == "first":
        return
    if kind == "resumed":
        rig.proxy.inject(_first_alone())
        assert rig.back_up().code == 1
        rig.proxy.heal()
        return
    for seed in range(2 if kind == "prune" else 1):
        rig.fill(size, seed)
        assert rig.back_up() == Outcome(0)
    if kind == "prune":
        rig.write_profile("[retention]\nkeep_last = 1\n")
    if kind == "incremental":
        rig.fill(size, 7)


def judge(rig: Rig, kind: str, fault: NamedFault, size: int) -> Verdict:
    """Let a run meet a fault, then let the next one go without."""
    prepare(rig, kind, size)
    before = rig.objects()
    rig.proxy.inject(fault)
    with impatient(_SHORT_SECONDS if "stall" in fault.name else 60):
        outcome = getattr(rig, kind, rig.back_up)()
    met = rig.proxy.met()
    rig.proxy.heal()
    return Verdict(outcome, met, tuple(_wrongs(rig, kind, before, outcome)))


def _wrongs(
    rig: Rig, kind: str, before: dict[str, tuple[str, int]], outcome: Outcome
) -> Iterator[str]:
    after = rig.objects()
    backups = {key: one for key, one in before.items() if key.endswith("-backup.tar.gz")}
    if kind != "prune" and not backups.items() <= after.items():
        yield "an earlier backup is not what it was"
    if kind == "prune" and max(backups) not in after:
        yield "the newest backup is gone"
    if outcome.code not in (0, 1):
        yield f"exit code {outcome.code}"
    if outcome.code and (not outcome.said or "\n" in outcome.said.strip()):
        yield f"not one line: {outcome.said!r}"
    if outcome.code == 0 and kind not in ("verify", "prune"):
        restored = rig.here / "restored" / str(rig.source).lstrip("/")
        is_right = (
            fingerprint(restored) == fingerprint(rig.source)
            if kind == "restore"
            else rig.newest_is_the_tree()
        )
        if not is_right:
            yield "a success that is none"
    again = getattr(rig, kind, rig.back_up)()
    if again.code:
        yield f"the next {kind} run: {again.said}"
    if kind in ("first", "incremental", "resumed"):
        if left := rig.left_over():
            yield f"left: {left}"
        if not rig.newest_is_the_tree():
            yield "the next backup is not the tree"
    if kind == "prune" and len(rig.objects()) != 1:
        yield "the next prune did not prune"


def _cell(rig: Rig, kind: str, fault: NamedFault, size: int, said: dict[str, str]) -> str:
    try:
        verdict = judge(rig, kind, fault, size)
    except Exception as error:
        rig.proxy.heal()
        return f"TRACEBACK {type(error).__name__}: {error}"
    if verdict.outcome.said:
        said[f"{fault.name} ({kind})"] = verdict.outcome.said.strip()
    return " ".join([f"{verdict.outcome.code}" if verdict.met else "-", *verdict.wrong])


def _chosen(word: str) -> list[NamedFault]:
    first, colon, last = word.partition(":")
    if colon:
        return list(FAULTS.values())[int(first) : int(last)]
    return [fault for name, fault in FAULTS.items() if word in name]


def main() -> None:
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    faults = _chosen(sys.argv[1] if len(sys.argv) > 1 else "")
    print("| fault | " + " | ".join(KINDS) + " |\n|---|" + "---|" * len(KINDS))
    said: dict[str, str] = {}
    with (
        impatient(),
        tempfile.TemporaryDirectory() as folder,
        start_s3_server(Path(folder, "server")) as server,
        FaultProxy(server.endpoint) as proxy,
    ):
        client = server.client()
        bucket = new_bucket(server.endpoint, server.access_key, server.secret_key, client)
        for number, fault in enumerate(faults):
            cells = []
            for kind in KINDS:
                here = Path(folder, f"{number}-{kind}")
                here.mkdir()
                size = LARGE_BYTES if kind in KINDS[:3] else SMALL_BYTES
                cells.append(_cell(Rig.make(here, bucket, proxy), kind, fault, size, said))
                shutil.rmtree(here)
            print(f"| {fault.name} | " + " | ".join(cells) + " |", flush=True)
    for place, line in said.items():
        print(f"{place}: {line}", file=sys.stderr)


if __name__ == "__main__":
    main()
