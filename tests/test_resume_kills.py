"""Runs of the real command, killed for good, on a real S3 server and on a directory."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import finish
from tests.conftest import S3Bucket
from tests.faulty_proxy import Answer, PassOn, Request
from tests.interruptions import KillingProxy, Scene, fill, make_cli
from tests.s3_server import start_s3_server

MIB = 2**20
MEBIBYTES = 32
# Parts that were under way when the run was killed, and a part that fills up another one.
SLACK_BYTES = 5 * 5 * MIB


@pytest.fixture
def scene(tmp_path: Path, s3_bucket: S3Bucket) -> Iterator[Scene]:
    with KillingProxy(s3_bucket.endpoint) as proxy:
        made = Scene(make_cli(tmp_path), proxy, s3_bucket)
        made.write_profile()
        fill(made.cli.source, MEBIBYTES)
        yield made


def let_pass(request: Request, pass_on: PassOn) -> Answer:
    return pass_on(request)


def proxy_of(scene: Scene) -> KillingProxy:
    assert scene.proxy is not None
    return scene.proxy


def test_kills_at_random_moments_cost_little_and_leave_nothing(scene: Scene) -> None:
    rng = random.Random(20250612)
    proxy = proxy_of(scene)
    for _ in range(2):
        scene.start_anew()
        assert scene.kill_backup(after_bytes=rng.randrange(MEBIBYTES * MIB))
        assert scene.backups() == []
        assert scene.listed() == []
        scene.back_up()
        assert proxy.sent_bytes < MEBIBYTES * MIB + SLACK_BYTES
        scene.assert_clean()
        scene.assert_newest_is_the_tree()


@pytest.mark.parametrize(
    ("operation", "place"),
    [("CreateMultipartUpload", 0), ("CompleteMultipartUpload", 0), ("CompleteMultipartUpload", 1)],
)
def test_a_kill_before_the_answer_to_what_matters_leaves_nothing(
    scene: Scene, operation: str, place: int
) -> None:
    """The server has done it, and the run died before it knew."""
    process = scene.cli.start("backup", "--profile", "test")

    def die(request: Request, pass_on: PassOn) -> Answer | None:
        pass_on(request)
        process.kill()
        return None

    proxy = proxy_of(scene)
    if place:
        proxy.misbehave(operation, let_pass, times=place)
    proxy.misbehave(operation, die)
    assert finish(process).code == -9
    scene.back_up()
    scene.assert_clean()
    scene.assert_newest_is_the_tree()
    assert proxy.sent_bytes < MEBIBYTES * MIB + SLACK_BYTES


def test_a_lost_network_is_made_up_for_by_the_next_run(scene: Scene) -> None:
    """And what others have under the same prefix is not touched."""
    others = put_others(scene)
    proxy = proxy_of(scene)
    process = scene.cli.start("backup", "--profile", "test")
    proxy.arm(lambda: setattr(proxy, "down", True), after_bytes=22 * MIB)
    done = finish(process)
    assert done.code == 1
    assert "Traceback" not in done.err
    assert set(scene.names()) - others
    proxy.down, proxy.sent_bytes = False, 0
    scene.back_up()
    assert proxy.sent_bytes < (MEBIBYTES - 22) * MIB + SLACK_BYTES
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


def test_a_server_that_died_and_came_back_still_has_what_arrived(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    with start_s3_server(tmp_path_factory.mktemp("own-server")) as server:
        client = server.client()
        client.create_bucket(Bucket="mortal")
        bucket = S3Bucket(server.endpoint, "mortal", server.access_key, server.secret_key, client)
        with KillingProxy(server.endpoint) as proxy:
            scene = Scene(make_cli(tmp_path), proxy, bucket)
            scene.write_profile()
            fill(scene.cli.source, MEBIBYTES)

            def stop(request: Request, pass_on: PassOn) -> None:
                server.stop()

            proxy.misbehave("UploadPart", let_pass, times=6)
            proxy.misbehave("UploadPart", stop)
            done = scene.cli.run("backup", "--profile", "test")
            assert done.code == 1
            assert "Traceback" not in done.err
            server.restart()
            scene.back_up()
            assert any("an interrupted run goes on" in line for line in scene.cli.log())
            scene.assert_clean()
            scene.assert_newest_is_the_tree()


def test_a_changed_tree_is_backed_up_as_it_is_now(scene: Scene) -> None:
    """A later run that is killed twice, with changes between."""
    source = scene.cli.source
    scene.back_up()
    fill(source, MEBIBYTES, seed=1)
    proxy = proxy_of(scene)
    proxy.sent_bytes = 0
    assert scene.kill_backup(after_bytes=18 * MIB)
    changed = sorted((source / "a0").iterdir())
    changed[0].unlink()
    changed[1].write_bytes(b"small now")
    os.link(changed[2], source / "c1" / "another link")
    os.unlink(source / "c1" / "link")
    os.symlink("nowhere", source / "c1" / "link")
    assert scene.kill_backup(after_bytes=MIB)
    with open(source / "b-large", "r+b") as large:
        large.seek(3 * MIB)
        large.write(b"changed in place")
    scene.back_up()
    assert proxy.sent_bytes < MEBIBYTES * MIB + 2 * SLACK_BYTES
    assert len(scene.backups()) == 2
    scene.assert_clean()
    scene.assert_newest_is_the_tree()


def test_kills_of_a_directory_store_leave_nothing(tmp_path: Path) -> None:
    scene = Scene(make_cli(tmp_path))
    scene.write_profile()
    fill(scene.cli.source, MEBIBYTES)
    rng = random.Random(6)
    for _ in range(2):
        scene.start_anew()
        assert scene.kill_backup(after_bytes=rng.randrange(MEBIBYTES * MIB))
        assert scene.backups() == []
        assert scene.listed() == []
        scene.back_up()
        scene.assert_clean()
        scene.assert_newest_is_the_tree()
    record = scene.cli.records()[-1]
    assert record["copied_bytes"] > 0
    assert record["sent_bytes"] < MEBIBYTES * MIB
