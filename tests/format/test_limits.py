"""What one file, folder or profile can be, no backup is made unreadable by it: the writer keeps to
every limit that readers have, and names the entry that breaks one."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyrage import x25519

from backup_tasks.archive import builder
from backup_tasks.chunks.compress import compress_bounded
from backup_tasks.common.paths import PROJECT_ROOT, Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.common.time_zones import find_zone
from backup_tasks.errors import ProfileError, SourceError
from backup_tasks.format import limits
from backup_tasks.format.limits import (
    ATTRIBUTES_BYTES,
    CHUNK_RAW_LIMIT,
    HEADER_PROBE_BYTES,
    LINE_BYTES,
    MOST_SEGMENTS,
    NEWEST_NS,
    OLDEST_NS,
    PATH_BYTES,
    PAX_BYTES,
    TOO_MANY_HOLES,
    WRITTEN_RATIO,
    most_manifest_bytes,
)
from backup_tasks.format.manifest import Entry, encode_line
from backup_tasks.format.tar_headers import Member, encode_headers, encode_sparse_map
from backup_tasks.journal.run_record import RunRecord
from backup_tasks.read.listing import list_entries
from backup_tasks.read.manifest_reader import read_header
from backup_tasks.snapshot import data_segments, stat_entry, walk
from backup_tasks.verify.run_verify import run_verify
from tests.support.backups import Backups
from tests.support.details import find_backups

UTC = find_zone("UTC")
MIB = 2**20
TIB = 2**40
NAME = "n" * 255
BACKUP = (sys.executable, "-m", "invoke", "-r", PROJECT_ROOT, "backup", "--profile")


@pytest.fixture
def memory(paths: Paths, tmp_path: Path) -> Iterator[Backups]:
    """Backups of a tree in tmpfs, which takes more and larger of everything than a disk does."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    backups = Backups(folder / "source", tmp_path / "store", paths)
    backups.source.mkdir()
    for name in ("a-before", "z-after"):
        (backups.source / name).write_text(name)
    yield backups
    subprocess.run(["rm", "-rf", folder], check=True)


def everything_else_is_there(backups: Backups, target: Path) -> Path:
    """Verified, listed and restored; returns where the source's restored twin lies."""
    store = backups.open_store()
    newest = find_backups(store, UTC)[-1]
    report = run_verify(store, newest, SilentProgress())
    assert (report.faults, report.lost.first) == ([], [])
    listed = {entry.name for entry in list_entries(store, newest.stored, ())}
    backups.restore(target)
    twin = backups.in_target(target)
    for name in ("a-before", "z-after"):
        assert (twin / name).read_text() == name
        assert f"{twin.relative_to(target)}/{name}" in listed
    return twin


def assert_named_once(record: RunRecord, path: Path, reason: str) -> None:
    [problem] = [found for found in record.problems if found.path.endswith(path.name[-200:])]
    assert len(record.problems) == 1
    assert reason in problem.reason
    assert record.exit_code == 3


def many_attributes(path: Path) -> None:
    for number in range(1100):
        os.setxattr(path, f"user.{number}", b"v" * 2**16)


def many_names(path: Path) -> None:
    for number in range(400):
        os.setxattr(path, f"user.{'n' * 200}{number}", b"")


# What breaks a limit, on a file named `m-odd`: how it is made so, and what is said of it.
ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "attributes of 70 MB": (many_attributes, "of its extended attributes: all take more than the"),
    "names of attributes beyond 64 KiB": (many_names, "their names take more than 64 KiB"),
}


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("what", ODD)
def test_an_entry_that_breaks_a_limit_is_stored_without_what_breaks_it_and_named(
    memory: Backups, tmp_path: Path, kind: str, what: str
) -> None:
    make, reason = ODD[what]
    odd = memory.source / "m-odd"
    inner = odd / "inner" if kind == "folder" else odd
    odd.mkdir() if kind == "folder" else None
    inner.write_text("content")
    make(odd)
    for night in range(3):  # the second compares it with the first, the third with a rewritten one
        assert_named_once(memory.backup(full=night == 1), odd, reason)
        twin = everything_else_is_there(memory, tmp_path / f"target {night}")
        assert (twin / inner.relative_to(memory.source)).read_text() == "content"
    bsdtar = subprocess.run(["bsdtar", "tf", memory.archive()], capture_output=True, check=True)
    assert b"z-after" in bsdtar.stdout


@pytest.mark.parametrize("time_ns", [10**20, -(10**19)], ids=["year 5138", "year 1653"])
@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_time_that_no_reader_takes_is_stored_as_the_nearest_and_named(
    memory: Backups, kind: str, time_ns: int
) -> None:
    odd = memory.source / "m-odd"
    odd.mkdir() if kind == "folder" else odd.symlink_to("a-before")
    os.utime(odd, ns=(0, time_ns), follow_symlinks=False)
    for night in range(2):
        assert_named_once(memory.backup(), odd, "its time is not of the years 1677 to 2554")
        twin = everything_else_is_there(memory, memory.source.parent / f"target {night}") / "m-odd"
        assert twin.lstat().st_mtime_ns == (NEWEST_NS if time_ns > 0 else OLDEST_NS)


@pytest.mark.parametrize("time_ns", [10**20, -(10**19)], ids=["year 5138", "year 1653"])
def test_a_file_keeps_any_time_and_its_second_name_costs_nothing(
    memory: Backups, time_ns: int
) -> None:
    odd = memory.source / "m-odd"
    odd.write_text("content")
    os.utime(odd, ns=(0, time_ns))
    os.link(odd, memory.source / "n-odd")
    assert memory.backup().problems == []
    twin = everything_else_is_there(memory, memory.source.parent / "target")
    assert (twin / "m-odd").stat().st_mtime_ns == time_ns
    assert (twin / "n-odd").samefile(twin / "m-odd")


@pytest.mark.parametrize("make", [many_attributes, many_names])
def test_what_a_user_adds_to_a_file_crowds_out_no_acl(
    memory: Backups, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    odd = memory.source / "m-odd"
    odd.write_text("shared")
    make(odd)
    subprocess.run(["setfacl", "-m", "u:1234:r", odd], check=True)
    memory.backup()
    twin = everything_else_is_there(memory, tmp_path / "target") / "m-odd"
    acl = "system.posix_acl_access"
    assert os.getxattr(twin, acl) == os.getxattr(odd, acl)


def test_attributes_that_an_archive_holds_are_all_kept(memory: Backups) -> None:
    odd = memory.source / "m-odd"
    odd.write_text("content")
    room = ATTRIBUTES_BYTES
    while room > 2**16 + 100:
        os.setxattr(odd, f"user.{room}", os.urandom(2**16))
        room -= 2**16 + 100
    assert memory.backup().problems == []
    twin = everything_else_is_there(memory, memory.source.parent / "target") / "m-odd"
    assert {n: os.getxattr(twin, n) for n in os.listxattr(twin)} == {
        n: os.getxattr(odd, n) for n in os.listxattr(odd)
    }


def deepen(folder: Path, name: str, levels: int) -> int:
    """Make folders in folders; returns a descriptor of the deepest."""
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    return descriptor


def test_what_lies_below_a_path_of_128_kib_is_named_once(memory: Backups, tmp_path: Path) -> None:
    deep = deepen(memory.source, NAME, PATH_BYTES // 256 + 20)
    os.close(os.open("never-stored", os.O_CREAT | os.O_WRONLY, dir_fd=deep))
    os.close(deep)
    record = memory.backup()
    [problem] = record.problems
    assert problem.reason == (
        "what lies in it, and in any other such folder, is not stored: an archive holds no paths "
        "of more than 128 KiB"
    )
    assert record.exit_code == 3
    everything_else_is_there(memory, tmp_path / "target")


def test_a_manifest_that_shrinks_to_nothing_is_believed_by_readers(
    memory: Backups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty files whose paths take 25 KB each: lines all alike, which shrink to a sixtieth. With
    the real ratios it takes a gigabyte of them."""
    monkeypatch.setattr(limits, "_READ_RATIO", 20)
    monkeypatch.setattr(limits, "_READ_FREE_BYTES", MIB)
    monkeypatch.setattr(builder, "WRITTEN_RATIO", 10)
    deep = deepen(memory.source, NAME, 100)
    for number in range(600):
        os.close(os.open(f"{number}", os.O_CREAT | os.O_WRONLY, dir_fd=deep))
    os.close(deep)
    record = memory.backup()
    assert (record.problems, record.exit_code) == ([], 0)
    everything_else_is_there(memory, tmp_path / "target")


def test_the_writer_keeps_well_below_the_ratio_that_readers_believe() -> None:
    assert most_manifest_bytes(10**9) >= 2 * WRITTEN_RATIO * 10**9


def test_long_paths_fill_neither_memory_nor_the_folder_for_temporary_files(
    memory: Backups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "ALL_LONG_PATHS_BYTES", 4 * MIB)
    deep = deepen(memory.source, NAME, 40)
    for name in ("first", "second", "third"):
        os.mkdir(name, dir_fd=deep)
        for number in range(300 if name != "third" else 3):
            os.mkdir(f"{name}/{number}", dir_fd=deep)
    os.close(deep)
    [problem] = memory.backup().problems
    assert problem.path.endswith("/second")
    assert problem.reason.endswith(
        "paths longer than 4,096 bytes take more than 2 GiB all together"
    )
    everything_else_is_there(memory, tmp_path / "target")


@pytest.mark.parametrize("raw", [bytes(MIB), b"a line\n" * 100_000, os.urandom(5000), b""])
def test_no_piece_of_a_manifest_shrinks_beyond_the_ratio(raw: bytes) -> None:
    members = compress_bounded(raw, 1, 100)
    assert gzip.decompress(b"".join(members)) == raw
    assert sum(map(len, members)) * 100 >= len(raw)


def test_a_profile_of_many_sources_makes_a_manifest_whose_first_line_is_read(
    memory: Backups, tmp_path: Path
) -> None:
    missing = [f"{memory.source}/{os.urandom(200).hex()}" for _ in range(800)]
    profile = memory.write_profile()
    first = f'sources = ["{memory.source}"'
    memory.write_profile = lambda: profile  # type: ignore[method-assign]
    profile.write_text(
        profile.read_text().replace(
            first, ", ".join([first, *(f'"{source}"' for source in missing)])
        )
    )
    record = memory.backup()
    assert len(record.problems) == len(missing)
    store = memory.open_store()
    newest = find_backups(store, UTC)[-1]
    header = read_header(store, newest.stored)
    assert header
    assert header.sources == (str(memory.source), *missing)[: len(header.sources)]
    assert 20 < len(header.sources) < 100
    everything_else_is_there(memory, tmp_path / "target")


def test_a_profile_of_too_many_recipients_is_refused_before_anything_is_sent(
    memory: Backups,
) -> None:
    memory.recipients = tuple(str(x25519.Identity.generate().to_public()) for _ in range(800))
    with pytest.raises(ProfileError, match=r"encryption.recipients: too many"):
        memory.backup()
    assert list(memory.store_folder.iterdir()) == []


def sparse(path: Path, size: int, pieces: int = 1) -> None:
    with path.open("wb") as file:
        for number in range(pieces):
            file.seek(size // pieces * number)
            file.write(b"data")
        file.truncate(size)


def test_sources_of_more_chunks_than_readers_take_fail_instead_of_being_stored(
    memory: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backup_tasks.archive.builder.CHUNKS_LIMIT", 3)
    (memory.source / "large").write_bytes(random.Random(5).randbytes(5 * MIB))
    with pytest.raises(SourceError, match="more than 3 chunks"):
        memory.backup()
    assert find_backups(memory.open_store(), UTC) == []


def test_a_file_of_too_many_holes_is_left_out_and_named(memory: Backups, tmp_path: Path) -> None:
    sparse(memory.source / "m-odd", 17 * TIB)
    assert_named_once(memory.backup(), memory.source / "m-odd", TOO_MANY_HOLES)
    assert not (everything_else_is_there(memory, tmp_path / "target") / "m-odd").exists()


def test_a_file_of_more_pieces_than_a_map_names_is_stored_with_the_smallest_holes(
    memory: Backups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_segments, "MOST_SEGMENTS", 16)
    odd = memory.source / "m-odd"
    sparse(odd, 4 * MIB, 100)
    with odd.open("r+b") as file:
        file.seek(2**28)
        file.write(b"far away")
    assert memory.backup().problems == []
    assert memory.archive().stat().st_size < 20_000
    twin = everything_else_is_there(memory, tmp_path / "target") / "m-odd"
    subprocess.run(["cmp", odd, twin], check=True)
    assert twin.stat().st_blocks * 512 <= 5 * MIB


@pytest.mark.parametrize("limit", ["MOST_SEGMENTS", "MOST_EXTENTS"])
def test_a_file_torn_into_too_many_pieces_far_apart_is_left_out_and_named(
    memory: Backups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(data_segments, limit, 16)
    sparse(memory.source / "m-odd", TIB, 100)
    assert_named_once(memory.backup(), memory.source / "m-odd", "it is torn into more than 16 pi")
    assert not (everything_else_is_there(memory, tmp_path / "target") / "m-odd").exists()


def test_a_tree_deeper_than_files_may_be_open_is_named_and_costs_nothing_else(
    memory: Backups, tmp_path: Path
) -> None:
    os.close(deepen(memory.source, "m", 250))
    profile = memory.write_profile()
    done = subprocess.run(
        ["prlimit", "--nofile=256:256", *BACKUP, profile],
        env={**os.environ, **memory.environ()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "any other such folder, is not stored: it lies 128 folders deep" in done.stderr
    everything_else_is_there(memory, tmp_path / "target")


@pytest.fixture(scope="session")
def io_error_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "io_error.so"
    shim = PROJECT_ROOT / "tests/support/io_error_shim.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, shim, "-ldl"], check=True)
    return library


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("m-bad-stat", "Input/output error"),
        (
            "m-later-bad-stat",
            "Input/output error; whether it changed while it was read is not known",
        ),
        ("m-bad-list", "stored without extended attributes: Input/output error"),
        ("m-bad-value", "stored without 1 of its extended attributes: Input/output error"),
        ("m-bad-close", ""),
    ],
)
def test_an_input_output_error_beside_the_content_is_named_and_costs_nothing_else(
    memory: Backups, tmp_path: Path, io_error_shim: Path, name: str, reason: str
) -> None:
    odd = memory.source / name
    # What is large is stored as it is read, and cannot be taken back.
    content = bytes(2 * MIB if "later" in name else 1)
    odd.write_bytes(content)
    os.setxattr(odd, "user.kept", b"kept")
    os.setxattr(odd, "user.bad", b"bad")
    for _ in range(1 if "later" in name else 2):
        done = subprocess.run(
            [*BACKUP, memory.write_profile()],
            env={**os.environ, **memory.environ(), "LD_PRELOAD": str(io_error_shim)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == (3 if reason else 0), done.stderr
        assert done.stderr.count(name) == bool(reason)
        assert f"{name}: {reason}" in done.stderr or not reason
        shutil.rmtree(tmp_path / "target", ignore_errors=True)
        twin = everything_else_is_there(memory, tmp_path / "target") / name
        if name != "m-bad-stat":
            assert twin.read_bytes() == content
        if name == "m-bad-value":
            assert os.listxattr(twin) == ["user.kept"]


def test_the_name_of_an_owner_that_is_not_utf8_is_left_out(
    memory: Backups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Named:
        pw_name = "caf\udce9"

    stat_entry._user_name.cache_clear()
    monkeypatch.setattr(stat_entry.pwd, "getpwuid", lambda _: Named)
    assert memory.backup().problems == []
    stat_entry._user_name.cache_clear()
    twin = everything_else_is_there(memory, tmp_path / "target")
    assert twin.stat().st_uid == memory.source.stat().st_uid


def test_headers_that_keep_to_all_limits_fit_into_a_chunk_and_what_other_tars_read() -> None:
    runs = [(2**43 + number * 2**13, 4096) for number in range(MOST_SEGMENTS)]
    member = Member(
        b"p" * PATH_BYTES,
        "file",
        size=2**44,
        stored=2**43,
        uid=2**32 - 1,
        gid=2**32 - 1,
        user=b"u" * 255,
        group=b"g" * 255,
        mtime_ns=NEWEST_NS,
        xattrs={"user.a": bytes(ATTRIBUTES_BYTES - 40)},
        sparse=runs,
    )
    headers = encode_headers(member)
    assert len(headers) + len(encode_sparse_map(runs)) < 8 * MIB < CHUNK_RAW_LIMIT
    link = Member(b"p" * PATH_BYTES, "hardlink", link=b"l" * PATH_BYTES, mtime_ns=OLDEST_NS)
    assert max(len(headers), len(encode_headers(link)) + ATTRIBUTES_BYTES) - 1536 <= PAX_BYTES


def test_the_longest_paths_fit_into_a_line_of_the_manifest() -> None:
    worst = "\x01" * PATH_BYTES
    assert len(encode_line(Entry(path=worst, link=worst, type="hardlink"))) < LINE_BYTES // 2
    assert HEADER_PROBE_BYTES < LINE_BYTES
