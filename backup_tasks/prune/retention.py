"""Decide which backups to keep, from their times and the profile's rules. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from msgspec import Struct

from backup_tasks.common.units import render_seconds

if TYPE_CHECKING:
    from backup_tasks.profile.model import RetentionSettings

# A name may rightly be ahead of the clock: by minutes if several backups began in one minute, by an
# hour when summer time ends, by most of a day after the profile's time zone was changed. Further
# ahead a clock was wrong, and such a name must not take the place of the real newest backup.
FUTURE_SLACK = timedelta(days=1)


class PeriodRule(Struct, frozen=True):
    """A rule that keeps the newest backup of each of the last periods that have one.

    Attributes:
        key: the key of [retention] that says how many periods.
        length: nominal length of a period.
        period_of: names a moment's period, in the moment's own time zone.
    """

    key: str
    length: timedelta
    period_of: Callable[[datetime], str]

    def count(self, rules: RetentionSettings) -> int:
        """How many periods the profile asks for."""
        found: int = getattr(rules, self.key)
        return found

    @property
    def name(self) -> str:
        """The rule as plans write it, "daily"."""
        return self.key.removeprefix("keep_")


def _iso_week(moment: datetime) -> str:
    week = moment.isocalendar()
    return f"{week.year}-W{week.week:02d}"


PERIOD_RULES = (
    PeriodRule("keep_daily", timedelta(days=1), lambda moment: f"{moment:%Y-%m-%d}"),
    PeriodRule("keep_weekly", timedelta(weeks=1), _iso_week),
    PeriodRule("keep_monthly", timedelta(days=30), lambda moment: f"{moment:%Y-%m}"),
    PeriodRule("keep_yearly", timedelta(days=365), lambda moment: f"{moment:%Y}"),
)


class PrunePlan(Struct, frozen=True):
    """The backups to keep, with reasons, and those to delete; each backup stands in one of the two.

    Attributes:
        keep: backup name -> reasons, newest backup first.
        delete: backup names, oldest first.
    """

    keep: Mapping[str, tuple[str, ...]]
    delete: tuple[str, ...]


def plan_prune(
    taken_at: Mapping[str, datetime],
    rules: RetentionSettings,
    now: datetime,
    *,
    protected: Mapping[str, str] | None = None,
) -> PrunePlan:
    """Decide which backups to keep, and why.

    A rule for days, weeks (ISO), months or years keeps the newest backup of each of the last N
    periods that have one, in the backup's own time zone.

    Args:
        taken_at: name -> when the backup was begun, aware; only backups that count.
        rules: the profile's [retention].
        now: aware; `keep_within` counts back from it.
        protected: names to keep whatever the rules say, each with the reason.

    Returns:
        A plan that names every backup once. The newest is always kept. A backup dated more than
        FUTURE_SLACK after `now` is always kept too, but takes no place in the counting.
    """
    instants = {name: _to_utc(moment) for name, moment in taken_at.items()}
    newest_first = sorted(instants, key=lambda name: (instants[name], name), reverse=True)
    ahead = {name for name in newest_first if instants[name] - now > FUTURE_SLACK}
    counted = [name for name in newest_first if name not in ahead]

    reasons: dict[str, list[str]] = {name: [] for name in newest_first}
    for name, reason in _apply_rules(counted, taken_at, instants, rules, now):
        reasons[name].append(reason)
    for name in ahead:
        reasons[name].append("dated in the future")
    for name in counted[:1]:
        reasons[name] = reasons[name] or ["the newest"]
    for name, reason in (protected or {}).items():
        if name in reasons:
            reasons[name] = reasons[name] or [reason]

    return PrunePlan(
        keep={name: tuple(why) for name, why in reasons.items() if why},
        delete=tuple(name for name in reversed(newest_first) if not reasons[name]),
    )


def _apply_rules(
    counted: list[str],
    taken_at: Mapping[str, datetime],
    instants: Mapping[str, datetime],
    rules: RetentionSettings,
    now: datetime,
) -> Iterator[tuple[str, str]]:
    """Yield each backup that a rule keeps, with the reason; `counted` is newest first."""
    if not rules.is_set:
        yield from ((name, "no rule deletes anything") for name in counted)
        return
    for place, name in enumerate(counted[: rules.keep_last], start=1):
        yield name, f"last {place} of {rules.keep_last}"
    if rules.keep_within:
        within = render_seconds(rules.keep_within.total_seconds())
        for name in counted:
            if now - instants[name] <= rules.keep_within:
                yield name, f"within {within}"
    for rule in PERIOD_RULES:
        if not (count := rule.count(rules)):
            continue
        newest_of: dict[str, str] = {}
        for name in counted:
            newest_of.setdefault(rule.period_of(taken_at[name]), name)
        for period in list(newest_of)[:count]:
            yield newest_of[period], f"{rule.name} {period}"


def _to_utc(moment: datetime) -> datetime:
    """Convert to UTC: Python compares two times of one zone by wall clock, which runs backwards
    once a year."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # a name dated in the year 1 or 9999
        return moment.replace(tzinfo=UTC)
