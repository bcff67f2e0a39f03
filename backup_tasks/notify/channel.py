"""The protocol of a channel, which tells people or programs how a run ended, and its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import BeforeValidator, Field

from backup_tasks.tables import field_types as types
from backup_tasks.tables.strict_table import Settings

if TYPE_CHECKING:
    from backup_tasks.common.paths import Paths
    from backup_tasks.journal.run_record import Notification, RunRecord
    from backup_tasks.stores.registry import StoreSettings


class ChannelTable(Settings):
    """The keys that the table of every channel has."""

    on: Annotated[tuple[Literal["success", "failure"], ...], BeforeValidator(types.listed)] = Field(
        default=("success", "failure"),
        description="After which runs. One that is done with files missing is told either way.",
    )


class ToldProfile(Protocol):
    """The facts about a profile that messages need, and whom to tell; every Profile has them.

    Attributes:
        notify: has each channel's name as an attribute: its table, or None.
        store: None if it is unknown, as in a profile with problems.
    """

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def description(self) -> str: ...
    @property
    def notify(self) -> Any: ...
    @property
    def store(self) -> StoreSettings | None: ...
    @property
    def tzinfo(self) -> tzinfo: ...


class Channel(Protocol):
    """One way to tell how runs ended; each module of `notify.channels` has one as `CHANNEL`.

    Attributes:
        name: the name of its table below [notify]; also in run records.
        noun: the word for one message, such as "mail".
        description: describes its table to people and editors.
        table: the keys of its table.
    """

    @property
    def name(self) -> str: ...
    @property
    def noun(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def table(self) -> type[ChannelTable]: ...

    def whom(self, settings: Any) -> str:
        """The recipients in words, for records and warnings; holds no secret."""
        ...

    def tell(
        self, settings: Any, record: RunRecord, profile: ToldProfile, paths: Paths
    ) -> list[Notification]:
        """Tell how a run ended.

        Returns:
            One notification for all who were told, and one for each who was not, with the reason.

        Raises:
            NotifyError: nobody was told; one line that says why.
            ProfileError: a secret cannot be read.
        """
        ...

    def test(
        self, settings: Any, samples: Sequence[RunRecord], profile: ToldProfile, paths: Paths
    ) -> Notification:
        """Send samples, marked as a test.

        Raises:
            NotifyError: not everybody would be told; one line that says why.
            ProfileError: a secret cannot be read.
        """
        ...

    def obeyed_files(self, settings: Any) -> Iterable[tuple[str, Path]]:
        """Files that decide which servers the channel trusts, each with its key in the table."""
        ...
