"""Tell people how a run ended: whether a mail goes out, to whom, and what became of it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import datetime, timedelta
from email.utils import parseaddr
from typing import TYPE_CHECKING

from backup_tasks.common.printable import one_line
from backup_tasks.errors import Interrupted, NotifyError, ProfileError, UsageError
from backup_tasks.format.archive_names import render_backup_name
from backup_tasks.journal.run_record import Notification, Problem, Result, RunRecord
from backup_tasks.notify.mail_text import render_mail
from backup_tasks.notify.smtp import send_mail

if TYPE_CHECKING:
    from backup_tasks.common.paths import Paths
    from backup_tasks.notify.broken_profile import MailedProfile
    from backup_tasks.profile.model import EmailSettings, Profile


def notify(record: RunRecord, profile: MailedProfile, paths: Paths) -> list[Notification]:
    """Mail the outcome of a run to those whom the profile names, if they want to hear of it.

    Never fails a run: whatever goes wrong is told in the `error` of what it returns.

    Returns:
        Nothing when no mail is wanted. Otherwise one for the recipients that the server took
        the mail for, and one for each that it refused.
    """
    settings = profile.notify.email
    if settings is None or not is_wanted(record, settings.on):
        return []
    everybody = ", ".join(settings.to)
    try:
        refused = send_mail(settings, [render_mail(record, profile, paths)])
    except Interrupted:
        raise
    except (NotifyError, ProfileError) as error:
        return [Notification("email", everybody, one_line(str(error)))]
    except Exception as error:
        # A bug of ours or of the mail library costs the mail, not the backup. Its text is left
        # out, because nobody can know what it quotes.
        name = type(error).__name__
        return [Notification("email", everybody, f"the mail was not sent: unexpected {name}")]
    return _render_outcomes(settings, refused)


def send_test(profile: Profile, paths: Paths, now: datetime) -> Notification:
    """Send a sample of each kind of mail that the profile asks for, marked as a test.

    Raises:
        UsageError: the profile asks for no mail.
        NotifyError: a recipient would not get it, or nobody; one line that says why.
        ProfileError: the password cannot be read.
    """
    settings = profile.notify.email
    if settings is None or not settings.on:
        missing = "no [notify.email]" if settings is None else "nothing in notify.email.on"
        raise UsageError(f"profile {profile.name} has {missing}, so it sends no mail")
    samples = [sample for sample in _samples(profile, now) if is_wanted(sample, settings.on)]
    messages = [render_mail(sample, profile, paths, is_test=True) for sample in samples]
    refused = send_mail(settings, messages)
    if refused:
        listed = ", ".join(f"{address} ({reply})" for address, reply in refused.items())
        raise NotifyError(
            f"{settings.host}:{settings.port}: refused for {listed}; check notify.email.to"
        )
    return Notification("email", ", ".join(settings.to))


def is_wanted(record: RunRecord, on: Sequence[str]) -> bool:
    """Whether a run that ended so is mailed.

    Missing files and warnings, such as of a prune that failed, are neither success nor failure
    and interest whoever asked for any mail.
    """
    return bool(on) if record.result == "incomplete" or record.warnings else record.result in on


def _render_outcomes(settings: EmailSettings, refused: dict[str, str]) -> list[Notification]:
    accepted = [address for address in settings.to if parseaddr(address)[1] not in refused]
    server = f"{settings.host}:{settings.port}"
    sent = [Notification("email", ", ".join(accepted))] if accepted else []
    return sent + [
        Notification("email", address, f"{server}: refused ({reply}); check notify.email.to")
        for address, reply in refused.items()
    ]


def _samples(profile: Profile, now: datetime) -> list[RunRecord]:
    """One example of each kind of run."""

    def sample(result: Result) -> RunRecord:
        return RunRecord(
            task="backup",
            profile=profile.name,
            host=platform.node(),
            store=profile.store.url,
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
    failure.error = f"{profile.store.url}: this is an example of an error"
    return [success, incomplete, failure]
