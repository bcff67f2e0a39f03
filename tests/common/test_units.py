"""Promises of sizes, durations and counts: what people type is understood, what we say is short."""

from __future__ import annotations

from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_tasks.common.units import (
    moment_of,
    parse_bytes,
    parse_period,
    render_bytes,
    render_count,
    render_seconds,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("512", 512),
        ("16 MiB", 16 * 1024**2),
        ("16mib", 16 * 1024**2),
        ("1.5GB", 1_500_000_000),
        (" 2 kB ", 2000),
        ("3TiB", 3 * 1024**4),
        ("7b", 7),
    ],
)
def test_sizes_are_understood(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1 XB", "1,5GB", "1 MiB 2", "1e3"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match='is not a size; write for example "16 MiB"'):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "period"),
    [
        ("30d", timedelta(days=30)),
        ("1d 12h", timedelta(days=1, hours=12)),
        ("1d12h", timedelta(days=1, hours=12)),
        ("2w", timedelta(weeks=2)),
        ("1y", timedelta(days=365)),
        ("90 s", timedelta(seconds=90)),
        ("1.5h", timedelta(minutes=90)),
        ("5M", timedelta(minutes=5)),
    ],
)
def test_periods_are_understood(text: str, period: timedelta) -> None:
    assert parse_period(text) == period


@pytest.mark.parametrize("text", ["", "  ", "30", "d", "-1d", "1 month", "1d,2h", "1d x"])
def test_what_is_no_period_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match='is not a duration; write for example "30d"'):
        parse_period(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1.0kB"),
        (1234, "1.2kB"),
        (9949, "9.9kB"),
        (9950, "10kB"),
        (120_000_000, "120MB"),
        (999_499, "999kB"),
        (999_500, "1.0MB"),
        (10**15, "1.0PB"),
        (10**19, "10000PB"),
    ],
)
def test_sizes_are_told_in_three_digits(count: int, text: str) -> None:
    assert render_bytes(count) == text


@given(count=st.integers(min_value=0, max_value=999 * 10**12))
def test_a_told_size_reads_back_within_five_percent(count: int) -> None:
    assert abs(parse_bytes(render_bytes(count)) - count) <= 0.05 * count


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0s"),
        (0, "0s"),
        (0.4, "0s"),
        (35, "35s"),
        (59.6, "1m"),
        (125, "2m 5s"),
        (3600, "1h"),
        (3605, "1h"),
        (4320, "1h 12m"),
        (3 * 86400 + 4 * 3600 + 59, "3d 4h"),
    ],
)
def test_durations_are_told_in_two_units(seconds: float, text: str) -> None:
    assert render_seconds(seconds) == text


@given(seconds=st.integers(min_value=0, max_value=10**9))
def test_a_told_duration_reads_back_to_its_second_unit(seconds: int) -> None:
    told = parse_period(render_seconds(seconds)).total_seconds()
    largest = next(unit for unit in (86400, 3600, 60, 1) if seconds >= unit or unit == 1)
    assert 0 <= seconds - told < largest


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 files"), (1, "1 file"), (12345, "12,345 files")]
)
def test_counts_agree_with_their_noun(number: int, text: str) -> None:
    assert render_count(number, "file") == text


@pytest.mark.parametrize(
    ("seconds", "year"), [(0.5, 1970), (1e15, 9998), (-1e15, 2), (2.0**63, 9998), (-(2.0**63), 2)]
)
def test_a_time_beyond_the_calendar_becomes_its_last_or_first_year(
    seconds: float, year: int
) -> None:
    assert moment_of(seconds).year == year
    assert moment_of(seconds).astimezone(ZoneInfo("Asia/Tokyo"))
