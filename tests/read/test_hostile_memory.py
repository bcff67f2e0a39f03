"""Whoever may write to the store decides neither about memory nor about the disk."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from backup_tasks.chunks.compress import compress_chunk
from backup_tasks.common.progress import SilentProgress
from backup_tasks.errors import BackupError, UnprovenError
from backup_tasks.format.limits import CHUNK_RAW_LIMIT
from backup_tasks.format.tar_headers import Member, encode_headers, encode_sparse_map
from backup_tasks.keys.signing import SigningKey, make_signing_key, render_public_key
from backup_tasks.read import manifest_reader
from backup_tasks.read.authenticity import Trust
from backup_tasks.read.listing import list_entries
from backup_tasks.read.manifest_reader import read_manifest
from backup_tasks.restore.request import RestoreRequest
from backup_tasks.restore.run_restore import run_restore
from backup_tasks.stores.base import StoredObject
from backup_tasks.stores.directory import DirectoryStore
from tests.support.cli import Cli, cli
from tests.support.details import find_backups
from tests.support.hostile import NAME, chunk_lines, entry_lines, write_archive
from tests.support.peak_memory import run_measured

__all__ = ["cli"]

MOST_MIB = 300
MANY = 1_200_000
ENTRIES = 800_000


def many_chunks(file: Path, key: SigningKey | None = None, **header: object) -> None:
    """A table that takes 350 MiB as Python objects."""
    said = {"chunks": MANY, "entries": 0, "chunk_bytes": 20 * MANY, **header}
    write_archive(file, chunk_lines(MANY, 20, 512), (), said, key=key)


def an_entry_each(file: Path) -> None:
    """... with an entry in each chunk."""
    count = 3 * MANY // 8
    lines = (b'{"path":"f%09d","type":"dir","chunk":%d}\n' % (n, n) for n in range(count))
    said = {"chunks": count, "entries": count, "chunk_bytes": 20 * count}
    write_archive(file, chunk_lines(count, 20, 512), lines, said)


def one_huge_chunk(file: Path) -> None:
    """1.5 GB that unpack to a single block, as it is said."""
    said = {"chunks": 1, "entries": 1, "chunk_bytes": 1_500_000_000}
    write_archive(
        file, chunk_lines(1, 1_500_000_000, 512), entry_lines(range(1), lambda _: 0), said
    )


def crowded(file: Path) -> None:
    """All entries in one chunk, whose headers are there and right."""
    count = 2000
    raw = b"".join(encode_headers(Member(b"f%09d" % n, "dir", mode=0o755)) for n in range(count))
    one = compress_chunk(raw, 1)
    line = b'{"offset":0,"length":%d,"sha256":"%s","raw":%d}\n' % (
        len(one.stored),
        one.sha256.encode(),
        len(raw),
    )
    lines = (
        b'{"path":"f%09d","type":"dir","mode":493,"offset":%d,"chunk":0}\n'
        % (number % count, 512 * (number % count))
        for number in range(ENTRIES)
    )
    said = {"chunks": 1, "entries": ENTRIES, "chunk_bytes": len(one.stored)}
    write_archive(file, [line], lines, said, front=one.stored)


def long_chunks(file: Path) -> None:
    """Chunks of headers as long as they may be, that do not shrink."""
    raw = os.urandom(CHUNK_RAW_LIMIT)
    one = compress_chunk(raw, 0)
    length = len(one.stored)
    lines = [
        b'{"offset":%d,"length":%d,"sha256":"%s","raw":%d}\n'
        % (number * length, length, one.sha256.encode(), len(raw))
        for number in range(4)
    ]
    said = {"chunks": 4, "entries": 4, "chunk_bytes": 4 * length}
    entries = (b'{"path":"f%d","type":"dir","chunk":%d}\n' % (n, n) for n in range(4))
    write_archive(file, lines, entries, said, front=4 * one.stored)


def long_lines(file: Path) -> None:
    """Paths of three million characters, of which one is wide, all in one chunk."""
    path = "a" * 3_000_000 + "\U0001f600"
    lines = (
        b'{"path":"f%04d%s","type":"dir","chunk":0}\n' % (number, path.encode())
        for number in range(20)
    )
    said = {"chunks": 1, "entries": 20, "chunk_bytes": 1000}
    write_archive(file, chunk_lines(1, 1000, 2**20), lines, said)


def long_headers(file: Path) -> None:
    """As many and as long attributes as one file can have, twice."""
    xattrs = {f"user.{number:04}": os.urandom(65_000) for number in range(1000)}
    write_headers(file, [encode_headers(Member(b"f%d" % n, "dir", xattrs=xattrs)) for n in (0, 1)])


def many_records(file: Path) -> None:
    """A pax header of nothing but tiny records."""
    body = b"".join(b"14 %07x=abc\n" % number for number in range(2_500_000))
    ustar = encode_headers(Member(b"f0", "dir"))
    header = encode_headers(Member(b"f0" * 60, "dir"))[:512]
    header = header[:124] + b"%011o\0" % len(body) + header[136:148] + b" " * 8 + header[156:]
    header = header[:148] + b"%06o\0 " % sum(header) + header[156:]
    write_headers(file, [header + body + bytes(-len(body) % 512) + ustar] * 2)


def many_runs(file: Path) -> None:
    """A sparse file whose map names millions of runs."""
    count = 3_500_000
    runs = [(number, 0) for number in range(count)]
    sparse = Member(b"f0", "file", size=count, sparse=runs)
    whole = encode_sparse_map(runs)
    sparse.stored = len(whole)
    write_headers(file, [encode_headers(sparse) + whole], kind="file", size=count)


def write_headers(
    file: Path, headers: Sequence[bytes], *, kind: str = "dir", size: int = 0
) -> None:
    """An archive of chunks of headers alone, and what they say of their entries."""
    stored = [compress_chunk(raw, 1) for raw in headers]
    lines, entries, offset = [], [], 0
    for number, (one, raw) in enumerate(zip(stored, headers, strict=True)):
        length = len(one.stored)
        lines.append(
            b'{"offset":%d,"length":%d,"sha256":"%s","raw":%d}\n'
            % (offset, length, one.sha256.encode(), len(raw))
        )
        entries.append(
            b'{"path":"f%d","type":"%s","size":%d,"chunk":%d,"span":%d}\n'
            % (number, kind.encode(), size, number, len(raw))
        )
        offset += length
    said = {"chunks": len(lines), "entries": len(entries), "chunk_bytes": offset}
    write_archive(file, lines, entries, said, front=b"".join(one.stored for one in stored))


class Case(NamedTuple):
    make: Callable[[Path], None]
    commands: Sequence[tuple[str, ...]]


FILES, VERIFY, SAMPLE, DRILL = ("files",), ("verify",), ("verify", "--sample", "1%"), ("drill",)
RESTORE = ("restore", "--to", "target")
SOME = (*RESTORE, "--path", "f*1")
CASES = [
    Case(many_chunks, [FILES, SAMPLE, SOME]),
    Case(an_entry_each, [RESTORE, DRILL]),
    Case(one_huge_chunk, [VERIFY, RESTORE, DRILL]),
    Case(crowded, [RESTORE, VERIFY]),
    Case(long_chunks, [VERIFY, (*RESTORE, "--skip-damaged")]),
    Case(long_lines, [VERIFY, SOME]),
    Case(long_headers, [VERIFY, RESTORE]),
    Case(many_runs, [VERIFY, RESTORE]),
    Case(many_records, [VERIFY, (*RESTORE, "--skip-damaged")]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.make.__name__)
def test_no_archive_makes_a_command_take_more_memory_than_was_said(cli: Cli, case: Case) -> None:
    cli.write_profile()
    cli.store.mkdir(exist_ok=True)
    case.make(cli.store / NAME)
    for command in (("list",), *case.commands):
        measured = run_measured(cli, command[0], "--profile", "test", *command[1:])
        assert measured.peak < MOST_MIB, (command, measured)
        assert "Traceback" not in measured.done.err
        shutil.rmtree(cli.here / "target", ignore_errors=True)


def test_a_backup_reads_nothing_of_a_strangers_archive_but_its_end(cli: Cli) -> None:
    cli.write_profile()
    cli.store.mkdir(exist_ok=True)
    stranger = make_signing_key()
    many_chunks(cli.store / NAME, stranger, host=platform.node())
    measured = run_measured(cli, "backup", "--profile", "test", "--json")
    assert measured.done.code == 3, "whose the store is, nobody has said"
    assert measured.peak < MOST_MIB / 2
    assert any("which is not accepted here" in line for line in cli.log())


@pytest.mark.parametrize("signed", [False, True])
def test_the_signature_is_looked_at_before_anything_that_it_covers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signed: bool
) -> None:
    file = tmp_path / NAME
    said = {"chunks": 9, "entries": 0, "chunk_bytes": 900}
    key = make_signing_key() if signed else None
    write_archive(file, chunk_lines(9, 100, 512), (), said, key=key)
    trust = Trust((render_public_key(make_signing_key().public_key),))
    store = DirectoryStore(tmp_path)
    (backup,) = find_backups(store, UTC)
    read: list[tuple[int, int]] = []
    read_range = store.read_range

    def noted(source: StoredObject, start: int, length: int) -> bytes:
        read.append((start, length))
        return read_range(source, start, length)

    monkeypatch.setattr(store, "read_range", noted)
    with pytest.raises(UnprovenError, match=r"where \[signing\] public_key asks for"):
        next(list_entries(store, backup.stored, (), trust=trust))
    with pytest.raises(UnprovenError):
        run_restore(
            store, backup, RestoreRequest((), tmp_path / "target", trust=trust), SilentProgress()
        )
    assert read
    assert all(start + length == backup.stored.size and length < 200 for start, length in read)


def test_a_manifest_that_would_fill_the_disk_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / NAME
    said = {"chunks": 20_000, "entries": 0, "chunk_bytes": 20_000 * 20}
    write_archive(file, chunk_lines(20_000, 20, 512), (), said)
    store = DirectoryStore(tmp_path)
    (backup,) = find_backups(store, UTC)
    manifest = read_manifest(store, backup.stored)
    assert manifest is not None
    manifest.close()

    def little_room(_: int) -> SimpleNamespace:
        return SimpleNamespace(f_frsize=1, f_bavail=2**20)

    monkeypatch.setattr(manifest_reader.os, "fstatvfs", little_room)
    with pytest.raises(BackupError, match="set TMPDIR to a folder with more room") as caught:
        read_manifest(store, backup.stored)
    assert type(caught.value) is BackupError  # no damage of the archive
