"""Names of archives say when they were made, and are never the same twice."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_tasks.format.archive_names import (
    choose_free_name,
    is_backup_name,
    parse_backup_name,
    render_backup_id,
    render_backup_name,
)

STOCKHOLM = ZoneInfo("Europe/Stockholm")
ZONES = st.sampled_from(["UTC", "Europe/Stockholm", "America/St_Johns", "Asia/Kathmandu"]).map(
    ZoneInfo
)
MOMENTS = st.datetimes(
    min_value=datetime(1971, 1, 1),  # noqa: DTZ001
    max_value=datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


def test_the_name_is_local_time_to_the_minute() -> None:
    taken_at = datetime(2025, 6, 12, 0, 0, 59, tzinfo=UTC)
    assert render_backup_name(taken_at, STOCKHOLM) == "2025-06-12_0200-backup.tar.gz"


@given(MOMENTS, ZONES)
def test_a_name_is_read_back_as_the_minute_it_was_made_of(moment: datetime, zone: ZoneInfo) -> None:
    name = render_backup_name(moment, zone)
    parsed = parse_backup_name(name, zone)
    assert parsed is not None
    assert render_backup_name(parsed, zone) == name
    # Summer time's end passes an hour twice.
    assert timedelta(0) <= moment - parsed.astimezone(UTC) < timedelta(hours=1, minutes=1)
    assert is_backup_name(name)
    assert name == f"{render_backup_id(name)}-backup.tar.gz"


@given(st.lists(MOMENTS, max_size=6), MOMENTS, ZONES)
def test_a_free_name_is_free_and_at_or_after_the_start(
    earlier: list[datetime], moment: datetime, zone: ZoneInfo
) -> None:
    taken = {render_backup_name(each, zone) for each in [*earlier, moment]}
    taken.add(choose_free_name(moment, zone, taken))
    name = choose_free_name(moment, zone, taken)
    assert name not in taken
    assert is_backup_name(name)


def test_both_backups_of_the_hour_that_comes_twice_get_a_name() -> None:
    first = datetime(2025, 10, 26, 0, 30, tzinfo=UTC)  # 02:30 summer time
    second = first + timedelta(hours=1)  # 02:30 winter time
    one = choose_free_name(first, STOCKHOLM, set())
    two = choose_free_name(second, STOCKHOLM, {one})
    assert (one, two) == ("2025-10-26_0230-backup.tar.gz", "2025-10-26_0231-backup.tar.gz")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "2025-06-12_0200",
        "2025-13-01_0200-backup.tar.gz",
        "2025-06-31_0200-backup.tar.gz",
        "2025-06-12_2460-backup.tar.gz",
        "2025-06-12_0200-backup.tar.gz.partial",
        "x2025-06-12_0200-backup.tar.gz",
        "2025-06-12_0200-backup.tar.gz\n",
        "２０２５-06-12_0200-backup.tar.gz",  # noqa: RUF001
        "٢٠٢٥-06-12_0200-backup.tar.gz",
    ],
)
def test_other_names_are_no_backups(name: str) -> None:
    assert parse_backup_name(name, UTC) is None
    assert not is_backup_name(name)


@given(
    st.text() | st.from_regex(re.compile(r"\d{4}-\d\d-\d\d_\d{4}-backup\.tar\.gz"), fullmatch=True)
)
def test_any_name_is_read_or_refused(name: str) -> None:
    parsed = parse_backup_name(name, UTC)
    assert parsed is None or render_backup_name(parsed, UTC) == name


def test_encrypted_archives_are_backups_too() -> None:
    name = "2025-06-12_0200-backup.tar.gz.age.tar"
    assert is_backup_name(name)
    assert render_backup_id(name) == "2025-06-12_0200"


@pytest.mark.parametrize("name", ["0001-01-01_0000", "0001-12-31_2359", "9999-12-31_2359"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
@pytest.mark.parametrize("suffix", ["-backup.tar.gz", "-backup.tar.gz.age.tar"])
def test_a_name_at_the_ends_of_time_is_none_of_ours(name: str, zone: str, suffix: str) -> None:
    assert parse_backup_name(name + suffix, ZoneInfo(zone)) is None


@given(st.dates(datetime(2, 1, 1).date(), datetime(9998, 12, 31).date()), ZONES)  # noqa: DTZ001
def test_every_time_that_a_name_can_have_can_be_shown_in_every_zone(
    day: date, zone: ZoneInfo
) -> None:
    parsed = parse_backup_name(f"{day.isoformat()}_2359-backup.tar.gz", zone)
    assert parsed is not None
    for other in ("UTC", "Pacific/Kiritimati", "Pacific/Niue"):
        assert parsed.astimezone(ZoneInfo(other)).timestamp() == parsed.timestamp()
