"""What S3 needs to know of a profile's [store] table."""

from __future__ import annotations

from typing import Literal, Protocol


class RevealedText(Protocol):
    """A secret that gives its text only when asked."""

    def reveal(self) -> str: ...


class S3Settings(Protocol):
    """What S3 needs to know of a profile's [store] table.

    Attributes:
        url: as shown to people: `s3://bucket/prefix/`.
        region, endpoint_url: empty or None leave the choice to boto3.
        max_attempts: how often one request is tried, the first time included.
    """

    @property
    def url(self) -> str: ...
    @property
    def region(self) -> str | None: ...
    @property
    def endpoint_url(self) -> str | None: ...
    @property
    def storage_class(self) -> str | None: ...
    @property
    def access_key_id(self) -> RevealedText | None: ...
    @property
    def secret_access_key(self) -> RevealedText | None: ...
    @property
    def session_token(self) -> RevealedText | None: ...
    @property
    def max_attempts(self) -> int: ...
    @property
    def addressing_style(self) -> Literal["auto", "path", "virtual"]: ...
