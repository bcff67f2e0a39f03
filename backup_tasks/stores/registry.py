"""The places where archives lie: `open_store` gives the one that a profile names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from backup_tasks.common.paths import PROJECT_ROOT
from backup_tasks.stores.base import Store
from backup_tasks.stores.settings import StoreSettings


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
    from backup_tasks.stores.s3.store import S3Store

    return S3Store(settings)
