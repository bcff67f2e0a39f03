"""Which backups count: what is merely named like one is never the latest, and never deletes one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pyrage
import pytest
from msgspec.structs import replace

from backup_tasks.census import census as census_module
from backup_tasks.census.census import Census
from backup_tasks.claim import proof_notes
from backup_tasks.claim.acceptance import Acceptance
from backup_tasks.claim.claim_file import Name
from backup_tasks.claim.evidence import read_evidence
from backup_tasks.claim.proof import judge
from backup_tasks.claim.proof_notes import ProofNotes
from backup_tasks.command.print_listing import print_backups
from backup_tasks.common.time_zones import find_zone
from backup_tasks.errors import ReadRefused, StoreError, UsageError
from backup_tasks.format.archive_names import ENCRYPTED_SUFFIX, PLAIN_SUFFIX, is_backup_name
from backup_tasks.format.footer import END_CHUNK, Footer, encode_footer
from backup_tasks.format.signature_member import encode_signature
from backup_tasks.keys.identities import NO_KEYS, Keyring
from backup_tasks.keys.signing import make_signing_key, render_public_key
from backup_tasks.stores.base import StoredObject
from backup_tasks.stores.directory import DirectoryStore
from tests.conftest import S3Bucket
from tests.support.attacks import rewrite
from tests.support.histories import noise
from tests.support.machines import Machine, Place
from tests.support.proven import KEY_TEXT, proven_archive

# Nothing here is dated ahead of this.
LATER = datetime(2200, 1, 1, tzinfo=UTC)

STOCKHOLM = find_zone("Europe/Stockholm")
OURS = Acceptance(frozenset({KEY_TEXT}), frozenset({Name("prod", "web1")}))
ATTACKER = make_signing_key()
SEALED_FOR = str(pyrage.x25519.Identity.generate().to_public())


def plain(id_: str) -> str:
    return id_ + PLAIN_SUFFIX


def sealed(id_: str) -> str:
    return id_ + ENCRYPTED_SUFFIX


class Asked(DirectoryStore):
    """A folder as a store that notes what is read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.read: list[str] = []
        self.read_bytes = 0
        self.refused: dict[str, StoreError] = {}

    def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
        self.read.append(source.name)
        self.read_bytes += length
        if source.name in self.refused:
            raise self.refused[source.name]
        return super().read_range(source, start, length)


class Shelf:
    """A store of small archives, and the notes of a machine that has `KEY`."""

    def __init__(self, here: Path) -> None:
        self.folder, self.state = here / "store", here / "state"
        self.folder.mkdir(exist_ok=True)
        self.store = Asked(self.folder)

    def put(self, name: str, began: datetime | None = None, **how: Any) -> bytes:
        archive = proven_archive(name, began, recipients=(SEALED_FOR,), **how)
        (self.folder / name).write_bytes(archive)
        return archive

    def census(
        self,
        acceptance: Acceptance = OURS,
        *,
        zone: tzinfo = UTC,
        is_sure: bool = False,
        keys: Keyring = NO_KEYS,
    ) -> Census:
        notes = ProofNotes(self.state, self.store.place)
        listed = self.store.list_objects()
        return Census(
            self.store, zone, listed, notes, acceptance, now=LATER, is_sure=is_sure, keys=keys
        )


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def why_not(census: Census, name: str) -> str:
    """Why one does not count, as far as was looked."""
    return next(one.verdict.why for one in census.backups() if one.stored.name == name)


def why(census: Census, name: str) -> str:
    """Why one does not count, after a look at all."""
    census.look_at_all()
    return why_not(census, name)


# What does not count


STRANGERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "one byte": (lambda: b"x", "too short"),
    "nothing": (lambda: b"", "empty"),
    "junk": (lambda: b"x" * 5000, "no .tar.gz"),
    "unsigned": (lambda: proven_archive(plain("2025-06-12_0200"), key=None), "unsigned"),
    "another's key": (
        lambda: proven_archive(plain("2025-06-12_0200"), key=ATTACKER),
        f"signed by {render_public_key(ATTACKER.public_key)}, which is not accepted",
    ),
    "a copy": (
        lambda: proven_archive(plain("2025-06-11_0200")),
        "another backup's bytes: those of 2025-06-11_0200",
    ),
    "a true footer behind other bytes": (
        lambda: b"x" * 300 + proven_archive(plain("2025-06-11_0200"))[300:],
        "the manifest is damaged",
    ),
    "another host's": (
        lambda: proven_archive(plain("2025-06-12_0200"), host="web2"),
        "of profile prod on web2",
    ),
    "no time": (
        lambda: proven_archive(plain("2025-06-12_0200"), written_at="", started_at="x"),
        "does not say when",
    ),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_what_proves_nothing_does_not_count_and_is_never_the_latest(
    shelf: Shelf, kind: str
) -> None:
    make, told = STRANGERS[kind]
    shelf.put(plain("2025-06-11_0200"))
    (shelf.folder / plain("2025-06-12_0200")).write_bytes(make())
    census = shelf.census()
    assert told in why(census, plain("2025-06-12_0200"))
    choice = shelf.census().choose()
    assert choice.backup.id == "2025-06-11_0200"
    (warning,) = choice.warnings
    assert warning.startswith("2025-06-12_0200 is newer by name, but nothing proves it: ")
    assert "by --name" in warning
    assert shelf.census().choose(name="2025-06-12_0200").backup.id == "2025-06-12_0200"


def test_of_an_encrypted_backup_and_its_copies_the_one_made_here_counts(shelf: Shelf) -> None:
    archive = shelf.put(sealed("2025-06-11_0200"))
    (original,) = shelf.store.list_objects()
    notes = ProofNotes(shelf.state, shelf.store.place)
    notes.note_made(original, read_evidence(shelf.store, original))
    notes.save([original])
    for copy in ("2025-06-10_0200", "2025-06-12_0200"):
        (shelf.folder / sealed(copy)).write_bytes(archive)
    census = shelf.census(replace(OURS, trusts_locked=True))
    for copy in ("2025-06-10_0200", "2025-06-12_0200"):
        assert why(census, sealed(copy)) == f"it is a copy of {original.name}"
    assert [one.id for one in census.proven()] == ["2025-06-11_0200"]


def test_of_encrypted_copies_that_nobody_knows_the_one_stored_first_counts(shelf: Shelf) -> None:
    archive = shelf.put(sealed("2025-06-11_0200"))
    copy = shelf.folder / sealed("2025-06-10_0200")
    copy.write_bytes(archive)
    os.utime(shelf.folder / sealed("2025-06-11_0200"), (1_700_000_000,) * 2)
    census = shelf.census(replace(OURS, trusts_locked=True))
    census.look_at_all()
    assert [one.id for one in census.proven()] == ["2025-06-11_0200"]


def test_an_encrypted_backup_that_was_deleted_does_not_come_back_under_a_newer_name(
    shelf: Shelf,
) -> None:
    trusting = replace(OURS, trusts_locked=True)
    old = shelf.put(sealed("2025-06-10_0200"))
    shelf.put(sealed("2025-06-11_0200"))
    census = shelf.census(trusting)
    census.look_at_all()
    census.save()
    (shelf.folder / sealed("2025-06-10_0200")).unlink()
    shelf.census(trusting).save()
    (shelf.folder / sealed("2025-06-12_0200")).write_bytes(old)
    assert "copy of 2025-06-10_0200" in why(shelf.census(trusting), sealed("2025-06-12_0200"))
    assert shelf.census(trusting).choose().backup.id == "2025-06-11_0200"


def test_an_encrypted_backup_without_a_claim_proves_nothing_to_who_cannot_open_it(
    shelf: Shelf,
) -> None:
    shelf.put(sealed("2025-06-10_0200"))
    assert "nothing tells whose it is" in why(shelf.census(), sealed("2025-06-10_0200"))


def test_whoever_has_the_private_key_sees_through_a_copy_of_an_encrypted_backup(
    shelf: Shelf, tmp_path: Path
) -> None:
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "key.txt").write_text(str(identity))
    archive = proven_archive(sealed("2025-06-10_0200"), recipients=(str(identity.to_public()),))
    (shelf.folder / sealed("2025-06-11_0200")).write_bytes(archive)
    census = shelf.census(replace(OURS, trusts_locked=True), keys=Keyring(tmp_path / "key.txt"))
    assert "another backup's bytes" in why(census, sealed("2025-06-11_0200"))


# Order


def test_the_latest_is_the_one_begun_last_whatever_its_name(shelf: Shelf) -> None:
    """A name that prune freed, within a minute."""
    shelf.put(plain("2025-06-12_0201"), datetime(2025, 6, 12, 2, 0, 20, tzinfo=UTC))
    shelf.put(plain("2025-06-12_0200"), datetime(2025, 6, 12, 2, 0, 40, tzinfo=UTC))
    choice = shelf.census().choose()
    assert (choice.backup.id, choice.warnings) == ("2025-06-12_0200", ())


def test_when_summer_time_ends_the_second_passing_is_the_later_one(shelf: Shelf) -> None:
    shelf.put(plain("2025-10-26_0250"), datetime(2025, 10, 26, 0, 50, tzinfo=UTC))
    shelf.put(plain("2025-10-26_0210"), datetime(2025, 10, 26, 1, 10, tzinfo=UTC))
    census = shelf.census(zone=STOCKHOLM)
    assert census.choose().backup.id == "2025-10-26_0210"
    assert census.choose(day="2025-10-26").backup.id == "2025-10-26_0210"
    census.look_at_all()
    assert [one.id for one in census.proven()] == ["2025-10-26_0250", "2025-10-26_0210"]


def test_after_a_change_of_time_zone_the_latest_stays_the_latest(shelf: Shelf) -> None:
    shelf.put(plain("2025-06-12_1200"), datetime(2025, 6, 12, 2, 0, tzinfo=UTC))  # in Sydney
    shelf.put(plain("2025-06-11_2200"), datetime(2025, 6, 12, 5, 0, tzinfo=UTC))  # in Los Angeles
    assert shelf.census().choose().backup.id == "2025-06-11_2200"


def test_a_day_is_that_of_the_beginning_in_the_profiles_zone(shelf: Shelf) -> None:
    shelf.put(plain("2025-06-11_2330"), datetime(2025, 6, 11, 23, 30, tzinfo=UTC))
    census = shelf.census(zone=STOCKHOLM)
    assert census.choose(day="2025-06-12").backup.id == "2025-06-11_2330"
    # What its name says is what people see, where nothing was begun on that day.
    assert shelf.census(zone=STOCKHOLM).choose(day="2025-06-11").backup.id == "2025-06-11_2330"
    with pytest.raises(UsageError, match="there is no backup of 2025-06-10"):
        shelf.census(zone=STOCKHOLM).choose(day="2025-06-10")


def test_the_latest_is_found_without_a_look_at_those_that_are_older(shelf: Shelf) -> None:
    for day in range(1, 29):
        shelf.put(plain(f"2025-06-{day:02}_0200"))
    assert shelf.census(is_sure=True).choose().backup.id == "2025-06-28_0200"
    assert set(shelf.store.read) == {plain(f"2025-06-{day}_0200") for day in (27, 28)}


def test_a_store_that_fails_does_not_pass_off_an_older_backup_as_the_latest(shelf: Shelf) -> None:
    for day in (11, 12):
        shelf.put(plain(f"2025-06-{day}_0200"))
    newest = plain("2025-06-12_0200")
    shelf.store.refused = {newest: StoreError("no answer")}
    with pytest.raises(StoreError, match="no answer"):
        shelf.census().choose()
    shelf.store.refused = {newest: ReadRefused(f"{newest}: no permission")}
    choice = shelf.census().choose()
    assert choice.backup.id == "2025-06-11_0200"
    assert "no permission" in choice.warnings[0]


def test_a_backup_that_could_not_be_read_back_is_listed_and_is_never_the_latest(
    shelf: Shelf,
) -> None:
    for day in (11, 12):
        shelf.put(plain(f"2025-06-{day}_0200"))
    census = shelf.census()
    census.look_at_all()
    notes = census.notes
    notes.note_unread(plain("2025-06-12_0200"), "chunk 3 came back with another hash")
    census.save()
    again = shelf.census()
    assert again.choose().backup.id == "2025-06-11_0200"
    newest = again.details()[-1].backup
    assert (newest.verdict.state, newest.id) == ("not read back", "2025-06-12_0200")
    assert "another hash" in newest.verdict.why


def test_list_shows_in_the_order_of_time_which_do_not_count_and_why(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    shelf.put(plain("2025-06-12_0201"), datetime(2025, 6, 12, 2, 0, 20, tzinfo=UTC))
    shelf.put(plain("2025-06-12_0200"), datetime(2025, 6, 12, 2, 0, 40, tzinfo=UTC))
    shelf.put(plain("2025-06-13_0200"), key=None)
    details = shelf.census().details()
    print_backups(details, datetime(2025, 6, 14, tzinfo=UTC), as_json=False)
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == [
        "2025-06-12_0201",
        "2025-06-12_0200",
        "2025-06-13_0200",
    ]
    assert rows[-1].endswith("not counted: it is unsigned")
    print_backups(details, datetime(2025, 6, 14, tzinfo=UTC), as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert [one["proof"]["state"] for one in told] == ["proven", "proven", "unproven"]


# Readers that know nothing


def test_on_a_new_machine_any_true_signature_does(shelf: Shelf) -> None:
    shelf.put(plain("2025-06-11_0200"), profile="of", host="old")
    (shelf.folder / plain("2025-06-12_0200")).write_bytes(b"x")
    nothing_known = Acceptance(frozenset(), None, trusts_locked=True)
    assert shelf.census(nothing_known).choose().backup.id == "2025-06-11_0200"


def test_where_nothing_is_proven_the_newest_by_name_is_the_latest_with_a_word(
    shelf: Shelf,
) -> None:
    """As stores of version 0.1.0 are, and those that tar alone fills."""
    for day in (11, 12):
        shelf.put(plain(f"2025-06-{day}_0200"), key=None)
    (shelf.folder / plain("2025-06-13_0200")).write_bytes(b"")
    choice = shelf.census().choose()
    assert choice.backup.id == "2025-06-12_0200"
    assert choice.warnings == ("2025-06-12_0200 is the latest by its name alone: it is unsigned",)


def test_a_machine_with_a_key_of_its_own_reads_anothers_store_with_a_word(shelf: Shelf) -> None:
    shelf.put(plain("2025-06-12_0200"), key=ATTACKER)
    choice = shelf.census().choose()
    assert choice.backup.id == "2025-06-12_0200"
    assert "signed by another key" in choice.warnings[0]


def test_where_it_is_known_whose_a_store_is_no_others_signature_does(shelf: Shelf) -> None:
    shelf.put(plain("2025-06-11_0200"), host="former")
    for minute in range(70):  # more than are looked at where nothing is known
        shelf.put(plain(f"2025-06-12_{minute // 60:02}{minute % 60:02}"), key=ATTACKER)
    choice = shelf.census(is_sure=True).choose()
    assert choice.backup.id == "2025-06-11_0200"


# Notes


def test_what_is_noted_costs_no_request(shelf: Shelf) -> None:
    for day in range(1, 21):
        shelf.put(plain(f"2025-06-{day:02}_0200"))
    shelf.put(sealed("2025-06-21_0200"))
    (shelf.folder / plain("2025-06-22_0200")).write_bytes(b"junk" * 1000)
    first = shelf.census(replace(OURS, trusts_locked=True))
    first.look_at_all()
    first.save()
    shelf.store.read.clear()
    again = shelf.census(replace(OURS, trusts_locked=True))
    again.look_at_all()
    assert again.choose().backup.id == "2025-06-21_0200"
    assert [one.header is not None for one in again.details()] == [True] * 20 + [False] * 2
    # What looks damaged is looked at again, lest a bad line condemns a good backup for ever.
    assert set(shelf.store.read) == {plain("2025-06-22_0200")}


def test_what_was_replaced_is_looked_at_anew(shelf: Shelf) -> None:
    shelf.put(plain("2025-06-12_0200"))
    first = shelf.census()
    first.look_at_all()
    first.save()
    shelf.put(plain("2025-06-12_0200"), key=ATTACKER)
    assert "not accepted" in why(shelf.census(), plain("2025-06-12_0200"))


def test_a_run_looks_at_four_that_are_not_noted_the_newest_first(shelf: Shelf) -> None:
    for day in range(1, 21):
        shelf.put(plain(f"2025-06-{day:02}_0200"))
        os.utime(shelf.folder / plain(f"2025-06-{day:02}_0200"), (1_700_000_000 + day,) * 2)
    os.utime(shelf.folder / plain("2025-06-10_0200"), (1_800_000_000,) * 2)
    (shelf.folder / plain("2025-06-22_0200")).write_bytes(b"x")  # its size alone tells
    census = shelf.census()
    census.look(4)
    census.save()
    assert sorted(set(shelf.store.read)) == [
        plain(f"2025-06-{day:02}_0200") for day in (1, 2, 10, 20)
    ]
    shelf.store.read.clear()
    shelf.census().look(4)
    assert plain("2025-06-20_0200") not in shelf.store.read


@pytest.mark.parametrize("damage", ["cut", "flipped", "another's", "a folder"])
def test_notes_that_cannot_be_read_cost_a_look_and_nothing_else(shelf: Shelf, damage: str) -> None:
    for day in (11, 12):
        shelf.put(plain(f"2025-06-{day}_0200"))
    census = shelf.census()
    census.look_at_all()
    census.save()
    (file,) = (shelf.state / "proofs").iterdir()
    content = file.read_bytes()
    file.unlink()
    match damage:
        case "cut":
            file.write_bytes(content[:-50])
        case "flipped":
            file.write_bytes(content.replace(b'"evidence"', b'"evidenc\xff"', 1))
        case "another's":
            file.write_bytes(b"[1, 2]\n\n" + b"[" * 5000)
        case "a folder":
            file.mkdir()
    again = shelf.census()
    assert again.choose().backup.id == "2025-06-12_0200"
    again.look_at_all()
    again.save()
    assert len(again.proven()) == 2


def test_two_tasks_at_once_do_not_lose_what_the_other_has_noted(shelf: Shelf) -> None:
    for day in (11, 12):
        shelf.put(plain(f"2025-06-{day}_0200"))
    one, other = shelf.census(), shelf.census()
    for census in (one, other):
        census.look_at_all()
    one.notes.note_unread(plain("2025-06-12_0200"), "damaged")
    one.save()
    other.notes.note(*_looked(shelf, "2025-06-11_0200"))
    other.save()
    assert shelf.census().choose().backup.id == "2025-06-11_0200"


def _looked(shelf: Shelf, id_: str) -> tuple[StoredObject, Any]:
    stored = shelf.store.stat(plain(id_))
    return stored, read_evidence(shelf.store, stored)


# Whole runs


@pytest.fixture(params=["plain", "encrypted", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "s3":
        bucket: S3Bucket = request.getfixturevalue("s3_bucket")
        return Place.bucket(bucket)
    return Place.folder(tmp_path / "store", (SEALED_FOR,) if request.param == "encrypted" else ())


@pytest.fixture
def web1(tmp_path: Path, place: Place) -> Machine:
    machine = Machine(tmp_path / "web1", "web1", "machine-1")
    machine.write_profile("prod", place)
    return machine


def put(machine: Machine, name: str, content: bytes) -> None:
    """Put an object into the store without our own code's say."""
    store = machine.store("prod")
    writer = store.write(name, in_flight_bytes=2**20)
    writer.send(content)
    writer.commit()


def content_of(machine: Machine, name: str) -> bytes:
    store = machine.store("prod")
    stored = store.stat(name)
    return store.read_range(stored, 0, stored.size)


def backups_in(machine: Machine) -> list[str]:
    listed = machine.store("prod").list_objects()
    return [stored.name for stored in listed if is_backup_name(stored.name)]


def forget_proofs(machine: Machine) -> None:
    shutil.rmtree(machine.paths.state / "proofs", ignore_errors=True)


@pytest.mark.parametrize("lost", ["nothing", "proofs", "state"])
def test_two_one_byte_objects_never_make_prune_delete_the_only_good_backup(
    web1: Machine, lost: str
) -> None:
    good = web1.back_up("prod").archive
    for day in ("2025-06-13_0100", "2025-06-13_0130"):
        put(web1, good.replace("2025-06-12_0200", day), b"x")
    if lost == "proofs":
        forget_proofs(web1)
    if lost == "state":
        web1.lose_state()
    record, report = web1.prune("prod")
    assert (record.pruned, report.deleted) == ([], ())
    assert good in backups_in(web1)
    made = web1.back_up("prod")
    assert len(backups_in(web1)) == (4 if lost == "state" else 3)
    assert (good in backups_in(web1)) == (lost == "state")
    assert made.archive in backups_in(web1)


def test_the_next_run_builds_on_what_is_proven_whatever_is_put_beside_it(web1: Machine) -> None:
    (web1.here / "source" / "much").write_bytes(noise(1, 12 * 2**20))
    good = web1.back_up("prod").archive
    for minute in range(8):
        junk = good.replace("2025-06-12_0200", f"2025-06-13_010{minute}")
        put(web1, junk, b"\x1f\x8b" + b"x" * 5000)
    assert web1.back_up("prod").copied_bytes > 0


def test_a_store_of_the_version_before_goes_on_and_nothing_more_of_it_is_deleted(
    web1: Machine, place: Place
) -> None:
    web1.write_profile("prod", place, "keep_last = 3")
    (web1.here / "source" / "much").write_bytes(noise(1, 12 * 2**20))
    before = [web1.back_up("prod").archive for _ in range(3)]
    forget_proofs(web1)
    shutil.rmtree(web1.paths.state / "claims")
    web1.store("prod").delete("backup-tasks.json")
    made = web1.back_up("prod")
    assert (made.result, made.pruned) == ("success", before[:1])
    assert made.copied_bytes > 0
    assert backups_in(web1) == sorted([*before[1:], made.archive])


def test_a_profile_that_was_renamed_keeps_and_prunes_its_backups(
    web1: Machine, place: Place
) -> None:
    first = web1.back_up("prod").archive
    (web1.paths.profiles / "prod.toml").unlink()
    web1.write_profile("new", place)
    made = web1.back_up("new")
    assert made.pruned == [first]


def test_whoever_takes_a_store_over_counts_and_prunes_what_the_former_owner_made(
    web1: Machine,
) -> None:
    former = [web1.back_up("prod").archive for _ in range(1)]
    web1.lose_state()
    assert web1.back_up("prod").pruned == [], "nobody has said yet whose the store is"
    web1.store("prod").delete(web1.back_up("prod").archive)
    assert former[0] in backups_in(web1)
    assert former[0] in web1.back_up("prod", take_over=True).pruned


@pytest.mark.parametrize("place", ["encrypted"], indirect=True)
def test_copies_of_what_was_deleted_make_no_backup_go_though_the_state_was_lost(
    web1: Machine, place: Place
) -> None:
    web1.write_profile("prod", place, "keep_last = 3")
    old = {
        name: content_of(web1, name) for name in (web1.back_up("prod").archive for _ in range(3))
    }
    for _ in range(3):
        web1.back_up("prod")
    web1.lose_state()
    good = backups_in(web1)
    assert not set(good) & set(old)
    web1.back_up("prod", take_over=True)
    for hour, content in enumerate(old.values()):
        put(web1, sealed(f"{web1.now - timedelta(days=1):%Y-%m-%d}_2{hour}00"), content)
    record, _ = web1.prune("prod")
    assert (record.exit_code, record.pruned) == (0, [])
    made = [web1.back_up("prod").archive for _ in range(3)]
    assert set(made) <= set(backups_in(web1)), "what is dated by more is never replaced"
    assert not set(good) & set(backups_in(web1)), "they go by retention in the end"


@pytest.mark.parametrize("began", ["proofs noted", "nothing noted"])
def test_a_large_manifest_is_read_whole_before_its_backup_is_the_latest(
    shelf: Shelf, began: str
) -> None:
    """Its hash alone tells a true footer behind other bytes."""
    shelf.put(plain("2025-06-11_0200"))
    if began == "proofs noted":
        census = shelf.census()
        census.look_at_all()
        census.save()
    large = proven_archive(plain("2025-06-12_0200"), more=noise(1, 100_000))
    assert len(large) > 2**16, "no longer large"
    (shelf.folder / plain("2025-06-12_0200")).write_bytes(large)
    assert shelf.census().choose().backup.id == "2025-06-12_0200"
    damaged = large[:80_000] + bytes([large[80_000] ^ 1]) + large[80_001:]
    (shelf.folder / plain("2025-06-12_0200")).write_bytes(damaged)
    choice = shelf.census().choose()
    assert choice.backup.id == "2025-06-11_0200"
    assert "the manifest is damaged" in choice.warnings[0]


def test_of_a_strangers_backup_nothing_is_read_but_its_ends(shelf: Shelf) -> None:
    """Its manifest may be as large as he likes, and a run would read all of it."""
    name = plain("2025-06-12_0200")
    large = proven_archive(name, key=ATTACKER, more=noise(1, 5_000_000))
    (shelf.folder / name).write_bytes(large)
    for look in (lambda: shelf.census().look(4), lambda: shelf.census().look_at_all()):
        shelf.store.read_bytes = 0
        look()
        assert shelf.store.read_bytes < 200_000
    census = shelf.census()
    census.look(4)
    census.save()
    shelf.store.read.clear()
    shelf.census().look(4)
    assert shelf.store.read == [], "and it is noted"
    taken_over = replace(OURS, keys=OURS.keys | {render_public_key(ATTACKER.public_key)})
    again = shelf.census(taken_over)
    again.look(4)
    assert [one.stored.name for one in again.proven()] == [name]


def test_of_a_strangers_archive_little_is_read_whatever_it_says_of_its_length(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.put(plain("2025-06-11_0200"))
    size, asked = 32 * 2**20, []
    footer = Footer(0, size, bytes(32))
    signature = encode_signature(ATTACKER.sign(footer.statement))
    with open(shelf.folder / plain("2025-06-12_0200"), "wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(END_CHUNK + signature + encode_footer(footer))

    def read_range(self: Asked, source: StoredObject, start: int, length: int) -> bytes:
        asked.append(length)
        return DirectoryStore.read_range(self, source, start, length)

    monkeypatch.setattr(Asked, "read_range", read_range)
    for look in (lambda census: census.look(4), Census.look_at_all):
        census = shelf.census()
        look(census)
        assert "cannot be read" in why_not(census, plain("2025-06-12_0200"))
        assert sum(asked) < 2**20
    census.save()
    asked.clear()
    shelf.census().look(4)
    assert not asked, "it is noted"


def test_a_strangers_endless_first_line_is_not_kept_in_memory(shelf: Shelf) -> None:
    shelf.put(plain("2025-06-11_0200"), sources=("/" + "a" * 100_000,))
    shelf.put(plain("2025-06-12_0200"), sources=("/" + "a" * 100_000,), key=ATTACKER)
    census = shelf.census()
    assert "longer than any" in why(census, plain("2025-06-12_0200"))
    assert census.header(plain("2025-06-12_0200")) is None
    assert [one.id for one in census.proven()] == ["2025-06-11_0200"]


def test_what_a_stranger_signed_is_read_whole_once_his_key_is_accepted(shelf: Shelf) -> None:
    shelf.put(plain("2025-06-12_0200"), key=ATTACKER, more=noise(1, 100_000))
    census = shelf.census()
    census.look_at_all()
    census.save()
    both = replace(OURS, keys=OURS.keys | {render_public_key(ATTACKER.public_key)})
    census = shelf.census(both)
    census.look(4)
    assert [one.id for one in census.proven()] == ["2025-06-12_0200"]


def test_the_latest_is_found_soon_however_much_junk_is_newer_by_name(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.put(plain("2025-06-11_0200"))
    for minute in range(300):
        (shelf.folder / plain(f"2025-06-12_{minute // 60:02d}{minute % 60:02d}")).write_bytes(
            b"x" * 40
        )
    judged = []

    def count(objects: Sequence[StoredObject], *known: Any) -> Any:
        judged.append(len(objects))
        return judge(objects, *known)

    monkeypatch.setattr(census_module, "judge", count)
    assert shelf.census(is_sure=True).choose().backup.id == "2025-06-11_0200"
    assert len(judged) < 20


def test_notes_of_what_was_made_here_outlast_whatever_strangers_put_beside_it(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof_notes, "_NOTE_BYTES", 20_000)
    shelf.put(plain("2025-06-11_0200"))
    (original,) = shelf.store.list_objects()
    notes = ProofNotes(shelf.state, shelf.store.place)
    notes.note_made(original, read_evidence(shelf.store, original))
    notes.save([original])
    for minute in range(10, 50):
        shelf.put(plain(f"2025-06-10_02{minute}"), key=ATTACKER, sources=("/" + "a" * 5_000,))
    shelf.put(plain("2025-06-10_0300"), key=ATTACKER, sources=("/" + "a" * 500_000,))
    census = shelf.census()
    census.look_at_all()
    census.save()
    known = ProofNotes(shelf.state, shelf.store.place).known(shelf.store.list_objects())
    assert known[original.name].is_made_here
    assert 1 < len(known) < 42


# Taking in


def test_adopt_makes_an_unsigned_backup_of_an_old_version_count(tmp_path: Path) -> None:
    web1 = Machine(tmp_path / "web1", "web1", "machine-1")
    web1.write_profile("prod", Place.folder(tmp_path / "store"), "keep_last = 2")
    old = web1.back_up("prod").archive
    file = tmp_path / "store" / old
    file.write_bytes(rewrite(file.read_bytes(), None, name=""))
    made = [web1.back_up("prod").archive for _ in range(2)]
    assert web1.prune("prod")[1].left_alone == {
        old: "it is unsigned, as those that version 0.1.0 made"
    }
    report = web1.prune("prod", adopted=[old])[1]
    assert (report.deleted, report.left_alone) == ((old,), {})
    assert backups_in(web1) == made
    assert len(web1.claim("prod").adopted) == 1
    web1.back_up("prod")
    assert len(web1.claim("prod").adopted) == 1, "the next run keeps it"


def test_adopt_makes_a_former_keys_backup_count(tmp_path: Path) -> None:
    web1 = Machine(tmp_path / "web1", "web1", "machine-1")
    web1.write_profile("prod", Place.folder(tmp_path / "store"), "keep_last = 1")
    name = plain("2025-06-01_0200")
    put(web1, name, proven_archive(name, key=ATTACKER, host="old"))
    web1.back_up("prod", take_over=True)
    assert name in backups_in(web1)
    assert web1.prune("prod", adopted=["2025-06-01_0200"])[1].deleted == (name,)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("2025-06-01_0200", b"x", "too short"),
        ("2025-06-01_0200", proven_archive(plain("2025-06-02_0200")), "another backup's bytes"),
        ("2025-06-03_0200", b"x", "there is no backup 2025-06-03_0200"),
    ],
)
def test_adopt_refuses_what_cannot_count(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    web1 = Machine(tmp_path / "web1", "web1", "machine-1")
    web1.write_profile("prod", Place.folder(tmp_path / "store"))
    web1.back_up("prod")
    put(web1, plain("2025-06-01_0200"), content)
    with pytest.raises(UsageError, match=told):
        web1.prune("prod", adopted=[name])
    assert web1.claim("prod").adopted == ()


def test_adopt_is_the_owners(tmp_path: Path) -> None:
    web1 = Machine(tmp_path / "web1", "web1", "machine-1")
    web1.write_profile("prod", Place.folder(tmp_path / "store"))
    made = web1.back_up("prod").archive
    web1.lose_state()
    web1.back_up("prod")
    with pytest.raises(UsageError, match="not this profile's to change"):
        web1.prune("prod", adopted=[made])


def test_without_a_key_of_its_own_a_machine_deletes_nothing(tmp_path: Path) -> None:
    web1 = Machine(tmp_path / "web1", "web1", "machine-1")
    web1.write_profile("prod", Place.folder(tmp_path / "store"))
    for day in (1, 2, 3):
        name = plain(f"2025-06-0{day}_0200")
        put(web1, name, proven_archive(name))
    assert web1.prune("prod")[1].deleted == ()
    assert len(backups_in(web1)) == 3
