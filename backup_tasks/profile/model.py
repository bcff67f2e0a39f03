"""The model of a profile: every key, its type, its default and its meaning.

docs/profiles.md says the same for people, and profiles/profile.schema.json for editors; tests
keep the three alike. All models are frozen, and an unknown key is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta, tzinfo
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from backup_tasks.notify.registry import NotifySettings
from backup_tasks.stores.registry import StoreSettings
from backup_tasks.tables import field_types as types
from backup_tasks.tables.strict_table import Settings

__all__ = [
    "Profile",
    "BackupSettings",
    "StoreSettings",
    "EncryptionSettings",
    "SigningSettings",
    "ScheduleSettings",
    "RetentionSettings",
    "DrillSettings",
    "NotifySettings",
]

Count = Annotated[int, Field(ge=0)]


def _cron(expression: str) -> str:
    from backup_tasks.profile.cron_expression import check_cron

    check_cron(expression)
    return " ".join(expression.split())


class BackupSettings(Settings):
    """[backup]: what is backed up, and how."""

    sources: types.Sources = Field(
        description="Files and folders to back up: full paths, or ./path for what lies in the "
        "project's own folder. At least one."
    )
    exclude: types.Patterns = Field(
        default=(), description="What to leave out, as gitignore patterns."
    )
    exclude_caches: bool = Field(
        default=True, description="Leave out folders that hold a valid CACHEDIR.TAG."
    )
    exclude_if_present: types.FileNames = Field(
        default=(), description="Leave out folders that hold a file of one of these names."
    )
    one_file_system: bool = Field(
        default=False, description="Do not enter other file systems mounted below a source."
    )
    compression_level: int = Field(
        default=1, ge=0, le=3, description="0 is the fastest, 3 the smallest."
    )
    full_every: types.PositivePeriod = Field(
        default=timedelta(days=30),
        description="How often every file is read again, however unchanged it looks.",
    )
    shrink_limit: types.Share = Field(
        default="50%",
        description="How much of its entries or bytes a source may lose from one backup to the "
        'next. After more, nothing is deleted until that is settled. "100%" allows everything.',
    )
    timezone: types.ZoneName = Field(
        default="",
        description='The time zone of backup names and of days, such as "Europe/Stockholm". '
        "Empty means the machine's own.",
    )

    @property
    def leaves_out(self) -> tuple[object, ...]:
        """The rules by which a walk leaves something out; a change explains a shrunk source."""
        return (self.exclude, self.exclude_caches, self.exclude_if_present, self.one_file_system)

    @property
    def shrink_share(self) -> float:
        """`shrink_limit` as a fraction, 0 to 1."""
        return int(self.shrink_limit.removesuffix("%")) / 100

    def rules_of_whole(self) -> Iterator[tuple[str, str]]:
        from backup_tasks.common.gitignore import PathPatterns

        excludes = PathPatterns(self.exclude)
        for source in self.sources:
            # Patterns see full paths: `backups/` also leaves out all of /srv/backups/web, and the
            # backup would be empty without any warning.
            if source != "/" and excludes.match(source.lstrip("/"), is_folder=True):
                yield (
                    "sources",
                    f'"{source}" is left out by a pattern in exclude; '
                    f'take that away, or add "!{source}" after it',
                )


class EncryptionSettings(Settings):
    """[encryption]: for whom archives are encrypted, and which key opens them."""

    recipients: types.Recipients = Field(
        description="Public keys that archives are encrypted for: age1..., ssh-ed25519 ... or "
        "ssh-rsa .... Each of them can restore. At least one."
    )
    identity_file: types.IdentityFile = Field(
        default="",
        description="The file with the private key, as `age -i` takes it. Only needed to restore, "
        "verify and drill.",
    )


class SigningSettings(Settings):
    """[signing]: whose archives are believed."""

    public_key: types.PublicKeys = Field(
        default=(),
        description='Public signing keys, each as "ed25519:…": verify, restore, drill and files '
        "refuse an archive that none of them signed. `invoke signing-key` prints this machine's. "
        "One may stand without the list around it.",
    )


class ScheduleSettings(Settings):
    """[schedule]: when cron starts the backup."""

    cron: Annotated[str, AfterValidator(_cron)] = Field(
        description='Five fields as in crontab(5), or one of "@hourly", "@daily", "@weekly", '
        '"@monthly", "@yearly".'
    )


class RetentionSettings(Settings):
    """[retention]: which backups `prune` keeps. A backup stays as long as one rule keeps it."""

    keep_last: Count = Field(default=0, description="Keep so many of the newest.")
    keep_within: types.Period = Field(
        default=timedelta(), description='Keep all that are not older than this, such as "3d".'
    )
    keep_daily: Count = Field(default=0, description="Keep the newest of each of so many days.")
    keep_weekly: Count = Field(default=0, description="Keep the newest of each of so many weeks.")
    keep_monthly: Count = Field(default=0, description="Keep the newest of so many months.")
    keep_yearly: Count = Field(default=0, description="Keep the newest of each of so many years.")
    expire_after: types.WholeDays | None = Field(
        default=None,
        description="The age at which an S3 lifecycle rule deletes a backup, in whole days. Only "
        "`invoke lifecycle` uses it.",
    )

    @property
    def is_set(self) -> bool:
        """Whether any rule keeps something; without such a rule nothing is ever pruned."""
        return any(getattr(self, key) for key in type(self).model_fields if key.startswith("keep_"))


class DrillSettings(Settings):
    """[drill]: how a drill tests a restored tree."""

    command: types.Command = Field(
        default=(),
        description="A program and its arguments, run without a shell in the restored tree. Any "
        "other exit code than 0 fails the drill.",
    )
    timeout_seconds: int = Field(
        default=3600, ge=1, le=86400, description="How long the command may take."
    )


class Profile(Settings):
    """One profile, merged and checked.

    Attributes:
        name: the file's name without `.toml`.
        path: the file, absolute.
    """

    name: types.ProfileName
    path: Path
    description: types.Text = Field(
        default="", description="One line for `invoke profiles`. Not inherited."
    )
    inherit: types.OptionalName = Field(
        default="",
        description="The name of a profile that this one builds on: tables are merged key by key, "
        "lists and secrets replaced.",
    )
    backup: BackupSettings = Field(description="What is backed up, and how.")
    store: StoreSettings = Field(description="Where the archives lie.")
    encryption: EncryptionSettings | None = Field(
        default=None, description="For whom archives are encrypted. Without it they are not."
    )
    signing: SigningSettings = Field(
        default_factory=SigningSettings, description="Whose archives are believed."
    )
    schedule: ScheduleSettings | None = Field(
        default=None, description="When cron starts the backup."
    )
    retention: RetentionSettings = Field(
        default_factory=RetentionSettings, description="Which backups `prune` keeps."
    )
    drill: DrillSettings = Field(
        default_factory=DrillSettings, description="How `drill` tries out a restored tree."
    )
    notify: NotifySettings = Field(
        default_factory=NotifySettings, description="Who is told about a run."
    )

    @property
    def recipients(self) -> tuple[str, ...]:
        """The public keys that archives are encrypted for, sorted; empty without encryption."""
        return self.encryption.recipients if self.encryption else ()

    @property
    def identity_file(self) -> Path | None:
        """The file with the private key, absolute; None if the profile names none."""
        named = self.encryption.identity_file if self.encryption else ""
        return Path(named) if named else None

    @property
    def tzinfo(self) -> tzinfo:
        """The time zone of backup names and days, with its daylight saving rules."""
        from backup_tasks.common.time_zones import find_zone, local_zone

        return find_zone(self.backup.timezone) if self.backup.timezone else local_zone()
