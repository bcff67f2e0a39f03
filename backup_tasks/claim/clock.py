"""Whether the server's clock can be believed, and which backups are dated ahead of it. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from msgspec import Struct

from backup_tasks.common.units import render_count

# Two clocks set by NTP differ by less than a second. The smallest mistake that people make, a
# wrong time zone, is an hour or more.
APART = timedelta(hours=1)
# How far a backup's start may lie from the time in its name, either way: the name gives the minute
# of the start, or a later one, in one time zone, and may be read in another.
NAME_SPREAD = timedelta(hours=26)
# NTP, or a host that wakes its guests, may set a clock back by this much; nobody is at fault.
_STEP_BACK = timedelta(minutes=2)
# A longer time without a backup is news, unless such gaps are usual.
LONGEST_GAP = timedelta(days=40)
# Believe such a gap once this many backups lie after it.
_BELIEVED_AFTER = 3
# Compare a gap with this many before it, to know how long they usually are.
_GAPS_BEFORE = 4
# Time to notice a mistake or a clone. Longer than a week, as some machines are backed up weekly.
LATELY = timedelta(days=8)


class Clocks(Struct, frozen=True):
    """Readings of this machine's clock and the store's at about the same moment; all aware.

    Attributes:
        before, after: this machine's, before the store was asked and after it answered.
        store: the store's, or None if it has no clock.
    """

    before: datetime
    after: datetime
    store: datetime | None = None

    @property
    def ahead(self) -> timedelta:
        """How far the store's clock is ahead of this machine's, at least; negative: behind."""
        if self.store is None or self.before <= self.store <= self.after:
            return timedelta(0)
        return self.store - (self.after if self.store > self.after else self.before)

    @property
    def are_apart(self) -> bool:
        """Whether one of the two clocks must be wrong."""
        return abs(self.ahead) > APART

    @property
    def latest(self) -> datetime:
        """The later clock's time; no honest date lies after it."""
        return max(self.after, self.store or self.after)

    @property
    def earliest(self) -> datetime:
        """The earlier clock's time; an age measured by it is never too high."""
        return min(self.before, self.store or self.before)


def is_ahead(started_at: datetime, now: datetime, *, by_name: bool = False) -> bool:
    """Whether a backup with this start is dated ahead; both aware.

    A backup dated ahead is chosen by name alone: it is never the latest, is not built upon, and
    does not count for retention.

    Args:
        now: `Clocks.latest`, or this machine's clock where there is no other.
        by_name: only the backup's name tells the start: a time in some time zone, and perhaps a
            minute or an hour later than the start.
    """
    return started_at - now > (NAME_SPREAD if by_name else APART)


def is_lately(at: datetime, now: datetime) -> bool:
    """Whether something was noted within the last `LATELY`; both aware.

    A moment ahead of the clock does not count, or a note made under a wrong clock would last until
    that moment has passed.
    """
    return now - at < LATELY and not is_ahead(at, now)


def gap_to_notice(keep_within: timedelta | None) -> timedelta:
    """How long a gap between two backups is news: half of `keep_within`, at most LONGEST_GAP.

    A clock that jumped by half of `keep_within` would cause half of the backups that this rule
    keeps to be deleted too early.
    """
    return min(LONGEST_GAP, keep_within / 2) if keep_within else LONGEST_GAP


def judge_clock(
    clocks: Clocks, proven: Collection[datetime], longest_gap: timedelta = LONGEST_GAP
) -> tuple[str, ...]:
    """Why this machine's clock, or the store's, looks wrong, so that nothing may be deleted.

    Args:
        proven: when each proven backup was begun, aware; including the one just made.
        longest_gap: from `gap_to_notice`.
    """
    believed = [at for at in proven if not is_ahead(at, clocks.latest)]
    return tuple(
        reason
        for reason in (
            _apart(clocks, believed),
            _behind(clocks, believed if clocks.store is not None else proven),
            _jumped(clocks.before, believed, longest_gap),
        )
        if reason
    )


def _apart(clocks: Clocks, proven: Collection[datetime]) -> str:
    if not clocks.are_apart:
        return ""
    assert clocks.store is not None
    wrong = list(_wrong(clocks.before, clocks.store, proven))
    which = f"{wrong[0]} looks wrong" if len(wrong) == 1 else "one of them is wrong"
    return (
        f"this server's clock says {_shown(clocks.before)}, the store's {_shown(clocks.store)}: "
        f"{which}; set it"
    )


def _wrong(own: datetime, store: datetime, proven: Collection[datetime]) -> Iterator[str]:
    """The clocks that disagree with the backups: before the newest, or far after it."""
    if not proven:
        return
    newest = max(proven)
    for whose, now in (("this server's", own), ("the store's", store)):
        if now + APART < newest or now - newest > LONGEST_GAP:
            yield whose


def _behind(clocks: Clocks, proven: Collection[datetime]) -> str:
    newest = max(proven, default=clocks.after)
    if newest - clocks.after <= _STEP_BACK:
        return ""
    return (
        f"this server's clock says {_shown(clocks.after)}, but the newest backup says that it was "
        f"begun at {_shown(newest)}: this clock is behind, or was ahead then; set it, or, if it "
        "is right, delete that backup"
    )


def _jumped(now: datetime, proven: Collection[datetime], longest_gap: timedelta) -> str:
    """Tell of a gap much longer than those just before it and all after it, with few backups since.

    Gaps of long ago are no measure, as retention itself made them. A long gap after this one is:
    backups are made that seldom, and retention has deleted the earlier ones.
    """
    begun = sorted(proven)
    times = sorted({*begun, max([now, *begun[-1:]])})
    gaps = [end - begin for begin, end in pairwise(times)]
    for place, gap in enumerate(gaps):
        begin, end = times[place : place + 2]
        since = len(begun) - bisect_right(begun, begin)
        if gap <= longest_gap or since >= _BELIEVED_AFTER:
            continue
        near = (*gaps[max(0, place - _GAPS_BEFORE) : place], *gaps[place + 1 :])
        if max(near, default=timedelta(0)) < gap / 2:
            return (
                f"this server's clock says {_shown(now)}, and no backup was begun between "
                f"{_shown(begin)} and {_shown(end)}, which never was so before; set the clock, or, "
                f"if it is right, do nothing: {render_count(_BELIEVED_AFTER, 'backup')} after such "
                "a gap make it believed"
            )
    return ""


def _shown(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
