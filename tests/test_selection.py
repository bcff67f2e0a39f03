"""Which entries are wanted, and the lines of a manifest that are read for them."""

from __future__ import annotations

import random

import pytest

from backup_tasks.manifest import Chunk, Entry
from backup_tasks.selection import Selection, WantedPaths
from tests.manifests import manifest_of

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
