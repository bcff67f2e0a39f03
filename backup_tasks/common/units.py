"""Sizes and durations: "16 MiB" and "30d" to numbers, numbers to text for people."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_SIZES: dict[str, int] = {
    "": 1,
    "b": 1,
    **{unit: 1000**power for power, unit in enumerate(("kb", "mb", "gb", "tb"), start=1)},
    **{unit: 1024**power for power, unit in enumerate(("kib", "mib", "gib", "tib"), start=1)},
}
_PERIODS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_FIRST_SECOND = datetime(2, 1, 1, tzinfo=UTC).timestamp()
_LAST_SECOND = datetime(9998, 12, 31, tzinfo=UTC).timestamp()
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")


def parse_bytes(text: str) -> int:
    """Parse a size such as "512", "16 MiB" or "1.5GB" to bytes.

    Raises:
        ValueError: it is not a size; shows how to write one.
    """
    match = _AMOUNT.fullmatch(text.strip())
    if not match or match[2].lower() not in _SIZES:
        raise ValueError(f'{text!r} is not a size; write for example "16 MiB" or "500MB"')
    return round(float(match[1]) * _SIZES[match[2].lower()])


def moment_of(seconds: float) -> datetime:
    """Seconds since 1970 as a time in UTC, moved into the years 2 to 9998.

    File systems know years that `datetime` does not; every zone can show times in these.
    """
    return datetime.fromtimestamp(min(max(seconds, _FIRST_SECOND), _LAST_SECOND), UTC)


def parse_period(text: str) -> timedelta:
    """Parse a duration of one or several parts: "30d", "12h", "1d 12h", "2w".

    Raises:
        ValueError: it is not a duration; names the units.
    """
    seconds = 0.0
    rest = text.strip()
    if not rest:
        raise ValueError(_not_a_period(text))
    while rest:
        match = _AMOUNT.match(rest)
        if not match or match[2].lower() not in _PERIODS:
            raise ValueError(_not_a_period(text))
        seconds += float(match[1]) * _PERIODS[match[2].lower()]
        rest = rest[match.end() :].lstrip()
    return timedelta(seconds=seconds)


def _not_a_period(text: str) -> str:
    return (
        f'{text!r} is not a duration; write for example "30d", "12h" or "1d 12h" (s, m, h, d, w, y)'
    )


def render_bytes(count: int) -> str:
    """A short size, in powers of 1000: "0B", "999B", "1.2kB", "120MB"."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if value < 999.5 or unit == "PB":
            break
        value /= 1000
    digits = 1 if unit != "B" and value < 9.95 else 0
    return f"{value:.{digits}f}{unit}"


def render_seconds(seconds: float) -> str:
    """A duration in its two largest units: "0s", "35s", "2m 5s", "1h 12m", "3d 4h"."""
    whole = max(0, round(seconds))
    parts: list[tuple[int, str]] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, whole = divmod(whole, length)
        if count or parts or unit == "s":
            parts.append((count, unit))
    return " ".join(f"{count}{unit}" for count, unit in parts[:2] if count or len(parts) == 1)


def render_count(number: int, noun: str) -> str:
    """A number with its noun: "1 file", "12,345 files"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def utc_text(moment: datetime) -> str:
    """A moment in ISO 8601, UTC, as headers and journals write it."""
    # Fractions of a second stay: two backups may begin in the same second.
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
