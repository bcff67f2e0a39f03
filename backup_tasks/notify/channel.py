"""A way to tell people or programs how a run ended: what one is, and what it is given."""

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
    """What [notify] says of any channel."""

    on: Annotated[tuple[Literal["success", "failure"], ...], BeforeValidator(types.listed)] = Field(
        default=("success", "failure"),
        description="After which runs. One that is done with files missing is told either way.",
    )


class ToldProfile(Protocol):
    """What is told of a profile, and to whom; every whole Profile is one.

    Attributes:
        notify: a channel's name -> its table, or None.
        store: None where nobody knows it.
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
    """One way to tell of runs: a module of `notify.channels` has one as `CHANNEL`.

    Attributes:
        name: of its table below [notify], and in run records.
        noun: what people call one message, "mail".
        description: of its table, for people and editors.
        table: its keys.
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
        """Who is told, for records and warnings; no secret."""
        ...

    def tell(
        self, settings: Any, record: RunRecord, profile: ToldProfile, paths: Paths
    ) -> list[Notification]:
        """Tell how a run ended.

        Returns:
            One for those who were told, and one for each who was not, with the reason.

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
            NotifyError: somebody would not be told; one line that says why.
            ProfileError: a secret cannot be read.
        """
        ...

    def obeyed_files(self, settings: Any) -> Iterable[tuple[str, Path]]:
        """Files that decide whom it believes, each with its key."""
        ...
