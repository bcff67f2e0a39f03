"""Numbers and texts that look like a server's files, the same on every machine.

All comes from SHAKE-128 (FIPS 202) of a label, as Python's `random` promises less than that
across its versions.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Sequence
from typing import TypeVar

_T = TypeVar("_T")
_TABLE = 65_536


def noise(label: str, count: int) -> bytes:
    """`count` bytes that do not compress."""
    return hashlib.shake_128(label.encode()).digest(count)


def numbers(label: str, count: int) -> array[int]:
    """`count` even numbers of 32 bits, the same whatever the machine's byte order."""
    drawn = array("I", noise(label, 4 * count))
    if sys.byteorder == "big":
        drawn.byteswap()
    return drawn


def words(label: str, count: int) -> list[str]:
    """A vocabulary: words of one to four syllables."""
    consonants, vowels = "bcdfghklmnprstvw", "aeiouaei"
    found: dict[str, None] = {}
    for number in numbers(label, 4 * count):
        syllables = 1 + (number & 3)
        word = ""
        for _ in range(syllables):
            number >>= 7
            word += consonants[number & 15] + vowels[number >> 4 & 7]
        found[word] = None
        if len(found) == count:
            break
    return list(found)


def often_and_seldom(things: Sequence[_T]) -> list[_T]:
    """A table to draw from with 16 bits, in which the n-th thing stands 1/n times as often.

    That is how words are spread in texts (Zipf's law), and about how instructions are in programs.
    """
    shares = [2**32 // rank for rank in range(1, len(things) + 1)]
    total = sum(shares)
    table: list[_T] = []
    for thing, share in zip(things, shares, strict=True):
        table += [thing] * max(1, _TABLE * share // total)
    table += [things[0]] * (_TABLE - len(table))
    return table[:_TABLE]


def prose(label: str, size: int) -> bytes:
    """Text in lines of some dozen words; gzip -1 takes it to about 40 %."""
    table = often_and_seldom(words("words", 6000))
    drawn = numbers(label, size // 5)
    parts = []
    for start in range(0, len(drawn), 12):
        line = [table[number & 0xFFFF] for number in drawn[start : start + 12]]
        parts.append(" ".join(line).capitalize())
    return _cut(".\n".join(parts).encode(), size)


def source_code(label: str, size: int) -> bytes:
    """Lines that look like a program; gzip -1 takes them to about a quarter."""
    names = often_and_seldom(words("names", 3000))
    shapes = often_and_seldom(_SHAPES)
    drawn = numbers(label, size // 8)
    lines = []
    for at in range(0, len(drawn) - 2, 3):
        first, second, third = drawn[at], drawn[at + 1], drawn[at + 2]
        shape = shapes[third & 0xFFFF]
        lines.append(
            shape.format(
                names[first & 0xFFFF],
                names[first >> 16],
                names[second & 0xFFFF],
                names[second >> 16],
                third >> 24,
            )
        )
    return _cut("".join(lines).encode(), size)


_SHAPES = (
    "        self.{0}_{1} = {2}\n",
    "        if {0} is not None and {1}.{2}:\n",
    "            return {0}.{1}({2}, {3})\n",
    "    def {0}_{1}(self, {2}: int = {4}) -> None:\n",
    '        """{0} the {1} of {2} {3}."""\n',
    "        for {0} in {1}_{2}:\n",
    "            {0}[{1}] = {2}(size={4})\n",
    "\n",
    "from {0}.{1} import {2}_{3}\n",
    '            raise ValueError("{0} {1} {2}: {4}")\n',
    "        # {0} {1} {2} {3}\n",
    "        assert {0}({1}) == {4}\n",
    "class {0}{1}:\n",
    "            {0} += {1} * {4}\n",
    "    return [{0} for {0} in {1} if {2}.{3}]\n",
    "    {0}_{1}_{4} = {2}\n",
)


def machine_code(label: str, size: int) -> bytes:
    """Short runs of bytes, some more frequent than others; gzip -1 takes them to about 60 %."""
    bytes_of = noise("instructions", 8 * 4096)
    runs = [bytes_of[at : at + 2 + bytes_of[at] % 6] for at in range(0, len(bytes_of), 8)]
    table = often_and_seldom(runs)
    return _cut(b"".join(table[number & 0xFFFF] for number in numbers(label, size // 3)), size)


def log_lines(label: str, size: int, start: int = 0) -> bytes:
    """Lines of a web server's log, one a second from `start` on."""
    paths = often_and_seldom(words("paths", 2000))
    drawn = numbers(label, 3 * (size // 64 + 1))
    lines = []
    for at in range(0, len(drawn), 3):
        first, second, third = drawn[at], drawn[at + 1], drawn[at + 2]
        second_of_day = start + at // 3
        lines.append(
            f"10.{first >> 24}.{first >> 16 & 15}.{first & 255} - - "
            f"[{second_of_day // 3600:05}:{second_of_day // 60 % 60:02}:{second_of_day % 60:02}] "
            f'"GET /{paths[second & 0xFFFF]}/{paths[second >> 16]}?id={third & 0xFFFFF} HTTP/1.1" '
            f'{_STATUS[third >> 28]} {third >> 12 & 0xFFFF} "-" "agent/{third >> 26}"\n'
        )
    return _cut("".join(lines).encode(), size)


_STATUS = (200,) * 12 + (304, 304, 404, 500)


def database_pages(label: str, size: int) -> bytes:
    """Pages of 8 KiB: a header, rows of text and numbers, and some that were never filled."""
    text = prose(label, size // 2 + 4096)
    blobs = noise(label, size // 4 + 2048)
    pages = []
    for number in range(size // 8192 + 1):
        rows = text[number * 4096 : number * 4096 + 4096] + blobs[number * 2048 :][:2048]
        pages.append(number.to_bytes(8, "little") + rows.ljust(8184, b"\0"))
    return _cut(b"".join(pages), size)


def _cut(content: bytes, size: int) -> bytes:
    assert len(content) >= size, "the estimate of how much must be drawn is too low"
    return content[:size]
