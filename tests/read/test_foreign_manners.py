"""Servers that answer some requests otherwise than S3: backups go on, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_tasks.errors import StoreError
from backup_tasks.staging.journal import Staging, StagingFolder
from backup_tasks.staging.leftovers import UploadNote, end_leftovers
from backup_tasks.staging.salvage import discard_runs
from backup_tasks.stores.base import Unfinished
from backup_tasks.stores.directory import DirectoryStore
from backup_tasks.stores.s3.store import S3Store
from tests.conftest import S3Bucket
from tests.staging.test_resume_s3 import kill_at, sent_since
from tests.support.fault_proxy import EVER, FaultProxy, NamedFault, s3rver, swift
from tests.support.faulty_proxy import Fault, refuse
from tests.support.interruptions import KillingProxy, Scene, fill, make_cli, warm_up
from tests.support.settings import s3_settings

MIB = 2**20
MEBIBYTES = 20
NAME = "2025-06-12_0200-backup.tar.gz"
STAGED = f"{NAME}.0123abcd.partial"

Manners = Callable[[], Sequence[tuple[str, Fault]]]


class KillingFaultProxy(FaultProxy, KillingProxy):
    """Kills at a chosen request, and answers as another server does."""


@pytest.fixture
def scene(tmp_path: Path, s3_bucket: S3Bucket) -> Iterator[Scene]:
    with KillingFaultProxy(s3_bucket.endpoint) as proxy:
        warm_up(s3_bucket)
        made = Scene(make_cli(tmp_path), proxy, s3_bucket)
        made.write_profile()
        fill(made.cli.source, MEBIBYTES)
        yield made


@pytest.mark.parametrize(
    ("manners", "operation", "place"),
    [(swift, "UploadPart", 3), (swift, "CompleteMultipartUpload", 0), (s3rver, "UploadPart", 3)],
)
def test_a_kill_leaves_nothing_behind_and_each_day_after_it_is_incremental(
    scene: Scene, manners: Manners, operation: str, place: int
) -> None:
    assert isinstance(scene.proxy, FaultProxy)
    scene.proxy.behave_as(manners())
    kill_at(scene, operation, place, done=True)
    scene.back_up()
    scene.assert_clean()
    scene.assert_newest_is_the_tree()
    for day in range(2):
        (scene.cli.source / f"new-{day}").write_bytes(bytes(100_000))
        sent = sent_since(scene)
        scene.back_up()
        assert sent() < 6 * MIB  # what fills up a part
        scene.assert_clean()
    scene.assert_newest_is_the_tree()
    assert scene.cli.records()[-1]["warnings"] == []
    assert not list((scene.cli.state / "no-copy").glob("*"))
    verified = scene.cli.run("verify", "--profile", "test")
    assert verified.code == 0, verified


class NoAborts(DirectoryStore):
    """Refuses to end any upload."""

    def end_unfinished(self, upload: Unfinished) -> None:
        raise StoreError(f"{self.url}: could not end the upload of {upload.name}")


def test_staging_objects_are_deleted_whatever_becomes_of_the_aborts(tmp_path: Path) -> None:
    store, folder = NoAborts(tmp_path), StagingFolder(tmp_path / "state", "key")
    for run_id in ("0123abcd", "0123abce"):
        staging = Staging(
            name=f"{NAME}.{run_id}.partial",
            store=store.url,
            started_at="2025-06-12T02:00:00Z",
            first_chunk=0,
        )
        folder.begin(run_id, staging).note_upload("f" * 16)
        (tmp_path / staging.name).write_bytes(b"staged")
    with pytest.raises(StoreError, match="could not end"):
        discard_runs(store, folder.read(), [])
    assert store.list_objects() == []
    assert len(folder.read()) == 2  # what is left to be ended is not forgotten


def test_leftovers_of_many_runs_go_although_one_of_them_stays(tmp_path: Path) -> None:
    store = NoAborts(tmp_path)
    store.write(NAME, in_flight_bytes=MIB).leave()
    (tmp_path / STAGED).write_bytes(b"staged")
    later = datetime.now(UTC) + timedelta(days=3)
    with pytest.raises(StoreError, match="could not end"):
        end_leftovers(store, UploadNote(tmp_path / "state", "key"), later)
    assert store.list_objects() == []


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, "NoSuchKey"), (404, "NoSuchUpload"), (405, "MethodNotAllowed"), (400, "InvalidRequest")],
)
def test_the_end_of_an_upload_that_is_there_no_more_is_no_error(
    s3_bucket: S3Bucket, status: int, code: str
) -> None:
    with FaultProxy(s3_bucket.endpoint) as proxy:
        store = S3Store(s3_settings(s3_bucket, endpoint_url=proxy.endpoint))
        writer = store.write(STAGED, in_flight_bytes=MIB)
        (upload,) = store.list_unfinished()
        writer.send(b"hello")
        writer.commit()
        fault = refuse(status, code)
        proxy.inject(NamedFault("abort", ("AbortMultipartUpload",), fault, EVER))
        store.end_unfinished(upload)
        assert store.salvage(upload) == store.stat(STAGED)


@pytest.mark.parametrize(("status", "code"), [(405, "MethodNotAllowed"), (403, "AccessDenied")])
def test_an_upload_that_is_there_and_cannot_be_ended_is_an_error(
    s3_bucket: S3Bucket, status: int, code: str
) -> None:
    with FaultProxy(s3_bucket.endpoint) as proxy:
        store = S3Store(s3_settings(s3_bucket, endpoint_url=proxy.endpoint))
        store.write(STAGED, in_flight_bytes=MIB).leave()
        (upload,) = store.list_unfinished()
        fault = refuse(status, code)
        proxy.inject(NamedFault("abort", ("AbortMultipartUpload",), fault, EVER))
        with pytest.raises(StoreError, match=f"could not end the upload of {NAME}"):
            store.end_unfinished(upload)
