"""What tests share: a real S3 server, a bucket for each test, the project's folders."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from backup_tasks.common.paths import Paths, find_paths
from backup_tasks.errors import TrustError
from backup_tasks.format.archive_names import CLAIM_NAME
from backup_tasks.permissions.installation import check_installation, check_logs
from tests.support.backups import paths_in
from tests.support.s3_server import REGION, S3Server, start_s3_server

# Started by nohup or in the background, the tests and what they start would ignore these.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
# How long one example takes says more of the machine than of the code.
settings.register_profile("any speed", deadline=None)
settings.load_profile("any speed")
# Where Debian has cron, setcap and getcap; the PATH of an ordinary user leaves it out.
os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


@dataclass(frozen=True)
class S3Bucket:
    """A fresh bucket, and what a client needs to reach it."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str
    client: Any
    region: str = REGION

    def keys(self) -> list[str]:
        """The keys of all objects in it but claims, sorted."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        keys = (item["Key"] for page in pages for item in page.get("Contents", []))
        return sorted(key for key in keys if not key.endswith(CLAIM_NAME))


def pytest_sessionstart() -> None:
    """Say at once why every task would refuse to run from this checkout."""
    paths = find_paths({})
    try:
        check_logs(paths)
        check_installation(paths)
    except TrustError as error:
        pytest.exit(f"the tasks refuse to run from here: {error}", returncode=2)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the operator's own keys, profiles and proxies out of the tests."""
    for name in os.environ:
        if name.startswith(("AWS_", "BACKUP_")) or name.lower() in ("http_proxy", "https_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/credentials")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent/config")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running server for all tests of this process. A test that ends it starts its own."""
    with start_s3_server(tmp_path_factory.mktemp("s3-server")) as server:
        yield server
        server.kill()  # nobody needs what it holds


@pytest.fixture(scope="session")
def _s3_client(s3_server: S3Server) -> Iterator[Any]:
    client = s3_server.client()
    yield client
    client.close()


@pytest.fixture
def s3_bucket(s3_server: S3Server, _s3_client: Any) -> Iterator[S3Bucket]:
    """A new, empty bucket; removed with everything in it after the test."""
    name = f"test-{uuid.uuid4().hex[:16]}"
    _s3_client.create_bucket(Bucket=name)
    yield S3Bucket(s3_server.endpoint, name, s3_server.access_key, s3_server.secret_key, _s3_client)
    _s3_client.delete_bucket(Bucket=name)  # this server removes what is inside as well


@pytest.fixture(scope="session")
def _moto_client() -> Iterator[Any]:
    """A client of moto's server in this process: S3 as another hand wrote it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name=REGION,
        aws_access_key_id="moto",
        aws_secret_access_key="moto-secret",
    )
    yield client
    client.close()
    server.stop()


@pytest.fixture
def moto_bucket(_moto_client: Any) -> S3Bucket:
    """A new, empty bucket of moto."""
    name = f"test-{uuid.uuid4().hex[:16]}"
    _moto_client.create_bucket(Bucket=name)
    endpoint = str(_moto_client.meta.endpoint_url)
    return S3Bucket(endpoint, name, "moto", "moto-secret", _moto_client)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """Folders below the test's own, but the project's templates."""
    return paths_in(tmp_path)
