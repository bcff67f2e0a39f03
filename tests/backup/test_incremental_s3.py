"""Incremental backups on a real S3 server, with what goes over the wire counted on its way.

The same at full size: bench/incremental.py.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup_tasks.common.paths import Paths
from backup_tasks.stores.s3.store import LIMITS
from tests.conftest import S3Bucket
from tests.support.faulty_proxy import Answer, FaultyProxy, PassOn, Request, refuse
from tests.support.generations import LATER, untar
from tests.support.generations_s3 import (
    MIB,
    TALK,
    S3Generations,
    change_some,
    compressed,
    fill,
    let_age,
    live_a_day,
    text,
)
from tests.support.histories import fingerprint


@pytest.fixture
def proxy(s3_bucket: S3Bucket) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_bucket.endpoint) as running:
        yield running


@pytest.fixture
def backups(tmp_path: Path, paths: Paths, s3_bucket: S3Bucket, proxy: FaultyProxy) -> S3Generations:
    source = tmp_path / "source"
    source.mkdir()
    return S3Generations(
        source,
        tmp_path / "unused",
        paths,
        now=LATER,
        limits=LIMITS,
        bucket=s3_bucket,
        proxy=proxy,
    )


def check_newest(backups: S3Generations, tmp_path: Path) -> None:
    """Plain tar makes of the newest archive what the tree is."""
    archive = backups.fetch(tmp_path / f"archive{len(backups.stores)}")
    untarred = untar(archive, tmp_path / f"tar{len(backups.stores)}")
    assert fingerprint(backups.in_target(untarred)) == fingerprint(backups.source)
    archive.unlink()


def test_one_percent_changed_sends_little_more_than_that_and_nothing_changed_less(
    backups: S3Generations, tmp_path: Path
) -> None:
    chooser = random.Random(1)
    files = fill(backups, 5000, chooser)
    full = backups.counted()
    unchanged = backups.counted()
    assert unchanged <= backups.overhead() + TALK < full / 8
    changed = chooser.sample(files, len(files) // 100)
    for file in changed:
        file.write_bytes(text(chooser, chooser.randrange(200, 8000)))
    sent = backups.counted()
    assert sent <= 1.5 * compressed(changed, backups) + backups.overhead() + TALK
    check_newest(backups, tmp_path)


def test_large_files_send_what_is_new_in_them(backups: S3Generations, tmp_path: Path) -> None:
    log, image = backups.source / "log", backups.source / "image"
    log.write_bytes(random.Random(2).randbytes(40 * MIB))
    image.write_bytes(random.Random(3).randbytes(24 * MIB + 5))
    full = backups.counted()
    assert full > 64 * MIB
    with open(log, "ab") as file:
        file.write(os.urandom(MIB))
    # What fills up the part with the file's new headers, and its last pieces.
    assert backups.counted() < 5 * MIB + 3 * MIB + backups.overhead() + TALK
    with open(image, "r+b") as file:
        file.seek(13 * MIB)
        file.write(b"changed")
    assert backups.counted() < 2 * 5 * MIB + 2 * MIB + backups.overhead() + TALK
    assert backups.proxy.seen["UploadPartCopy"] >= 4
    check_newest(backups, tmp_path)


@pytest.mark.parametrize("tell_ages", [True, False], ids=["of all ages", "of one age"])
def test_after_21_days_of_mixed_change_archives_are_neither_larger_nor_dearer(
    backups: S3Generations, tmp_path: Path, tell_ages: bool
) -> None:
    chooser = random.Random(4)
    files = fill(backups, 2000, chooser, most=16_000)
    if tell_ages:
        let_age(backups, files, chooser)
    backups.counted()
    for day in range(21):
        live_a_day(backups, files, day, chooser, most=16_000)
        backups.counted()
    check_newest(backups, tmp_path)
    aged = backups.archive_bytes()
    changed = change_some(backups, files, chooser, 16_000)
    sent = backups.counted()
    assert sent <= 1.5 * compressed(changed, backups) + backups.overhead() + TALK
    backups.backup(full=True)
    assert aged <= 1.1 * backups.archive_bytes()


def test_the_archive_before_pruned_in_the_middle_costs_a_full_upload(
    backups: S3Generations, tmp_path: Path
) -> None:
    fill(backups, 100, random.Random(5))
    (backups.source / "large").write_bytes(os.urandom(6 * MIB))
    backups.counted()

    def prune_first(request: Request, pass_on: PassOn) -> Answer:
        backups.bucket.client.delete_object(
            Bucket=backups.bucket.bucket, Key=backups.bucket.keys()[0]
        )
        return pass_on(request)

    backups.proxy.misbehave("UploadPartCopy", prune_first)
    record = backups.backup()
    assert (record.result, record.copied_bytes) == ("success", 0)
    assert "everything is read and sent: " in backups.log()
    assert "there is no 2100-01-01_0200-backup.tar.gz" in backups.log()
    assert backups.open_store().list_unfinished() == []
    assert len(backups.bucket.keys()) == 1
    check_newest(backups, tmp_path)


@pytest.mark.parametrize(
    ("status", "code", "remembered"),
    [
        (501, "NotImplemented", True),
        (403, "AccessDenied", False),
        (403, "InvalidObjectState", False),
    ],
)
def test_a_server_that_refuses_to_copy_gets_everything_sent(
    backups: S3Generations, tmp_path: Path, status: int, code: str, remembered: bool
) -> None:
    fill(backups, 100, random.Random(6))
    (backups.source / "large").write_bytes(os.urandom(6 * MIB))
    backups.counted()
    backups.proxy.misbehave("UploadPartCopy", refuse(status, code), times=20)
    record = backups.backup()
    assert (record.result, record.copied_bytes) == ("success", 0)
    assert backups.log().count("everything is read and sent: ") == 1
    backups.proxy.forgive()
    check_newest(backups, tmp_path)
    assert (backups.backup().copied_bytes == 0) == remembered


def test_a_key_that_may_not_read_gets_everything_sent(backups: S3Generations) -> None:
    fill(backups, 100, random.Random(7))
    backups.counted()
    for kept in (backups.paths.state / "manifests").rglob("*"):
        if kept.is_file():
            kept.unlink()
    backups.proxy.misbehave("GetObject", refuse(403, "AccessDenied"), times=20)
    record = backups.backup()
    assert (record.result, record.exit_code) == ("incomplete", 3)
    assert f"{record.archive} was not read back" in record.unpruned[0]
    assert "no permission; the key needs s3:GetObject" in backups.log()
