"""Text from other people's files, made safe to show in a terminal, a log and a mail."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

# The longest text that `printable` returns, not counting its note on omitted characters.
MOST_CHARACTERS = 400
# Categories that move the cursor, hide or reorder text, or cannot be encoded: controls, formats
# (such as right-to-left marks), lone surrogates, private use, unassigned, line and paragraph
# separators.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(path: str | bytes) -> str:
    r"""Escape everything in a path that could mislead a reader, as `\n`, `\xff`, `\u202e`.

    A backslash becomes two, so that different names look different. Names that are not UTF-8
    (surrogateescape in a str) show their raw bytes. A path of more than 400 characters keeps
    only its first and last ones, as a name of 40 kB would make a line of 40 kB; use `escaped`
    where the path must be whole.
    """
    text = _text_of(path)
    if len(text) <= MOST_CHARACTERS and _is_plain(text):
        return text
    head = _fitting(text)
    tail = _fitting(reversed(text))
    left_out = len(text) - len(head) - len(tail)
    if left_out <= 0:
        return escaped(text)
    return "".join([*head, f"[{left_out:,} characters left out]", *reversed(tail)])


def escaped(path: str | bytes) -> str:
    """As `printable`, but never shortened."""
    text = _text_of(path)
    return text if _is_plain(text) else "".join(map(_escape, text))


def _text_of(path: str | bytes) -> str:
    return path.decode("utf-8", "surrogateescape") if isinstance(path, bytes) else path


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and "\\" not in text


def _fitting(characters: Iterable[str]) -> list[str]:
    """The first characters, each escaped, that fit into half of MOST_CHARACTERS."""
    fitting, length = [], 0
    for character in characters:
        shown = _escape(character)
        length += len(shown)
        if length > MOST_CHARACTERS // 2:
            break
        fitting.append(shown)
    return fitting


def one_line(text: str) -> str:
    """The text on one line without control characters, for a log; backslashes stay."""
    return "".join(
        character if character == "\\" else _escape(character) for character in text.strip()
    )


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if character == "\\":
        return "\\\\"
    if unicodedata.category(character) in _UNPRINTABLE:
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")
    return character
