"""Text that came from other people's files, made fit for a terminal, a log and a mail."""

from __future__ import annotations

import unicodedata

# Categories that move the cursor, hide or reorder text, or cannot be encoded: controls, formats
# (right-to-left marks among them), lone surrogates, private use, line and paragraph separators.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(path: str | bytes) -> str:
    r"""The path with everything that could mislead a reader written as `\n`, `\xff`, `\u202e`.

    A backslash becomes two, so that different names never look the same. Names that are not
    UTF-8 (surrogateescape in a str) show their raw bytes.
    """
    text = path.decode("utf-8", "surrogateescape") if isinstance(path, bytes) else path
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return "".join(_escape(character) for character in text)


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
