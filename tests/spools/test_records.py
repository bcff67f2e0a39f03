"""Spools give back what they took, in its order, at any size and as often as asked."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_tasks.format.manifest import Entry
from backup_tasks.format.tar_headers import Member
from backup_tasks.restore.member_spool import MemberSpool
from backup_tasks.spools import records as spool_module
from backup_tasks.spools.records import LineSpool, Spool
from tests.format.test_manifest import PATHS, entries


@given(st.lists(entries(), max_size=10))
def test_entries_come_back_in_their_order_as_often_as_asked(found: list[Entry]) -> None:
    spool = Spool(Entry)
    for entry in found:
        spool.append(entry)
    assert spool.count == len(found)
    assert list(spool) == found
    assert list(spool) == found
    spool.close()


@given(st.lists(st.binary(max_size=50).filter(lambda b: not {10, 13} & set(b))))
def test_lines_come_back_in_their_order(lines: list[bytes]) -> None:
    with LineSpool() as spool:
        for line in lines:
            spool.append(line + b"\n")
        assert list(spool) == [line + b"\n" for line in lines]


def test_a_spool_spills_to_disk_and_still_gives_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "SPILL_BYTES", 2**16)
    monkeypatch.setattr(spool_module, "_BLOCK_BYTES", 2**14)
    spool = Spool(Entry)
    for number in range(5000):
        spool.append(Entry(path=f"{number}", type="file", sha256=os.urandom(32).hex()))
    assert [entry.path for entry in spool] == [str(number) for number in range(5000)]
    spool.close()


@given(st.lists(PATHS, max_size=10))
def test_members_come_back_in_their_order_or_by_depth(paths: list[str]) -> None:
    spool = MemberSpool()
    members = [
        Member(path.encode("utf-8", "surrogateescape"), "dir", mode=n)
        for n, path in enumerate(paths)
    ]
    for member in members:
        spool.append(member)
    assert list(spool) == members
    members.reverse()  # stays so among equally deep ones
    expected = sorted(members, key=lambda member: -member.path.count(b"/"))
    deepest_first = sorted(spool.depths(), reverse=True)
    assert [one for depth in deepest_first for one in spool.of_depth(depth)] == expected
    spool.close()


def test_members_come_back_by_depth_where_they_take_many_blocks_and_lie_in_a_file() -> None:
    spool = MemberSpool()
    members = [
        Member(
            b"a/" * (number % 3) + b"%d" % number,
            "dir",
            xattrs={"user.long": b"x" * 100_000} if number % 1000 == 7 else {},
            link=b"to" * 50,
        )
        for number in range(20_000)
    ]
    for member in members:
        spool.append(member)
    for depth in range(3):
        assert list(spool.of_depth(depth)) == members[depth::3][::-1]
    spool.append(members[0])
    assert list(spool) == [*members, members[0]]
    spool.close()


@settings(max_examples=20)
@given(st.binary(max_size=300), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))))
def test_members_keep_all_that_they_say(value: bytes, runs: list[tuple[int, int]]) -> None:
    member = Member(
        b"a\xff\n",
        "file",
        size=2**63,
        stored=5,
        mode=0o7777,
        uid=2**32 - 1,
        mtime_ns=-1,
        link=b"\xfe",
        xattrs={"user.x": value, "user.\udcff": b""},
        sparse=[tuple(run) for run in runs],
    )
    spool = MemberSpool()
    spool.append(member)
    (found,) = spool
    assert found == member
    spool.close()
