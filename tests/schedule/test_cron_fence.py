"""The fence around our lines in a crontab: where it is not clear, nothing is cut or doubled."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from backup_tasks.errors import ScheduleError
from backup_tasks.schedule.crontab_block import join_crontab, parse_line, split_crontab

ROOT = Path("/srv/backup-tasks")
BEGIN, END = f"# BEGIN backup-tasks {ROOT}".encode(), f"# END backup-tasks {ROOT}".encode()
OURS = b"0 2 * * * /x/python -m invoke backup --profile prod >/dev/null"
THEIRS = b"@hourly echo theirs"


def crontab(*lines: bytes) -> bytes:
    return b"".join(line + b"\n" for line in lines)


@pytest.mark.parametrize(
    "lines",
    [
        [END, OURS, BEGIN],
        [END, BEGIN, OURS],
        [BEGIN, OURS, END, THEIRS, END],
        [END, BEGIN, OURS, END],
        [BEGIN, BEGIN, OURS, END],
        [BEGIN, OURS, END, BEGIN],
        [BEGIN, OURS],
        [OURS, END],
    ],
    ids=lambda lines: " ".join(line.split()[1].decode() for line in lines),
)
def test_a_fence_in_any_other_order_is_refused_and_each_of_its_lines_is_named(
    lines: list[bytes],
) -> None:
    with pytest.raises(ScheduleError) as caught:
        split_crontab(crontab(THEIRS, *lines, THEIRS), ROOT)
    told = str(caught.value)
    for number, line in enumerate(lines, start=2):
        assert (f'line {number} "{line.decode()}"' in told) == (line in (BEGIN, END))
    assert "nothing was changed" in told


@pytest.mark.parametrize("count", range(4))
def test_every_line_is_in_the_fence_or_outside_of_it_and_none_in_both(count: int) -> None:
    others = [b"0 %d * * * true" % number for number in range(3)]
    for places in itertools.product((False, True), repeat=count):
        inside = [line for line, is_in in zip(others, places, strict=False) if is_in]
        outside = [line for line, is_in in zip(others, places, strict=False) if not is_in]
        content = crontab(*outside, BEGIN, OURS, *inside, END, THEIRS)
        split = split_crontab(content, ROOT)
        assert [line.text for line in split.lines] == [OURS, *inside]
        assert split.before == crontab(*outside)
        assert split.after == crontab(THEIRS)
        again = join_crontab(split, split.lines, ROOT)
        assert split_crontab(again, ROOT) == split


def test_spaces_that_an_editor_left_behind_a_fence_do_not_hide_it() -> None:
    split = split_crontab(crontab(THEIRS, BEGIN + b"  ", OURS, END + b"\r"), ROOT)
    assert (split.before, split.after) == (crontab(THEIRS), b"")
    assert [line.text for line in split.lines] == [OURS]


def test_the_fence_of_another_project_is_somebody_else_s() -> None:
    other = split_crontab(crontab(BEGIN + b"-two", OURS, END + b"-two"), ROOT)
    assert (other.lines, other.after) == ((), b"")


@pytest.mark.parametrize("last", [b"@hourly echo theirs", b"@hourly echo theirs\n", b""])
def test_a_line_without_its_end_is_not_joined_with_ours(last: bytes) -> None:
    line = parse_line(OURS)
    assert line is not None
    written = join_crontab(split_crontab(last, ROOT), [line], ROOT)
    assert written.startswith(last + (b"" if last.endswith(b"\n") or not last else b"\n") + BEGIN)
    assert split_crontab(written, ROOT).lines == (line,)
