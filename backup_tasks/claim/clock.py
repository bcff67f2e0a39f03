"""Whether the server's clock can be believed, and which backups are dated ahead of it. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from msgspec import Struct

from backup_tasks.common.units import render_count

# Two clocks that are set by NTP differ by less than a second. A wrong time zone, which is the
# smallest mistake that people make, is an hour or more.
APART = timedelta(hours=1)
# A backup may have been begun so much earlier or later than its name says: the name is of its
# minute, or of a later one, in some time zone, and is read in another.
NAME_SPREAD = timedelta(hours=26)
# NTP, and a host that wakes its guests, set a clock back by so much without anybody's fault.
_STEP_BACK = timedelta(minutes=2)
# No backup for so long is news, unless it was so before.
LONGEST_GAP = timedelta(days=40)
# So many backups on the far side of such a gap make it believed.
_BELIEVED_AFTER = 3
# So many gaps before it tell how long they usually are.
_GAPS_BEFORE = 4
# What somebody did by mistake, or as a clone, is noticed meanwhile: longer than a week, as some
# machines are backed up weekly.
LATELY = timedelta(days=8)


class Clocks(Struct, frozen=True):
    """What this machine's clock and the store's said at about the same moment; all aware.

    Attributes:
        before, after: this machine's, before the store was asked and when it had answered.
        store: the store's, or None if it has none.
    """

    before: datetime
    after: datetime
    store: datetime | None = None

    @property
    def ahead(self) -> timedelta:
        """How far the store's clock is ahead of this machine's at the least; negative: behind."""
        if self.store is None or self.before <= self.store <= self.after:
            return timedelta(0)
        return self.store - (self.after if self.store > self.after else self.before)

    @property
    def are_apart(self) -> bool:
        """Whether one of the two must be wrong."""
        return abs(self.ahead) > APART

    @property
    def latest(self) -> datetime:
        """What the later one says: nothing honest is dated after it."""
        return max(self.after, self.store or self.after)

    @property
    def earliest(self) -> datetime:
        """What the earlier one says: nothing is older than it makes it."""
        return min(self.before, self.store or self.before)


def is_ahead(started_at: datetime, now: datetime, *, by_name: bool = False) -> bool:
    """Whether a backup that says that it was begun then is dated ahead; both aware.

    Such a one is chosen by name alone: it is never the latest, is not built upon, and does not
    count for retention.

    Args:
        now: `Clocks.latest`, or this machine's clock where there is no other.
        by_name: nothing but its name says so, which is a time in some time zone, and perhaps a
            minute or an hour later.
    """
    return started_at - now > (NAME_SPREAD if by_name else APART)


def is_lately(at: datetime, now: datetime) -> bool:
    """Whether something was noted within the last `LATELY`; both aware. What was noted under a
    clock that was ahead would otherwise last until then."""
    return now - at < LATELY and not is_ahead(at, now)


def gap_to_notice(keep_within: timedelta | None) -> timedelta:
    """How long a gap between two backups is news: a clock that jumped so far would have half of
    what `keep_within` keeps deleted too early, or it is very long."""
    return min(LONGEST_GAP, keep_within / 2) if keep_within else LONGEST_GAP


def judge_clock(
    clocks: Clocks, proven: Collection[datetime], longest_gap: timedelta = LONGEST_GAP
) -> tuple[str, ...]:
    """Why nothing may be deleted by what the clock says: it, or the store's, looks wrong.

    Args:
        proven: when each proven backup was begun, aware; also the one that was just made.
        longest_gap: of `gap_to_notice`.
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
    """The clocks that do not go with the backups: before the newest, or far after it."""
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
    """A gap that is much longer than those just before it and after it, with few backups after it.

    Gaps of long ago tell nothing: retention itself made them. One after it does: backups are made
    that seldom, and of those before retention left none.
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
