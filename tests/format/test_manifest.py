"""The manifest: any path survives it, and nothing unsound is believed."""

from __future__ import annotations

import hashlib
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backup_tasks.errors import ArchiveError
from backup_tasks.format import manifest_lines
from backup_tasks.format.limits import CHUNK_RAW_LIMIT, LINE_BYTES
from backup_tasks.format.manifest import (
    Chunk,
    Entry,
    EntryType,
    decode_chunk,
    decode_entry,
    decode_header,
    encode_line,
    name_fields,
    walk_key,
)
from backup_tasks.spools import line_table
from tests.support.manifests import CHUNKS, manifest_of

# What a file system takes for a name: any bytes but / and NUL.
NAMES = st.binary(min_size=1, max_size=20).map(
    lambda name: name.replace(b"/", b"-").replace(b"\0", b"\n")
)
PATHS = st.lists(NAMES, min_size=1, max_size=5).map(
    lambda names: b"/".join(names).decode("utf-8", "surrogateescape")
)
COUNTS = st.integers(0, 2**63 - 1)
A, B = "a" * 64, "b" * 64


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    path, path_b64 = name_fields(draw(PATHS))
    link, link_b64 = name_fields(draw(st.just("") | PATHS))
    return Entry(
        path=path,
        path_b64=path_b64,
        type=draw(st.sampled_from(get_args(EntryType))),
        size=draw(COUNTS),
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(st.integers(0, 2**32 - 1)),
        gid=draw(st.integers(0, 2**32 - 1)),
        user=draw(st.text(max_size=10)),
        group=draw(st.text(max_size=10)),
        mtime_ns=draw(st.integers(-(2**63), 2**63 - 1)),
        ctime_ns=draw(COUNTS),
        inode=draw(st.integers(0, 2**64 - 1)),
        device=draw(st.integers(0, 2**64 - 1)),
        rdev=draw(COUNTS),
        link=link,
        link_b64=link_b64,
        sha256=draw(
            st.just("") | st.binary(max_size=5).map(lambda b: hashlib.sha256(b).hexdigest())
        ),
        chunk=draw(st.integers(0, 2**31)),
        offset=draw(COUNTS),
    )


@given(entries())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_an_entry_is_read_back_as_it_was_written_on_one_line(entry: Entry) -> None:
    line = encode_line(entry)
    assert decode_entry(line) == entry
    assert line.endswith(b"\n")
    assert line.splitlines() == [line[:-1]]
    line.decode("utf-8")


@given(PATHS)
def test_any_path_comes_out_of_its_two_keys(path: str) -> None:
    plain, encoded = name_fields(path)
    assert (plain == "") != (encoded == "")
    entry = decode_entry(
        encode_line(Entry(path=plain, path_b64=encoded, link=plain, link_b64=encoded, type="file"))
    )
    assert entry.name == entry.link_name == path


@given(st.lists(PATHS, unique=True, max_size=12))
def test_walk_keys_sort_as_a_depth_first_walk_with_names_sorted_as_bytes(paths: list[str]) -> None:
    def as_walked(path: str) -> list[bytes]:
        return path.encode("utf-8", "surrogateescape").split(b"/")

    assert sorted(paths, key=walk_key) == sorted(paths, key=as_walked)


def test_the_lines_are_fit_for_jq() -> None:
    line = encode_line(Entry(path='a "quoted"\nname', type="file", size=5, sha256="ab" * 32))
    told = subprocess.run(
        ["jq", "-r", "[.path, .size] | @json"], input=line, capture_output=True, check=True
    )
    assert json.loads(told.stdout) == ['a "quoted"\nname', 5]


@given(st.binary(max_size=200))
def test_lines_that_are_nothing_of_ours_are_archive_errors(line: bytes) -> None:
    for decode in (decode_header, decode_entry, decode_chunk):
        with pytest.raises(ArchiveError):
            decode(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"a":' * 100_000,
        b'{"type":"file","path":"\xff"}',
        b'{"type":"file","path":"\\ud800"}',
        b'{"type":"file","size":' + b"9" * 10_000 + b"}",
        b'{"type":"socket","path":"x"}',
        b'{"path":"x"}',
        b"[]",
    ],
    ids=lambda line: line[:30],
)
def test_no_line_is_a_bug_of_ours(line: bytes) -> None:
    with pytest.raises(ArchiveError, match="a line that is no entry"):
        decode_entry(line)
    with pytest.raises(ArchiveError):
        list(manifest_of([], extra=line + b"\n").entries())


@given(st.lists(entries(), max_size=5))
@settings(max_examples=40)
def test_a_manifest_is_read_back_as_it_was_written(found: list[Entry]) -> None:
    for entry in found:
        entry.chunk, entry.offset = 1, 512
    manifest = manifest_of(found)
    assert manifest.chunks == CHUNKS
    assert list(manifest.entries()) == found
    placed = list(manifest.placed_entries())
    assert [entry for entry, _, _ in placed] == found
    assert [decode_entry(manifest.line_at(at)) for _, at, _ in reversed(placed)] == found[::-1]
    lines = [manifest.lines_between(start, end) for _, start, end in placed]
    assert [decode_entry(line) for line in lines] == found


def entry_at(chunk: int, offset: int, **changes: Any) -> Entry:
    return Entry(path="x", type="file", chunk=chunk, offset=offset, **changes)


@pytest.mark.parametrize(
    "entry",
    [
        entry_at(2, 0),
        entry_at(-1, 0),
        entry_at(0, 512),
        entry_at(0, -512),
        entry_at(0, 2**40),
        entry_at(0, 0, size=-1),
        entry_at(0, 0, stale=(2,)),
        entry_at(0, 0, stale=(0, 2)),
        entry_at(0, 0, stale=(-1,)),
        entry_at(0, 0, stale=(1, -1)),
    ],
)
def test_an_entry_that_lies_nowhere_is_refused(entry: Entry) -> None:
    manifest = manifest_of([entry])
    with pytest.raises(ArchiveError):
        list(manifest.entries())
    with pytest.raises(ArchiveError):
        list(manifest.placed_entries())


@pytest.mark.parametrize(
    ("chunks", "changes"),
    [
        ([Chunk(0, 10, A, 512), Chunk(11, 19, B, 512)], {}),
        ([Chunk(0, 10, A, 512), Chunk(11, 20, B, 512)], {}),
        ([Chunk(1, 10, A, 512), Chunk(11, 20, B, 512)], {}),
        ([Chunk(10, 20, B, 512), Chunk(0, 10, A, 512)], {}),
        ([Chunk(0, 10, A, 512), Chunk(10, 21, B, 512)], {}),
        ([Chunk(0, 40, A, 512), Chunk(40, -10, B, 512)], {}),
        ([Chunk(0, 30, A, 512), Chunk(30, 0, B, 512)], {}),
        ([Chunk(0, 10, A, 512), Chunk(10, 20, B, 0)], {}),
        ([Chunk(0, 10, A, 512), Chunk(10, 20, B, -1)], {}),
        ([Chunk(0, 10, A, 512), Chunk(10, 20, B, CHUNK_RAW_LIMIT + 1)], {}),
        (CHUNKS, {"chunks": 1}),
        (CHUNKS, {"chunks": 3}),
        (CHUNKS, {"chunks": 10**12}),
        (CHUNKS, {"chunk_bytes": 29}),
        (CHUNKS, {"chunk_bytes": 31}),
        (CHUNKS[:1], {"chunks": 1}),
    ],
)
def test_chunks_that_do_not_follow_one_another_are_refused(
    chunks: list[Chunk], changes: dict[str, Any]
) -> None:
    with pytest.raises(ArchiveError):
        list(manifest_of([], chunks, **changes).entries())


@pytest.mark.parametrize("said", [0, 2])
def test_a_missing_or_added_entry_is_noticed(said: int) -> None:
    manifest = manifest_of([entry_at(0, 0)], entries=said)
    with pytest.raises(ArchiveError, match="holds 1 entries, its header says"):
        list(manifest.entries())
    with pytest.raises(ArchiveError, match="holds 1 entries, its header says"):
        list(manifest.placed_entries())


def test_a_long_table_of_chunks_says_the_same_as_a_short_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its lines are decoded when they are asked for, from any thread."""
    chunks = [Chunk(10 * n, 10, f"{n:064x}", 512, "c" * 64 * (n % 2)) for n in range(1000)]
    short = manifest_of([], chunks, chunks=1000, chunk_bytes=10_000)
    monkeypatch.setattr(manifest_lines, "_TABLE_IN_MEMORY", 999)
    monkeypatch.setattr(line_table, "_KEPT_BLOCKS", 2)
    table = manifest_of([], chunks, chunks=1000, chunk_bytes=10_000).chunks
    assert short.chunks == chunks
    assert not isinstance(table, list)
    assert len(table) == 1000
    assert list(table) == chunks
    assert table[10:900:7] == chunks[10:900:7]
    assert table[-1] == chunks[-1]
    with pytest.raises(IndexError):
        table[1000]
    with ThreadPoolExecutor(4) as pool:
        numbers = [n * 37 % 1000 for n in range(1000)]
        assert list(pool.map(table.__getitem__, numbers)) == [chunks[n] for n in numbers]


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        (Chunk(0, 2**24, "a" * 64, 512), "takes 16,777,216 bytes for 512"),
        (Chunk(0, 30, "a" * 63, 512), "has a hash that is none"),
        (Chunk(0, 30, "a" * 64, 512, "b"), "has a hash that is none"),
    ],
)
def test_a_chunk_that_cannot_be_is_refused(chunk: Chunk, words: str) -> None:
    with pytest.raises(ArchiveError, match=words):
        manifest_of([], [chunk], chunks=1, chunk_bytes=chunk.length)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chunks": 2**24 + 1}, "no archive has more than"),
        ({"entries": 10**9}, "do not fit into its"),
        ({"entries": -1}, "do not fit into its"),
    ],
)
def test_numbers_that_the_manifest_has_no_room_for_are_refused_at_once(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ArchiveError, match=words):
        manifest_of([], **changes)


def test_a_line_longer_than_any_is_refused() -> None:
    path = "a" * LINE_BYTES
    with pytest.raises(ArchiveError, match="a line that is no entry"):
        list(manifest_of([Entry(path=path, type="dir", chunk=0)]).entries())
