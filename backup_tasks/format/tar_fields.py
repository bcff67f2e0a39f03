"""The fields of a header block as other programs write them, read as GNU tar reads them.

Stricter only where GNU tar guesses: a number in its base 64 of 1990 is refused.
Source: GNU tar 1.35, src/list.c, from_header and tar_checksum.
"""

from __future__ import annotations

from zlib import adler32

from backup_tasks.errors import ArchiveError
from backup_tasks.format.tar_headers import parse_time

_CHECKSUM = slice(148, 156)
_OCTAL = b"01234567"
_BLANKS = b" \t\n\v\f\r"


def read_flag(block: memoryview) -> bytes:
    """The type flag of a header block.

    The checksum may be the sum of signed bytes, as some old programs wrote it.

    Raises:
        ArchiveError: the checksum is wrong.
    """
    field = block[_CHECKSUM]
    told = read_number(field)
    total = _sum(block[:256]) + _sum(block[256:]) - _sum(field) + len(field) * 0x20
    # As signed numbers, bytes from 128 on count 256 less.
    if told != total and told != total - 256 * _count_high(block, field):
        raise ArchiveError("a tar header's checksum is wrong")
    return bytes(block[156:157])


def _sum(raw: memoryview) -> int:
    """Sum up to 256 bytes as Adler-32's lower half (RFC 1950), much faster than `sum`."""
    return adler32(raw, 0) & 0xFFFF


def _count_high(block: memoryview, field: memoryview) -> int:
    """Count the bytes from 128 on, except in the checksum's own field."""
    return sum(byte >= 128 for byte in block) - sum(byte >= 128 for byte in field)


def read_number(raw: memoryview, *, signed: bool = False) -> int:
    """Read octal digits, or GNU tar's base 256 for a larger number; an empty field is 0.

    Raises:
        ArchiveError: the number is negative, unless `signed`, or is no number.
    """
    usual = bytes(raw).rstrip(b"\0 ")
    if usual.isdigit() and not usual.strip(_OCTAL):
        return int(usual, 8)
    if raw[0] == 0x80:
        return int.from_bytes(raw[1:], "big")
    if raw[0] == 0xFF:
        if not signed:
            raise ArchiveError("a header holds a negative number")
        return int.from_bytes(raw, "big", signed=True)
    # One leading zero byte ends an overfull field before this one; two mean an empty field.
    field = bytes(raw[1:] if raw[0] == 0 else raw).lstrip(_BLANKS)
    digits = field.split(b"\0", 1)[0]
    digits = digits.split(maxsplit=1)[0] if digits else b"0"
    # int() takes more than digits: a negative size would lead backwards, and round in circles.
    if digits.strip(_OCTAL):
        raise ArchiveError(f"a tar header holds {bytes(raw)!r} for a number")
    return int(digits, 8)


def read_decimal(text: bytes) -> int:
    """Read a number of a pax record, or of a sparse file's map.

    Raises:
        ArchiveError: it is not a decimal number of at most 20 digits.
    """
    digits = text.lstrip(b"0") or text[:1]
    if not digits.isdigit() or len(digits) > 20:
        raise ArchiveError(f"a header holds {text[:40]!r} for a number")
    return int(digits)


def read_time(text: bytes) -> int | None:
    """Nanoseconds of a pax time; None for anything else, such as Python's `1e-09`."""
    sign = text[:1] if text[:1] == b"-" else b""
    whole, point, fraction = text.removeprefix(sign).partition(b".")
    try:
        return parse_time(sign + (whole.lstrip(b"0") or whole[:1]) + point + fraction)
    except ArchiveError:
        return None


def read_text(raw: memoryview) -> bytes:
    """The bytes up to the first zero byte."""
    return bytes(raw).split(b"\0", 1)[0]
