"""Wanted entries and the chunks that hold them, joined to members with their content."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from backup_tasks.chunks.reader import ReadChunk
from backup_tasks.format.manifest import Entry
from backup_tasks.format.tar_headers import Member, encode_headers
from backup_tasks.read.member_stream import DamagedChunkError, MemberStream
from backup_tasks.read.selection import WantedEntry

CONTENT = bytes(range(256)) * 2


def headers(path: str, size: int) -> bytes:
    return encode_headers(Member(path.encode(), "file", size=size, stored=size))


def stream_of(
    chunks: Sequence[ReadChunk],
    entries: Sequence[Entry],
    damaged: list[str] | None = None,
    passed: Callable[[int], None] = lambda _: None,
) -> MemberStream:
    """As a restore of these entries would see these chunks."""

    def begin_in(number: int) -> list[WantedEntry]:
        return [WantedEntry(entry, entry.path) for entry in entries if entry.chunk == number]

    return MemberStream(
        iter(chunks),
        begin_in,
        None if damaged is None else lambda path, reason: damaged.append(f"{path}: {reason}"),
        passed,
    )


def read_all(stream: MemberStream) -> dict[str, bytes]:
    return {found.wanted.restore_as: b"".join(stream.pieces(found)) for found in stream.members()}


def small_and_large() -> tuple[list[ReadChunk], list[Entry]]:
    """A file, one that goes on through two more chunks, and one after it."""
    size = 2 * len(CONTENT) + 100
    first = headers("small", 512) + CONTENT
    chunks = [
        ReadChunk(0, first + headers("large", size) + CONTENT),
        ReadChunk(1, CONTENT),
        ReadChunk(2, CONTENT[:100] + bytes(412)),
        ReadChunk(3, headers("last", 512) + CONTENT),
    ]
    entries = [
        Entry(path="small", type="file", size=512, chunk=0),
        Entry(path="large", type="file", size=size, chunk=0, offset=len(first)),
        Entry(path="last", type="file", size=512, chunk=3),
    ]
    return chunks, entries


def test_content_goes_on_in_the_chunks_that_follow() -> None:
    found = read_all(stream_of(*small_and_large()))
    assert found == {"small": CONTENT, "large": 2 * CONTENT + CONTENT[:100], "last": CONTENT}


def test_members_whose_content_nobody_reads_do_not_hold_up_those_behind() -> None:
    stream = stream_of(*small_and_large())
    assert [found.member.path for found in stream.members()] == [b"small", b"large", b"last"]


@pytest.mark.parametrize("number", [1, 2])
def test_a_damaged_chunk_in_a_content_costs_that_file_alone(number: int) -> None:
    chunks, entries = small_and_large()
    chunks[number] = ReadChunk(number, b"", "its hash is wrong")
    stream = stream_of(chunks, entries, [])
    whole = {}
    for found in stream.members():
        if found.wanted.restore_as == "large":
            with pytest.raises(DamagedChunkError, match=f"chunk {number} is damaged"):
                list(stream.pieces(found))
        else:
            whole[found.wanted.restore_as] = b"".join(stream.pieces(found))
    assert whole == {"small": CONTENT, "last": CONTENT}


def test_a_damaged_chunk_costs_all_that_begins_in_it() -> None:
    chunks, entries = small_and_large()
    chunks[0] = ReadChunk(0, b"", "its hash is wrong")
    damaged: list[str] = []
    assert read_all(stream_of(chunks, entries, damaged)) == {"last": CONTENT}
    reason = "chunk 0 is damaged: its hash is wrong"
    assert damaged == [f"small: {reason}", f"large: {reason}"]
    with pytest.raises(DamagedChunkError, match="chunk 0 is damaged"):
        read_all(stream_of(chunks, entries))


@pytest.mark.parametrize(
    "entry",
    [
        Entry(path="other", type="file", size=512, chunk=0),
        Entry(path="small", type="file", size=511, chunk=0),
        Entry(path="small", type="hardlink", link="x", chunk=0),
        Entry(path="small", type="file", size=512, chunk=0, offset=512),
    ],
)
def test_headers_that_the_manifest_does_not_speak_of_are_damage(entry: Entry) -> None:
    chunks, _ = small_and_large()
    damaged: list[str] = []
    assert read_all(stream_of(chunks[:1], [entry], damaged)) == {}
    assert len(damaged) == 1


def one_inside_another(size: int) -> tuple[list[ReadChunk], list[Entry]]:
    """A manifest may name an entry, here of this size, in the midst of the content of another."""
    outer, inner = headers("outer", 1536), headers("inner", size)
    chunks = [ReadChunk(0, outer + inner), *(ReadChunk(number, CONTENT) for number in (1, 2))]
    entries = [
        Entry(path="outer", type="file", size=1536, chunk=0),
        Entry(path="inner", type="file", size=size, chunk=0, offset=len(outer)),
    ]
    return chunks, entries


def test_a_content_that_would_go_on_in_a_chunk_already_left_is_damage() -> None:
    with pytest.raises(DamagedChunkError, match="chunk 0 holds one file inside of another"):
        read_all(stream_of(*one_inside_another(1024)))


def test_what_has_no_content_may_stand_in_a_chunk_already_left() -> None:
    outer = headers("inner", 0) + 2 * CONTENT
    assert read_all(stream_of(*one_inside_another(0))) == {"outer": outer, "inner": b""}


def test_it_says_how_much_was_read() -> None:
    passed: list[int] = []
    read_all(stream_of(*small_and_large(), passed=passed.append))
    assert passed == [512, 512, 512, 100, 512]


def test_a_content_that_would_go_on_in_a_chunk_that_was_not_read_is_damage() -> None:
    chunks, entries = small_and_large()
    del chunks[1]
    stream = stream_of(chunks, entries, [])
    for found in stream.members():
        if found.wanted.restore_as == "large":
            break
    with pytest.raises(DamagedChunkError, match="chunk 1 is not where it should be"):
        list(stream.pieces(found))
