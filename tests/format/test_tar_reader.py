"""Any tar stream: what other tools write is read, and no header hangs or bloats the reader."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import subprocess
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_tasks.errors import ArchiveError
from backup_tasks.filesystem.posix_acl import acl_from_text, acl_to_text
from backup_tasks.format.limits import EXTENDED_BYTES
from backup_tasks.format.tar_headers import END_MARK, Member
from backup_tasks.format.tar_reader import TarReader
from tests.support.source_trees import run

MIB = 2**20


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `dir` with what strains the formats: long names, long links, holes."""
    root = tmp_path_factory.mktemp("tar")
    folder = root / "dir"
    (folder / "empty").mkdir(parents=True)
    (folder / "file").write_text("hello")
    os.link(folder / "file", folder / "hardlink")
    (folder / "symlink").symlink_to("file")
    os.mkfifo(folder / "fifo")
    (folder / "a long name".ljust(140, "x")).write_bytes(os.urandom(700))
    (folder / "a long link").symlink_to("t" * 150)
    deep = folder / "/".join(["p" * 60] * 3)
    deep.mkdir(parents=True)
    (deep / "leaf").write_text("y")
    with (folder / "sparse").open("wb") as file:
        for number in range(40):
            file.seek(number * 100_000)
            file.write(os.urandom(5000))
        file.truncate(40 * 100_000 + 77_777)
    os.utime(folder / "file", (1_700_000_000, 1_700_000_000))
    return root


def read(stream: bytes) -> dict[str, tuple[Member, bytes]]:
    """Path -> member and whole content, holes included."""
    found = {}
    for member, pieces in TarReader(io.BytesIO(stream)).members():
        content = b"".join(bytes(piece) for piece in pieces)
        if member.sparse is not None:
            full = bytearray(member.size)
            for offset, length in member.sparse:
                full[offset : offset + length] = content[:length]
                content = content[length:]
            content = bytes(full)
        found[os.fsdecode(member.path.rstrip(b"/"))] = (member, content)
    return found


def make_with(command: list[str], tree: Path) -> bytes:
    return subprocess.run([*command, "dir"], cwd=tree, capture_output=True, check=True).stdout


TAR_OPTIONS = [
    *([f"--format={name}"] for name in ("gnu", "oldgnu", "posix")),
    *([f"--format={name}", "--sparse"] for name in ("gnu", "oldgnu", "posix")),
    *(["--format=posix", "--sparse", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0")),
]
WRITERS = {
    **{f"tar {' '.join(options)}": ["tar", "-c", *options] for options in TAR_OPTIONS},
    **{f"bsdtar {name}": ["bsdtar", "-cf", "-", "--format", name] for name in ("pax", "gnutar")},
    "busybox": ["busybox", "tar", "c"],
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_other_tools_write_is_read(tree: Path, writer: str) -> None:
    found = read(make_with(WRITERS[writer], tree))
    for path in (tree / "dir").rglob("*"):
        member, content = found.pop(str(path.relative_to(tree)))
        if path.is_symlink():
            assert (member.kind, os.fsdecode(member.link)) == ("symlink", os.readlink(path))
        elif path.is_dir():
            assert member.kind == "dir"
        elif path.is_fifo():
            assert member.kind == "fifo"
        elif member.kind == "hardlink":
            assert os.fsdecode(member.link).endswith(("/file", "/hardlink"))
        else:
            assert (member.kind, content) == ("file", path.read_bytes())
        status = path.lstat()
        assert member.mtime_ns // 10**9 == status.st_mtime_ns // 10**9
        assert (member.uid, member.gid) == (status.st_uid, status.st_gid)
        if not path.is_symlink():
            assert member.mode == status.st_mode & 0o7777
    assert set(found) == {"dir"}


@pytest.mark.parametrize("writer", [w for w in WRITERS if "--sparse" in w])
def test_holes_of_every_sparse_format_are_holes(tree: Path, writer: str) -> None:
    member, _ = read(make_with(WRITERS[writer], tree))["dir/sparse"]
    assert member.sparse is not None
    assert member.stored < 400_000 < 4_000_000 < member.size


@pytest.mark.parametrize("name", ["v7", "ustar"])
def test_the_oldest_formats_are_read_as_far_as_they_go(tree: Path, name: str) -> None:
    done = subprocess.run(
        ["tar", "-c", f"--format={name}", "dir/file", "dir/empty", "dir/symlink"],
        cwd=tree,
        capture_output=True,
        check=True,
    )
    found = read(done.stdout)
    assert {path: member.kind for path, (member, _) in found.items()} == {
        "dir/file": "file",
        "dir/empty": "dir",
        "dir/symlink": "symlink",
    }
    assert found["dir/file"][1] == b"hello"


def test_global_headers_hold_for_all_that_follow() -> None:
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"uname": "everybody"}
    ) as archive:
        for name in ("a", "b"):
            archive.addfile(tarfile.TarInfo(name))
    assert [member.user for member, _ in read(out.getvalue()).values()] == [b"everybody"] * 2


@pytest.mark.parametrize("number", [2**21, 2**31, 2**33])
def test_gnu_numbers_in_base_256_are_read(number: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo("a")
        info.uid, info.mtime = number, -number
        archive.addfile(info)
    ((member, _),) = read(out.getvalue()).values()
    assert (member.uid, member.mtime_ns) == (number, -number * 10**9)


def header(name: bytes, flag: bytes, size: bytes = b"00000000000\0", **fields: bytes) -> bytes:
    """One header block with a true checksum, whatever it says."""
    places = {
        "magic": (257, b"ustar\00000"),
        "mode": (100, b"0000644\0"),
        "mtime": (136, b"0" * 11),
    }
    block = bytearray(512)
    block[: len(name)] = name
    block[124 : 124 + len(size)] = size
    block[156:157] = flag
    for key, (place, usual) in places.items():
        value = fields.get(key, usual)
        block[place : place + len(value)] = value
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


def negative(number: int) -> bytes:
    return number.to_bytes(12, "big", signed=True)


LONG_PAX = b"9" * 200_000

HOSTILE = {
    "negative size": header(b"a", b"0", negative(-512)),
    "negative size of a pax header": header(b"x", b"x", negative(-512)),
    "size of letters": header(b"a", b"0", b"-0000000512"),
    "endless pax header": header(b"x", b"x", b"77777777777\0") + bytes(MIB),
    "endless long name": header(b"x", b"L", b"77777777777\0") + b"x" * MIB,
    # CVE-2024-6232: digits without an end, over which a regular expression broods.
    "pax header of digits": header(b"x", b"x", b"%011o\0" % len(LONG_PAX)) + LONG_PAX + bytes(600),
    "thousands of pax headers": header(b"x", b"x") * 40_000,
    "pax record without length": header(b"x", b"x", b"00000000012\0")
    + b"0 a=b\n".ljust(512, b"\0"),
    "pax record too long": header(b"x", b"x", b"00000000012\0") + b"99 a=b\n".ljust(512, b"\0"),
    "sparse map that runs backwards": None,
    "sparse map without end": None,
    "volume of several": header(b"a", b"M"),
    "cut in a header": header(b"a", b"0")[:300],
    "cut in a file": header(b"a", b"0", b"00000002000\0") + bytes(512),
    "nothing at all": b"",
    "garbage": os.urandom(512),
    "wrong checksum": bytes(100) + b"1" + header(b"a", b"0")[101:],
}


def sparse(records: list[bytes], stored: bytes) -> bytes:
    body = b""
    for record in records:
        length = len(record) + 2
        while len(b"%d %s\n" % (length, record)) != length:
            length = len(b"%d %s\n" % (length, record))
        body += b"%d %s\n" % (length, record)
    padding = bytes(-len(body) % 512)
    return (
        header(b"x", b"x", b"%011o\0" % len(body))
        + body
        + padding
        + header(b"a", b"0", b"%011o\0" % len(stored))
        + stored
    )


_MAJOR = [b"GNU.sparse.major=1", b"GNU.sparse.minor=0", b"GNU.sparse.name=a"]
HOSTILE["sparse map that runs backwards"] = sparse(
    [b"GNU.sparse.size=4096", b"GNU.sparse.map=1024,512,0,512"], bytes(1024)
)
HOSTILE["sparse map without end"] = sparse(
    [*_MAJOR, b"GNU.sparse.realsize=9"], b"9" * 18 + b"\n" + b"1\n" * 10_000
)
HOSTILE["sparse map beyond the size"] = sparse(
    [*_MAJOR, b"GNU.sparse.realsize=9"], b"1\n0\n512\n".ljust(512, b"\0") + bytes(512)
)


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_sound_tar_is_refused_in_no_time_and_little_memory(what: str) -> None:
    stream = HOSTILE[what]
    assert stream is not None
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError):
            read(stream)
        assert tracemalloc.get_traced_memory()[1] < EXTENDED_BYTES + 4 * MIB
    finally:
        tracemalloc.stop()


class Zeros(io.RawIOBase):
    """Endless; counts what is taken."""

    def __init__(self, front: bytes) -> None:
        self.front = front
        self.taken = 0

    def read(self, size: int = -1, /) -> bytes:
        piece, self.front = self.front[:size], self.front[size:]
        self.taken += size
        return piece or b"x" * size


def test_an_endless_name_is_not_read_to_its_end() -> None:
    source = Zeros(header(b"x", b"L", b"\x80" + (2**60).to_bytes(11, "big")))
    with pytest.raises(ArchiveError, match="too much room"):
        next(TarReader(source).members())
    assert source.taken < MIB


@given(st.binary(max_size=3000))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_read_or_refused(stream: bytes) -> None:
    with contextlib.suppress(ArchiveError):
        read(stream)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_header_with_any_flipped_bytes_is_read_or_refused(data: st.DataObject) -> None:
    base = bytearray(_SAMPLE)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(base) - 1))
        base[place] = data.draw(st.integers(0, 255))
    for start in range(0, len(base), 512):  # true checksums, so that the fields are looked at
        block = base[start : start + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            base[start + 148 : start + 155] = b"%06o\0" % sum(block)
    with contextlib.suppress(ArchiveError):
        for _, pieces in TarReader(io.BytesIO(base)).members():
            list(pieces)


def _sample() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("n" * 120)
        info.mtime, info.size = 1.5, 5
        archive.addfile(info, io.BytesIO(b"hello"))
    return out.getvalue()[:3072] + END_MARK


_SAMPLE = _sample()


ACLS = [
    "user::rw-\nuser:65534:rw-\ngroup::r--\ngroup:1:r--\nmask::rwx\nother::r--",
    "user::rwx\ngroup::r-x\nother::---",
]


@pytest.mark.parametrize("text", ACLS)
def test_acls_are_the_same_as_text_and_as_an_attribute(tmp_path: Path, text: str) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    run("setfacl", "--set", text.replace("\n", ","), file)
    if len(text.splitlines()) > 3:
        value = os.getxattr(file, "system.posix_acl_access")
        assert acl_to_text(value).decode() == text
        assert acl_from_text(text.encode(), set()) == value
    else:  # which is no more than the mode
        assert acl_to_text(acl_from_text(text.encode(), set())).decode() == text


def test_acls_go_by_name_where_the_name_is_known() -> None:
    named = b"user::rw-\nuser:nobody:rw-:12345\ngroup::r--\nmask::rwx\nother::r--"
    assert acl_to_text(acl_from_text(named, set())).splitlines()[1] == b"user:65534:rw-"
    unknown = named.replace(b"nobody", b"no-such-user")
    assert acl_to_text(acl_from_text(unknown, set())).splitlines()[1] == b"user:12345:rw-"


@pytest.mark.parametrize("text", ["who::rwx", "user::rwz", "user:::::"])
def test_acls_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(ArchiveError):
        acl_from_text(text.encode(), set())


@pytest.mark.parametrize("value", [b"", b"\1\0\0\0", b"\2\0\0\0xx", b"\2\0\0\0" + bytes(8)])
def test_an_attribute_that_is_no_acl_has_no_text(value: bytes) -> None:
    assert acl_to_text(value) == b""


def pieces_of(stream: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(stream), size):
        yield stream[start : start + size]


def test_many_gzip_members_are_one_stream(tree: Path) -> None:
    """As GzipFile gives them, in pieces of its own choice."""
    stream = make_with(["tar", "-c"], tree)
    packed = b"".join(gzip.compress(piece, 1) for piece in pieces_of(stream, 10_240))
    whole = {path: content for path, (_, content) in read(stream).items()}
    reader = TarReader(gzip.GzipFile(fileobj=io.BytesIO(packed)))
    found = {}
    for member, pieces in reader.members():
        found[os.fsdecode(member.path.rstrip(b"/"))] = b"".join(bytes(p) for p in pieces)
    assert found == whole
