"""The table [notify.email]: who gets mail, and through which server."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from backup_tasks.keys.secret import Secret
from backup_tasks.notify.channel import ChannelTable
from backup_tasks.tables import field_types as types

DEFAULT_PORTS = {"starttls": 587, "tls": 465, "none": 25}


class EmailSettings(ChannelTable):
    """[notify.email]: who gets mail, and through which server."""

    host: types.Host = Field(description="The SMTP server.")
    port: int = Field(
        default=DEFAULT_PORTS["starttls"],
        ge=1,
        le=65535,
        description='Its port. Default: 587 for "starttls", 465 for "tls", 25 for "none".',
    )
    security: Literal["starttls", "tls", "none"] = Field(
        default="starttls",
        description='"starttls" (refused if the server has none), "tls" from the first byte, or '
        '"none": not encrypted.',
    )
    username: types.Text = Field(default="", description="For servers that want a login.")
    password: Secret | None = Field(default=None, description="Needed with username.")
    sender: types.Address = Field(alias="from", description="The sender's address.")
    to: types.Addresses = Field(description="Who gets it. At least one address.")
    timeout_seconds: int = Field(
        default=30, ge=1, le=600, description="How long to wait for each answer of the server."
    )
    ca_file: types.OptionalPath = Field(
        default="", description="Trust this certificate authority as well: a PEM file."
    )

    @classmethod
    def complete(cls, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        port = DEFAULT_PORTS.get(str(raw.get("security", "starttls")))
        return raw if "port" in raw or port is None else {**raw, "port": port}

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if "password" in raw and not raw.get("username"):
            yield "password", "needs username as well"
        if raw.get("username") and "password" not in raw:
            yield "username", "needs password as well"
        if "password" in raw and raw.get("security") == "none" and not _is_loopback(raw):
            yield "password", 'would be sent readable to all, as security is "none"; use "starttls"'


def _is_loopback(raw: Mapping[str, Any]) -> bool:
    host = str(raw.get("host", ""))
    return host in {"localhost", "::1"} or bool(re.fullmatch(r"127(\.\d{1,3}){3}", host))
