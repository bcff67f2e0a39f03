"""Runs under a clock that is wrong: the backup is made, and nothing good is lost by it, ever."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backup_tasks.backup import assembly
from backup_tasks.backup.assembly import utc_text
from backup_tasks.backup.basis import _is_useful as is_useful
from backup_tasks.census.reading import Reading
from backup_tasks.claim.claim_file import Name
from backup_tasks.claim.keeper import ClaimKeeper
from backup_tasks.command.backup_job import run_backup_job
from backup_tasks.command.job import journaled
from backup_tasks.command.prune_job import run_prune_job
from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.format.manifest import Header
from backup_tasks.journal.run_record import RunRecord
from backup_tasks.keys.identities import Keyring
from backup_tasks.previous.archive import CopyMemory
from backup_tasks.profile.model import Profile
from backup_tasks.read.manifest_reader import read_header
from backup_tasks.restore.request import RestoreWish
from backup_tasks.restore.run_restore import run_restore_job
from backup_tasks.stores.base import Store
from backup_tasks.stores.directory import DirectoryStore
from backup_tasks.verify.run_drill import DrillWish, run_drill_job
from backup_tasks.verify.run_verify import VerifyWish, run_verify_job
from tests.conftest import S3Bucket
from tests.support.backups import Backups
from tests.support.cli import Cli, cli, s3_store
from tests.support.generations import LATER
from tests.support.keys import make_key
from tests.support.machines import START, Machine, Place

__all__ = ["cli"]
DAY = timedelta(days=1)
RETENTION = 'keep_last = 2\nkeep_within = "30d"'
in_s3_too = pytest.mark.parametrize("place", ["plain", "encrypted", "s3"], indirect=True)
in_s3 = pytest.mark.parametrize("place", ["s3", "s3, encrypted"], indirect=True)


@pytest.fixture(params=["plain", "encrypted"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A store: a folder or a bucket; where it is for encrypted backups, the key is elsewhere."""
    is_encrypted = request.param.endswith("encrypted")
    recipients = (make_key(tmp_path).recipient,) if is_encrypted else ()
    if request.param.startswith("s3"):
        return Place.bucket(request.getfixturevalue("s3_bucket"), recipients)
    return Place.folder(tmp_path / "store", recipients)


@pytest.fixture
def web1(tmp_path: Path, place: Place) -> Machine:
    """A machine that has made a backup on each of three days; it is the fourth now."""
    machine = Machine(tmp_path / "web1", "web1", "1" * 64)
    machine.write_profile("prod", place, RETENTION)
    for _ in range(3):
        record = machine.back_up("prod")
        assert (record.exit_code, record.unpruned, record.warnings) == (0, [], [])
    return machine


def back_up_at(machine: Machine, now: datetime, *, store_too: bool = False) -> RunRecord:
    """One backup under this clock; the clock of a bucket is right unless told."""
    right = machine.now
    machine.now = now
    machine.store_ahead = timedelta(0) if store_too else right - now
    record = machine.back_up("prod")
    machine.now, machine.store_ahead = right + DAY, timedelta(0)
    return record


def names(machine: Machine) -> list[str]:
    return [one.name for one in machine.store("prod").list_objects()]


def keys(machine: Machine) -> Keyring:
    """What an operator has, who reads on this machine; a run of it has no key."""
    file = machine.here.parent / "key.txt"
    return Keyring(file if file.exists() else None)


def header(machine: Machine, name: str) -> Header:
    store = machine.store("prod")
    found = read_header(store, store.stat(name), keys(machine))
    assert found is not None
    return found


def the_latest(machine: Machine) -> dict[str, str]:
    """What each task that reads takes for the latest."""
    found = {}
    with machine.here_and_now():
        for task in ("verify", "drill", "restore"):
            with journaled(task, "prod", machine.paths, lambda: machine.now) as job:
                _read(task, machine, job.profile, job.store, job.record)
                found[task] = job.record.archive
    return found


def _read(task: str, machine: Machine, profile: Profile, store: Store, record: RunRecord) -> None:
    reading = Reading(profile, store, machine.paths.state, record, keys(machine))
    progress, wish = SilentProgress(), RestoreWish(to="restored")
    run: dict[str, Callable[[], object]] = {
        "verify": lambda: run_verify_job(reading, VerifyWish(), machine.now, progress),
        "drill": lambda: run_drill_job(reading, DrillWish(), progress),
        "restore": lambda: run_restore_job(reading, wish, machine.here, progress),
    }
    shutil.rmtree(machine.here / "restored", ignore_errors=True)
    run[task]()


# --- a clock that is ahead for one run


@in_s3_too
@pytest.mark.parametrize("ahead", [31 * DAY, 3650 * DAY])
def test_a_run_far_ahead_deletes_nothing(web1: Machine, place: Place, ahead: timedelta) -> None:
    before = names(web1)
    record = back_up_at(web1, web1.now + ahead)
    assert (record.exit_code, record.pruned) == (3, [])
    assert names(web1) == [*before, record.archive]
    assert "this server's clock says 20" in " ".join(record.unpruned)
    assert "nothing is deleted: this server's clock says" in web1.log().splitlines()[-1]


@in_s3_too
@pytest.mark.parametrize("task", ["backup", "prune"])
def test_a_clock_that_jumps_in_the_midst_of_a_run_deletes_nothing(web1: Machine, task: str) -> None:
    before, calls = names(web1), itertools.count()

    def jumping() -> datetime:
        # It is read once for the record, and twice around the question to the store.
        return web1.now + 365 * DAY * (next(calls) >= 3)

    with web1.here_and_now():
        if task == "backup":
            run_backup_job("prod", web1.paths, jumping, SilentProgress())
        else:
            with journaled("prune", "prod", web1.paths, jumping) as job:
                run_prune_job(job, dry_run=False)
    assert next(calls) > 3
    assert set(before) <= set(names(web1))


@in_s3
def test_in_a_bucket_the_next_run_goes_on_without_what_was_dated_ahead(web1: Machine) -> None:
    right = names(web1)
    ahead = back_up_at(web1, web1.now + 365 * DAY)
    (web1.here / "source" / "file").write_text("as it is now")
    now = web1.back_up("prod")
    assert (now.exit_code, now.unpruned) == (0, [])
    assert any("is dated ahead" in warning for warning in now.warnings)
    assert names(web1) == [*right, now.archive, ahead.archive]
    for _ in range(3):
        web1.now += 12 * DAY
        web1.back_up("prod")
    assert ahead.archive in names(web1), "it is not pruned, and takes nobody's place"
    assert not set(right) & set(names(web1))


def test_in_a_folder_nothing_is_deleted_until_what_was_dated_ahead_is_gone(web1: Machine) -> None:
    right = names(web1)
    ahead = back_up_at(web1, web1.now + 365 * DAY)
    for _ in range(3):
        now = web1.back_up("prod")
        assert (now.exit_code, now.pruned) == (3, [])
        [reason] = now.unpruned
        assert "this clock is behind, or was ahead then" in reason
        assert "delete that backup" in reason
    assert set(right) < set(names(web1))
    web1.store("prod").delete(ahead.archive)
    now = web1.back_up("prod")
    assert (now.exit_code, now.unpruned, now.warnings) == (0, [], [])


def test_what_is_dated_ahead_is_not_the_latest_and_not_built_upon(web1: Machine) -> None:
    (web1.here / "source" / "file").write_text("of a day that is yet to come")
    newest = names(web1)[-1]
    ahead = back_up_at(web1, web1.now + 3650 * DAY)
    assert set(the_latest(web1).values()) == {newest}
    assert (web1.here / "restored" / str(web1.here)[1:] / "source/file").read_text() != (
        "of a day that is yet to come"
    )
    (web1.here / "source" / "file").write_text("of today")
    today = web1.back_up("prod")
    assert header(web1, today.archive).copied_from in ("", newest)
    assert set(the_latest(web1).values()) == {today.archive}
    web1.store("prod").delete(ahead.archive)
    assert web1.back_up("prod").warnings == [], "nobody says for ten years that it vanished"


@pytest.mark.parametrize("place", ["plain"], indirect=True)
def test_a_note_of_what_was_dated_ahead_heals(
    web1: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where no backup is made any more that would overwrite it."""
    newest = names(web1)[-1]
    ahead = back_up_at(web1, web1.now + 3650 * DAY)
    assert "2035" in next((web1.paths.state / "newest").iterdir()).read_text()
    web1.store("prod").delete(ahead.archive)
    assert set(the_latest(web1).values()) == {newest}
    assert "vanished" not in capsys.readouterr().err


def test_nothing_is_built_on_what_is_a_few_days_ahead(web1: Machine) -> None:
    """Its manifest is the one that is kept here, and no full run is due."""
    newest = names(web1)[-1]
    ahead = back_up_at(web1, web1.now + 5 * DAY)
    assert header(web1, ahead.archive).copied_from == newest
    today = web1.back_up("prod")
    assert header(web1, today.archive).copied_from != ahead.archive


def test_where_nothing_is_proven_the_latest_by_name_is_not_one_that_is_yet_to_come(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path / "web1", "web1", "1" * 64)
    machine.write_profile("prod", Place.folder(tmp_path / "store"))
    for name in ("2025-06-10_0200", "2025-06-11_0200", "9998-12-31_2359"):
        (tmp_path / "store" / f"{name}-backup.tar.gz").write_bytes(b"x" * 5000)
    with (
        machine.here_and_now(),
        journaled("verify", "prod", machine.paths, lambda: machine.now) as job,
    ):
        _read("verify", machine, job.profile, job.store, job.record)
        assert job.record.archive == "2025-06-11_0200-backup.tar.gz"


def test_with_the_state_lost_what_is_dated_ahead_is_not_the_latest_either(web1: Machine) -> None:
    newest = names(web1)[-1]
    back_up_at(web1, web1.now + 3650 * DAY)
    web1.lose_state()
    before = names(web1)
    assert set(the_latest(web1).values()) == {newest}
    record = web1.back_up("prod")
    assert (record.exit_code, record.pruned) == (3, [])
    assert sorted([*before, record.archive]) == names(web1)


# --- a clock that is behind


@in_s3_too
def test_a_run_that_is_behind_makes_its_backup_and_deletes_nothing(
    web1: Machine, place: Place
) -> None:
    before = names(web1)
    record = back_up_at(web1, web1.now - 60 * DAY)
    assert (record.exit_code, record.pruned) == (3, [])
    assert names(web1) == [record.archive, *before]
    assert "this server's clock says 2025-04-16 02:00 UTC" in record.unpruned[0]


def test_a_run_in_a_minute_that_has_a_backup_gets_a_name_of_its_own(web1: Machine) -> None:
    record = back_up_at(web1, web1.now - 2 * DAY)
    assert record.archive.startswith("2025-06-13_0201")
    assert len(names(web1)) == 4


def test_a_reader_whose_clock_is_far_behind_takes_the_newest_and_says_so(
    web1: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = names(web1)[-1]
    web1.lose_state()
    web1.now = datetime(1970, 1, 2, tzinfo=UTC)
    assert set(the_latest(web1).values()) == {newest}
    told = capsys.readouterr().err
    assert told.count("every backup is dated ahead of this machine's clock, which says 1970") == 3


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_a_reader_whose_clock_is_behind_goes_by_the_stores(
    web1: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = names(web1)[-1]
    web1.now, web1.store_ahead = START + DAY / 2, 3 * DAY
    assert set(the_latest(web1).values()) == {newest}
    assert capsys.readouterr().err == ""


# --- two clocks


@in_s3
def test_the_clock_of_the_store_alone_may_be_wrong(web1: Machine) -> None:
    web1.store_ahead = -400 * DAY
    record = web1.back_up("prod")
    assert record.exit_code == 3
    assert "the store's looks wrong" in record.unpruned[0]
    web1.store_ahead = timedelta(0)
    assert web1.back_up("prod").exit_code == 0


@in_s3
def test_prune_alone_is_held_by_two_clocks_that_are_apart(web1: Machine) -> None:
    web1.store_ahead = timedelta(hours=2)
    before = names(web1)
    web1.now += 100 * DAY
    record, _ = web1.prune("prod")
    assert (record.exit_code, record.pruned) == (3, [])
    assert names(web1) == before


def test_a_store_that_tells_no_time_is_like_a_folder(
    s3_bucket: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backup_tasks.stores.s3 import answers as s3_answers

    machine = Machine(tmp_path / "web1", "web1", "1" * 64)
    machine.write_profile("prod", Place.bucket(s3_bucket), RETENTION)
    machine.store_ahead = None
    monkeypatch.setattr("backup_tasks.stores.s3.store.time_of_answer", lambda _: None)
    assert s3_answers.time_of_answer({}) is None
    assert machine.back_up("prod").exit_code == 0
    machine.now += 365 * DAY
    assert machine.back_up("prod").exit_code == 3


# --- long gaps


def test_after_a_long_pause_retention_goes_on_in_the_third_run(web1: Machine) -> None:
    web1.now += 100 * DAY
    codes = [web1.back_up("prod").exit_code for _ in range(3)]
    assert codes == [3, 3, 0]
    assert len(names(web1)) == 3


# --- what others have under way


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_a_clock_that_is_ahead_ends_no_upload_of_others(web1: Machine, s3_bucket: S3Bucket) -> None:
    key = "backups/2025-06-12_0300-backup.tar.gz"
    s3_bucket.client.create_multipart_upload(Bucket=s3_bucket.bucket, Key=key)
    web1.now = datetime.now(UTC)
    back_up_at(web1, web1.now + 30 * DAY)
    found = s3_bucket.client.list_multipart_uploads(Bucket=s3_bucket.bucket)
    assert [upload["Key"] for upload in found["Uploads"]] == [key]


@pytest.mark.parametrize(("days_ago", "useful"), [(1, True), (0, True), (-1, False), (40, False)])
def test_what_an_interrupted_run_dated_ahead_left_is_of_no_use(days_ago: int, useful: bool) -> None:
    staging = SimpleNamespace(recipients=(), started_at=utc_text(START - days_ago * DAY))
    backup = SimpleNamespace(full_every=30 * DAY)
    run: Any = SimpleNamespace(now=START, profile=SimpleNamespace(recipients=(), backup=backup))
    staged: Any = SimpleNamespace(staging=staging)
    assert is_useful(run, staged, None) is useful


# --- what is planted


@pytest.mark.parametrize("name", ["9999-12-31_2359", "9998-12-31_2359"])
def test_a_name_of_the_last_year_breaks_nothing(
    web1: Machine, place: Place, tmp_path: Path, name: str
) -> None:
    suffix = names(web1)[0].partition("-backup")[2]
    planted = f"{name}-backup{suffix}"
    (tmp_path / "store" / planted).write_bytes(b"x" * 5000)
    newest = names(web1)[2]
    assert set(the_latest(web1).values()) == {newest}
    record = web1.back_up("prod")
    assert (record.exit_code, record.unpruned) == (0, [])
    assert planted in names(web1)
    assert set(the_latest(web1).values()) == {record.archive}
    assert header(web1, record.archive).copied_from == newest


# --- whole commands under another clock


def under(clock: str) -> dict[str, str]:
    """The environment of a command whose clock is off by this; files keep their true times."""
    [library] = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": clock,
        "NO_FAKE_STAT": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def test_commands_under_a_clock_a_year_ahead_lose_nothing(cli: Cli) -> None:
    cli.write_profile(more=f"[retention]\n{RETENTION}")
    backup = ("backup", "--profile", "test")
    for day in ("-3d", "-2d", "-1d"):
        assert cli.run(*backup, **under(day)).code == 0
    right = str(cli.records()[-1]["archive"])
    wrong = cli.run(*backup, **under("+365d"))
    assert wrong.code == 3, wrong
    assert "nothing is deleted" in wrong.err
    assert "this server's clock says" in wrong.err
    ahead = str(cli.records()[-1]["archive"])
    assert cli.records()[-1]["pruned"] == []
    restored = cli.run("restore", "--profile", "test", "--to", "restored")
    assert restored.code == 0, restored
    assert cli.records()[-1]["archive"] == right
    assert f"{ahead[:15]} is newer by name, but nothing proves it: it is dated ahead" in (
        restored.err
    )
    named = cli.run("restore", "--profile", "test", "--to", "named", "--name", ahead[:15])
    assert (named.code, cli.records()[-1]["archive"]) == (0, ahead)
    cli.run(*backup)
    assert cli.run("verify", "--profile", "test").code == 0
    assert cli.records()[-1]["archive"] == cli.records()[-2]["archive"] != ahead


def test_a_bucket_takes_nothing_from_a_client_whose_clock_is_wrong(
    cli: Cli, s3_bucket: S3Bucket
) -> None:
    cli.write_profile(s3_store(s3_bucket), f"[retention]\n{RETENTION}")
    cli.back_up()
    before = s3_bucket.keys()
    for clock in ("+365d", "-365d"):
        done = cli.run("backup", "--profile", "test", **under(clock))
        assert done.code == 1
        assert "this machine's clock and the server's differ too much; set the clock" in done.err
    assert s3_bucket.keys() == before
    assert cli.run("verify", "--profile", "test").code == 0


# --- what else goes by the clock


def test_a_full_run_that_is_yet_to_come_is_due_now(
    tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"content")
    backups = Backups(tmp_path / "source", tmp_path / "store", paths, now=LATER)
    backups.backup()

    def wrong_header(**fields: Any) -> Header:
        return Header(**{**fields, "full_at": "2135-06-11T02:00:00Z"})

    with monkeypatch.context() as patch:
        patch.setattr(assembly, "Header", wrong_header)
        assert backups.backup().copied_bytes
    assert backups.backup().copied_bytes == 0
    assert "everything was last read on 2135-06-11, which is yet to come" in backups.log()
    assert backups.backup().copied_bytes


def test_a_dispute_that_was_noted_in_the_future_is_over(tmp_path: Path) -> None:
    def is_recent(moment: str) -> bool:
        keeper = ClaimKeeper(DirectoryStore(tmp_path), tmp_path, Name("p", "h"), "", START)
        return keeper._is_recent(moment)

    assert not is_recent("")
    assert is_recent((START - DAY).isoformat())
    assert not is_recent((START - 9 * DAY).isoformat())
    assert not is_recent((START + 3650 * DAY).isoformat())


def test_a_refusal_to_copy_in_the_future_is_forgotten(tmp_path: Path) -> None:
    memory = CopyMemory(tmp_path, "key")
    memory.remember(START + 3650 * DAY)
    assert not memory.refused(START)
    memory.remember(START)
    assert memory.refused(START + DAY)
