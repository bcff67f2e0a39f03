"""The protocol of a kind of store: everything that is known before a store is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from backup_tasks.stores.base import Store
from backup_tasks.tables.strict_table import Settings


class ObeyedFile(Struct, frozen=True):
    """A file outside of the profile that decides where a store lies, or which keys open it.

    Attributes:
        reader: the program or library that reads the file.
        remedy: what to do if others may write the file.
    """

    path: Path
    reader: str
    remedy: str


class StoreKind(Protocol):
    """One kind of store; each module of `stores.kinds` has one as `KIND`.

    Attributes:
        name: of its module, and in code.
        scheme: the beginning of its URLs, as people write it: "s3://".
        examples: example URLs for errors.
        url_help: what its URLs mean, for the description of `url`.
        table: the keys of [store] that apply to this kind.
    """

    @property
    def name(self) -> str: ...
    @property
    def scheme(self) -> str: ...
    @property
    def examples(self) -> tuple[str, ...]: ...
    @property
    def url_help(self) -> str: ...
    @property
    def table(self) -> type[StoreTable]: ...

    def fits(self, url: str) -> bool:
        """Whether a URL is meant for this kind, even if it is wrong otherwise."""
        ...

    def normalize(self, url: str, root: Path) -> str:
        """The one way to write a URL: absolute, with a slash at its end.

        Args:
            root: the project's folder.

        Raises:
            ValueError: the URL is wrong; one line that shows only the harmless part of the URL.
        """
        ...

    def open(self, settings: StoreTable, root: Path, check_place: Callable[[], None]) -> Store:
        """As `registry.open_store`."""
        ...

    def place(self, settings: StoreTable) -> str:
        """As `Store.place`, without opening the store; "" if it cannot be known here."""
        ...

    def folder(self, settings: StoreTable) -> Path | None:
        """The store's folder on this machine, absolute; None if the store lies elsewhere."""
        ...

    def unpack_command(self, settings: StoreTable, name: str, unpack: str) -> str:
        """A shell command that unpacks an archive without this program.

        Args:
            name: the archive's name.
            unpack: a command that unpacks the archive from its standard input.
        """
        ...

    def obeyed_files(self) -> Iterable[ObeyedFile]:
        """The files outside of the profile that a store of this kind obeys."""
        ...


class StoreTable(Settings):
    """The keys of [store] that every kind has; `StoreKind.table` adds those of a single kind."""

    url: str


def own_keys(table: type[StoreTable]) -> frozenset[str]:
    """The keys of a kind's table besides `url`, as a profile writes them."""
    fields: dict[str, Any] = dict(table.model_fields)
    return frozenset(field.alias or name for name, field in fields.items()) - {"url"}
