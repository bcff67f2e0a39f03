"""Finds all kinds of stores, and opens the store that a profile names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, create_model

from backup_tasks.common.paths import PROJECT_ROOT
from backup_tasks.stores import kinds
from backup_tasks.stores.base import Store
from backup_tasks.stores.kind import StoreKind, StoreTable, own_keys
from backup_tasks.tables.field_types import project_folder
from backup_tasks.tables.members import members_of


@cache
def store_kinds() -> tuple[StoreKind, ...]:
    """All kinds of stores: one for each module in `kinds`."""
    return tuple(reversed(members_of(kinds, "KIND")))


def kind_of(url: str) -> StoreKind:
    """The kind of store that a URL means.

    Raises:
        ValueError: the URL fits no kind; says what a URL should look like.
    """
    for kind in store_kinds():
        if kind.fits(url):
            return kind
    schemes = " or ".join(kind.scheme for kind in store_kinds())
    *first, last = [f'"{example}"' for kind in store_kinds() for example in kind.examples]
    raise ValueError(f"should begin with {schemes}; write {', '.join(first)} or {last}")


def normalize_url(url: str, root: Path) -> str:
    """The one way to write a store's URL; nothing in the URL is percent-decoded.

    Args:
        root: the project's folder, where `file:./` begins.

    Raises:
        ValueError: the URL is wrong; one line that shows only the harmless part of the URL.
    """
    if not url.isprintable():
        raise ValueError("holds a character that cannot be printed")
    return kind_of(url).normalize(url, root)


def open_store(
    settings: StoreTable,
    *,
    root: Path = PROJECT_ROOT,
    check_place: Callable[[], None] = lambda: None,
) -> Store:
    """The store of a profile. Nothing is accessed before the first call of a method.

    Args:
        root: the project's folder; only below it a missing store folder is made.
        check_place: called before a folder is listed or written to; raises StoreError if it is
            not the folder that is meant.
    """
    return kind_of(settings.url).open(settings, root, check_place)


def _normalized(url: str, info: ValidationInfo) -> str:
    return normalize_url(url, project_folder(info))


class _AnyStore(StoreTable):
    """[store]: where the archives lie."""

    url: Annotated[str, AfterValidator(_normalized)] = Field(
        description=f"{', '.join(kind.url_help for kind in store_kinds())}. "
        "Nothing in it is percent-decoded."
    )

    @property
    def kind(self) -> StoreKind:
        """The kind of store that the URL means."""
        return kind_of(self.url)

    @property
    def place(self) -> str:
        """As `StoreKind.place`."""
        return self.kind.place(self)

    @property
    def folder(self) -> Path | None:
        """As `StoreKind.folder`."""
        return self.kind.folder(self)

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        url = raw.get("url")
        meant = [kind for kind in store_kinds() if isinstance(url, str) and kind.fits(url)]
        for kind in store_kinds():
            if kind in meant or not meant:
                yield from kind.table.rules(raw)
                continue
            for key in sorted(own_keys(kind.table) & set(raw)):
                yield key, f"means something only for {kind.scheme} stores, but url is {url}"


if TYPE_CHECKING:
    StoreSettings = _AnyStore
else:
    # One table with the keys of all kinds, as a profile has it.
    _tables = dict.fromkeys(k.table for k in store_kinds() if k.table is not StoreTable)
    StoreSettings = create_model(
        "StoreSettings", __base__=(_AnyStore, *_tables), __doc__=_AnyStore.__doc__
    )
