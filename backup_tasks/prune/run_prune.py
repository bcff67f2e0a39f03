"""Delete the backups that a profile's retention no longer keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from backup_tasks.common.printable import one_line
from backup_tasks.common.units import render_bytes, render_count
from backup_tasks.errors import StoreError
from backup_tasks.format.archive_names import CLAIM_NAME
from backup_tasks.prune.retention import PrunePlan, plan_prune

if TYPE_CHECKING:
    from backup_tasks.census.catalog import Backup
    from backup_tasks.census.census import Census
    from backup_tasks.profile.model import Profile, RetentionSettings
    from backup_tasks.stores.base import Store


class PruneReport(Struct, frozen=True):
    """The backups that a prune kept and deleted.

    Attributes:
        plan: the decision; not carried out with `dry_run`.
        sizes: backup name -> bytes, as the store listed them.
        deleted: the backups that are gone now, oldest first; empty with `dry_run`.
        failed: backup name -> why the store did not delete it, on one line.
        left_alone: name of an object that is named like a backup but does not count -> why; it is
            not deleted.
        foreign: how many other objects lie beside the backups; they are never touched.
    """

    profile: str
    store: str
    dry_run: bool
    plan: PrunePlan
    sizes: dict[str, int]
    deleted: tuple[str, ...]
    failed: dict[str, str]
    left_alone: dict[str, str]
    foreign: int


class PruneIncomplete(StoreError):
    """Some backups of the plan could not be deleted; `report` says which. The others are gone."""

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
    census: Census,
    now: datetime,
    *,
    dry_run: bool,
    protected: Mapping[str, str] | None = None,
) -> PruneReport:
    """Delete the backups that the profile's retention does not keep, oldest first.

    Only proven backups are counted or deleted; other objects that are named like backups are
    reported and left alone. Of the proven ones, neither the newest nor the one stored last is
    ever deleted. A crash in the middle leaves the younger backups; running again finishes the work.

    Args:
        census: from the store's own list, taken just now; never from a memory of it.
        now: aware; the moment at which the clock was judged, as the clock may have jumped since.
        dry_run: decide and report, delete nothing.
        protected: names to keep whatever the rules say, each with the reason.

    Returns:
        The report; `failed` has what the store did not delete, all were tried.
    """
    backups = census.backups()
    # Without an accepted key, nobody knows whose backups these are.
    counting = [one for one in backups if one.verdict.counts and census.acceptance.keys]
    taken_at = {one.stored.name: one.taken_at for one in counting}
    kept = {
        **_stored_last(counting),
        **_safe_from_copies(counting, profile.retention, now),
        **(protected or {}),
    }
    report = PruneReport(
        profile=profile.name,
        store=profile.store.url,
        dry_run=dry_run,
        plan=plan_prune(taken_at, profile.retention, now, protected=kept),
        sizes={one.stored.name: one.stored.size for one in backups},
        deleted=(),
        failed={},
        left_alone={
            one.stored.name: one.verdict.why or "this machine has no signing key yet"
            for one in backups
            if one.stored.name not in taken_at
        },
        foreign=len([one for one in census.listed if one.name != CLAIM_NAME]) - len(backups),
    )
    return report if dry_run else _delete(store, report)


def render_prune(report: PruneReport) -> str:
    """Render the report for people: a summary line, then each backup, oldest first."""
    gone = report.plan.delete if report.dry_run else report.deleted
    verb = "would be deleted" if report.dry_run else "deleted"
    count = len(report.plan.keep) + len(report.plan.delete)
    lines = [
        f"{report.profile}: {render_count(count, 'backup')} in {report.store}: "
        f"{count - len(gone)} kept, {len(gone)} {verb} ({_size_of(report, gone)})"
    ]
    if report.left_alone:
        lines[0] += f"; {len(report.left_alone)} left alone ({_size_of(report, report.left_alone)})"
    width = max(map(len, report.sizes), default=0)
    for name in report.plan.delete:
        why = report.failed.get(name)
        lines.append(_render_row("FAILED" if why else "delete", name, width, report, why or ""))
    for name, reasons in reversed(list(report.plan.keep.items())):
        lines.append(_render_row("keep", name, width, report, ", ".join(reasons)))
    for name, why in report.left_alone.items():
        lines.append(_render_row("left", name, width, report, why))
    if report.left_alone:
        lines.append(
            "  what is left does not count; if one is yours, "
            f"`invoke prune --profile {report.profile} --adopt NAME` makes it count"
        )
    if report.foreign:
        lines.append(f"  {render_count(report.foreign, 'other object')} left alone")
    return "\n".join(lines)


def _size_of(report: PruneReport, names: Iterable[str]) -> str:
    return render_bytes(sum(report.sizes[name] for name in names))


def _stored_last(counting: Sequence[Backup]) -> dict[str, str]:
    """The backup that the store took last, if any, with the reason to keep it.

    After a run with a wrong clock, another backup may be newer by its manifest.
    """
    newest = max(counting, key=lambda one: (one.stored.modified_at, one.stored.name), default=None)
    return {newest.stored.name: "stored last"} if newest else {}


def _safe_from_copies(
    counting: Sequence[Backup], rules: RetentionSettings, now: datetime
) -> dict[str, str]:
    """The backups to keep, with reasons, if some may be copies of others under a new name.

    No such doubtful backup takes another's place: each is judged as if it were the only doubtful
    one, beside the sure ones.
    """
    sure = {one.stored.name: one.taken_at for one in counting if not one.verdict.may_be_copy}
    unsure = {one.stored.name: one.taken_at for one in counting if one.verdict.may_be_copy}
    if not unsure:
        return {}
    kept = {name: why[0] for name, why in plan_prune(sure, rules, now).keep.items()}
    for name, taken_at in unsure.items():
        if name in plan_prune({**sure, name: taken_at}, rules, now).keep:
            kept[name] = "dated by its name alone, and nothing surer takes its place"
    return kept


def _delete(store: Store, report: PruneReport) -> PruneReport:
    deleted: list[str] = []
    failed: dict[str, str] = {}
    for name in report.plan.delete:
        try:
            store.delete(name)
            deleted.append(name)
        except StoreError as error:
            failed[name] = one_line(str(error))
    return replace(report, deleted=tuple(deleted), failed=failed)


def demand_complete(report: PruneReport) -> PruneReport:
    """The same report.

    Raises:
        PruneIncomplete: some backups could not be deleted.
    """
    if report.failed:
        raise PruneIncomplete(report)
    return report


def _render_row(verb: str, name: str, width: int, report: PruneReport, note: str) -> str:
    size = render_bytes(report.sizes[name])
    return f"  {verb:<6}  {name:<{width}}  {size:>6}  {note}".rstrip()
