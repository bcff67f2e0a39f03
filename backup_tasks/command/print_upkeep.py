"""Prints the upkeep of backups: pruning, lifecycle rules, crontab, profiles, the signing key."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backup_tasks.command.print_backup import render_missing
from backup_tasks.command.printing import print_json, print_report
from backup_tasks.common.printable import printable
from backup_tasks.common.terminal import print_table
from backup_tasks.errors import Incomplete
from backup_tasks.journal.run_record import RunRecord

if TYPE_CHECKING:
    from backup_tasks.keys.signing import SigningKey
    from backup_tasks.profile.load import ProfileSummary
    from backup_tasks.prune.lifecycle import LifecycleReport
    from backup_tasks.prune.run_prune import PruneReport
    from backup_tasks.schedule.install import CronReport


def print_signing_key(key: SigningKey, file: Path, *, is_new: bool, as_json: bool) -> None:
    """Print the public half, as lines to append to a profile."""
    from backup_tasks.keys.signing import render_public_key

    public_key = render_public_key(key.public_key)
    if is_new:
        print(f"made a new key: {printable(str(file))}", file=sys.stderr)
    if as_json:
        print_json({"public_key": public_key, "file": str(file), "is_new": is_new})
    else:
        print(f'[signing]\npublic_key = "{public_key}"')


def end_prune(report: PruneReport, record: RunRecord, *, as_json: bool) -> None:
    """Print what was deleted and kept, with the reasons.

    Raises:
        PruneIncomplete: some backups could not be deleted; names the first.
        Incomplete: nothing may be deleted; says why.
    """
    from backup_tasks.prune.run_prune import demand_complete, render_prune

    print_report(report, render_prune, as_json=as_json)
    demand_complete(report)
    if record.unpruned:
        raise Incomplete(render_missing(record))


def print_lifecycle(report: LifecycleReport, *, as_json: bool) -> None:
    """Print the bucket's rules and ours."""
    from backup_tasks.prune.lifecycle import render_lifecycle

    print_report(report, render_lifecycle, as_json=as_json)


def print_cron(report: CronReport, profile: str, *, as_json: bool) -> None:
    """Print the crontab lines of one profile, or of all if `profile` is ""."""
    from backup_tasks.schedule.install import CronReport, render_cron

    shown = CronReport(tuple(e for e in report.entries if profile in ("", e.profile)))
    print_report(shown, render_cron, as_json=as_json)


def print_profiles(found: Sequence[ProfileSummary], *, as_json: bool) -> None:
    """Print one line for each profile."""
    if as_json:
        print_json(found)
        return
    rows = [
        (
            summary.name,
            summary.description,
            summary.store or ("for others to inherit" if summary.base_only else "-"),
            summary.schedule or "-",
            summary.problem or _sharing(summary) or "ok",
        )
        for summary in found
    ]
    print_table(("profile", "description", "store", "schedule", "state"), rows)


def _sharing(summary: ProfileSummary) -> str:
    if not summary.shares:
        return ""
    names = ", ".join(map(printable, summary.shares))
    return f"shares its store with {names}: give each a prefix of its own"
