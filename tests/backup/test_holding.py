"""Promises when sources lose something: it is told, and the backups that still have it stay."""

from __future__ import annotations

import random
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.cli import Cli, cli
from tests.support.nights import Nights, empty, everywhere, fill, nights, plain

__all__ = ["cli", "everywhere", "nights", "plain"]


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
    record = nights.pass_night()
    assert record.exit_code == 0
    assert len(record.pruned) == 1
    empty(nights.folder / "etc")
    assert nights.pass_night().exit_code == 3


def test_a_loss_accepted_by_mistake_costs_no_backup_for_eight_days(plain: Nights) -> None:
    plain.pass_night()
    plain.pass_night()
    *_, good = plain.names()
    empty(plain.folder / "srv")
    assert plain.pass_night().exit_code == 3
    assert plain.pass_night(accept_shrink=True).exit_code == 0
    for _ in range(7):
        plain.now += timedelta(days=1)
        assert plain.pass_night().exit_code == 0
        assert len(plain.names()) == plain.keep + 1
        assert good in plain.names()
    report, _ = plain.prune(dry_run=True)
    assert report.plan.keep[good] == ("has what --accept-shrink gave up, for 8 days",)
    plain.now += timedelta(days=1)
    assert plain.pass_night().exit_code == 0
    assert good not in plain.names()
    assert len(plain.names()) == plain.keep


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
    monkeypatch.setattr("backup_tasks.backup.scan._BATCH", 3)


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
    shown = cli.run("prune", "--profile", "test", "--dry-run")
    assert (shown.code, shown.err) == (0, "")
    assert "has what --accept-shrink gave up, for 8 days" in shown.out
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
