"""A byte flipped on its way is fetched again; damage that is really stored is told."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path
from typing import cast

import pytest

from backup_tasks.census.catalog import Backup
from backup_tasks.census.reading import Reading
from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.format.encrypted_footer import ENCRYPTED_FOOTER_BYTES
from backup_tasks.format.footer import END_CHUNK, FOOTER_BYTES
from backup_tasks.format.signature_member import MEMBER_BYTES
from backup_tasks.journal.run_record import RunRecord
from backup_tasks.read.listing import list_entries
from backup_tasks.restore.request import RestoreRequest, RestoreWish
from backup_tasks.restore.run_restore import run_restore, run_restore_job
from backup_tasks.stores.base import Store
from backup_tasks.verify.run_drill import DrillWish, run_drill_job
from backup_tasks.verify.run_verify import run_verify
from tests.support.backups import Backups
from tests.support.details import find_backups, read_details
from tests.support.flipping_store import FlippingStore
from tests.support.keys import make_key

CONTENT = b"what lies in the only file\n" * 40


@pytest.fixture(params=["plain", "encrypted"])
def backups(request: pytest.FixtureRequest, tmp_path: Path, paths: Paths) -> Backups:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(CONTENT)
    made = Backups(tmp_path / "source", tmp_path / "store", paths)
    if request.param == "encrypted":
        pair = make_key(tmp_path)
        made.recipients, made.key = (pair.recipient,), pair.file
    made.backup()
    return made


def newest(backups: Backups) -> tuple[Store, Backup]:
    store = backups.open_store()
    return store, find_backups(store, UTC)[-1]


def places(backups: Backups) -> list[int]:
    """Bytes all over the archive, and more of them at its end."""
    size = backups.archive().stat().st_size
    end = ENCRYPTED_FOOTER_BYTES if backups.recipients else FOOTER_BYTES + MEMBER_BYTES
    return [*range(0, size - end, size // 40), *range(size - end, size, end // 24)]


def flipping(backups: Backups, place: int) -> tuple[Store, FlippingStore, Backup]:
    store, backup = newest(backups)
    flips = FlippingStore(store, place)
    return cast(Store, flips), flips, backup


def test_a_byte_flipped_on_its_way_costs_no_restore(backups: Backups, tmp_path: Path) -> None:
    backups.trust_own_key()
    again = 0
    for place in places(backups):
        store, flips, backup = flipping(backups, place)
        target = tmp_path / str(place)
        request = RestoreRequest((), target)
        report = run_restore(store, backup, request, SilentProgress(), backups.keys)
        assert (backups.in_target(target) / "file").read_bytes() == CONTENT, place
        assert not report.fault_at_end, place
        again += any("came damaged" in note for note in report.extracted.notes)
        assert flips.flips <= 1
    assert again > 2


def test_a_byte_flipped_on_its_way_is_no_damage_to_verify(backups: Backups) -> None:
    signers = (backups.trust_own_key(),)
    again = 0
    for place in places(backups):
        store, _, backup = flipping(backups, place)
        report = run_verify(store, backup, SilentProgress(), None, backups.keys, signers)
        assert not report.is_damaged, (place, report.faults)
        again += report.fetched_again
    assert again > 2


def test_a_byte_flipped_on_its_way_hides_no_list(backups: Backups) -> None:
    for place in places(backups):
        store, _, backup = flipping(backups, place)
        found = list_entries(store, backup.stored, (), backups.keys)
        assert any(entry.name.endswith("source/file") for entry in found), place
        store, _, backup = flipping(backups, place)
        (details,) = read_details(store, [backup], backups.keys)
        assert details.header is not None, (place, details.trouble)


def test_what_is_stored_damaged_is_fetched_twice_and_told(backups: Backups) -> None:
    archive = backups.archive()
    content = bytearray(archive.read_bytes())
    content[700] ^= 1
    archive.write_bytes(content)
    store, backup = newest(backups)
    report = run_verify(store, backup, SilentProgress(), None, backups.keys)
    assert "its hash is wrong" in report.faults[0]
    assert report.fetched_again == 0


@pytest.mark.parametrize("what", ["end mark", "signature"])
def test_restore_and_drill_warn_of_damage_behind_the_manifest(
    tmp_path: Path, paths: Paths, what: str
) -> None:
    """No file depends on it, but `verify` calls it a fault."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(CONTENT)
    backups = Backups(tmp_path / "source", tmp_path / "store", paths)
    backups.backup()
    archive = backups.archive()
    content = bytearray(archive.read_bytes())
    end = len(content) - FOOTER_BYTES - MEMBER_BYTES
    content[end + 1 if what == "signature" else end - len(END_CHUNK) + 12] ^= 1
    archive.write_bytes(content)
    profile, store = backups.profile(), backups.open_store()
    told = []
    for number, name in enumerate(("restore", "drill")):
        record = RunRecord(name, "test", "host", profile.store.url, backups.now)
        reading = Reading(profile, store, paths.state, record)
        if name == "restore":
            wish = RestoreWish(to=str(tmp_path / f"target{number}"))
            run_restore_job(reading, wish, tmp_path, SilentProgress())
        else:
            run_drill_job(reading, DrillWish(), SilentProgress())
        told += [warning for warning in record.warnings if f"{what} " in warning]
    assert len(told) == 2, told
    assert all("is damaged" in warning and archive.name in warning for warning in told)
