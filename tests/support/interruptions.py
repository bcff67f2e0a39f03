"""Backups that are killed, on a real S3 server behind a counting proxy or on a directory."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backup_tasks.format.archive_names import CLAIM_NAME
from tests.conftest import S3Bucket
from tests.support.cli import Cli, finish, s3_store
from tests.support.faulty_proxy import Answer, FaultyProxy, Request
from tests.support.histories import fingerprint

MIB = 2**20


class KillingProxy(FaultyProxy):
    """Calls `strike` once, when so many bytes or requests have come from the client."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self._strike: Callable[[], None] | None = None
        self._at_bytes = self._at_request = 2**62
        self._requests = 0

    def arm(
        self, strike: Callable[[], None], *, after_bytes: int = 2**62, after_requests: int = 2**62
    ) -> None:
        """Strike when so much more has come."""
        with self._guard:
            self._at_bytes = self.sent_bytes + after_bytes
            self._at_request = self._requests + after_requests
            self._strike = strike

    def disarm(self) -> None:
        with self._guard:
            self._strike = None

    @property
    def requests(self) -> int:
        return self._requests

    def answer(self, request: Request) -> Answer | None:
        self._requests += 1
        self._look()
        return super().answer(request)

    def count(self, sent_bytes: int = 0, received_bytes: int = 0) -> None:
        super().count(sent_bytes, received_bytes)
        self._look()

    def _look(self) -> None:
        with self._guard:
            due = self.sent_bytes >= self._at_bytes or self._requests >= self._at_request
            strike, self._strike = (self._strike, None) if due else (None, self._strike)
        if strike is not None:
            strike()


@dataclass
class Scene:
    """A project, its store, and what looks at both from outside.

    Attributes:
        proxy, bucket: for S3; None for a directory store.
    """

    cli: Cli
    proxy: KillingProxy | None = None
    bucket: S3Bucket | None = None

    def write_profile(self, **others: str) -> None:
        store = s3_store(self.bucket, endpoint_url=self.proxy.endpoint) if self.bucket else ""
        self.cli.write_profile(store, **others)

    def back_up(self) -> None:
        """A run that must succeed."""
        done = self.cli.run("backup", "--profile", "test")
        assert (done.code, done.err) == (0, ""), done

    def kill_backup(
        self,
        *,
        after_bytes: int = 2**62,
        after_requests: int = 2**62,
        after_seconds: float = 3600,
    ) -> bool:
        """Start a run and kill it at that moment. Returns whether it was killed in time.

        Args:
            after_bytes: to the server; of a directory store, in its hidden files.
            after_requests: from the client.
        """
        process = self.cli.start("backup", "--profile", "test")
        timer = threading.Timer(after_seconds, process.kill)
        timer.start()
        if self.proxy is not None:
            self.proxy.arm(process.kill, after_bytes=after_bytes, after_requests=after_requests)
        else:
            while process.poll() is None and self._hidden_bytes() < after_bytes:
                pass
            process.kill()
        done = finish(process)
        timer.cancel()
        if self.proxy is not None:
            self.proxy.disarm()
        assert done.code in (0, -9), done
        return done.code == -9

    def _hidden_bytes(self) -> int:
        total = 0
        for path in self.cli.store.glob(".*.partial"):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def names(self) -> list[str]:
        """Every object or file of the store but the claim, hidden ones and uploads included."""
        if self.bucket is None:
            there = os.listdir(self.cli.store) if self.cli.store.exists() else []
            return sorted(set(there) - {CLAIM_NAME})
        keys = self.bucket.keys()
        return [key.removeprefix("backups/") for key in keys] + self.uploads()

    def uploads(self) -> list[str]:
        assert self.bucket is not None
        listed = self.bucket.client.list_multipart_uploads(Bucket=self.bucket.bucket)
        return [f"upload of {one['Key']}" for one in listed.get("Uploads", [])]

    def backups(self) -> list[str]:
        names = [name for name in self.names() if not name.startswith("upload of ")]
        return [name for name in names if name.endswith("-backup.tar.gz")]

    def listed(self) -> list[str]:
        """What `invoke list` shows."""
        done = self.cli.run("list", "--profile", "test", "--json")
        assert done.code == 0, done
        return [name for name in self.names() if name in done.out]

    def state_left(self) -> list[str]:
        """Files in the state directory that speak of a run under way."""
        state = self.cli.here / "state"
        found = [*state.glob("staging/*"), *state.glob("uploads/*")]
        return sorted(str(path.relative_to(state)) for path in found)

    def assert_clean(self) -> None:
        """Backups and the claim are all there is, and no state of a run is left."""
        assert self.names() == self.backups()
        assert self.state_left() == []

    def start_anew(self) -> None:
        """As before the first backup, with the same source."""
        shutil.rmtree(self.cli.here / "state", ignore_errors=True)
        if self.bucket is None or self.proxy is None:
            shutil.rmtree(self.cli.store, ignore_errors=True)
            self.cli.store.mkdir()
            return
        keys = self.bucket.keys()
        for key in [*keys, f"backups/{CLAIM_NAME}"]:
            self.bucket.client.delete_object(Bucket=self.bucket.bucket, Key=key)
        self.proxy.sent_bytes = 0
        self.proxy.seen.clear()

    def assert_newest_is_the_tree(self) -> None:
        """GNU tar's extraction of the newest backup equals the source."""
        name = self.backups()[-1]
        with tempfile.TemporaryDirectory(dir=self.cli.here) as folder:
            archive, target = Path(folder, "archive"), Path(folder, "tree")
            target.mkdir()
            if self.bucket is None:
                archive = self.cli.store / name
            else:
                key = f"backups/{name}"
                self.bucket.client.download_file(self.bucket.bucket, key, str(archive))
            command = ["tar", "-xpf", archive, "--xattrs", "--xattrs-include=*", "-C", target]
            subprocess.run(command, check=True, capture_output=True)
            restored = target / str(self.cli.source).lstrip("/")
            assert fingerprint(restored) == fingerprint(self.cli.source)


def make_cli(here: Path) -> Cli:
    """A project of one's own below an empty folder."""
    folders = {f"BACKUP_TASKS_{name.upper()}": str(here / name) for name in _FOLDERS}
    cli = Cli(here, {"PATH": os.environ["PATH"], "HOME": str(here), **folders})
    cli.profiles.mkdir()
    cli.source.mkdir()
    return cli


_FOLDERS = ("profiles", "logs", "state")


def fill(source: Path, mebibytes: int, seed: int = 0) -> None:
    """A tree that does not compress: a third one large file, the rest smaller ones and links."""
    rng = random.Random(seed)
    (source / "b-large").write_bytes(rng.randbytes(mebibytes * MIB // 3))
    left = mebibytes * MIB * 2 // 3
    number = 0
    while left > 0:
        size = min(left, rng.choice((3_000, 40_000, 300_000, 1_500_000)))
        folder = source / f"{'ac'[number % 2]}{number % 10}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number:04}").write_bytes(rng.randbytes(size))
        left -= size
        number += 1
    (source / "c1" / "link").unlink(missing_ok=True)
    os.link(source / "a0" / "0000", source / "c1" / "link")


def new_bucket(endpoint: str, access_key: str, secret_key: str, client: object) -> S3Bucket:
    """A bucket of a server that a script has started."""
    name = f"kills-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)  # type: ignore[attr-defined]
    bucket = S3Bucket(endpoint, name, access_key, secret_key, client)
    warm_up(bucket)
    return bucket


def warm_up(bucket: S3Bucket) -> None:
    """The first object of a bucket takes this server seconds, which would stop all others."""
    bucket.client.put_object(Bucket=bucket.bucket, Key="warm", Body=b"x" * MIB)
    bucket.client.delete_object(Bucket=bucket.bucket, Key="warm")
