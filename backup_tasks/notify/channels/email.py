"""Sends mail through SMTP."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from email.utils import parseaddr
from pathlib import Path
from typing import TYPE_CHECKING

from backup_tasks.errors import NotifyError
from backup_tasks.journal.run_record import Notification, RunRecord
from backup_tasks.notify.channel import ToldProfile
from backup_tasks.notify.email_table import EmailSettings

if TYPE_CHECKING:
    from backup_tasks.common.paths import Paths


class EmailChannel:
    """Sends mail through SMTP; see `Channel`."""

    name = "email"
    noun = "mail"
    description = "Mails through SMTP."
    table = EmailSettings

    def whom(self, settings: EmailSettings) -> str:
        """As `Channel.whom`."""
        return ", ".join(settings.to)

    def tell(
        self, settings: EmailSettings, record: RunRecord, profile: ToldProfile, paths: Paths
    ) -> list[Notification]:
        """As `Channel.tell`: one notification for all recipients that the server accepted, and one
        for each that it refused."""
        from backup_tasks.notify.mail_text import render_mail
        from backup_tasks.notify.smtp import send_mail

        refused = send_mail(settings, [render_mail(record, profile, paths)])
        accepted = [address for address in settings.to if parseaddr(address)[1] not in refused]
        server = f"{settings.host}:{settings.port}"
        sent = [Notification(self.name, ", ".join(accepted))] if accepted else []
        return sent + [
            Notification(self.name, address, f"{server}: refused ({reply}); check notify.email.to")
            for address, reply in refused.items()
        ]

    def test(
        self,
        settings: EmailSettings,
        samples: Sequence[RunRecord],
        profile: ToldProfile,
        paths: Paths,
    ) -> Notification:
        """As `Channel.test`, over one connection."""
        from backup_tasks.notify.mail_text import render_mail
        from backup_tasks.notify.smtp import send_mail

        messages = [render_mail(sample, profile, paths, is_test=True) for sample in samples]
        if refused := send_mail(settings, messages):
            listed = ", ".join(f"{address} ({reply})" for address, reply in refused.items())
            raise NotifyError(
                f"{settings.host}:{settings.port}: refused for {listed}; check notify.email.to"
            )
        return Notification(self.name, self.whom(settings))

    def obeyed_files(self, settings: EmailSettings) -> Iterable[tuple[str, Path]]:
        """The file of the certificate authority, if the table names one."""
        return [("ca_file", Path(settings.ca_file))] if settings.ca_file else []


CHANNEL = EmailChannel()
