"""The time zone of a profile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from backup_tasks.common.paths import Paths
from tests.support.profile_files import SMALLEST, load


def test_the_zone_is_the_one_of_the_profile(paths: Paths) -> None:
    text = SMALLEST.replace("[store]", 'timezone = "Europe/Stockholm"\n[store]')
    assert load(paths, text).tzinfo == ZoneInfo("Europe/Stockholm")


@pytest.mark.parametrize(
    ("setting", "winter", "summer"),
    [
        ("Europe/Stockholm", 1, 2),
        (":America/New_York", -5, -4),
        ("CET-1CEST,M3.5.0,M10.5.0/3", 1, 2),
        ("XST5XDT", -5, -4),
        ("/usr/share/zoneinfo/Asia/Tokyo", 9, 9),
        ("", 0, 0),
        ("Not/AZone", 0, 0),
    ],
)
def test_the_machines_zone_knows_its_summer_time(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, setting: str, winter: int, summer: int
) -> None:
    monkeypatch.setenv("TZ", setting)
    zone = load(paths, SMALLEST).tzinfo
    offsets = [datetime(2025, month, 1, tzinfo=zone).utcoffset() for month in (1, 7)]
    assert offsets == [timedelta(hours=winter), timedelta(hours=summer)]


def test_without_tz_the_zone_is_that_of_etc_localtime(tmp_path: Path) -> None:
    from backup_tasks.common.time_zones import local_zone

    link, copy = tmp_path / "link", tmp_path / "copy"
    link.symlink_to("/usr/share/zoneinfo/Europe/Stockholm")
    copy.write_bytes(link.read_bytes())
    july = datetime(2025, 7, 1, tzinfo=UTC)
    assert local_zone({}, str(link)) == ZoneInfo("Europe/Stockholm")
    assert july.astimezone(local_zone({}, str(copy))).utcoffset() == timedelta(hours=2)
    assert local_zone({}, str(tmp_path / "absent")) is UTC
