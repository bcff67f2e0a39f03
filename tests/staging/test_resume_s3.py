"""Runs of the real command, killed or cut off at chosen requests to a real S3 server.

Random moments, many of them, are for `bench/kills.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backup_tasks.backup.writers import RESUMABLE_BYTES
from tests.conftest import S3Bucket
from tests.support.cli import finish
from tests.support.faulty_proxy import Answer, PassOn, Request
from tests.support.interruptions import KillingProxy, Scene, fill, make_cli, new_bucket, warm_up
from tests.support.s3_server import start_s3_server

MIB = 2**20
MEBIBYTES = 32
# Parts that were under way when the run was killed, and one that fills up another.
SLACK_BYTES = 5 * 5 * MIB


@pytest.fixture
def scene(tmp_path: Path, s3_bucket: S3Bucket) -> Iterator[Scene]:
    with KillingProxy(s3_bucket.endpoint) as proxy:
        warm_up(s3_bucket)
        made = Scene(make_cli(tmp_path), proxy, s3_bucket)
        made.write_profile()
        fill(made.cli.source, MEBIBYTES)
        yield made


def let_pass(request: Request, pass_on: PassOn) -> Answer:
    return pass_on(request)


def kill_at(scene: Scene, operation: str, place: int, *, done: bool) -> None:
    """Kill a run when it makes this request, before it has the answer.

    Args:
        place: how many requests of the kind come before; done: whether the server does it.
    """
    assert scene.proxy is not None
    process = scene.cli.start("backup", "--profile", "test")

    def die(request: Request, pass_on: PassOn) -> None:
        if done:
            pass_on(request)
        process.kill()
        process.wait()

    scene.proxy.misbehave(operation, let_pass, times=place)
    scene.proxy.misbehave(operation, die)
    assert finish(process).code == -9


def sent_since(scene: Scene) -> Callable[[], int]:
    """Gives the bytes sent from now on."""
    proxy = scene.proxy
    assert proxy is not None
    before = proxy.sent_bytes
    return lambda: proxy.sent_bytes - before


@pytest.mark.parametrize(
    ("operation", "place"),
    [
        ("CreateMultipartUpload", 0),
        ("UploadPart", 5),
        ("CompleteMultipartUpload", 0),
        ("CompleteMultipartUpload", 1),
    ],
)
def test_a_kill_costs_what_was_under_way_and_leaves_nothing(
    scene: Scene, operation: str, place: int
) -> None:
    """The server has done it, and the run died before it knew."""
    sent = sent_since(scene)
    kill_at(scene, operation, place, done=True)
    committed = 1 if (operation, place) == ("CompleteMultipartUpload", 1) else 0
    assert len(scene.listed()) == len(scene.backups()) == committed
    scene.back_up()
    assert sent() < MEBIBYTES * MIB + SLACK_BYTES
    scene.assert_clean()
    scene.assert_newest_is_the_tree()


def test_a_tree_that_changed_between_two_kills_is_backed_up_as_it_is_now(scene: Scene) -> None:
    source = scene.cli.source
    scene.back_up()
    fill(source, MEBIBYTES, seed=1)
    kill_at(scene, "UploadPart", 4, done=True)
    changed = sorted((source / "a0").iterdir())
    changed[0].unlink()
    changed[1].write_bytes(b"small now")
    os.link(changed[2], source / "c1" / "another link")
    os.unlink(source / "c1" / "link")
    os.symlink("nowhere", source / "c1" / "link")
    sent_second = sent_since(scene)
    kill_at(scene, "CompleteMultipartUpload", 1, done=False)
    second = sent_second()
    with open(source / "b-large", "r+b") as large:
        large.seek(3 * MIB)
        large.write(b"changed in place")
    sent = sent_since(scene)
    scene.back_up()
    # What the first run left to send was lost again if it was less than is worth a staging object,
    # with what fills up a part. The rest is the file that changed, and what fills up parts.
    unstaged = second if second < RESUMABLE_BYTES + 5 * MIB else 0
    assert sent() < unstaged + 16 * MIB
    assert len(scene.backups()) == 2
    scene.assert_clean()
    scene.assert_newest_is_the_tree()


def test_a_server_that_was_away_gets_the_rest_when_it_is_back(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """And what others have under the same prefix is not touched."""
    with (
        start_s3_server(tmp_path_factory.mktemp("own-server")) as server,
        KillingProxy(server.endpoint) as proxy,
    ):
        bucket = new_bucket(server.endpoint, server.access_key, server.secret_key, server.client())
        scene = Scene(make_cli(tmp_path), proxy, bucket)
        scene.write_profile()
        fill(scene.cli.source, MEBIBYTES)
        others = put_others(scene)

        def stop(request: Request, pass_on: PassOn) -> None:
            server.stop()

        proxy.misbehave("UploadPart", let_pass, times=6)
        proxy.misbehave("UploadPart", stop)
        done = scene.cli.run("backup", "--profile", "test")
        assert done.code == 1
        assert "Traceback" not in done.err
        server.restart()
        assert others < set(scene.names())
        assert scene.listed() == []
        scene.back_up()
        assert set(scene.names()) == others | set(scene.backups())
        assert scene.state_left() == []
        scene.assert_newest_is_the_tree()


def put_others(scene: Scene) -> set[str]:
    """Objects and uploads of other profiles and tools; returns what `names` shows of them."""
    assert scene.bucket is not None
    client, bucket = scene.bucket.client, scene.bucket.bucket
    staging = "2025-06-12_0200-backup.tar.gz.{}.partial"
    for key in ("notes.txt", "other.partial", staging.format("0123abcd")):
        client.put_object(Bucket=bucket, Key=f"backups/{key}", Body=b"x")
    for key in ("other.bin", "2030-06-12_0200-backup.tar.gz", staging.format("ffffffff")):
        client.create_multipart_upload(Bucket=bucket, Key=f"backups/{key}")
    return set(scene.names())
