"""A backup that was committed is looked at before it counts: a store may say "done" and lie."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_tasks.backup import after_commit
from backup_tasks.backup.read_back import NotedCopies, Sent, choose_chunks, read_back
from backup_tasks.census.reading import Reading
from backup_tasks.command.job import journaled
from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.errors import NotAsSent, ObjectMissing, StoreError
from backup_tasks.format.footer import Footer
from backup_tasks.format.manifest import Chunk
from backup_tasks.journal.run_record import read_records, render_result
from backup_tasks.restore.request import RestoreWish
from backup_tasks.restore.run_restore import run_restore_job
from backup_tasks.stores.base import CopySource, StoredObject
from backup_tasks.stores.directory import DirectoryStore
from backup_tasks.stores.directory_writer import DirectoryWriter
from backup_tasks.stores.s3.store import LIMITS
from tests.conftest import S3Bucket
from tests.support.backups import Backups
from tests.support.cli import Cli, cli, s3_store
from tests.support.faulty_proxy import Answer, Fault, FaultyProxy, PassOn, Request, refuse
from tests.support.generations import LATER
from tests.support.generations_s3 import S3Generations
from tests.support.histories import use_small_chunks
from tests.support.keys import KeyPair, make_key
from tests.support.machines import Machine, Place
from tests.support.mortal_store import Killed

__all__ = ["cli"]


@dataclass
class Clock:
    """Time that passes only while somebody sleeps.

    Attributes:
        waited: seconds, together; on_sleep: called with it after each pause.
    """

    waited: float = 0.0
    on_sleep: Callable[[float], None] = lambda _: None

    def monotonic(self) -> float:
        return self.waited

    def sleep(self, seconds: float) -> None:
        self.waited += seconds
        self.on_sleep(self.waited)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of every look back in this test."""
    made = Clock()
    timed = partial(read_back, monotonic=made.monotonic, sleep=made.sleep)
    monkeypatch.setattr(after_commit, "read_back", timed)
    return made


@pytest.fixture
def backups(tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Backups:
    use_small_chunks(monkeypatch)
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        (source / f"file-{number}").write_bytes(os.urandom(3000))
    return Backups(source, tmp_path / "store", paths)


@pytest.fixture
def key(tmp_path: Path) -> KeyPair:
    return make_key(tmp_path)


@pytest.fixture(params=["plain", "encrypted without a key"])
def either(request: pytest.FixtureRequest, backups: Backups) -> Backups:
    if request.param != "plain":
        backups.recipients = (request.getfixturevalue("key").recipient,)
    return backups


def spoil(file: Path, place: int) -> None:
    """Change one byte, and leave everything else as it looks."""
    status = file.stat()
    with open(file, "r+b") as opened:
        opened.seek(place)
        byte = opened.read(1)[0]
        opened.seek(place)
        opened.write(bytes([byte ^ 1]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def after_commits(
    monkeypatch: pytest.MonkeyPatch, do: Callable[[DirectoryWriter, StoredObject], None]
) -> None:
    """Let something happen to every archive as soon as it is there."""
    really_commit = DirectoryWriter.commit

    def commit(self: DirectoryWriter, name: str = "") -> StoredObject:
        stored = really_commit(self, name)
        do(self, stored)
        return stored

    monkeypatch.setattr(DirectoryWriter, "commit", commit)


def file_of(writer: Any, stored: StoredObject) -> Path:
    return Path(writer._folder) / stored.name


# --- stores that lie


@pytest.mark.parametrize("place", [0, -1, -60, -200, -700])
def test_one_wrong_byte_at_either_end_fails_the_run(
    either: Backups, clock: Clock, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """In the first chunk, the footer, its signature and the manifest."""
    after_commits(
        monkeypatch,
        lambda writer, stored: spoil(file_of(writer, stored), place % stored.size),
    )
    with pytest.raises(NotAsSent, match="read back it is not what was sent") as caught:
        either.backup()
    assert "\n" not in str(caught.value)
    assert clock.waited == pytest.approx(60)
    assert len(list(either.store_folder.glob("*-backup.tar.gz*"))) == 1, "it stays listed"


def test_a_shorter_object_fails_the_run(
    backups: Backups, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_commits(
        monkeypatch,
        lambda writer, stored: os.truncate(file_of(writer, stored), stored.size // 2),
    )
    with pytest.raises(NotAsSent, match=r"it has [\d,]+ bytes instead of [\d,]+"):
        backups.backup()


def copy_other_bytes(writer: DirectoryWriter, source: CopySource, start: int, length: int) -> None:
    writer.send(bytes(length))


def test_a_copied_range_of_other_bytes_fails_the_run_and_the_next_does_without_it(
    either: Backups, clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = either.backup()
    (either.source / "new").write_bytes(b"new")
    with monkeypatch.context() as lying:
        lying.setattr(DirectoryWriter, "copy", copy_other_bytes)
        with pytest.raises(NotAsSent, match=r"chunk \d+: its hash is wrong"):
            either.backup()
    (either.source / "new").write_bytes(b"newer")
    either.now = either.now.replace(day=either.now.day + 1)
    third = either.backup()
    assert (third.result, third.unpruned, third.copied_bytes) == ("success", [], 0)
    assert "was not what was sent when read back" in either.log()
    assert len(list(either.store_folder.glob("*-backup.tar.gz*"))) == 3
    if not either.recipients:
        either.restore(tmp_path / "restored")
        restored = either.in_target(tmp_path / "restored")
        for file in either.source.iterdir():
            assert (restored / file.name).read_bytes() == file.read_bytes()
    assert first.archive != third.archive


def test_a_run_that_is_killed_while_it_reads_back_costs_the_next_one_nothing(
    either: Backups, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise Killed

    either.backup()
    with monkeypatch.context() as patch:
        patch.setattr(after_commit, "read_back", kill)
        with pytest.raises(Killed):
            either.backup()
    either.now = either.now.replace(day=either.now.day + 1)
    after = either.backup()
    assert (after.result, after.unpruned) == ("success", [])
    assert after.copied_bytes > 0


def test_an_object_that_is_lost_after_a_second_fails_the_run(
    backups: Backups, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there when it is looked at first, and what is read of it is not."""
    really_stat = DirectoryStore.stat

    def stat(self: DirectoryStore, name: str) -> StoredObject:
        found = really_stat(self, name)
        (self.folder / name).unlink()
        return found

    monkeypatch.setattr(DirectoryStore, "stat", stat)
    with pytest.raises(NotAsSent, match="it is not there"):
        backups.backup()
    assert clock.waited == pytest.approx(60)


def test_an_object_of_somebody_else_under_the_name_fails_the_run(
    backups: Backups, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace_it(writer: DirectoryWriter, stored: StoredObject) -> None:
        file = file_of(writer, stored)
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)

    after_commits(monkeypatch, replace_it)
    with pytest.raises(NotAsSent, match="another object has its name"):
        backups.backup()


def test_an_object_that_shows_only_after_three_seconds_is_waited_for(
    backups: Backups, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_stat = DirectoryStore.stat

    def stat(self: DirectoryStore, name: str) -> StoredObject:
        if clock.waited < 3:
            raise ObjectMissing("not yet")
        return really_stat(self, name)

    monkeypatch.setattr(DirectoryStore, "stat", stat)
    assert backups.backup().result == "success"
    assert 3 <= clock.waited < 10


def test_a_store_that_cannot_be_reached_any_more_makes_it_not_read_back(
    backups: Backups, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stat(self: DirectoryStore, name: str) -> StoredObject:
        raise StoreError(f"{self.url}: could not look at {name}: it does not answer")

    monkeypatch.setattr(DirectoryStore, "stat", stat)
    record = backups.backup()
    assert (record.result, record.exit_code) == ("incomplete", 3)
    [reason] = record.unpruned
    assert reason.startswith(f"{record.archive} was not read back: could not look at")
    assert clock.waited == pytest.approx(60)
    assert f"nothing is deleted: {reason}" in render_result(record)


def test_a_bad_disk_fails_the_run_at_once(
    backups: Backups, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> bytes:
        raise OSError(5, "Input/output error")

    after_commits(monkeypatch, lambda *_: monkeypatch.setattr(os, "pread", fail))
    with pytest.raises(NotAsSent, match="the disk reports an error"):
        backups.backup()
    monkeypatch.undo()
    assert clock.waited == 0


# --- through a real server


@pytest.fixture
def proxy(s3_bucket: S3Bucket) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_bucket.endpoint) as proxy:
        yield proxy


@pytest.fixture
def in_s3(tmp_path: Path, paths: Paths, s3_bucket: S3Bucket, proxy: FaultyProxy) -> S3Generations:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(os.urandom(6 * 2**20))
    return S3Generations(
        tmp_path / "source",
        tmp_path / "store",
        paths,
        now=LATER,
        limits=LIMITS,
        bucket=s3_bucket,
        proxy=proxy,
    )


def replacing(bucket: S3Bucket, change: Callable[[bytes], bytes]) -> Any:
    """Complete succeeds, and the object, with its metadata and size, is another one."""

    def fault(request: Request, pass_on: PassOn) -> Answer:
        answer = pass_on(request)
        key = request.path.partition("?")[0].removeprefix(f"/{bucket.bucket}/")
        found = bucket.client.get_object(Bucket=bucket.bucket, Key=key)
        bucket.client.put_object(
            Bucket=bucket.bucket,
            Key=key,
            Body=change(found["Body"].read()),
            Metadata=found["Metadata"],
        )
        return answer

    return fault


@pytest.mark.parametrize(
    "change", [lambda content: bytes(len(content)), lambda content: b"\0" * 99 + content[99:]]
)
def test_a_server_that_completes_something_else_makes_no_backup(
    in_s3: S3Generations, clock: Clock, change: Callable[[bytes], bytes]
) -> None:
    in_s3.proxy.misbehave("CompleteMultipartUpload", replacing(in_s3.bucket, change))
    with pytest.raises(NotAsSent):
        in_s3.backup()
    assert len(in_s3.bucket.keys()) == 1


def test_a_server_that_copies_another_range_makes_no_backup(
    in_s3: S3Generations, clock: Clock
) -> None:
    in_s3.backup()
    (in_s3.source / "new").write_bytes(b"new")

    def shift(content: bytes) -> bytes:
        copied = content[: 2**20 * 5]
        return copied[1:] + content[:1] + content[len(copied) :]

    in_s3.proxy.misbehave("CompleteMultipartUpload", replacing(in_s3.bucket, shift))
    with pytest.raises(NotAsSent, match=r"chunk \d+: its hash is wrong"):
        in_s3.backup()
    assert in_s3.copied() > 0


def test_reading_back_a_small_backup_takes_few_requests(in_s3: S3Generations) -> None:
    in_s3.backup()
    seen = dict(in_s3.proxy.seen)
    assert seen["GetObject"] <= 5
    assert seen["HeadObject"] <= 5


# --- whole runs


def backups_in(bucket: S3Bucket) -> list[str]:
    keys = bucket.keys()
    return [key for key in keys if key.endswith("-backup.tar.gz")]


def by_proxy(proxy: FaultyProxy, bucket: S3Bucket) -> str:
    return s3_store(bucket, endpoint_url=proxy.endpoint)


def test_without_permission_to_read_nothing_is_deleted_and_the_run_says_so(
    cli: Cli, s3_bucket: S3Bucket, proxy: FaultyProxy
) -> None:
    cli.write_profile(by_proxy(proxy, s3_bucket), "[retention]\nkeep_last = 1")
    cli.back_up("--full")
    proxy.misbehave("GetObject", refuse(403, "AccessDenied"), times=99)
    done = cli.run("backup", "--profile", "test", "--full")
    assert done.code == 3
    reasons = cli.records()[-1]["unpruned"]
    [reason] = [one for one in reasons if "was not read back: could not read" in one]
    assert "s3:GetObject" in reason
    assert done.err.startswith("nothing is deleted:\n")
    assert f"  {reason}\n" in done.err
    assert any(reason in line for line in cli.log())
    assert len(backups_in(s3_bucket)) == 2


def of_backups(fault: Fault) -> Fault:
    """The claim lies in no archive class."""

    def only(request: Request, pass_on: PassOn) -> Answer | None:
        is_backup = "-backup.tar.gz" in request.path
        return fault(request, pass_on) if is_backup else pass_on(request)

    return only


def test_of_an_archive_class_only_a_warning_tells(
    cli: Cli, s3_bucket: S3Bucket, proxy: FaultyProxy
) -> None:
    cli.write_profile(by_proxy(proxy, s3_bucket), "[retention]\nkeep_last = 1")
    cli.back_up("--full")
    proxy.misbehave("GetObject", of_backups(refuse(403, "InvalidObjectState")), times=99)
    done = cli.run("backup", "--profile", "test", "--full")
    assert done.code == 0, done
    record = cli.records()[-1]
    assert record["unpruned"] == []
    assert any("was not read back" in warning for warning in record["warnings"])


# --- which chunks


def test_copies_that_were_withdrawn_are_not_looked_for() -> None:
    writer: Any = MagicMock()
    noted = NotedCopies(writer)
    source = StoredObject("other", 100, LATER, "etag")
    noted.copy(source, 0, 30)
    noted.copy(source, 30, 20)
    noted.withdraw(30)
    noted.send(b"12345")
    noted.copy(source, 50, 10)
    assert noted.copied == [(0, 30), (35, 10)]
    assert [call[0] for call in writer.method_calls] == ["copy", "copy", "withdraw", "send", "copy"]


LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=60)


def chunks_of(lengths: list[int]) -> list[Chunk]:
    ends = accumulate(lengths)
    return [Chunk(end - size, size, "0" * 64, 1) for end, size in zip(ends, lengths, strict=True)]


@given(LENGTHS, st.data())
def test_the_ends_of_all_copied_ranges_are_looked_at_where_they_are_few(
    lengths: list[int], data: st.DataObject
) -> None:
    chunks = chunks_of(lengths)
    places = data.draw(st.lists(st.integers(0, sum(lengths) + 9), max_size=50, unique=True))
    places = sorted(places)[: len(places) // 2 * 2]
    copied = [(low, high - low) for low, high in zip(places[::2], places[1::2], strict=True)]
    numbers = choose_chunks(Sent(Footer(0, 0, b""), chunks, copied))
    assert numbers == sorted(set(numbers))
    assert len(numbers) <= 16
    assert {0, len(chunks) - 1} <= set(numbers) <= set(range(len(chunks)))
    if len(copied) <= 6:
        for low, length in copied:
            for place in (low, low + length - 1):
                if place < chunks[-1].end:
                    [held] = [
                        number
                        for number, chunk in enumerate(chunks)
                        if chunk.offset <= place < chunk.end
                    ]
                    assert held in numbers


def test_the_first_and_the_last_chunk_that_was_sent_are_looked_at() -> None:
    chunks = chunks_of([10] * 1000)
    copied = [(number * 100, 30) for number in range(100)]
    numbers = choose_chunks(Sent(Footer(0, 0, b""), chunks, [(0, 40), *copied[1:]]))
    assert len(numbers) == 16
    assert {0, 4, 999} <= set(numbers)


def test_a_chunk_in_the_middle_of_a_copied_range_is_not_fetched(tmp_path: Path) -> None:
    bodies = [b"%09d" % number for number in range(5)]
    assert choose_chunks(
        Sent(
            Footer(0, 0, b""),
            [
                Chunk(number * 9, 9, hashlib.sha256(body).hexdigest(), 9)
                for number, body in enumerate(bodies)
            ],
            [(0, 45)],
        )
    ) == [0, 4]


# --- what comes of one that is none


def test_one_that_is_none_is_listed_marked_never_the_latest_and_nothing_is_deleted_for_it(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path / "web1", "web1", "1" * 64)
    machine.write_profile("prod", Place.folder(tmp_path / "store"))
    good = machine.back_up("prod").archive
    with monkeypatch.context() as lying:
        lying.setattr(DirectoryWriter, "copy", copy_other_bytes)
        with pytest.raises(NotAsSent):
            machine.back_up("prod")
    failed = list(read_records(machine.paths))[-1]
    assert (failed["result"], failed["exit_code"], failed["pruned"]) == ("failure", 1, [])
    assert "it does not count as a backup" in machine.log().splitlines()[-1]
    bad = failed["archive"]
    assert [one.name for one in machine.store("prod").list_objects()] == [good, bad]
    machine.now += timedelta(days=1)
    assert restored_name(machine) == good
    after = machine.back_up("prod")
    assert (after.exit_code, after.pruned) == (0, [good])
    assert restored_name(machine) == after.archive
    assert bad in [one.name for one in machine.store("prod").list_objects()], "it is left alone"


def restored_name(machine: Machine) -> str:
    with machine.here_and_now():
        target = machine.here / f"restored-{machine.now:%d}"
        with journaled("restore", "prod", machine.paths, lambda: machine.now) as job:
            reading = Reading(job.profile, job.store, machine.paths.state, job.record)
            wish = RestoreWish(to=str(target))
            run_restore_job(reading, wish, machine.here, SilentProgress())
            return job.record.archive
