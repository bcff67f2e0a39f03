"""Promises of where a hold is remembered, and of runs that are done but lack something."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from backup_tasks.backup.holding import Holding
from backup_tasks.claim.claim_file import CLAIM_BYTES, parse_claim
from backup_tasks.claim.hold import FEW_BYTES
from backup_tasks.errors import StoreError
from backup_tasks.format.archive_names import CLAIM_NAME
from backup_tasks.journal.problems import Problem, ProblemKind
from backup_tasks.journal.run_record import RunRecord
from backup_tasks.read.manifest_reader import read_header
from tests.support.keys import make_key
from tests.support.nights import Nights, empty, fill, nights, plain
from tests.support.unreadable import refused

__all__ = ["nights", "plain"]


def test_without_its_memory_a_plain_profile_compares_with_the_newest_good_backup(
    plain: Nights,
) -> None:
    plain.pass_night()
    empty(plain.folder / "srv")
    assert plain.pass_night().exit_code == 3
    plain.lose_memory()
    # The newest one is hollow, and says so itself.
    newest = plain.backups()[-1].stored
    header = read_header(plain.open_store(), newest)
    assert header is not None
    assert header.alarms == 1
    record = plain.pass_night()
    assert record.exit_code == 3
    assert f"{plain.folder}/srv shrank from 31 entries" in record.unpruned[0]


def test_without_its_memory_the_hold_of_the_claim_is_obeyed(nights: Nights) -> None:
    for _ in range(2):
        nights.pass_night()
    empty(nights.folder / "srv")
    nights.pass_night()
    nights.lose_memory()
    nights.keep = 1
    report, record = nights.prune()
    assert (report.deleted, record.exit_code) == ((), 3)
    [reason] = record.unpruned
    assert reason.startswith(f"held since {nights.starts[-1]:%Y-%m-%d %H:%M} UTC: ")
    if nights.recipients:
        assert "a source shrank; what the sources held is no longer known here" in reason
        assert str(nights.folder) not in reason
    assert nights.pass_night().exit_code == 3
    assert len(nights.names()) == 4


def test_a_hold_that_only_the_claim_of_an_encrypted_profile_knows_is_lifted_by_hand(
    tmp_path: Path, plain: Nights
) -> None:
    plain.recipients = (make_key(tmp_path).recipient,)
    plain.pass_night()
    (tmp_path / "srv").rename(tmp_path / "elsewhere")
    (tmp_path / "srv").mkdir()
    plain.pass_night()
    plain.lose_memory()
    # Nothing here tells what the source held, whatever it holds now; nor when another is lost.
    assert plain.pass_night().exit_code == 3
    (tmp_path / "etc").rename(tmp_path / "other")
    assert plain.pass_night().exit_code == 3
    (tmp_path / "other").rename(tmp_path / "etc")
    record = plain.pass_night()
    assert record.exit_code == 3
    assert "look whether they are whole" in record.unpruned[0]
    assert len(plain.names()) == 5
    record = plain.pass_night(accept_shrink=True)
    assert record.exit_code == 0
    assert record.pruned
    assert plain.pass_night().exit_code == 0


def test_without_its_memory_an_encrypted_profile_notices_by_its_size_what_was_lost_meanwhile(
    tmp_path: Path, plain: Nights
) -> None:
    plain.recipients = (make_key(tmp_path).recipient,)
    srv, elsewhere = plain.folder / "srv", plain.folder / "elsewhere"
    (srv / "much").write_bytes(os.urandom(2 * FEW_BYTES))
    good = [plain.pass_night().archive for _ in range(2)]
    srv.rename(elsewhere)
    srv.mkdir()
    plain.lose_memory()
    for _ in range(3):
        [reason] = plain.pass_night().unpruned
        assert "the sources hold" in reason
        assert "look whether they are whole" in reason
    assert set(good) <= set(plain.names())
    plain.lose_memory()
    [reason] = plain.pass_night().unpruned
    assert "the sources shrank" in reason
    srv.rmdir()
    elsewhere.rename(srv)
    assert plain.pass_night(accept_shrink=True).exit_code == 0
    plain.lose_memory()
    assert plain.pass_night().exit_code == 0, "it is whole"


def test_a_plain_profile_without_its_memory_lifts_the_hold_when_all_is_there_again(
    plain: Nights,
) -> None:
    plain.pass_night()
    srv = plain.folder / "srv"
    srv.rename(plain.folder / "elsewhere")
    srv.mkdir()
    plain.pass_night()
    plain.lose_memory()
    assert plain.pass_night().exit_code == 3
    plain.lose_memory()
    srv.rmdir()
    (plain.folder / "elsewhere").rename(srv)
    assert plain.pass_night().exit_code == 0


def test_a_backup_with_torn_files_deletes_but_the_newest_whole_one_stays(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        nights.pass_night()
    *_, whole = nights.names()
    nights.keep = 1

    def torn(holding: Holding, record: RunRecord) -> None:
        record.add_problem(Problem("etc/log", "changed while it was read", "torn"))

    monkeypatch.setattr("backup_tasks.backup.holding.Holding.raise_hold", torn)
    for _ in range(3):
        record = nights.pass_night()
        assert (record.exit_code, record.unpruned) == (3, [])
    assert nights.names() == [whole, record.archive]
    report, _ = nights.prune(dry_run=True)
    assert report.plan.keep[whole] == ("the newest without problems",)
    monkeypatch.undo()
    assert nights.pass_night().exit_code == 0
    assert len(nights.names()) == 1


@pytest.mark.parametrize("kind", ["unreadable", "missing"])
def test_a_run_that_lacks_more_than_torn_files_deletes_nothing(
    plain: Nights, monkeypatch: pytest.MonkeyPatch, kind: ProblemKind
) -> None:
    for _ in range(2):
        plain.pass_night()
    plain.keep = 1

    def lack(holding: Holding, record: RunRecord) -> None:
        record.add_problem(Problem("etc/shadow", "Input/output error", kind))

    monkeypatch.setattr("backup_tasks.backup.holding.Holding.raise_hold", lack)
    record = plain.pass_night()
    assert (record.exit_code, record.pruned) == (3, [])
    assert record.unpruned[0].endswith(": etc/shadow")
    assert len(plain.names()) == 3


def test_what_cannot_be_read_but_was_carried_over_counts_as_there(plain: Nights) -> None:
    most = plain.folder / "srv" / "most"
    fill(most, 80)
    for _ in range(2):
        plain.pass_night()
    *_, whole = plain.names()
    with refused(most, number=errno.EIO):
        for _ in range(3):
            record = plain.pass_night()
            assert (record.exit_code, record.carried) == (3, 80)
            assert record.unpruned == []
    # Pruned as ever, but for the newest backup that is whole.
    assert whole in plain.names()
    assert len(plain.names()) == plain.keep + 1
    assert plain.pass_night().exit_code == 0
    assert len(plain.names()) == plain.keep


def test_what_could_not_be_carried_over_is_a_loss_and_names_the_backup_that_has_it(
    tmp_path: Path, plain: Nights
) -> None:
    # Without a key nothing is taken out of an encrypted backup, and this one is too small to copy.
    plain.recipients = (make_key(tmp_path).recipient,)
    plain.more = 'shrink_limit = "100%"'
    most = plain.folder / "srv" / "most"
    fill(most, 80)
    for _ in range(2):
        plain.pass_night(full=True)
    *_, whole = plain.names()
    with refused(most, number=errno.EIO):
        for _ in range(3):
            record = plain.pass_night(full=True)
            assert record.exit_code == 3
            assert record.needed_backups == [whole]
    assert whole in plain.names()


def test_a_source_whose_own_folder_cannot_be_read_holds(plain: Nights) -> None:
    for _ in range(2):
        plain.pass_night()
    with refused(plain.folder / "srv", number=errno.EIO):
        for _ in range(2):
            record = plain.pass_night()
            assert record.exit_code == 3
            assert f"{plain.folder}/srv cannot be read" in record.unpruned[0]
            assert "shrank" not in record.unpruned[0]
    assert len(plain.names()) == 4
    assert plain.pass_night().exit_code == 0
    assert len(plain.names()) == plain.keep


def claim_of(nights: Nights) -> bytes:
    content, _ = nights.open_store().read_small(CLAIM_NAME, CLAIM_BYTES)
    return content


def test_an_older_claim_that_is_put_back_lifts_no_hold(nights: Nights) -> None:
    for _ in range(2):
        nights.pass_night()
    before = claim_of(nights)
    empty(nights.folder / "srv")
    nights.pass_night()
    assert parse_claim(claim_of(nights)).hold is not None
    store = nights.open_store()
    _, found = store.read_small(CLAIM_NAME, CLAIM_BYTES)
    store.put_small(CLAIM_NAME, before, replaces=found)
    nights.keep = 1
    assert nights.prune()[0].deleted == ()
    assert nights.pass_night().exit_code == 3
    assert parse_claim(claim_of(nights)).hold is not None


def test_the_claim_of_an_encrypted_profile_says_no_path(nights: Nights) -> None:
    nights.pass_night()
    empty(nights.folder / "srv")
    nights.pass_night()
    content = claim_of(nights)
    hold = parse_claim(content).hold
    assert hold is not None
    if nights.recipients:
        assert hold.reasons == ("a source shrank",)
        assert hold.before is None
        assert str(nights.folder).encode() not in content
    else:
        assert hold.before is not None
        assert hold.before.counts[f"{nights.folder}/srv"].entries == 31


def test_the_hold_is_in_the_claim_before_the_hollow_backup_is_there(
    plain: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.pass_night()
    empty(plain.folder / "srv")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("backup_tasks.backup.run_backup.fill", die)
    with pytest.raises(KeyboardInterrupt):
        plain.pass_night()
    monkeypatch.undo()
    assert len(plain.names()) == 1
    assert parse_claim(claim_of(plain)).hold is not None
    assert plain.note().hold is not None


def test_a_store_that_takes_no_claim_gets_its_backup_and_the_hold_stays_here(
    plain: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        plain.pass_night()
    empty(plain.folder / "srv")

    def refuse(*_: object, **__: object) -> None:
        raise StoreError("no room")

    monkeypatch.setattr("backup_tasks.claim.keeper.ClaimKeeper.write", refuse)
    record = plain.pass_night()
    assert record.exit_code == 3
    assert record.warnings == ["the hold is not in the store's claim: no room"]
    assert len(plain.names()) == 3
    monkeypatch.undo()
    assert plain.pass_night().exit_code == 3
    assert parse_claim(claim_of(plain)).hold is not None


@pytest.mark.parametrize("full", [False, True])
def test_without_its_memory_a_plain_profile_notices_what_was_lost_meanwhile(
    plain: Nights, full: bool
) -> None:
    plain.pass_night()
    plain.lose_memory()
    empty(plain.folder / "srv")
    record = plain.pass_night(full=full)
    assert f"{plain.folder}/srv shrank from 31 entries" in record.unpruned[0]
