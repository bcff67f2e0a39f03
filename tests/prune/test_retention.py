"""The retention plan: what is kept, why, and what never happens whatever the history."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from backup_tasks.profile.model import RetentionSettings as Rules
from backup_tasks.prune.retention import FUTURE_SLACK, PERIOD_RULES, PrunePlan, plan_prune

NOW = datetime(2025, 6, 12, 12, 0, tzinfo=UTC)
STOCKHOLM = ZoneInfo("Europe/Stockholm")


def history(*texts: str, zone: ZoneInfo | None = None) -> dict[str, datetime]:
    """Backups named by when they were taken, "2025-06-12 02:00"."""
    return {text: datetime.fromisoformat(text).replace(tzinfo=zone or UTC) for text in texts}


DAILY_MONTH = history(*(f"2025-05-{day:02d} 02:00" for day in range(1, 32)))

untimed = settings(deadline=None)  # a busy machine is no failure
moments = st.datetimes(
    min_value=datetime(2019, 1, 1),  # noqa: DTZ001 - the strategy adds the zone
    max_value=datetime(2025, 7, 1),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, STOCKHOLM, ZoneInfo("Asia/Tokyo")]),
)
histories = st.lists(moments, max_size=40).map(
    lambda found: {f"backup-{place}": moment for place, moment in enumerate(found)}
)
counts = st.integers(min_value=0, max_value=9)
rule_sets = st.builds(
    Rules,
    keep_last=counts,
    keep_within=st.timedeltas(timedelta(0), timedelta(days=900)),
    **{rule.key: counts for rule in PERIOD_RULES},
)


def newest_of(taken_at: dict[str, datetime]) -> datetime:
    return max(moment.astimezone(UTC) for moment in taken_at.values())


# --- whatever the history -----------------------------------------------------------------


@untimed
@given(histories, rule_sets)
def test_plan_prune_names_every_backup_once(taken_at: dict[str, datetime], rules: Rules) -> None:
    plan = plan_prune(taken_at, rules, NOW)
    assert sorted([*plan.keep, *plan.delete]) == sorted(taken_at)
    assert all(plan.keep.values())


@untimed
@given(histories, rule_sets)
def test_plan_prune_keeps_the_newest_backup_whatever_the_rules(
    taken_at: dict[str, datetime], rules: Rules
) -> None:
    assume(taken_at)
    plan = plan_prune(taken_at, rules, NOW)
    assert newest_of(taken_at) in {taken_at[name].astimezone(UTC) for name in plan.keep}


@untimed
@given(histories, rule_sets)
def test_plan_prune_keeps_the_newest_that_is_not_from_the_future(
    taken_at: dict[str, datetime], rules: Rules
) -> None:
    believable = {name: moment for name, moment in taken_at.items() if moment - NOW <= FUTURE_SLACK}
    assume(believable)
    plan = plan_prune(taken_at, rules, NOW)
    assert newest_of(believable) in {taken_at[name].astimezone(UTC) for name in plan.keep}
    assert not set(plan.delete) - set(believable)


@untimed
@given(histories, rule_sets)
def test_pruning_again_right_after_deletes_nothing(
    taken_at: dict[str, datetime], rules: Rules
) -> None:
    plan = plan_prune(taken_at, rules, NOW)
    again = plan_prune({name: taken_at[name] for name in plan.keep}, rules, NOW)
    assert again == PrunePlan(keep=plan.keep, delete=())


@untimed
@given(
    histories,
    rule_sets,
    st.sampled_from(["keep_last", *(rule.key for rule in PERIOD_RULES)]),
    st.integers(1, 5),
)
def test_a_larger_number_never_keeps_less(
    taken_at: dict[str, datetime], rules: Rules, rule: str, more: int
) -> None:
    assume(rules != Rules())
    larger = rules.model_copy(update={rule: getattr(rules, rule) + more})
    kept = plan_prune(taken_at, rules, NOW).keep
    assert set(kept) <= set(plan_prune(taken_at, larger, NOW).keep)


@untimed
@given(histories, rule_sets, st.timedeltas(timedelta(0), timedelta(days=900)))
def test_a_longer_keep_within_never_keeps_less(
    taken_at: dict[str, datetime], rules: Rules, more: timedelta
) -> None:
    rules = rules.model_copy(update={"keep_within": rules.keep_within or timedelta(days=1)})
    larger = rules.model_copy(update={"keep_within": rules.keep_within + more})
    kept = plan_prune(taken_at, rules, NOW).keep
    assert set(kept) <= set(plan_prune(taken_at, larger, NOW).keep)


@untimed
@given(histories, rule_sets, st.data())
def test_protected_backups_are_kept(
    taken_at: dict[str, datetime], rules: Rules, drawn: st.DataObject
) -> None:
    assume(taken_at)
    protected = drawn.draw(st.sets(st.sampled_from(sorted(taken_at))))
    plan = plan_prune(taken_at, rules, NOW, protected=dict.fromkeys(protected, "said"))
    assert protected <= set(plan.keep)


@untimed
@given(histories, rule_sets, rule_sets)
def test_two_sets_of_rules_together_keep_what_each_keeps_alone(
    taken_at: dict[str, datetime], first: Rules, second: Rules
) -> None:
    """A rule keeps; no rule can take away what another one keeps."""
    alone = first.model_copy(
        update=dict.fromkeys(("keep_weekly", "keep_monthly", "keep_yearly"), 0)
    )
    assume(alone.keep_last or alone.keep_within or alone.keep_daily)
    both = second.model_copy(
        update={name: getattr(alone, name) for name in ("keep_last", "keep_daily")}
    )
    both = both.model_copy(update={"keep_within": alone.keep_within})
    kept = plan_prune(taken_at, alone, NOW).keep
    assert set(kept) <= set(plan_prune(taken_at, both, NOW).keep)


def test_each_rule_of_a_profile_but_two_is_one_for_periods() -> None:
    """A new key of [retention] that counts periods needs a row there, and nothing else."""
    others = {"keep_last", "keep_within"}
    keys = {key for key in Rules.model_fields if key.startswith("keep_")}
    assert keys - others == {rule.key for rule in PERIOD_RULES}
    assert all(Rules(**{rule.key: 1}).is_set for rule in PERIOD_RULES)


# --- each rule ----------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [Rules(), Rules(keep_within=timedelta(0))])
def test_no_rule_at_all_keeps_everything(rules: Rules) -> None:
    plan = plan_prune(DAILY_MONTH, rules, NOW)
    assert plan.delete == ()
    assert plan.keep["2025-05-01 02:00"] == ("no rule deletes anything",)


def test_an_empty_store_gives_an_empty_plan() -> None:
    assert plan_prune({}, Rules(keep_last=3), NOW) == PrunePlan(keep={}, delete=())


def test_keep_last_keeps_the_last_ones_and_says_which() -> None:
    plan = plan_prune(DAILY_MONTH, Rules(keep_last=2), NOW)
    assert plan.keep == {
        "2025-05-31 02:00": ("last 1 of 2",),
        "2025-05-30 02:00": ("last 2 of 2",),
    }
    assert list(plan.keep) == ["2025-05-31 02:00", "2025-05-30 02:00"]
    assert plan.delete[0] == "2025-05-01 02:00"
    assert plan.delete[-1] == "2025-05-29 02:00"


def test_keep_within_counts_back_from_now_and_includes_its_edge() -> None:
    taken_at = history("2025-06-09 11:59", "2025-06-09 12:00", "2025-06-12 02:00")
    plan = plan_prune(taken_at, Rules(keep_within=timedelta(days=3)), NOW)
    assert plan.keep == {
        "2025-06-12 02:00": ("within 3d",),
        "2025-06-09 12:00": ("within 3d",),
    }


def test_a_boundless_keep_within_is_no_overflow() -> None:
    rules = Rules(keep_within=timedelta.max)
    assert plan_prune(DAILY_MONTH, rules, NOW).delete == ()


def test_the_newest_stays_when_every_backup_is_older_than_keep_within() -> None:
    plan = plan_prune(DAILY_MONTH, Rules(keep_within=timedelta(days=1)), NOW)
    assert plan.keep == {"2025-05-31 02:00": ("the newest",)}


def test_keep_daily_keeps_the_newest_of_each_day_and_skips_days_without_one() -> None:
    taken_at = history(
        "2025-06-08 02:00", "2025-06-09 02:00", "2025-06-12 02:00", "2025-06-12 14:00"
    )
    plan = plan_prune(taken_at, Rules(keep_daily=2), NOW)
    assert plan.keep == {
        "2025-06-12 14:00": ("daily 2025-06-12",),
        "2025-06-09 02:00": ("daily 2025-06-09",),
    }


def test_keep_weekly_uses_iso_weeks_across_the_new_year() -> None:
    taken_at = history("2024-12-29 02:00", "2024-12-30 02:00", "2025-01-02 02:00")
    plan = plan_prune(taken_at, Rules(keep_weekly=2), NOW)
    assert plan.keep == {
        "2025-01-02 02:00": ("weekly 2025-W01",),
        "2024-12-29 02:00": ("weekly 2024-W52",),
    }


def test_keep_monthly_and_yearly_keep_the_newest_of_each() -> None:
    taken_at = history("2023-07-01 02:00", "2024-02-01 02:00", "2025-05-01 02:00")
    taken_at |= history("2025-05-31 02:00", "2025-06-01 02:00")
    plan = plan_prune(taken_at, Rules(keep_monthly=2, keep_yearly=2), NOW)
    assert plan.keep == {
        "2025-06-01 02:00": ("monthly 2025-06", "yearly 2025"),
        "2025-05-31 02:00": ("monthly 2025-05",),
        "2024-02-01 02:00": ("yearly 2024",),
    }


def test_a_day_is_that_of_the_backups_own_time_zone() -> None:
    """00:30 in Stockholm is still the day before in UTC."""
    taken_at = history("2025-06-11 23:30", "2025-06-12 00:30", zone=STOCKHOLM)
    plan = plan_prune(taken_at, Rules(keep_daily=5), NOW)
    assert plan.keep == {
        "2025-06-12 00:30": ("daily 2025-06-12",),
        "2025-06-11 23:30": ("daily 2025-06-11",),
    }


def test_the_later_of_two_backups_wins_although_its_clock_was_put_back() -> None:
    """02:10 after summer time ended is later than 02:50 before it."""
    first = datetime(2025, 10, 26, 2, 50, tzinfo=STOCKHOLM, fold=0)
    second = datetime(2025, 10, 26, 2, 10, tzinfo=STOCKHOLM, fold=1)
    now = datetime(2025, 10, 26, 12, tzinfo=UTC)
    plan = plan_prune({"first": first, "second": second}, Rules(keep_last=1), now)
    assert plan.delete == ("first",)


# --- clocks that were wrong ----------------------------------------------------------------


def test_a_backup_from_the_future_is_kept_and_takes_no_other_ones_place() -> None:
    taken_at = history("2031-01-01 02:00", "2025-06-12 02:00", "2025-06-11 02:00")
    plan = plan_prune(taken_at, Rules(keep_last=1), NOW)
    assert plan.keep == {
        "2031-01-01 02:00": ("dated in the future",),
        "2025-06-12 02:00": ("last 1 of 1",),
    }


def test_names_a_few_minutes_ahead_count_like_any_other() -> None:
    taken_at = history("2025-06-12 12:00", "2025-06-12 12:01", "2025-06-12 12:02")
    plan = plan_prune(taken_at, Rules(keep_last=1), NOW)
    assert plan.delete == ("2025-06-12 12:00", "2025-06-12 12:01")


@pytest.mark.parametrize("hours", [-12, 0, 14])
def test_the_first_and_the_last_year_are_no_overflow(hours: int) -> None:
    zone = timezone(timedelta(hours=hours))
    ends = {
        "first": datetime(1, 1, 1, tzinfo=zone),
        "last": datetime(9999, 12, 31, 23, 59, tzinfo=zone),
    }
    plan = plan_prune(ends | history("2025-06-12 02:00"), Rules(keep_weekly=1), NOW)
    assert plan.delete == ("first",)
    assert "last" in plan.keep
