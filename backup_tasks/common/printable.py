"""Text that came from other people's files, made fit for a terminal, a log and a mail."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

# What `printable` gives at most, but for a note on what is left out.
MOST_CHARACTERS = 400
# Categories that move the cursor, hide or reorder text, or cannot be encoded: controls, formats
# (right-to-left marks among them), lone surrogates, private use, line and paragraph separators.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(path: str | bytes) -> str:
    r"""The path with everything that could mislead a reader written as `\n`, `\xff`, `\u202e`.

    A backslash becomes two, so that different names do not look the same. Names that are not
    UTF-8 (surrogateescape in a str) show their raw bytes. Of more than 400 characters only the
    first and the last stay, for a name of 40 kB would make a line of 40 kB; where a path must
    be whole, `escaped` has it.
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
    """As `printable`, whole however long it is."""
    text = _text_of(path)
    return text if _is_plain(text) else "".join(map(_escape, text))


def _text_of(path: str | bytes) -> str:
    return path.decode("utf-8", "surrogateescape") if isinstance(path, bytes) else path


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and "\\" not in text


def _fitting(characters: Iterable[str]) -> list[str]:
    """The first ones, each escaped, that take half of the room together."""
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
