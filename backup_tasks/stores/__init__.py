"""The places where archives lie: `open_store` gives the one that a profile names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from backup_tasks.paths import PROJECT_ROOT
from backup_tasks.stores.base import Store


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


def open_store(
    settings: StoreSettings,
    *,
    root: Path = PROJECT_ROOT,
    check_place: Callable[[], None] = lambda: None,
) -> Store:
    """The store of a profile. Reaches out to nothing yet: the first call of a method does.

    Args:
        root: the project's folder; a store folder is made in there alone.
        check_place: called before a folder is listed or written to; raises StoreError when it is
            not the one that is meant.
    """
    # Imported here: botocore alone takes longer than a whole run on a directory.
    if settings.kind == "directory":
        from backup_tasks.stores.directory import DirectoryStore

        folder, url = settings.directory, settings.url
        return DirectoryStore(folder, url, makeable_in=root, check_place=check_place)
    from backup_tasks.stores.s3 import S3Store

    return S3Store(settings)
