"""Headers as other programs, old and odd ones, write them are read as GNU tar reads them."""

from __future__ import annotations

import gzip
import os
import subprocess
from pathlib import Path

import pytest

from backup_tasks.chunks.compress import compress_chunk
from backup_tasks.errors import ArchiveError
from backup_tasks.filesystem.posix_acl import acl_from_text, acl_to_text
from backup_tasks.format.tar_fields import read_decimal, read_number, read_time
from backup_tasks.format.tar_headers import END_MARK
from tests.support.attacks import restore
from tests.support.histories import fingerprint
from tests.support.source_trees import run

ACL = "system.posix_acl_access"


def header(
    name: bytes,
    flag: bytes = b"0",
    content: bytes = b"",
    *,
    size: bytes = b"",
    link: bytes = b"",
    magic: bytes = b"ustar\00000",
    is_signed: bool = False,
) -> bytes:
    """One entry, whatever its size field says."""
    block = bytearray(512)
    fields = {
        0: name,
        100: b"0000755\0",
        108: b"0000000\0" * 2,
        124: size or b"%011o\0" % len(content),
        136: b"%011o\0" % 10**9,
        148: b" " * 8,
        156: flag,
        157: link,
        257: magic,
    }
    for place, field in fields.items():
        block[place : place + len(field)] = field
    total = sum(byte - 256 * (is_signed and byte >= 128) for byte in block)
    block[148:156] = b"%06o\0 " % total
    return bytes(block) + content + bytes(-len(content) % 512)


def record(key: bytes, value: bytes) -> bytes:
    length = next(
        n for n in range(len(key + value), 200) if len(b"%d %s=%s\n" % (n, key, value)) == n
    )
    return b"%d %s=%s\n" % (length, key, value)


def pax(*records: tuple[bytes, bytes], flag: bytes = b"x") -> bytes:
    return header(b"pax", flag, b"".join(record(key, value) for key, value in records))


def long_name(name: bytes, flag: bytes = b"L") -> bytes:
    return header(b"././@LongLink", flag, name + b"\0", magic=b"ustar  \0")


FILE, OTHER = header(b"a", content=b"one"), header(b"b", content=b"two")
EXACT = {
    "an old folder with a size": header(b"d/", size=b"%011o\0" % 512) + FILE,
    "a folder of Unix v7 with a size": header(b"d/", b"\0", size=b"1000\0", magic=bytes(8)) + FILE,
    "a folder with a size": header(b"d/", b"5", size=b"%011o\0" % 512) + FILE,
    "a folder by its pax path": pax((b"path", b"d/")) + header(b"a", size=b"1000\0") + OTHER,
    "a list of what a folder holds": header(b"d/", b"D", b"Ya\0\0") + FILE,
    "a link with a size": FILE + header(b"l", b"1", size=b"1000\0", link=b"a") + OTHER,
    "a global path": pax((b"path", b"g"), flag=b"g") + FILE + OTHER,
    "a global path and an own one": pax((b"path", b"g"), flag=b"g") + pax((b"path", b"p")) + FILE,
    "a global path and a long name": pax((b"path", b"g"), flag=b"g") + long_name(b"n") + FILE,
    "a global link": pax((b"linkpath", b"g"), flag=b"g") + header(b"l", b"2", link=b"a") + FILE,
    "a global size": pax((b"size", b"3"), flag=b"g") + FILE,
    "two long names": long_name(b"first") + long_name(b"second") + FILE,
    "two long links": long_name(b"m", b"K") + long_name(b"n", b"K") + header(b"l", b"2", link=b"a"),
    "a long name and a pax path": long_name(b"long") + pax((b"path", b"p")) + FILE,
    "a pax path and a long name": pax((b"path", b"p")) + long_name(b"long") + FILE,
    "two pax headers": pax((b"path", b"p")) + pax((b"mtime", b"1.5")) + FILE,
    "a pax header with a path twice": pax((b"path", b"p"), (b"path", b"q")) + FILE,
    "leading zeros in a pax size": pax((b"size", b"0" * 30 + b"3")) + FILE + OTHER,
    "leading zeros in a pax time": pax((b"mtime", b"0" * 30 + b"3.25")) + FILE,
    "a pax time below one": pax((b"mtime", b"0.25")) + FILE,
    "a size behind one zero byte": header(b"a", size=b"\0 3\0", content=b"one") + OTHER,
    "a size in spaces": header(b"a", size=b"    3  \0", content=b"one") + OTHER,
    "something behind a size": header(b"a", size=b"3\x007777777777", content=b"one") + OTHER,
    "a sum of signed bytes": header(b"caf\xe9", content=b"one", is_signed=True) + OTHER,
}


@pytest.mark.parametrize("has_end", [True, False], ids=["end mark", "no end mark"])
@pytest.mark.parametrize("what", EXACT)
def test_odd_headers_are_read_as_by_gnu_tar(tmp_path: Path, what: str, has_end: bool) -> None:
    raw = EXACT[what] + END_MARK * has_end
    packed = gzip.compress(raw)
    report = restore(tmp_path / "store", packed, tmp_path / "ours")
    assert report.extracted.problems == []
    assert any("no end mark" in note for note in report.extracted.notes) is not has_end
    (tmp_path / "tar").mkdir()
    subprocess.run(["tar", "-xpf", "-", "-C", tmp_path / "tar"], input=raw, check=True)
    ours, theirs = fingerprint(tmp_path / "ours"), fingerprint(tmp_path / "tar")
    del ours["."], theirs["."]
    assert ours == theirs


REFUSED = {
    # tar takes a size as 0 that begins with two zero bytes, and then what follows for headers.
    "a size behind zero bytes": header(b"a", size=bytes(11) + b"3", content=b"one" * 200) + OTHER,
    "a size of zero bytes": header(b"a", size=bytes(12), content=b"one" * 200) + OTHER,
    "a folder with a size and content": header(b"d/", b"5", b"x" * 512) + OTHER,
    "an old folder with a size and content": header(b"d/", b"0", b"x" * 512) + OTHER,
    "a sign in a size": header(b"a", size=b"-3\0", content=b"one") + OTHER,
    "digits and letters": header(b"a", size=b"3x\0", content=b"one") + OTHER,
    "a sign in a pax size": pax((b"size", b"+3")) + FILE,
    "no digits in a pax size": pax((b"size", b"")) + FILE,
    "a cut header": FILE + OTHER[:300],
    "cut content": FILE + header(b"c", content=b"x" * 1000)[:-600],
    "a wrong sum": FILE + OTHER[:150] + b"7" + OTHER[151:],
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_gnu_tar_fails_at_is_refused(tmp_path: Path, what: str) -> None:
    raw = REFUSED[what] + END_MARK * (not what.startswith("a cut") and not what.startswith("cut"))
    with pytest.raises(ArchiveError, match=r"is no sound \.tar\.gz"):
        restore(tmp_path / "store", gzip.compress(raw), tmp_path / "ours")


@pytest.mark.parametrize(
    ("field", "number"),
    [
        (b"0000017\0", 0o17),
        (b"    17 \0", 0o17),
        (b"\t17\0\0\0\0\0", 0o17),
        (b"\00017\0\0\0\0\0", 0o17),
        (b"17\0junk!", 0o17),
        (b"17 junk!", 0o17),
        (b"77777777", 0o77777777),
        (bytes(8), 0),
        (b"\0\00017\0\0\0\0", 0),
        (b" " * 8, 0),
        (b"\x80" + bytes(6) + b"\7", 7),
        (b"\x80" + b"\xff" * 7, 2**56 - 1),
        (b"\xff" * 8, -1),
    ],
)
def test_numbers_of_header_blocks(field: bytes, number: int) -> None:
    assert read_number(memoryview(field), signed=True) == number


@pytest.mark.parametrize(
    "field", [b"8       ", b"-1\0\0\0\0\0\0", b"+1\0\0\0\0\0\0", b"1x      ", b"\x81" * 8]
)
def test_what_is_no_number_of_a_header_block(field: bytes) -> None:
    with pytest.raises(ArchiveError):
        read_number(memoryview(field), signed=True)


def test_a_size_is_never_negative() -> None:
    with pytest.raises(ArchiveError, match="negative"):
        read_number(memoryview(b"\xff" * 12))


@pytest.mark.parametrize("text", [b"", b"+1", b" 1", b"1 ", b"-1", b"1" * 21, b"0x1", "٣".encode()])
def test_what_is_no_number_of_a_pax_record(text: bytes) -> None:
    with pytest.raises(ArchiveError):
        read_decimal(text)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        (b"1.5", 15 * 10**8),
        (b"0.5", 5 * 10**8),
        (b"-0001.5", -15 * 10**8),
        (b"0" * 50 + b"7", 7 * 10**9),
        *((text, None) for text in (b"1e-09", b"", b".5", b"-", b"1.x")),
    ],
)
def test_times_of_pax_records(text: bytes, time: int | None) -> None:
    assert read_time(text) == time


def test_a_time_that_cannot_be_read_is_told_and_the_headers_own_counts(tmp_path: Path) -> None:
    """As Python's tarfile writes it of a nanosecond."""
    raw = pax((b"mtime", b"1e-09")) + FILE + END_MARK
    report = restore(tmp_path / "store", gzip.compress(raw), tmp_path / "ours")
    assert (tmp_path / "ours" / "a").stat().st_mtime_ns == 10**18
    assert any("times in the archive cannot be read" in note for note in report.extracted.notes)


def test_an_archive_of_ours_that_was_cut_is_none_without_an_end_mark(tmp_path: Path) -> None:
    """Its first chunk is longer than what is looked at to tell ours from others'."""
    raw = header(b"a", content=os.urandom(3 * 2**20)) + OTHER
    with pytest.raises(ArchiveError, match="cut off, or damaged at its end: an archive of this"):
        restore(tmp_path / "store", compress_chunk(raw, 1).stored, tmp_path / "ours")


NAMED = (
    b"user::rw-\nuser:no-such-user:rwx\nuser:65534:r--\ngroup::rwx\ngroup:no-such-group:---\n"
    b"mask::r--\nother::r--"
)


def test_an_unknown_name_in_an_acl_is_left_out_and_told(tmp_path: Path) -> None:
    file = pax((b"SCHILY.acl.access", NAMED)) + FILE
    raw = file + pax((b"SCHILY.acl.default", NAMED)) + header(b"d/", b"5") + OTHER + END_MARK
    report = restore(tmp_path / "store", gzip.compress(raw), tmp_path / "ours")
    assert (tmp_path / "ours" / "b").read_text() == "two"
    assert report.extracted.problems == []
    (note,) = report.extracted.notes
    assert "unknown here (no-such-group, no-such-user)" in note
    told = run("getfacl", "-n", "-c", "-E", tmp_path / "ours" / "a").split()
    # The mask stays, or the owning group could write.
    assert told == ["user::rw-", "user:65534:r--", "group::rwx", "mask::r--", "other::r--"]


def test_without_any_known_name_the_mask_of_an_acl_still_bounds_the_group(tmp_path: Path) -> None:
    acl = b"user::rw-,user:no-such-user:rwx,group::rwx,mask::r--,other::---"
    raw = pax((b"SCHILY.acl.access", acl)) + FILE + END_MARK
    restore(tmp_path / "store", gzip.compress(raw), tmp_path / "ours")
    assert (tmp_path / "ours" / "a").stat().st_mode & 0o777 == 0o640
    value = os.getxattr(tmp_path / "ours" / "a", ACL)
    assert acl_to_text(value) == b"user::rw-\ngroup::rwx\nmask::r--\nother::---"


def test_of_unknown_names_in_acls_only_some_are_told_in_little_memory() -> None:
    unknown: set[str] = set()
    for number in range(1000):
        text = b"user::rwx,user:%d-%s:rwx,group::---,mask::rwx,other::---" % (number, b"x" * 1000)
        acl_from_text(text, unknown)
    assert len(unknown) == 8
    assert max(map(len, unknown)) <= 80
