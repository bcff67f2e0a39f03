"""Delete the backups that a profile's retention no longer keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from types import MappingProxyType
from typing import TYPE_CHECKING

from backup_tasks.errors import StoreError
from backup_tasks.naming import parse_backup_name
from backup_tasks.retention import PrunePlan, plan_prune
from backup_tasks.text import one_line
from backup_tasks.units import render_bytes, render_count

if TYPE_CHECKING:
    from backup_tasks.newest_seen import NewestSeen
    from backup_tasks.profile_model import Profile
    from backup_tasks.stores.base import Store, StoredObject


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a prune kept and deleted.

    Attributes:
        plan: the decision; with `dry_run` nothing of it was carried out.
        sizes: backup name -> bytes, as the store listed them.
        deleted: the backups that are gone now, oldest first; empty with `dry_run`.
        failed: backup name -> why the store did not delete it, on one line.
        foreign: how many other objects lie beside the backups; they are never touched.
    """

    profile: str
    store: str
    dry_run: bool
    plan: PrunePlan
    sizes: dict[str, int]
    deleted: tuple[str, ...]
    failed: dict[str, str]
    foreign: int


class PruneIncomplete(StoreError):
    """Some backups could not be deleted; all others were. `report` tells which."""

    def __init__(self, report: PruneReport) -> None:
        first, why = next(iter(report.failed.items()))
        super().__init__(
            f"{report.store}: {render_count(len(report.failed), 'backup')} could not be deleted "
            f"({len(report.deleted)} were): {first}: {why}; "
            "the next prune tries again"
        )
        self.report = report


def run_prune(
    profile: Profile,
    store: Store,
    now: datetime,
    *,
    dry_run: bool,
    seen: NewestSeen | None = None,
    keep: Mapping[str, str] = MappingProxyType({}),
) -> PruneReport:
    """Delete what the profile's retention does not keep, oldest first.

    Decides from the store's own list, never from a memory of it. Only objects that are named
    as backups are counted or touched, and of those no empty one, which cannot be a backup.
    Neither the newest by name, nor the one stored last, nor the newest seen is ever deleted. A
    crash in the middle leaves the younger backups; running again finishes the work.

    Args:
        now: aware.
        dry_run: decide and report, delete nothing.
        seen: tells a list that cannot be true, and which backup is surely our own.
        keep: name -> why it stays whatever the rules say.

    Raises:
        StoreError: the store cannot be listed, or its list is not to be believed.
        PruneIncomplete: it refused to delete some; tried after all others.
    """
    listed = store.list_objects()
    if seen is not None:
        seen.refuse_nothing(listed)
    taken_at = _find_backups(listed, profile.tzinfo)
    backups = [stored for stored in listed if stored.name in taken_at]
    plan = plan_prune(
        taken_at,
        profile.retention,
        now,
        protected=_stored_last(backups),
        seen=seen.newest_name if seen is not None else "",
        needed=keep,
    )
    report = PruneReport(
        profile=profile.name,
        store=profile.store.url,
        dry_run=dry_run,
        plan=plan,
        sizes={stored.name: stored.size for stored in backups},
        deleted=(),
        failed={},
        foreign=len(listed) - len(backups),
    )
    return report if dry_run else _delete(store, report)


def render_prune(report: PruneReport) -> str:
    """The report as lines for people: a summary, then each backup, oldest first."""
    gone = report.plan.delete if report.dry_run else report.deleted
    freed = render_bytes(sum(report.sizes[name] for name in gone))
    verb = "would be deleted" if report.dry_run else "deleted"
    lines = [
        f"{report.profile}: {render_count(len(report.sizes), 'backup')} in {report.store}: "
        f"{len(report.sizes) - len(gone)} kept, {len(gone)} {verb} ({freed})"
    ]
    width = max(map(len, report.sizes), default=0)
    for name in report.plan.delete:
        why = report.failed.get(name)
        lines.append(_render_row("FAILED" if why else "delete", name, width, report, why or ""))
    for name, reasons in reversed(list(report.plan.keep.items())):
        lines.append(_render_row("keep", name, width, report, ", ".join(reasons)))
    if report.foreign:
        lines.append(f"  {render_count(report.foreign, 'other object')} left alone")
    return "\n".join(lines)


def _find_backups(listed: list[StoredObject], zone: tzinfo) -> dict[str, datetime]:
    """Backup name -> when it was taken."""
    return {
        stored.name: moment
        for stored in listed
        if stored.size and (moment := parse_backup_name(stored.name, zone)) is not None
    }


def _stored_last(backups: list[StoredObject]) -> tuple[str, ...]:
    """The backup that the store took last, if any.

    By name another one can look newer: taken before summer time ended, or before the profile's
    time zone was changed.
    """
    newest = max(backups, key=lambda stored: (stored.modified_at, stored.name), default=None)
    return (newest.name,) if newest else ()


def _delete(store: Store, report: PruneReport) -> PruneReport:
    deleted: list[str] = []
    failed: dict[str, str] = {}
    for name in report.plan.delete:
        try:
            store.delete(name)
            deleted.append(name)
        except StoreError as error:
            failed[name] = one_line(str(error))
    done = replace(report, deleted=tuple(deleted), failed=failed)
    if failed:
        raise PruneIncomplete(done)
    return done


def _render_row(verb: str, name: str, width: int, report: PruneReport, note: str) -> str:
    size = render_bytes(report.sizes[name])
    return f"  {verb:<6}  {name:<{width}}  {size:>6}  {note}".rstrip()
