"""Promises of the claim in real stores: ways of life that go on, and strangers told apart."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from backup_tasks.census.reading import Reading
from backup_tasks.claim.claim_file import Claim, Hold, Name
from backup_tasks.claim.machine_key import read_own_key
from backup_tasks.command.job import journaled, read_claim
from backup_tasks.common.progress import SilentProgress
from backup_tasks.errors import ClaimRefused, StoreError
from backup_tasks.format.archive_names import CLAIM_NAME
from backup_tasks.journal.run_record import RunRecord
from backup_tasks.profile.load import describe_profiles, load_profile
from backup_tasks.prune.lifecycle import run_lifecycle
from backup_tasks.restore.request import RestoreWish
from backup_tasks.restore.run_restore import run_restore_job
from backup_tasks.stores.directory import DirectoryStore
from tests.conftest import S3Bucket
from tests.support.cli import Cli, assert_refused, cli
from tests.support.keys import make_key
from tests.support.machines import Machine, Place

__all__ = ["cli"]

in_s3_too = pytest.mark.parametrize("place", ["plain", "encrypted", "s3"], indirect=True)


@pytest.fixture(params=["plain", "encrypted"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A store: a folder, one for encrypted backups whose key is elsewhere, a bucket."""
    if request.param == "s3":
        return Place.bucket(request.getfixturevalue("s3_bucket"))
    recipients = (make_key(tmp_path).recipient,) if request.param == "encrypted" else ()
    return Place.folder(tmp_path / "store", recipients)


@pytest.fixture
def web1(tmp_path: Path, place: Place) -> Machine:
    """A machine that has made two backups, and deleted the first of them."""
    machine = Machine(tmp_path / "web1", "web1", "1" * 64)
    machine.write_profile("prod", place)
    machine.back_up("prod")
    assert_pruned(machine.back_up("prod"))
    return machine


def names(machine: Machine) -> list[str]:
    return [one.name for one in machine.store("prod").list_objects()]


def assert_pruned(record: RunRecord) -> None:
    assert (record.exit_code, record.unpruned, record.warnings) == (0, [], [])
    assert len(record.pruned) == 1


def assert_unpruned(machine: Machine, record: RunRecord, *words: str) -> None:
    """A backup was made, nothing was deleted, and log and exit code say why."""
    assert (record.result, record.exit_code, record.pruned) == ("incomplete", 3, [])
    assert record.archive in names(machine)
    for word in words:
        assert word in " ".join(record.unpruned)
        assert word in machine.log().splitlines()[-1]


def put_claim(machine: Machine, body: bytes) -> None:
    """Somebody who may write to the store does."""
    store = machine.store("prod")
    store.put_small(CLAIM_NAME, body, replaces=store.stat(CLAIM_NAME))


def raw_claim(machine: Machine) -> bytes:
    return machine.store("prod").read_small(CLAIM_NAME, 2**20)[0]


# --- ways of life


@in_s3_too
def test_the_first_backup_claims_the_store_and_each_one_renews_it(web1: Machine) -> None:
    first = web1.claim("prod")
    key = read_own_key(web1.paths.state)
    assert key is not None
    assert (first.profile, first.host, first.machine) == ("prod", "web1", "1" * 64)
    assert first.names == (Name("prod", "web1"),)
    assert_pruned(web1.back_up("prod"))
    second = web1.claim("prod")
    assert second.serial != first.serial
    assert second.renewed_at > first.renewed_at
    assert second.claimed_at == first.claimed_at


def test_a_renamed_host_goes_on(web1: Machine) -> None:
    web1.host = "web1.example.com"
    assert_pruned(web1.back_up("prod"))
    assert web1.claim("prod").names == (Name("prod", "web1.example.com"), Name("prod", "web1"))
    assert "profile prod on host web1, and is now that of" in web1.log()
    assert_pruned(web1.back_up("prod"))


def test_a_renamed_profile_goes_on(web1: Machine, place: Place) -> None:
    (web1.paths.profiles / "prod.toml").rename(web1.paths.profiles / "live.toml")
    assert_pruned(web1.back_up("live"))
    assert web1.claim("live").names == (Name("live", "web1"), Name("prod", "web1"))
    assert_pruned(web1.back_up("live"))


def test_a_machine_that_was_installed_anew_with_its_state_goes_on(web1: Machine) -> None:
    web1.machine = "9" * 64
    assert_pruned(web1.back_up("prod"))
    assert web1.claim("prod").machine == "9" * 64


def test_a_clone_with_names_of_its_own_is_refused(web1: Machine, tmp_path: Path) -> None:
    clone = web1.clone(tmp_path / "web2", "web2", "2" * 64)
    before = names(web1), raw_claim(web1)
    with pytest.raises(ClaimRefused, match="clone"):
        clone.back_up("prod")
    assert (names(web1), raw_claim(web1)) == before
    assert_pruned(web1.back_up("prod"))


@in_s3_too
def test_a_clone_under_the_same_name_makes_both_delete_nothing(
    web1: Machine, tmp_path: Path
) -> None:
    clone = web1.clone(tmp_path / "web2", "web1", "1" * 64)
    web1.back_up("prod")
    clone.now = web1.now
    assert_unpruned(clone, clone.back_up("prod"), "a clone")
    web1.now = clone.now
    assert_unpruned(web1, web1.back_up("prod"), "a clone")
    assert_unpruned(web1, web1.back_up("prod"), "eight days")
    web1.now += timedelta(days=8)
    assert web1.back_up("prod").exit_code == 0


@in_s3_too
def test_a_replaced_machine_is_refused_until_it_takes_over(
    web1: Machine, place: Place, tmp_path: Path
) -> None:
    new = Machine(tmp_path / "new", "web9", "9" * 64, web1.now)
    new.write_profile("prod", place)
    before = names(web1), raw_claim(web1)
    with pytest.raises(ClaimRefused, match=r"profile prod on host web1.*--take-over"):
        new.back_up("prod")
    assert (names(web1), raw_claim(web1)) == before
    assert new.back_up("prod", take_over=True).exit_code == 0
    former, claim = web1_key(web1), new.claim("prod")
    assert claim.also == (former,)
    assert claim.names == (Name("prod", "web9"), Name("prod", "web1"))
    assert new.back_up("prod").exit_code == 0
    # The old one, should it come to life again, touches nothing of the new one's.
    web1.now = new.now
    assert_unpruned(web1, web1.back_up("prod"), "host web9")


@in_s3_too
def test_a_take_over_by_mistake_costs_no_backup_for_eight_days(
    web1: Machine, place: Place, tmp_path: Path
) -> None:
    of_web1 = names(web1)
    wrong = Machine(tmp_path / "wrong", "web2", "2" * 64, web1.now)
    wrong.write_profile("prod", place)
    for night in range(8):
        record = wrong.back_up("prod", take_over=night == 0)
        assert record.exit_code == 0
        assert set(of_web1) <= set(names(web1))
    # The machine whose store it was says so meanwhile, and takes it back.
    web1.now = wrong.now - timedelta(days=1)
    assert_unpruned(web1, web1.back_up("prod"), "host web2", "--take-over")
    assert web1.back_up("prod", take_over=True).exit_code == 0
    assert set(of_web1) & set(names(web1)) == set()
    web1.now += timedelta(days=8)
    last = web1.back_up("prod").archive
    # What the other machine made there is nobody's, and is left alone.
    made_by_other = set(names(web1)) - {last}
    assert last in names(web1)
    assert len(made_by_other) == 1
    assert not made_by_other & set(of_web1)


def test_a_clone_that_took_over_by_mistake_deletes_nothing_of_its_original_for_eight_days(
    web1: Machine, tmp_path: Path
) -> None:
    of_web1 = names(web1)
    clone = web1.clone(tmp_path / "web2", "web2", "2" * 64)
    for night in range(8):
        clone.back_up("prod", take_over=night == 0)
        assert set(of_web1) <= set(names(web1))
    clone.back_up("prod")
    assert len(names(web1)) == 1


@in_s3_too
def test_what_a_former_owner_signs_after_it_was_replaced_takes_no_other_backups_place(
    web1: Machine, place: Place, tmp_path: Path
) -> None:
    new = Machine(tmp_path / "new", "web9", "9" * 64, web1.now)
    new.write_profile("prod", place)
    of_web1 = names(web1)
    new.back_up("prod", take_over=True)
    mine = new.back_up("prod").archive
    # The old one comes to life again; it backs up and says so each night.
    web1.now = new.now + timedelta(days=2)
    late = web1.back_up("prod").archive
    new.now = web1.now
    _, report = new.prune("prod")
    assert mine in report.plan.keep
    assert set(of_web1) <= set(report.plan.keep), "which it made in its own time"
    assert "which owned the store until" in report.left_alone[late]
    assert {mine, late} <= set(names(new))


def web1_key(machine: Machine) -> str:
    from backup_tasks.claim.claim_file import owner_of

    key = read_own_key(machine.paths.state)
    assert key is not None
    return owner_of(key)


def test_a_lost_state_directory_stops_no_backup_and_deletes_nothing_until_told(
    web1: Machine,
) -> None:
    web1.lose_state()
    assert_unpruned(web1, web1.back_up("prod"), "state directory", "--take-over")
    assert_unpruned(web1, web1.back_up("prod"), "state directory")
    assert web1.back_up("prod", take_over=True).exit_code == 0
    assert web1.back_up("prod").exit_code == 0


@in_s3_too
def test_a_signing_key_that_was_removed_needs_no_word_of_the_operator(web1: Machine) -> None:
    former = web1_key(web1)
    (web1.paths.state / "signing.key").unlink()
    record = web1.back_up("prod")
    assert record.exit_code == 0
    claim = web1.claim("prod")
    assert (claim.owner, claim.also) == (web1_key(web1), (former,))
    assert web1.back_up("prod").exit_code == 0


def test_a_state_directory_that_was_set_back_deletes_nothing(web1: Machine, tmp_path: Path) -> None:
    shutil.copytree(web1.paths.state, tmp_path / "kept")
    web1.back_up("prod")
    shutil.rmtree(web1.paths.state)
    shutil.copytree(tmp_path / "kept", web1.paths.state)
    assert_unpruned(web1, web1.back_up("prod"), "set back")
    assert web1.back_up("prod", take_over=True).exit_code == 0
    assert web1.back_up("prod").exit_code == 0


def test_a_store_that_was_copied_elsewhere_is_still_this_machines(
    tmp_path: Path, web1: Machine, place: Place
) -> None:
    old = web1.store("prod")
    elsewhere = Place.folder(tmp_path / "elsewhere", place.recipients)
    for one in [*old.list_objects(), old.stat(CLAIM_NAME)]:
        (tmp_path / "elsewhere" / one.name).write_bytes(old.read_range(one, 0, one.size))
    web1.write_profile("prod", elsewhere)
    assert_pruned(web1.back_up("prod"))
    web1.write_profile("prod", place)  # and back
    assert_pruned(web1.back_up("prod"))


# --- two in one store


def test_two_profiles_of_one_machine_are_told_and_the_second_writes_nothing(
    web1: Machine, place: Place
) -> None:
    web1.write_profile("other", place)
    before = names(web1), raw_claim(web1)
    with pytest.raises(ClaimRefused, match="belongs to profile prod of this machine"):
        web1.back_up("other")
    assert (names(web1), raw_claim(web1)) == before


def test_two_profiles_that_share_a_store_already_go_on_and_delete_nothing(
    web1: Machine, place: Place
) -> None:
    forget_claims(web1)
    web1.write_profile("other", place)
    share(web1, "other")
    for _ in range(2):
        for name, told in (("prod", "profile other"), ("other", "profile prod")):
            assert_unpruned(web1, web1.back_up(name), told)


@pytest.mark.parametrize("place", ["encrypted"], indirect=True)
def test_a_profile_that_cannot_be_read_loses_no_backup_to_one_that_shares_its_store(
    web1: Machine, place: Place, tmp_path: Path
) -> None:
    forget_claims(web1)
    web1.write_profile("other", place)
    share(web1, "other")
    shutil.rmtree(web1.paths.state / "proofs")
    profile = web1.paths.profiles / "other.toml"
    whole = profile.read_text()
    profile.write_text("broken [")
    for _ in range(3):
        assert_unpruned(web1, web1.back_up("prod"), "profile other")
    elsewhere = Place.folder(tmp_path / "elsewhere", place.recipients)
    profile.write_text(whole.replace(place.lines, elsewhere.lines))
    assert web1.back_up("prod").unpruned == []


def forget_claims(machine: Machine) -> None:
    """As a store, and a state directory, of the version before claims."""
    machine.store("prod").delete(CLAIM_NAME)
    shutil.rmtree(machine.paths.state / "claims")


def share(machine: Machine, name: str) -> None:
    """Make a backup of this profile as the version before claims did."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backup_tasks.command.backup_job.open_keeper", lambda job: None)
        patch.setattr("backup_tasks.command.backup_job.prune_after_backup", lambda *_: None)
        machine.back_up(name)


@in_s3_too
def test_two_hosts_that_share_a_store_already_go_on_and_delete_nothing(
    web1: Machine, place: Place, tmp_path: Path
) -> None:
    forget_claims(web1)
    web2 = Machine(tmp_path / "web2", "web2", "2" * 64, web1.now)
    web2.write_profile("prod", place)
    share(web2, "prod")
    web1.now = web2.now
    assert_unpruned(web1, web1.back_up("prod"), "newest backup")
    web2.now = web1.now
    assert_unpruned(web2, web2.back_up("prod"), "newest backup")
    assert len(names(web1)) == 4


# --- the upgrade


@in_s3_too
def test_a_store_without_a_claim_is_claimed_and_pruned_as_before(web1: Machine) -> None:
    forget_claims(web1)
    assert_pruned(web1.back_up("prod"))
    assert web1.claim("prod").host == "web1"


def test_a_store_without_a_claim_whose_state_was_lost_too_deletes_nothing_that_night(
    web1: Machine,
) -> None:
    forget_claims(web1)
    web1.lose_state()
    assert_unpruned(web1, web1.back_up("prod"), "newest backup")


def test_junk_with_a_backups_name_is_nobodys_newest_backup(web1: Machine) -> None:
    forget_claims(web1)
    writer = web1.store("prod").write("2030-01-01_0000-backup.tar.gz", in_flight_bytes=2**20)
    writer.send(b"x")
    writer.commit()
    assert web1.back_up("prod").unpruned == []


# --- who is told


@pytest.mark.parametrize("place", ["plain"], indirect=True)
def test_a_restore_says_whose_the_backup_is(web1: Machine, place: Place, tmp_path: Path) -> None:
    new = Machine(tmp_path / "new", "web9", "9" * 64, web1.now)
    new.write_profile("prod", place)
    with new.here_and_now():
        notes = restored(new)
    assert [note for note in notes if "made by profile prod on host web1" in note]
    with web1.here_and_now():
        assert [note for note in restored(web1) if "made by" in note] == []


def restored(machine: Machine) -> set[str]:
    """Restore the newest backup; returns the notes."""
    with journaled("restore", "prod", machine.paths, lambda: machine.now) as job:
        wish = RestoreWish(to=str(machine.here / "restored"))
        reading = Reading(job.profile, job.store, machine.paths.state, job.record)
        report = run_restore_job(reading, wish, machine.here, SilentProgress())
    return report.extracted.notes


@pytest.mark.parametrize("place", ["plain"], indirect=True)
def test_profiles_shows_which_share_a_store(web1: Machine, place: Place, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "store")
    web1.write_profile("same", Place(f'url = "file://{link}"'))
    web1.write_profile("below", Place(f'url = "file://{tmp_path}/store/below/"'))
    found = {one.name: one.shares for one in describe_profiles(web1.paths)}
    assert found == {"prod": ("same",), "same": ("prod",), "below": ()}


# --- what somebody may do who can only write to the store


def test_a_claim_that_is_none_stops_no_backup(web1: Machine) -> None:
    put_claim(web1, b"nonsense")
    assert_unpruned(web1, web1.back_up("prod"), "no claim of this program")
    assert raw_claim(web1) == b"nonsense"
    assert web1.back_up("prod", take_over=True).exit_code == 0


def test_anothers_claim_stops_no_backup(web1: Machine, place: Place, tmp_path: Path) -> None:
    evil = Machine(tmp_path / "evil", "evil", "e" * 64, web1.now)
    evil.write_profile("prod", place)
    evil.back_up("prod", take_over=True)
    web1.now = evil.now
    assert_unpruned(web1, web1.back_up("prod"), "host evil")


def empty_source(machine: Machine) -> Hold:
    """What was in the source is gone, and a backup says so."""
    (machine.here / "source" / "file").unlink()
    assert_unpruned(machine, machine.back_up("prod"), "shrank")
    hold = machine.claim("prod").hold
    assert hold is not None
    return hold


@in_s3_too
def test_an_older_claim_that_is_put_back_lifts_no_hold(web1: Machine) -> None:
    older = raw_claim(web1)
    hold = empty_source(web1)
    put_claim(web1, older)
    assert_unpruned(web1, web1.back_up("prod"), "older claim", "shrank")
    assert web1.claim("prod").hold == hold


@in_s3_too
def test_no_hold_is_lifted_while_it_is_in_dispute_whose_claim_it_is(web1: Machine) -> None:
    older = raw_claim(web1)
    hold = empty_source(web1)
    (web1.here / "source" / "file").write_text("back again")
    put_claim(web1, older)
    assert_unpruned(web1, web1.back_up("prod"), "older claim", "shrank")
    assert web1.claim("prod").hold == hold


def test_a_claim_that_is_deleted_lifts_no_hold(web1: Machine) -> None:
    hold = empty_source(web1)
    web1.store("prod").delete(CLAIM_NAME)
    assert_unpruned(web1, web1.back_up("prod"), "shrank")
    assert web1.claim("prod").hold == hold
    assert "the claim was gone" in web1.log()


# --- trouble


@in_s3_too
def test_a_claim_that_cannot_be_written_costs_no_backup(
    web1: Machine, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(web1.store("prod"))

    def refuse(*_: object, **__: object) -> None:
        raise StoreError("no permission; the key needs s3:PutObject")

    with monkeypatch.context() as patch:
        patch.setattr(kind, "put_small", refuse)
        assert_unpruned(web1, web1.back_up("prod"), "cannot be written", "s3:PutObject")
    assert_pruned_later(web1)


def assert_pruned_later(machine: Machine) -> None:
    record = machine.back_up("prod")
    assert (record.exit_code, len(record.pruned)) == (0, 2)


def test_prune_obeys_the_claim(web1: Machine, place: Place, tmp_path: Path) -> None:
    web1.write_profile("prod", place, "keep_last = 9")
    web1.back_up("prod")
    web1.write_profile("prod", place)
    other = Machine(tmp_path / "other", "web9", "9" * 64, web1.now)
    other.write_profile("prod", place)
    with pytest.raises(ClaimRefused):
        other.prune("prod")
    put_claim(web1, b"nonsense")
    record, report = web1.prune("prod")
    assert (record.exit_code, report.deleted, len(names(web1))) == (3, (), 2)
    assert len(report.plan.delete) == 1


@in_s3_too
@pytest.mark.parametrize("crash", ["before", "after"])
def test_a_crash_around_the_writing_of_the_claim_is_no_clone(
    web1: Machine, monkeypatch: pytest.MonkeyPatch, crash: str
) -> None:
    class Killed(BaseException):
        pass

    kind = type(web1.store("prod"))
    put: Callable[..., object] = kind.put_small

    def die(*what: object, **how: object) -> None:
        if crash == "after":
            put(*what, **how)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(kind, "put_small", die)
        with pytest.raises(Killed):
            web1.back_up("prod")
    record = web1.back_up("prod")
    assert (record.exit_code, record.unpruned) == (0, [])


@in_s3_too
def test_a_usual_run_costs_one_reading_and_one_writing_of_the_claim(
    web1: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, asked = type(web1.store("prod")), []
    for name in ("read_small", "put_small"):
        really: Callable[..., object] = getattr(kind, name)

        def count(*what: object, _really=really, _name=name, **how: object) -> object:  # type: ignore[no-untyped-def]
            asked.append(_name)
            return _really(*what, **how)

        monkeypatch.setattr(kind, name, count)
    web1.back_up("prod")
    assert asked == ["read_small", "put_small"]


def test_of_two_machines_that_claim_at_once_one_owns_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place.folder(tmp_path / "store")
    first = Machine(tmp_path / "a", "a", "a" * 64)
    second = Machine(tmp_path / "b", "b", "b" * 64)
    for machine in (first, second):
        machine.write_profile("prod", place)
    put = DirectoryStore.put_small

    def late(*what: object, **how: object) -> object:
        monkeypatch.setattr(DirectoryStore, "put_small", put)
        second.back_up("prod")
        return put(*what, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(DirectoryStore, "put_small", late)
    with pytest.raises(ClaimRefused, match="host b"):
        first.back_up("prod")
    assert second.claim("prod").host == "b"
    assert len(names(second)) == 1


def test_machine_ids_leave_the_machine_only_hashed(tmp_path: Path) -> None:
    from backup_tasks.claim.machine import hash_machine

    file = tmp_path / "machine-id"
    assert hash_machine(file) == ""
    file.write_text("0123456789abcdef0123456789abcdef\n")
    first = hash_machine(file)
    assert len(first) == 64
    assert "0123456789abcdef" not in first
    file.write_text("0123456789abcdef0123456789abcdee\n")
    assert hash_machine(file) not in ("", first)
    for unfit in ("uninitialized\n", "0" * 32, "0123", "\xff" * 32):
        file.write_text(unfit)
        assert hash_machine(file) == ""


def test_a_bucket_of_another_server_is_another_store(s3_bucket: S3Bucket, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "m", "web1", "1" * 64)
    machine.write_profile("one", Place.bucket(s3_bucket))
    here = machine.store("one").place
    other = S3Bucket("http://s3.example.com", *list(vars(s3_bucket).values())[1:])
    machine.write_profile("two", Place.bucket(other))
    assert machine.store("two").place != here


# --- for who reads, and for rules of S3


def test_a_reader_goes_by_the_claim_unless_it_has_backups_of_its_own_there(
    web1: Machine, place: Place, tmp_path: Path
) -> None:
    new = Machine(tmp_path / "new", "web9", "9" * 64, web1.now)
    new.write_profile("prod", place)
    assert read_by(new) == read_by(web1) == web1.claim("prod")
    share(new, "prod")
    assert read_by(new) is None
    assert raw_claim(web1) == raw_claim(new)


def read_by(machine: Machine) -> Claim | None:
    with (
        machine.here_and_now(),
        journaled("list", "prod", machine.paths, lambda: machine.now, recorded=False) as job,
    ):
        return read_claim(job)


def test_the_claim_keeps_nobody_from_installing_lifecycle_rules(
    tmp_path: Path, s3_bucket: S3Bucket
) -> None:
    machine = Machine(tmp_path / "m", "web1", "1" * 64)
    machine.write_profile("prod", Place.bucket(s3_bucket), 'expire_after = "90d"')
    machine.back_up("prod")
    done = run_lifecycle(load_profile("prod", machine.paths), install=True)
    assert done.written
    assert not [note for note in done.notes if CLAIM_NAME in note]


# --- as it is typed


def test_take_over_and_its_refusals_are_told_on_the_command_line(cli: Cli) -> None:
    cli.write_profile(more="[retention]\nkeep_last = 1\n")
    cli.back_up()
    (cli.state / "signing.key").unlink()
    shutil.rmtree(cli.state / "claims")
    done = cli.run("backup", "--profile", "test")
    assert (done.code, done.out) == (3, "")
    assert "nothing is deleted:" in done.err
    assert "--take-over" in done.err
    [*_, record] = cli.records()
    assert (record["result"], record["exit_code"], record["pruned"]) == ("incomplete", 3, [])
    assert record["unpruned"]
    assert "; nothing is deleted: " in cli.log()[-1]
    done = cli.run("prune", "--profile", "test")
    assert (done.code, len(cli.archives())) == (3, 2)
    assert "would be deleted" in done.out
    assert "nothing is deleted:" in done.err
    assert cli.records()[-1]["exit_code"] == 3
    done = cli.run("backup", "--profile", "test", "--take-over")
    assert (done.code, done.err) == (0, "")
    assert len(cli.archives()) == 1


def test_a_store_of_somebody_elses_is_refused_on_the_command_line(cli: Cli) -> None:
    cli.write_profile()
    cli.back_up()
    cli.write_profile(name="other")
    assert_refused(
        cli, cli.run("backup", "--profile", "other"), 1, "profile test of this machine", "store.url"
    )
    assert_refused(cli, cli.run("backup", "--profile", "other", "--dry-run"), 1, "profile test")
    shown = cli.run("profiles").out
    assert "shares its store with test" in shown
    assert "shares its store with other" in shown
    assert cli.run("backup", "--profile", "other", "--dry-run", "--take-over").code == 0
