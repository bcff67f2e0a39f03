"""Read the two clocks of a run, this machine's and the store's, and warn if one looks wrong."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from backup_tasks.census.census import Census
from backup_tasks.claim.clock import Clocks, gap_to_notice, judge_clock
from backup_tasks.errors import StoreError
from backup_tasks.journal.run_record import RunRecord, hold_back
from backup_tasks.profile.model import RetentionSettings
from backup_tasks.stores.base import Store


def read_clocks(store: Store, clock: Callable[[], datetime]) -> Clocks:
    """Read both clocks.

    A store that does not answer counts as one without a clock; the next request to it reports the
    failure.

    Args:
        clock: reads this machine's clock, aware.
    """
    before = clock()
    try:
        told = store.store_time()
    except StoreError:
        told = None
    return Clocks(before, clock(), told)


def tell_clocks(
    clocks: Clocks, census: Census, record: RunRecord, retention: RetentionSettings
) -> None:
    """Note in the record why a clock looks wrong, and which backups are dated ahead.

    Args:
        census: taken after the backup of this run, if it made one.
        retention: the profile's; if it has rules, a wrong clock holds back deleting.
    """
    reasons = judge_clock(clocks, census.begun(), gap_to_notice(retention.keep_within))
    if retention.is_set:
        hold_back(record, reasons)
    else:
        record.warnings += [reason for reason in reasons if reason not in record.warnings]
    for backup in census.ahead():
        record.warnings.append(
            f"{backup.id} is dated ahead, for it says that it was begun at "
            f"{backup.taken_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC: it is not the latest, nothing "
            "is built on it, and it is never deleted; if a clock was wrong then, delete it by hand"
        )
