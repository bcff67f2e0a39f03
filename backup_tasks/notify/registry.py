"""Finds all channels, and those that a profile asks for."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model

from backup_tasks.notify import channels
from backup_tasks.notify.channel import Channel, ChannelTable
from backup_tasks.tables.members import members_of
from backup_tasks.tables.strict_table import Settings


@cache
def all_channels() -> tuple[Channel, ...]:
    """All channels, sorted by name: one for each module in `channels`."""
    return tuple(members_of(channels, "CHANNEL"))


def asked_for(notify: Any) -> list[tuple[Channel, ChannelTable]]:
    """The channels that have a table in a profile's [notify], each with its table."""
    tables = ((channel, getattr(notify, channel.name)) for channel in all_channels())
    return [(channel, table) for channel, table in tables if table is not None]


def noun_of(name: str) -> str:
    """The word for one message of a channel, such as "mail"; "message" if it is unknown."""
    return next((one.noun for one in all_channels() if one.name == name), "message")


if TYPE_CHECKING:

    class NotifySettings(Settings):
        """[notify]: a channel's name -> its table, or None."""

        def __getattr__(self, name: str) -> Any: ...

else:
    NotifySettings = create_model(
        "NotifySettings",
        __base__=Settings,
        __doc__="[notify]: who is told about a run.",
        **{
            one.name: (one.table | None, Field(default=None, description=one.description))
            for one in all_channels()
        },
    )
