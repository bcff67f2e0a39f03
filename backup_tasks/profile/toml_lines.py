"""Parses TOML with the line of every key, so that a problem can be shown at its place.

tomlkit gives no lines. A subclass of its parser overrides a few methods to note the line; these
methods are private, so a test pins the names and the behaviour that this file relies on.

A profile of 85 lines takes 20 ms this way, 16 of them to import tomlkit, and 0.3 ms with tomllib.
So only a profile with problems is read this way.
"""

from __future__ import annotations

import re
from typing import Any

from msgspec import Struct
from tomlkit.exceptions import ParseError, TOMLKitError, UnexpectedCharError
from tomlkit.items import AoT as ArrayOfTables
from tomlkit.items import Array, InlineTable, Item, Key, Table
from tomlkit.parser import Parser

KeyPath = tuple[str | int, ...]


class PlacedToml(Struct, frozen=True):
    """A parsed document.

    Attributes:
        values: plain dicts, lists, str, int, float, bool, dates.
        lines: path of a table, key or list element -> its line, from 1. A table that is only
            implied has the line of the first dotted key or header that implies it.
    """

    values: dict[str, Any]
    lines: dict[KeyPath, int]


class TomlError(Exception):
    """The text is not TOML; holds the line, from 1, and the reason."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason


def parse_toml(text: str) -> PlacedToml:
    """Values and lines of a TOML document.

    Raises:
        TomlError: the text is not TOML; with the line of its first fault.
    """
    parser = _PlacingParser(text)
    try:
        values = parser.parse().unwrap()
    except ParseError as error:
        raise TomlError(max(1, error.line), _reason(error)) from None
    except TOMLKitError as error:
        raise TomlError(parser.last_line, _without_place(error)) from None
    return PlacedToml(values, parser.lines)


class _PlacingParser(Parser):
    """tomlkit's parser; notes the line of every key before it reads the value."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lines: dict[KeyPath, int] = {}
        self.last_line = 1
        self._table: KeyPath = ()
        self._written: set[KeyPath] = set()
        self._repeatable: set[KeyPath] = set()
        # For each open bracket the index of the next element; None for an inline table.
        self._indexes: list[int | None] = []

    def _parse_table(
        self, parent_name: Key | None = None, parent: Table | None = None
    ) -> tuple[Key, Table | ArrayOfTables]:
        is_repeatable, key = self._peek_table()
        path = _parts(key)
        if is_repeatable:
            self._repeatable.add(path)
        self._note(path)
        self._table = path
        return super()._parse_table(parent_name, parent)

    def _parse_key_value(self, parse_comment: bool = False) -> tuple[Key, Item]:
        with self._state(save_marker=True, restore=True):
            self.consume(" \t")
            path = self._table + _parts(self._parse_key())
        self._note(path)
        table, self._table = self._table, path
        try:
            return super()._parse_key_value(parse_comment)
        finally:
            self._table = table

    def _parse_array(self) -> Array:
        self._indexes.append(0)
        try:
            return super()._parse_array()
        finally:
            self._indexes.pop()

    def _parse_inline_table(self) -> InlineTable:
        self._indexes.append(None)
        try:
            return super()._parse_inline_table()
        finally:
            self._indexes.pop()

    def _parse_value(self) -> Item:
        index = self._indexes[-1] if self._indexes else None
        if index is None:
            return super()._parse_value()
        self._indexes[-1] = index + 1
        array, self._table = self._table, (*self._table, index)
        self.lines[self._table] = self._line()
        try:
            return super()._parse_value()
        finally:
            self._table = array

    def _note(self, path: KeyPath) -> None:
        """Note the line of this key or table.

        Raises:
            TomlError: the key or table was written before.
        """
        line = self._line()
        prefixes = [path[:length] for length in range(1, len(path))]
        if path in self._written and not self._repeatable.intersection([*prefixes, path]):
            name = ".".join(str(part) for part in path)
            raise TomlError(line, f'"{name}" is written twice; first in line {self.lines[path]}')
        for prefix in prefixes:
            self.lines.setdefault(prefix, line)
        self._written.add(path)
        self.lines[path] = line
        self.last_line = line

    def _line(self) -> int:
        return self._src.count("\n", 0, self._idx) + 1


def _parts(key: Key) -> tuple[str, ...]:
    return tuple(part.key for part in key)


def _reason(error: ParseError) -> str:
    if not isinstance(error, UnexpectedCharError):
        return _without_place(error)
    match = re.search(r"character: '(.*)' at line", str(error))
    found = match[1] if match else ""
    if found in {r"\n", r"\r", r"\x00"}:
        return "the line ends too early; a key needs = and a value"
    hint = "; text needs quotes around it" if found.isalpha() or found in "/~." else ""
    return f'unexpected "{found}" in column {error.col + 1}{hint}'


def _without_place(error: TOMLKitError) -> str:
    text = re.sub(r" at line \d+ col \d+$", "", str(error))
    return text if text[:2].isupper() else text[:1].lower() + text[1:]
