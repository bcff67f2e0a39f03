"""Tells how a run ended, through the channels that the profile asks for, and notes the outcome."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from backup_tasks.common.printable import one_line
from backup_tasks.errors import Interrupted, NotifyError, ProfileError, UsageError
from backup_tasks.format.archive_names import render_backup_name
from backup_tasks.journal.run_record import Notification, Problem, Result, RunRecord
from backup_tasks.notify.channel import Channel, ChannelTable, ToldProfile
from backup_tasks.notify.registry import all_channels, asked_for

if TYPE_CHECKING:
    from backup_tasks.common.paths import Paths


def notify(record: RunRecord, profile: ToldProfile, paths: Paths) -> list[Notification]:
    """Tell how a run ended, through each channel that wants to hear of such a run.

    Never fails a run: the `error` of a notification says what went wrong.

    Returns:
        Of each such channel one notification for all who were told, and one for each who was not;
        nothing if there is no such channel.
    """
    done: list[Notification] = []
    for channel, settings in asked_for(profile.notify):
        if is_wanted(record, settings.on):
            done += _tell(channel, settings, record, profile, paths)
    return done


def _tell(
    channel: Channel, settings: ChannelTable, record: RunRecord, profile: ToldProfile, paths: Paths
) -> list[Notification]:
    try:
        return channel.tell(settings, record, profile, paths)
    except Interrupted:
        raise
    except (NotifyError, ProfileError) as error:
        why = one_line(str(error))
    except Exception as error:
        # A bug of ours or of a library costs the message, not the backup. The error's text is left
        # out, since it may quote anything.
        why = f"the {channel.noun} was not sent: unexpected {type(error).__name__}"
    return [Notification(channel.name, channel.whom(settings), why)]


def perhaps_told(profile: ToldProfile, why: str) -> list[Notification]:
    """The notifications to record if telling was interrupted: for each channel, why it may have
    told nobody."""
    return [
        Notification(one.name, one.whom(table), f"the {one.noun} was perhaps not sent: {why}")
        for one, table in asked_for(profile.notify)
    ]


def send_test(profile: ToldProfile, paths: Paths, now: datetime) -> list[Notification]:
    """Send a sample for each kind of run that the profile asks for, marked as a test.

    Raises:
        UsageError: the profile asks for no message at all.
        NotifyError: not everybody would be told; one line that says why.
        ProfileError: a secret cannot be read.
    """
    asked = asked_for(profile.notify)
    if not any(settings.on for _, settings in asked):
        nouns = " or ".join(one.noun for one in all_channels())
        tables = " or ".join(f"[notify.{one.name}]" for one in all_channels())
        empty = " and ".join(f"notify.{channel.name}.on" for channel, _ in asked)
        missing = f"nothing in {empty}" if asked else f"no {tables}"
        raise UsageError(f"profile {profile.name} has {missing}, so it sends no {nouns}")
    samples = _samples(profile, now)
    return [
        channel.test(settings, [s for s in samples if is_wanted(s, settings.on)], profile, paths)
        for channel, settings in asked
        if settings.on
    ]


def is_wanted(record: RunRecord, on: Sequence[str]) -> bool:
    """Whether a channel tells of a run that ended so.

    A run with missing files or with warnings, for example of a failed prune, is neither success
    nor failure. It is told if `on` names any kind of run.
    """
    return bool(on) if record.result == "incomplete" or record.warnings else record.result in on


def _samples(profile: ToldProfile, now: datetime) -> list[RunRecord]:
    """One sample of each kind of run."""
    store = profile.store.url if profile.store is not None else ""

    def sample(result: Result) -> RunRecord:
        return RunRecord(
            task="backup",
            profile=profile.name,
            host=platform.node(),
            store=store,
            started_at=now - timedelta(seconds=35),
            ended_at=now,
            result=result,
        )

    success, incomplete, failure = sample("success"), sample("incomplete"), sample("failure")
    for done in (success, incomplete):
        done.archive = render_backup_name(done.started_at, profile.tzinfo)
        done.raw_bytes, done.archive_bytes, done.sent_bytes = 342_000_000, 120_000_000, 120_000_000
        done.files = 12_345
        done.pruned = ["example"]
    incomplete.problems = [
        Problem("/var/lib/example/locked.db", "Permission denied"),
        Problem("/var/log/example.log", "changed while it was read"),
    ]
    failure.error = f"{store}: this is an example of an error"
    return [success, incomplete, failure]
