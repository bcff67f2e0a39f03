"""Which entries are wanted, and the lines of a manifest that are read for them."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from backup_tasks.errors import ArchiveError
from backup_tasks.format.manifest import Chunk, Entry
from backup_tasks.read.selection import Selection, WantedPaths
from tests.support.manifests import manifest_of

CHUNKS = [Chunk(10 * number, 10, "a" * 64, 2**20) for number in range(3)]


def entry(name: str, chunk: int, offset: int) -> Entry:
    return Entry(path=name, type="file", size=3, chunk=chunk, offset=offset)


@pytest.mark.parametrize("patterns", [(), ("*.c",), ("a*.c", "b*")])
@pytest.mark.parametrize("order", ["as they lie", "any"])
@pytest.mark.parametrize("gap", [0, 2**19])
@pytest.mark.parametrize("layout", ["mixed", "one chunk after the other"])
def test_the_wanted_entries_of_a_chunk_come_as_they_lie_in_it(
    patterns: tuple[str, ...], order: str, gap: int, layout: str
) -> None:
    """Whatever order their lines are in, and however far from each other."""
    entries = [
        entry(f"{first}{number}.{last}", chunk, 2**15 * number)
        for number in range(20)
        for first, last in [("ab"[number % 2], "ch"[number // 2 % 2])]
        for chunk in [number % 3 if layout == "mixed" else number // 7]
    ]
    wanted = WantedPaths(patterns)
    expected: list[list[str]] = [[], [], []]
    for one in entries:
        if WantedPaths(patterns).match(one.path, False):
            expected[one.chunk].append(one.path)
    if order == "any":
        random.Random(1).shuffle(entries)
        if layout != "mixed":
            entries.sort(key=lambda one: one.chunk)
    for number in (4, 8) if gap else ():
        entries.insert(number, entry("x" * gap, 2, 2**20 - number))
        if not patterns:
            expected[2].append("x" * gap)
    selection = Selection(manifest_of(entries, CHUNKS, chunks=len(CHUNKS)), wanted)
    found = [[one.restore_as for one in selection.entries_in(number)] for number in range(3)]
    assert found == expected
    assert wanted.are_all == (not patterns)


@pytest.mark.parametrize(
    ("raw", "count", "most"), [(1024, 3, 2), (2**20, 2049, 2048), (2**20 + 512, 2, 1)]
)
def test_no_more_entries_begin_in_a_chunk_than_there_is_room_for(
    raw: int, count: int, most: int
) -> None:
    chunks = [Chunk(0, 10, "a" * 64, raw)]
    entries = [entry(f"{number:04}", 0, 512 * (number % 2)) for number in range(count)]
    for found in (entries, entries[:most]):
        manifest = manifest_of(found, chunks, chunks=1, chunk_bytes=10)
        if len(found) == most:
            assert len(Selection(manifest, WantedPaths(())).entries_in(0)) == most
        else:
            with pytest.raises(ArchiveError, match=f"have room for {most:,}"):
                Selection(manifest, WantedPaths(()))


@pytest.mark.parametrize("name", ["a" * 2**20, "a" * 2**20 + "\U0001f600"])
def test_paths_take_no_more_than_the_chunk_that_holds_them(name: str) -> None:
    chunks = [Chunk(0, 10, "a" * 64, 2**20)]
    entries = [entry(f"{number}{name}", 0, 512 * number) for number in range(3)]
    manifest = manifest_of(entries, chunks, chunks=1, chunk_bytes=10)
    selection = Selection(manifest, WantedPaths(()))
    with pytest.raises(ArchiveError, match="says more of chunk 0 than can be in it"):
        selection.entries_in(0)


def test_chunks_may_be_asked_for_in_any_order() -> None:
    entries = [entry(f"{number:02}", number % 3, 512 * number) for number in range(30)]
    selection = Selection(manifest_of(entries, CHUNKS, chunks=3), WantedPaths(("*1", "*2")))
    expected = [
        [one.path for one in entries if one.chunk == number and one.path[1] in "12"]
        for number in range(3)
    ]
    for number in (2, 0, 0, 1, 2, 1):
        found = [one.restore_as for one in selection.entries_in(number)]
        assert found == expected[number]


def test_the_folders_above_are_those_that_are_not_wanted_themselves() -> None:
    folders = ["a", "a/b", "a/b/c", "a/d", "e", "e/f"]
    entries = [
        Entry(path=path, type="dir", chunk=0, offset=512 * number)
        for number, path in enumerate([*folders, "e/f/x"])
    ]
    entries[-1].type = "file"
    entries.insert(3, Entry(path="a/b/c/x", type="file", chunk=0))
    chunks = [Chunk(0, 30, "a" * 64, 2**20)]
    selection = Selection(manifest_of(entries, chunks, chunks=1), WantedPaths(("x",)))
    assert [one.path for one in selection.upper_folders] == ["a", "a/b", "a/b/c", "e", "e/f"]
    assert list(selection.chunk_numbers()) == [0]


def link(name: str, first: str, chunk: int = 0) -> Entry:
    return Entry(path=name, type="hardlink", link=first, chunk=chunk)


def test_one_hardlink_takes_the_place_of_a_file_that_is_not_wanted_and_others_join_it() -> None:
    links = [link("b1", "a"), link("b2", "a"), link("b3", "gone"), link("b4", "gone")]
    entries = [entry("a", 1, 0), *links, entry("b5", 2, 0)]
    manifest = manifest_of(entries, CHUNKS, chunks=len(CHUNKS))
    selection = Selection(manifest, WantedPaths(("b*",)))
    found = [[one.restore_as for one in selection.entries_in(number)] for number in range(3)]
    assert found == [[], ["b1"], ["b5"]]
    assert list(selection.extra_links) == [("b2", "b1"), ("b4", "b3")]
    assert list(selection.lost_links) == [("b3", "gone")]


@pytest.mark.parametrize("first", ["a", "a{}"], ids=["one file", "many files"])
def test_hardlinks_to_what_is_not_wanted_take_little_memory(first: str) -> None:
    count = 15_000
    chunks = [Chunk(10 * number, 10, "a" * 64, 2**20) for number in range(count // 1000)]
    entries = [
        link(f"b{number:06}", first.format(number), number // 1000) for number in range(count)
    ]
    size = 10 * len(chunks)
    manifest = manifest_of(entries, chunks, chunks=len(chunks), chunk_bytes=size)
    del entries
    tracemalloc.start()
    try:
        selection = Selection(manifest, WantedPaths(("b*",)))
        now, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert selection.count == count
    assert now < 80 * count
