"""Promises when sources lose something: it is told, and the backups that still have it stay."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path

import pytest

from backup_tasks.claim.claim_file import CLAIM_BYTES, parse_claim
from backup_tasks.claim.hold import FEW_BYTES
from backup_tasks.errors import StoreError
from backup_tasks.holding import Holding
from backup_tasks.journal import RunRecord
from backup_tasks.naming import CLAIM_NAME
from backup_tasks.paths import Paths
from backup_tasks.problems import Problem, ProblemKind
from backup_tasks.reader import read_header
from tests.cli import Cli, cli, s3_store
from tests.keys import make_key
from tests.nights import Nights, fill
from tests.unreadable import refused

__all__ = ["cli"]


def server(
    request: pytest.FixtureRequest, folder: Path, *, is_encrypted: bool, on_s3: bool
) -> Nights:
    """A server with two sources; encrypted, it has no private key."""
    paths: Paths = request.getfixturevalue("paths")
    (folder / "store").mkdir()
    store = f'url = "file://{folder}/store/"'
    if on_s3:
        store = s3_store(request.getfixturevalue("s3_bucket"))
    nights = Nights(folder, paths, store, [folder / "etc", folder / "srv"])
    nights.recipients = (make_key(folder).recipient,) if is_encrypted else ()
    fill(folder / "etc")
    fill(folder / "srv")
    return nights


@pytest.fixture(params=["plain folder", "encrypted folder", "plain S3", "encrypted S3"])
def everywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Nights:
    is_encrypted, on_s3 = "encrypted" in request.param, "S3" in request.param
    return server(request, tmp_path, is_encrypted=is_encrypted, on_s3=on_s3)


@pytest.fixture(params=["plain folder", "encrypted S3"])
def nights(request: pytest.FixtureRequest, tmp_path: Path) -> Nights:
    is_encrypted, on_s3 = "encrypted" in request.param, "S3" in request.param
    return server(request, tmp_path, is_encrypted=is_encrypted, on_s3=on_s3)


@pytest.fixture
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Nights:
    return server(request, tmp_path, is_encrypted=False, on_s3=False)


def empty(folder: Path) -> None:
    """Delete all that is in it."""
    for place in folder.iterdir():
        shutil.rmtree(place) if place.is_dir() else place.unlink()


def test_the_last_good_backup_outlives_any_number_of_nights_with_an_emptied_source(
    everywhere: Nights,
) -> None:
    nights = everywhere
    assert [nights.pass_night().exit_code for _ in range(2)] == [0, 0]
    *_, good = nights.names()
    empty(nights.folder / "srv")
    since = nights.now
    for _ in range(4):
        record = nights.pass_night()
        assert (record.result, record.exit_code, record.pruned) == ("incomplete", 3, [])
        [reason] = record.unpruned
        assert reason.startswith(f"held since {since:%Y-%m-%d %H:%M} UTC: ")
        assert f"{nights.folder}/srv shrank from 31 entries and 3.0kB to 1 entry and 0B" in reason
        assert "invoke backup --profile prod --accept-shrink" in reason
    assert good in nights.names()
    assert len(nights.names()) == 6


def test_it_is_told_in_log_and_record(plain: Nights) -> None:
    plain.pass_night()
    empty(plain.folder / "srv")
    record = plain.pass_night()
    log = (plain.paths.logs / "backup.log").read_text()
    assert f"{plain.folder}/srv shrank from" in log
    assert f"nothing is deleted: {record.unpruned[0]}" in log
    assert record.unpruned[0] in (plain.paths.logs / "runs.jsonl").read_text()


def test_the_hold_ends_by_itself_when_the_source_is_whole_again(nights: Nights) -> None:
    nights.pass_night()
    srv = nights.folder / "srv"
    srv.rename(nights.folder / "elsewhere")
    srv.mkdir()
    for _ in range(3):
        assert nights.pass_night().exit_code == 3
    assert len(nights.names()) == 4
    srv.rmdir()
    (nights.folder / "elsewhere").rename(srv)
    record = nights.pass_night()
    assert (record.exit_code, record.unpruned) == (0, [])
    assert nights.note().hold is None
    assert len(nights.names()) == nights.keep


def test_what_is_meant_is_accepted_and_is_the_measure_from_then_on(nights: Nights) -> None:
    nights.pass_night()
    empty(nights.folder / "srv")
    assert nights.pass_night().exit_code == 3
    record = nights.pass_night(accept_shrink=True)
    assert (record.exit_code, record.unpruned) == (0, [])
    assert len(record.pruned) == 1
    assert nights.pass_night().exit_code == 0
    empty(nights.folder / "etc")
    assert nights.pass_night().exit_code == 3


def test_prune_by_hand_obeys_the_hold_and_says_so(nights: Nights) -> None:
    for _ in range(2):
        nights.pass_night()
    empty(nights.folder / "srv")
    nights.pass_night()
    nights.keep = 1
    for dry_run in (True, False):
        report, record = nights.prune(dry_run=dry_run)
        assert report.deleted == ()
        assert report.plan.delete
        assert record.unpruned[0].startswith("held since ")
        assert record.exit_code == 3
    assert len(nights.names()) == 3


def test_a_moved_source_is_missing_and_holds(nights: Nights) -> None:
    nights.pass_night()
    nights.pass_night()
    (nights.folder / "srv").rename(nights.folder / "elsewhere")
    for _ in range(3):
        record = nights.pass_night()
        assert record.exit_code == 3
        assert f"{nights.folder}/srv is missing (No such file or directory)" in record.unpruned[0]
    assert len(nights.names()) == 5
    # Also by hand, when the run is long over.
    assert nights.prune()[0].deleted == ()
    (nights.folder / "elsewhere").rename(nights.folder / "srv")
    assert nights.pass_night().exit_code == 0
    assert len(nights.names()) == nights.keep


def test_a_source_that_is_removed_from_the_profile_holds_nothing(nights: Nights) -> None:
    nights.pass_night()
    nights.sources = [nights.folder / "etc"]
    shutil.rmtree(nights.folder / "srv")
    assert [nights.pass_night().exit_code for _ in range(3)] == [0, 0, 0]
    assert len(nights.names()) == nights.keep


def test_a_hold_ends_when_its_source_is_removed_from_the_profile(plain: Nights) -> None:
    plain.pass_night()
    (plain.folder / "srv").rename(plain.folder / "elsewhere")
    assert plain.pass_night().exit_code == 3
    plain.sources = [plain.folder / "etc"]
    assert plain.pass_night().exit_code == 0


def test_a_new_source_that_is_missing_is_no_loss_but_that_run_deletes_nothing(
    plain: Nights,
) -> None:
    for _ in range(2):
        plain.pass_night()
    plain.sources = [*plain.sources, plain.folder / "tpyo"]
    plain.keep = 1
    record = plain.pass_night()
    assert (record.exit_code, record.pruned) == (3, [])
    assert str(plain.folder / "tpyo") in record.unpruned[0]
    assert plain.note().hold is None
    # The newest one without problems stays beside the newest one.
    assert len(plain.prune()[0].deleted) == 1


def test_nested_sources_are_counted_each(plain: Nights) -> None:
    inner = plain.folder / "srv" / "www"
    fill(inner, 15)
    plain.sources = [plain.folder / "srv", inner, plain.folder / "etc"]
    plain.pass_night()
    baseline = plain.note().baseline
    assert baseline is not None
    counts = [baseline.counts[str(source)].entries for source in plain.sources]
    assert counts == [47, 16, 31]
    empty(inner)
    record = plain.pass_night()
    # Of the outer one not half is lost.
    assert record.unpruned[0].count("shrank") == 1
    assert f"{inner} shrank" in record.unpruned[0]


def test_a_source_behind_a_link_is_counted_where_it_leads(plain: Nights) -> None:
    link = plain.folder / "link"
    link.symlink_to(plain.folder / "srv")
    plain.sources = [link, plain.folder / "etc"]
    plain.pass_night()
    link.unlink()
    (plain.folder / "nothing").mkdir()
    link.symlink_to(plain.folder / "nothing")
    assert f"{link} shrank" in plain.pass_night().unpruned[0]


def test_new_excludes_raise_no_hold_but_end_none_either(plain: Nights) -> None:
    plain.pass_night()
    plain.more = 'exclude = ["file0*"]'
    assert plain.pass_night().exit_code == 0
    fill(plain.folder / "srv" / "www")
    plain.more = ""
    plain.pass_night()
    empty(plain.folder / "srv")
    assert plain.pass_night().exit_code == 3
    plain.more = 'exclude = ["*.tmp"]'
    assert plain.pass_night().exit_code == 3


def test_a_folder_that_halves_every_week_needs_a_wider_limit(plain: Nights) -> None:
    log = plain.folder / "srv"
    plain.more = 'shrink_limit = "90%"'
    for week in range(3):
        fill(log, 40)
        assert plain.pass_night().exit_code == 0
        for place in list(log.iterdir())[:30]:
            place.unlink()
        assert plain.pass_night().exit_code == 0, week
    plain.more = ""
    fill(log, 40)
    plain.pass_night()
    for place in list(log.iterdir())[:30]:
        place.unlink()
    assert plain.pass_night().exit_code == 3


def test_a_dry_run_shows_what_would_hold_and_changes_nothing(plain: Nights) -> None:
    plain.pass_night()
    assert plain.plan().alarms == []
    empty(plain.folder / "srv")
    [alarm] = plain.plan().alarms
    assert alarm.startswith(f"{plain.folder}/srv shrank")
    assert plain.note().hold is None


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

    monkeypatch.setattr("backup_tasks.holding.Holding.raise_hold", torn)
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

    monkeypatch.setattr("backup_tasks.holding.Holding.raise_hold", lack)
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

    monkeypatch.setattr("backup_tasks.backup.fill", die)
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


def test_a_file_as_a_source_may_change_and_may_not_be_emptied(plain: Nights) -> None:
    file = plain.folder / "hostname"
    file.write_text("web1.example.com\n")
    plain.sources = [plain.folder / "etc", file]
    plain.pass_night()
    file.write_text("w\n")
    assert plain.pass_night().exit_code == 0
    file.write_text("")
    assert plain.pass_night().exit_code == 3


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backup_tasks.survey._BATCH", 3)


@pytest.mark.usefixtures("small_batches")
def test_counts_do_not_depend_on_how_the_walk_is_cut(plain: Nights) -> None:
    (plain.folder / "srv" / "www").mkdir()
    fill(plain.folder / "srv" / "www" / "a", 5)
    # Names that sort around a folder's end.
    fill(plain.folder / "srv-old", 7)
    fill(plain.folder / "srv" / "www!", 2)
    names = ["srv", "srv/www", "srv/www/a", "srv-old", "srv/www!", "srv/file001"]
    plain.sources = [plain.folder / name for name in names]
    plain.pass_night()
    baseline = plain.note().baseline
    assert baseline is not None
    expected = {}
    for name in names:
        top = plain.folder / name
        inside = list(top.rglob("*")) if top.is_dir() else []
        files = [place for place in (top, *inside) if place.is_file()]
        expected[str(top)] = (1 + len(inside), sum(place.stat().st_size for place in files))
    found = {source: (one.entries, one.bytes) for source, one in baseline.counts.items()}
    assert found == expected


def test_an_operator_is_told_what_holds_and_what_to_do(cli: Cli) -> None:
    cli.write_profile(more="[retention]\nkeep_last = 1\n")
    cli.back_up()
    cli.back_up()
    empty(cli.source)
    held = f"{cli.source} shrank from 6 entries and 46B to 1 entry and 0B"
    dry = cli.run("backup", "--profile", "test", "--dry-run")
    assert (dry.code, dry.err) == (0, f"nothing would be deleted: {held}\n")
    done = cli.run("backup", "--profile", "test")
    assert done.code == 3
    first, told = done.err.splitlines()
    assert first == "nothing is deleted:"
    assert held in told
    assert told.endswith("if it is meant to be so: invoke backup --profile test --accept-shrink")
    listed = cli.run("list", "--profile", "test")
    assert (listed.code, listed.err.count(held)) == (0, 1)
    for arguments in (["--dry-run"], []):
        pruned = cli.run("prune", "--profile", "test", *arguments)
        assert pruned.code == 3
        assert held in pruned.err
        assert "1 would be deleted" in pruned.out
    assert len(cli.archives()) == 2
    assert cli.run("backup", "--profile", "test", "--accept-shrink").code == 0
    assert len(cli.archives()) == 1
    assert cli.run("list", "--profile", "test").err == ""


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_happens_the_newest_backup_that_has_a_source_whole_is_there(
    plain: Nights, seed: int
) -> None:
    chooser = random.Random(seed)
    sources = [Path(source) for source in plain.sources]
    # Source -> the newest backup that has it whole; nobody needs it when its loss was accepted.
    needed: dict[Path, str] = {}
    for _ in range(12):
        source, stash = chooser.choice(sources), plain.folder / "stash"
        event = chooser.choice(["empty", "move", "bring back", "bring back", "forget", "full", ""])
        if event in ("empty", "move") and not stash.exists():
            source.rename(stash)
            (plain.folder / "whose").write_text(str(source))
            if event == "empty":
                source.mkdir()
        elif event == "bring back" and stash.exists():
            whose = Path((plain.folder / "whose").read_text())
            if whose.exists():
                empty(whose)
                whose.rmdir()
            stash.rename(whose)
        elif event == "forget":
            plain.lose_memory()
        accepts = chooser.random() < 0.1
        record = plain.pass_night(accept_shrink=accepts, full=event == "full")
        for one in sources:
            if one.exists() and len(list(one.iterdir())) == 30:
                needed[one] = record.archive
            elif accepts:
                needed.pop(one, None)
        assert set(needed.values()) <= set(plain.names())
