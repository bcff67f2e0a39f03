"""Whose clock is believed: nothing is deleted by one that looks wrong. The pure part."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_tasks.claim.clock import Clocks, gap_to_notice, is_ahead, judge_clock
from backup_tasks.profile.model import RetentionSettings
from backup_tasks.prune.retention import plan_prune
from backup_tasks.stores.s3.answers import time_of_answer

NOW = datetime(2025, 6, 12, 2, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
DAILY = [NOW - DAY * days for days in range(1, 8)]


def clocks(now: datetime = NOW, store: datetime | None = None) -> Clocks:
    return Clocks(now, now, store)


# --- two clocks


@pytest.mark.parametrize("store", [None, NOW, NOW + HOUR, NOW - HOUR])
def test_clocks_that_go_together_are_believed(store: datetime | None) -> None:
    assert judge_clock(clocks(store=store), DAILY) == ()
    assert judge_clock(clocks(store=store), []) == ()


@pytest.mark.parametrize(
    ("own", "store", "wrong"),
    [
        (NOW + 365 * DAY, NOW, "this server's looks wrong"),
        (NOW - 3 * DAY, NOW, "this server's looks wrong"),
        (NOW, NOW + 365 * DAY, "the store's looks wrong"),
        (NOW, NOW - 3 * DAY, "the store's looks wrong"),
        (NOW + timedelta(hours=2), NOW, "one of them is wrong"),
    ],
)
def test_clocks_more_than_an_hour_apart_hold_and_the_wrong_one_is_named(
    own: datetime, store: datetime, wrong: str
) -> None:
    reason = judge_clock(clocks(own, store), DAILY)[0]
    assert wrong in reason
    assert f"this server's clock says {own:%Y-%m-%d %H:%M} UTC" in reason
    assert f"the store's {store:%Y-%m-%d %H:%M} UTC" in reason


def test_a_request_that_takes_long_puts_no_clocks_apart() -> None:
    slow = Clocks(NOW - 3 * HOUR, NOW, NOW - timedelta(hours=1, minutes=30))
    assert slow.ahead == timedelta(0)
    assert not slow.are_apart
    assert judge_clock(slow, DAILY) == ()
    assert Clocks(NOW - 3 * HOUR, NOW, NOW + 2 * HOUR).ahead == 2 * HOUR
    assert Clocks(NOW, NOW + 3 * HOUR, NOW - 2 * HOUR).ahead == -2 * HOUR


# --- one clock and the backups


@pytest.mark.parametrize("behind", [3 * timedelta(minutes=1), HOUR, DAY, 3000 * DAY])
def test_a_clock_before_the_newest_proven_backup_holds(behind: timedelta) -> None:
    [reason] = judge_clock(clocks(), [*DAILY, NOW + behind])
    assert "this clock is behind, or was ahead then" in reason
    assert f"{NOW + behind:%Y-%m-%d %H:%M} UTC" in reason


def test_a_clock_that_was_set_back_a_little_holds_nothing() -> None:
    assert judge_clock(clocks(), [*DAILY, NOW + timedelta(minutes=2)]) == ()


def test_a_backup_dated_ahead_holds_nothing_where_the_store_bears_the_clock_out() -> None:
    assert judge_clock(clocks(store=NOW + timedelta(minutes=5)), [*DAILY, NOW + 3650 * DAY]) == ()


def test_a_clock_far_after_the_newest_backup_holds_for_two_runs() -> None:
    """Each run's own backup is among the proven ones."""
    later = NOW + 365 * DAY
    held = []
    for run in range(4):
        own = [later + DAY * night for night in range(run + 1)]
        reasons = judge_clock(clocks(own[-1]), [*DAILY, *own])
        held.append(len(reasons))
        for reason in reasons:
            assert f"between {DAILY[0]:%Y-%m-%d %H:%M} UTC and {later:%Y-%m-%d %H:%M}" in reason
    assert held == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("keep_within", "gap", "holds"),
    [(None, 40, False), (None, 41, True), (30, 15, False), (30, 16, True), (365, 41, True)],
)
def test_a_gap_is_news_that_would_have_half_of_keep_within_deleted(
    keep_within: int | None, gap: int, holds: bool
) -> None:
    longest = gap_to_notice(keep_within * DAY if keep_within else None)
    newest = DAILY[0]
    assert bool(judge_clock(clocks(newest + gap * DAY), DAILY, longest)) is holds


def test_a_prune_without_a_backup_holds_too() -> None:
    [reason] = judge_clock(clocks(NOW + 365 * DAY), DAILY)
    assert "this server's clock says 2026-06-12 02:00 UTC" in reason
    assert judge_clock(clocks(NOW + 40 * DAY), [NOW]) == ()


def test_gaps_of_about_this_length_are_no_news() -> None:
    yearly = [NOW - 365 * DAY * years for years in range(6)]
    assert judge_clock(clocks(NOW + 700 * DAY), yearly) == ()
    assert judge_clock(clocks(NOW + 800 * DAY), yearly) != ()


@pytest.mark.parametrize(("every", "keep_within"), [(7, 14), (7, 10), (30, 45), (90, 200)])
def test_who_backs_up_as_seldom_as_that_is_believed_though_retention_keeps_few(
    every: int, keep_within: int
) -> None:
    rules = RetentionSettings(keep_within=keep_within * DAY)
    kept: dict[str, datetime] = {}
    held = []
    for run in range(12):
        # No run begins at the very same time of day.
        now = NOW + every * run * DAY + timedelta(seconds=run * run % 7)
        kept[f"run {run}"] = now
        reasons = judge_clock(clocks(now), kept.values(), gap_to_notice(rules.keep_within))
        held.append(len(reasons))
        if not reasons:
            for name in plan_prune(kept, rules, now).delete:
                del kept[name]
    assert held[2:] == [0] * 10


def test_gaps_that_retention_made_do_not_make_one_of_today_usual() -> None:
    kept = [*DAILY, *(NOW - 365 * DAY * years for years in range(1, 10))]
    assert judge_clock(clocks(NOW + 365 * DAY), kept) != ()


@given(st.integers(1, 60), st.integers(-200_000, 200_000), st.integers(2, 400))
def test_no_clock_that_is_wrong_for_one_run_deletes_the_younger_half_of_what_is_kept(
    nights: int, hours_off: int, keep_days: int
) -> None:
    """On a folder, where there is no second clock: whatever is not noticed does little harm."""
    right = {f"night {number}": NOW - DAY * number for number in range(1, nights + 1)}
    wrong = NOW + HOUR * hours_off
    keep_within = keep_days * DAY
    if judge_clock(clocks(wrong), [*right.values(), wrong], gap_to_notice(keep_within)):
        return
    plan = plan_prune(
        {**right, "tonight": wrong}, RetentionSettings(keep_within=keep_within), wrong
    )
    assert all(NOW - right[name] > keep_within / 2 - DAY for name in plan.delete)


# --- dated ahead


@pytest.mark.parametrize(
    ("started_at", "ahead"),
    [
        (NOW - 3650 * DAY, False),
        (NOW + HOUR, False),
        (NOW + HOUR + timedelta(seconds=1), True),
        (datetime.max.replace(tzinfo=timezone(-14 * HOUR)), True),
        (datetime.min.replace(tzinfo=timezone(14 * HOUR)), False),
    ],
)
def test_more_than_an_hour_is_ahead(started_at: datetime, ahead: bool) -> None:
    assert is_ahead(started_at, NOW) is ahead


def test_a_name_may_run_ahead_by_what_time_zones_differ() -> None:
    assert not is_ahead(NOW + 26 * HOUR, NOW, by_name=True)
    assert is_ahead(NOW + 27 * HOUR, NOW, by_name=True)


@given(
    st.datetimes(timezones=st.just(UTC)),
    st.none() | st.datetimes(timezones=st.just(UTC)),
    st.lists(st.datetimes(timezones=st.just(UTC)), max_size=6),
)
def test_no_times_whatever_break_the_judgement(
    now: datetime, store: datetime | None, proven: list[datetime]
) -> None:
    reasons = judge_clock(Clocks(now, now, store), proven)
    assert all(reason and "\n" not in reason for reason in reasons)


# --- what a server says


def told(date: str, **headers: str) -> datetime | None:
    return time_of_answer({"ResponseMetadata": {"HTTPHeaders": {"date": date, **headers}}})


def test_the_date_of_an_answer_is_read() -> None:
    expected = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)
    assert told("Sun, 06 Nov 1994 08:49:37 GMT") == expected


@pytest.mark.parametrize(
    "date",
    [
        "",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 19940 08:49:37 GMT",
    ],
)
def test_anything_else_is_no_time(date: str) -> None:
    assert told(date) is None


def test_the_date_of_an_answer_out_of_a_cache_is_no_time() -> None:
    assert told("Sun, 06 Nov 1994 08:49:37 GMT", age="30") is None
    assert time_of_answer({}) is None
