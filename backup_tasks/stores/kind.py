"""What a kind of store tells of itself before one is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from backup_tasks.stores.base import Store
from backup_tasks.tables.strict_table import Settings


class ObeyedFile(Struct, frozen=True):
    """A file, outside of a profile, that decides where a store lies or with which keys.

    Attributes:
        reader: what reads it; remedy: what to do about one that others may write.
    """

    path: Path
    reader: str
    remedy: str


class StoreKind(Protocol):
    """One kind of store: a module of `stores.kinds` has one as `KIND`.

    Attributes:
        scheme: what its URLs begin with, as people write it: "s3://".
        examples: URLs, for errors.
        table: the keys of [store] that mean something for it.
    """

    @property
    def scheme(self) -> str: ...
    @property
    def examples(self) -> tuple[str, ...]: ...
    @property
    def table(self) -> type[StoreTable]: ...

    def fits(self, url: str) -> bool:
        """Whether a URL is meant to be one of this kind, be it right or wrong."""
        ...

    def normalize(self, url: str, root: Path) -> str:
        """The one way to write a URL: absolute, with a slash at its end.

        Args:
            root: the project's folder.

        Raises:
            ValueError: it is wrong; one line that shows no more of it than is safe.
        """
        ...

    def open(self, settings: StoreTable, root: Path, check_place: Callable[[], None]) -> Store:
        """As `registry.open_store`."""
        ...

    def place(self, settings: StoreTable) -> str:
        """As `Store.place`, without opening the store; "" where nothing tells it here."""
        ...

    def folder(self, settings: StoreTable) -> Path | None:
        """The folder of this machine that it is, absolute; None for one that lies elsewhere."""
        ...

    def unpack_command(self, settings: StoreTable, name: str, unpack: str) -> str:
        """A shell command that unpacks an archive without this program.

        Args:
            name: of the archive; unpack: a command that unpacks what it is given on stdin.
        """
        ...

    def obeyed_files(self) -> Iterable[ObeyedFile]:
        """Files outside of the profile that have a say."""
        ...


class StoreTable(Settings):
    """What [store] says of any kind; the keys of one kind alone are its own `StoreKind.table`."""

    url: str


def own_keys(table: type[StoreTable]) -> frozenset[str]:
    """The keys of a kind's table that are no other kind's, as a profile writes them."""
    fields: dict[str, Any] = dict(table.model_fields)
    return frozenset(field.alias or name for name, field in fields.items()) - {"url"}
