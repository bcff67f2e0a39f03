"""What a store needs to know of a profile's [store] table."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol


class RevealedText(Protocol):
    """A secret that gives its text only when asked."""

    def reveal(self) -> str: ...


class StoreSettings(Protocol):
    """What a store needs to know of a profile's [store] table.

    Attributes:
        url: as shown to people.
        bucket, prefix: for S3; the prefix is "" or ends with a slash.
        directory: for a directory store, absolute.
        region, endpoint_url: empty or None leave the choice to boto3.
        max_attempts: how often one request is tried, the first time included.
    """

    @property
    def url(self) -> str: ...
    @property
    def kind(self) -> Literal["s3", "directory"]: ...
    @property
    def bucket(self) -> str: ...
    @property
    def prefix(self) -> str: ...
    @property
    def directory(self) -> Path: ...
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
