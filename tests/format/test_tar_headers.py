"""Tar headers: any entry survives them, and other people's tar reads the same as we."""

from __future__ import annotations

import codecs
import collections
import contextlib
import io
import os
import re
import subprocess
import tarfile
import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backup_tasks.errors import ArchiveError
from backup_tasks.format.tar_headers import (
    END_MARK,
    Member,
    decode_headers,
    decode_xattr_name,
    encode_headers,
    encode_sparse_map,
    encode_xattr_name,
    padding_bytes,
    parse_pax,
    parse_time,
)
from tests.format.test_manifest import NAMES

NUMBERS = st.integers(0, 100) | st.sampled_from([8**7 - 1, 8**7, 2**31, 2**32 - 2])
TIMES = st.integers(-(2**35) * 10**9, 2**36 * 10**9) | st.sampled_from(
    [0, 1, -1, -500_000_000, 10**9 - 1, 8**11 * 10**9, 8**11 * 10**9 - 1]
)
SIZES = st.integers(0, 600) | st.sampled_from([8**11 - 1, 8**11, 10**13])
LONG = st.integers(90, 300).map(lambda length: b"x" * length)
PATHS = st.lists(NAMES.filter(lambda n: n not in (b".", b"..")) | LONG, min_size=1, max_size=4).map(
    b"/".join
)
OWNERS = st.text(st.characters(categories=["L", "N"], include_characters="-_."), max_size=40).map(
    lambda name: name.encode()[:60].decode(errors="ignore").encode()
)
XATTRS = st.dictionaries(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12).map(
        lambda name: f"user.{name}"
    ),
    st.binary(max_size=60),
    max_size=3,
)


@st.composite
def members(draw: st.DrawFn) -> Member:
    kind = draw(st.sampled_from(["file", "dir", "symlink", "hardlink", "fifo", "char", "block"]))
    size = draw(SIZES) if kind == "file" else 0
    is_device = kind in ("char", "block")
    return Member(
        path=draw(PATHS),
        kind=kind,
        size=size,
        stored=size,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(NUMBERS),
        gid=draw(NUMBERS),
        user=draw(OWNERS),
        group=draw(OWNERS),
        mtime_ns=draw(TIMES),
        link=draw(PATHS) if kind in ("symlink", "hardlink") else b"",
        rdev_major=draw(st.integers(0, 4095)) if is_device else 0,
        rdev_minor=draw(st.integers(0, 2**20 - 1)) if is_device else 0,
        xattrs=draw(XATTRS),
    )


@given(members(), st.integers(0, 3))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_headers_are_read_back_as_they_were_written(member: Member, blocks_before: int) -> None:
    headers = encode_headers(member)
    assert len(headers) % 512 == 0
    start = blocks_before * 512
    found, end = decode_headers(memoryview(bytes(start) + headers + b"content"), start)
    assert found == member
    assert end == start + len(headers)


RUNS = st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 700)), max_size=6)


@given(PATHS, RUNS, st.integers(0, 10**13))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_sparse_maps_are_read_back_as_they_were_written(
    path: bytes, gaps: list[tuple[int, int]], rest: int
) -> None:
    runs, end = [], 0
    for gap, length in gaps:
        runs.append((end + gap, length))
        end += gap + length
    stored = sum(length for _, length in runs)
    packed = encode_sparse_map(runs)
    member = Member(path, "file", size=end + rest, stored=stored + len(packed), sparse=runs)
    headers = encode_headers(member) + packed
    found, place = decode_headers(memoryview(headers + bytes(stored)), 0)
    assert (found.path, found.size, found.stored) == (path, end + rest, stored)
    assert (list(found.sparse or []), place) == (runs, len(headers))


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_xattr_names_are_read_back_as_they_were_written(name: str) -> None:
    packed = encode_xattr_name(name)
    assert b"=" not in packed
    assert decode_xattr_name(packed) == name


# As others see it. Without content, so that any size can be claimed for a single entry.


def unique(found: list[Member]) -> list[Member]:
    return list({member.path: member for member in found}.values())


SMALL = members().filter(lambda member: member.size <= 600)


def stream(found: list[Member]) -> bytes:
    out = io.BytesIO()
    for member in found:
        out.write(encode_headers(member))
        out.write(bytes(member.stored + padding_bytes(member.stored)))
    return out.getvalue() + END_MARK


@given(st.lists(SMALL, max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_python_reads_the_same(found: list[Member]) -> None:
    with tarfile.open(fileobj=io.BytesIO(stream(found)), mode="r:") as archive:
        infos = archive.getmembers()
    assert len(infos) == len(found)
    for member, info in zip(found, infos, strict=True):
        assert os.fsencode(info.name) == member.path
        assert os.fsencode(info.linkname) == member.link
        assert (info.mode, info.uid, info.gid) == (member.mode, member.uid, member.gid)
        assert (info.uname.encode(), info.gname.encode()) == (member.user, member.group)
        assert info.size == member.size
        assert info.mtime == pytest.approx(member.mtime_ns / 1e9, abs=1e-4)
        assert (info.devmajor, info.devminor) == (member.rdev_major, member.rdev_minor)
        for name, value in member.xattrs.items():
            told = info.pax_headers["SCHILY.xattr." + encode_xattr_name(name).decode()]
            assert told.encode("utf-8", "surrogateescape") == value


_LINE = re.compile(
    rb"(?P<mode>\S+) (?P<uid>\d+)/(?P<gid>\d+) +(?P<size>\d+(?:,\d+)?) "
    rb'(?P<date>-?\d+-\d\d-\d\d) (?P<time>[\d:.]+) +"(?P<path>(?:[^"\\]|\\.)*)"'
    rb'(?: (?:->|link to) "(?P<link>(?:[^"\\]|\\.)*)")?$',
    re.MULTILINE,
)


def unquoted(text: bytes | None) -> bytes:
    return codecs.escape_decode(text)[0] if text else b""  # type: ignore[attr-defined, no-any-return]


@given(st.lists(SMALL, min_size=1, max_size=20).map(unique))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_gnu_tar_reads_the_same(found: list[Member]) -> None:
    done = subprocess.run(
        [
            *("tar", "-tvf", "-", "--quoting-style=c", "--numeric-owner", "--full-time"),
            "--absolute-names",
        ],
        input=stream(found),
        capture_output=True,
        check=True,
        env={"LC_ALL": "C", "TZ": "UTC", "PATH": os.environ["PATH"]},
    )
    lines = list(_LINE.finditer(done.stdout.replace(b"\\\n", b"\\n")))
    assert len(lines) == len(found)
    for member, said in zip(found, lines, strict=True):
        assert unquoted(said["path"]).rstrip(b"/") == member.path
        if member.kind in ("symlink", "hardlink"):
            assert unquoted(said["link"]) == member.link
        assert (int(said["uid"]), int(said["gid"])) == (member.uid, member.gid)
        if member.kind in ("char", "block"):
            assert said["size"] == b"%d,%d" % (member.rdev_major, member.rdev_minor)
        else:
            assert int(said["size"]) == member.size
        _, _, fraction = said["time"].partition(b".")
        # It lists (but does not set) times before 1970 as if their fraction went forward.
        assert int(fraction.ljust(9, b"0") or 0) == abs(member.mtime_ns) % 10**9


@given(st.lists(SMALL, min_size=1, max_size=20).map(unique))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_bsdtar_reads_the_same(found: list[Member]) -> None:
    done = subprocess.run(
        ["bsdtar", "-tf", "-"],
        input=stream(found),
        capture_output=True,
        check=True,
        env={"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]},
    )
    assert len(done.stdout.splitlines()) == len(found)
    for member, line in zip(found, done.stdout.splitlines(), strict=True):
        if re.fullmatch(rb"[!-\[\]-~]+", member.path):  # no character that it would quote
            assert line.rstrip(b"/") == member.path


# Hostile headers of our own format.


def checked(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


@pytest.mark.parametrize("size", [b"-0000001000", b"+0000001000", b"0o000001000", b"0_000001000"])
def test_a_size_that_is_no_octal_number_is_refused(size: bytes) -> None:
    """Python's int takes all of these; a negative one would lead round in circles."""
    pax = bytearray(encode_headers(Member(b"n" * 150, "file"))[:512])
    pax[124 : 124 + len(size)] = size
    with pytest.raises(ArchiveError, match="for a number"):
        decode_headers(memoryview(checked(pax) + bytes(2048)), 0)


@pytest.mark.parametrize(
    "record",
    [
        b"size=-1",
        b"size= 1",
        b"size=1e3",
        b"size=" + b"9" * 5000,
        b"uid=-1",
        b"mtime=nan",
        b"mtime=1.x",
        b"mtime=" + b"9" * 5000,
        b"mtime=",
        b"GNU.sparse.major=1",
    ],
)
def test_records_that_say_nothing_sound_are_refused(record: bytes) -> None:
    named = Member(b"n" * 120, "file", link=b"")
    headers = encode_headers(named)
    length = len(record) + 2
    while len(b"%d %s\n" % (length, record)) != length:
        length = len(b"%d %s\n" % (length, record))
    body = b"%d %s\n" % (length, record)
    pax = bytearray(headers[:512])
    pax[124:135] = b"%011o" % len(body)
    packed = checked(pax) + body + bytes(-len(body) % 512) + headers[-512:]
    with pytest.raises(ArchiveError):
        decode_headers(memoryview(packed), 0)


@given(members(), st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_flipped_bytes_are_read_or_refused(member: Member, data: Any) -> None:
    packed = bytearray(encode_headers(member))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    for start in range(0, len(packed), 512):
        if packed[start + 257 : start + 262] == b"ustar":
            packed[start : start + 512] = checked(packed[start : start + 512])
    with contextlib.suppress(ArchiveError):
        decode_headers(memoryview(bytes(packed)), 0)


@pytest.mark.parametrize("cut", [0, 1, 511, 512, 513, 1024, 1535])
def test_headers_that_are_cut_off_are_refused(cut: int) -> None:
    packed = encode_headers(Member(b"n" * 300, "file"))
    with pytest.raises(ArchiveError):
        decode_headers(memoryview(packed[:cut]), 0)


@given(st.integers(-(10**25), 10**25))
def test_times_are_read_to_the_nanosecond(nanoseconds: int) -> None:
    sign = b"-" if nanoseconds < 0 else b""
    text = sign + b"%d.%09d" % divmod(abs(nanoseconds), 10**9)
    assert parse_time(text) == nanoseconds
    assert parse_time(text + b"123") == nanoseconds


@pytest.mark.parametrize(
    "body",
    [
        b"no-length-within-the-first-twenty-bytes=x\n",
        b"11 mtime=1\nno-length-within-the-first-twenty-bytes=x\n",
        b" mtime=1\n",
        b"0 mtime=1\n",
        b"7 mtime=1\n",
    ],
)
def test_a_pax_record_without_a_true_length_is_refused_and_not_read_for_ever(body: bytes) -> None:
    with pytest.raises(ArchiveError, match="record that cannot be read"):
        collections.deque(parse_pax(body), maxlen=1)


@pytest.mark.parametrize("block", [0, 1024])
def test_each_header_s_checksum_is_checked(block: int) -> None:
    headers = bytearray(encode_headers(Member(b"file", "file", mtime_ns=1)))
    assert decode_headers(memoryview(headers), 0)[0].mtime_ns == 1
    headers[block + 300] ^= 1  # in the owner's name, which nothing else looks at
    with pytest.raises(ArchiveError, match="checksum is wrong"):
        decode_headers(memoryview(headers), 0)


def test_a_map_of_many_runs_takes_some_bytes_for_each() -> None:
    """A file can have millions of them, and an archive can claim it."""
    count = 50_000
    runs = [(4 * number, 2) for number in range(count)]
    map_text = encode_sparse_map(runs)
    member = Member(b"x", "file", size=4 * count, stored=len(map_text) + 2 * count, sparse=[])
    blocks = memoryview(encode_headers(member) + map_text)
    tracemalloc.start()
    try:
        found, start = decode_headers(blocks, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert start == len(blocks)
    assert peak < 40 * count
    assert found.sparse is not None
    assert list(found.sparse) == runs
    assert found.sparse[-1] == runs[-1]
    assert found.sparse[3:9:2] == runs[3:9:2]


def test_a_map_of_numbers_that_no_file_has_is_refused() -> None:
    text = b"1\n0\n99999999999999999999\n"
    member = Member(b"x", "file", size=512, stored=1024, sparse=[])
    blocks = encode_headers(member) + text + bytes(-len(text) % 512)
    with pytest.raises(ArchiveError, match="holds what no file is long"):
        decode_headers(memoryview(blocks), 0)
