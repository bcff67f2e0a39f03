"""Retention by the bucket itself: show and install S3 lifecycle rules.

A bucket has one lifecycle configuration, which each write replaces as a whole. So it is read,
merged, written, and read back. Rules of others stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, cast

from msgspec import Struct

from backup_tasks.common.printable import printable
from backup_tasks.common.units import render_count
from backup_tasks.errors import UsageError
from backup_tasks.prune.lifecycle_bucket import (
    BucketLifecycle,
    find_stranger,
    install_lifecycle,
    read_lifecycle,
)
from backup_tasks.prune.lifecycle_rules import (
    LifecyclePlan,
    plan_lifecycle,
    render_effect,
    rule_prefix,
)
from backup_tasks.prune.retention import PERIOD_RULES

if TYPE_CHECKING:
    from backup_tasks.profile.model import Profile, RetentionSettings
    from backup_tasks.stores.s3.settings import S3Settings


class LifecycleReport(Struct, frozen=True):
    """The rules that are installed, and those that the profile asks for.

    Attributes:
        found: the bucket's rules before anything was written.
        written: whether this run carried out the plan.
        notes: remarks for the operator, one sentence each.
    """

    profile: str
    store: str
    found: BucketLifecycle
    plan: LifecyclePlan
    written: bool
    notes: tuple[str, ...]


def run_lifecycle(profile: Profile, *, install: bool, dry_run: bool = False) -> LifecycleReport:
    """Compare the bucket's lifecycle rules with the profile's; install them if asked.

    Raises:
        UsageError: the store is a directory; or `install` is set, and expiry would also delete an
            object that is no backup.
        StoreError: the rules cannot be read or written, or the bucket does not keep them.
    """
    from backup_tasks.stores.kinds.s3 import KIND as S3
    from backup_tasks.stores.s3.store import S3Store

    if not S3.fits(profile.store.url):
        raise UsageError(
            f"{profile.name}: lifecycle rules exist only in S3, and the store is "
            f"{profile.store.url}; use keep_last, keep_daily and so on in [retention]"
        )
    store = S3Store(cast("S3Settings", profile.store))
    rules = profile.retention
    found = read_lifecycle(store)
    plan = plan_lifecycle(found.rules, store.prefix, rules.expire_after)
    notes = list(_notes(rules, found))
    if rules.expire_after is not None and (stranger := find_stranger(store)):
        warning = (
            f"expire_after would delete {stranger} as well, which is no backup; "
            "give the backups a prefix of their own in store.url"
        )
        if install:
            raise UsageError(f"{profile.name}: {warning}")
        notes.insert(0, warning)
    written = install and not dry_run and plan.changed
    if written:
        install_lifecycle(store, found, plan)
    return LifecycleReport(profile.name, store.url, found, plan, written, tuple(notes))


def render_lifecycle(report: LifecycleReport) -> str:
    """Render the bucket's rules, then the profile's, then notes, as text for people."""
    ours = {change.rule_id for change in report.plan.changes}
    lines = [f"{report.store}: {render_count(len(report.found.rules), 'lifecycle rule')} found"]
    lines += _table(
        (
            "ours" if rule.get("ID") in ours else "other",
            printable(rule.get("ID", "(no name)")),
            printable(rule_prefix(rule)) or "(all)",
            render_effect(rule) + ("" if rule.get("Status") == "Enabled" else " (switched off)"),
        )
        for rule in report.found.rules
    )
    lines.append("The profile asks for:")
    lines += _table(
        (
            _WRITTEN[change.action] if report.written else change.action,
            change.rule_id,
            change.effect,
        )
        for change in report.plan.changes
    )
    if report.written:
        lines.append("Installed; the rules of others are as they were.")
    elif report.plan.changed:
        lines.append(f"`invoke lifecycle --profile {report.profile} --install` brings that in.")
    else:
        lines.append("All of that is installed.")
    lines += [f"Note: {note}." for note in report.notes]
    return "\n".join(lines)


_WRITTEN = {"keep": "kept", "add": "added", "change": "changed", "remove": "removed"}


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  "
        + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _notes(rules: RetentionSettings, found: BucketLifecycle) -> Iterator[str]:
    if (expire_after := rules.expire_after) is None:
        return
    cut_short = ["keep_within"] if rules.keep_within > expire_after else []
    # Divide: the number of periods times their length may be more than a timedelta can hold.
    cut_short += [one.key for one in PERIOD_RULES if one.count(rules) > expire_after / one.length]
    days = render_count(expire_after.days, "day")
    if cut_short:
        yield f"S3 deletes after {days} what {', '.join(cut_short)} would keep for longer"
    if found.is_versioned:
        yield (
            "the bucket keeps versions, so that what expires stays there, and costs, as an older "
            "version until a rule for noncurrent versions ends it"
        )
    yield f"S3 goes by age alone: {days} after the last backup that succeeded, none is left"
