"""The policy of reuse, held to every history that hypothesis finds, on a model of tar."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from backup_tasks.format.manifest import Chunk, Entry
from backup_tasks.reuse import plan
from backup_tasks.reuse.copy_ranges import DEAD_LIMIT, choose_ranges
from backup_tasks.reuse.plan import Reuse, ReusePlanner
from tests.support.histories import CHUNK, Change, histories, play, use_small_chunks
from tests.support.model_archive import (
    ModelArchive,
    ModelBackup,
    ModelTree,
    apart,
    expected,
    extract,
)

EVER = 10**18  # more than any clock of the model moves
run_lengths = st.sampled_from((1, 3000, 9000, 40_000))
run_counts = st.sampled_from((1, 2, 100))


@pytest.fixture(scope="module", autouse=True)
def _small_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use_small_chunks(patch)
        yield


def replay(
    history: list[list[Change]], smallest_run: int = 1, most_ranges: int = 100, margin_ns: int = 0
) -> Iterator[tuple[ModelTree, ModelBackup, ModelArchive]]:
    """After each generation: the tree, the backups, and the archive before the newest."""
    tree = ModelTree()
    backup = ModelBackup(tree, smallest_run, most_ranges)
    for changes in history:
        for change in changes:
            play(tree, change)
        before = backup.archive
        backup.run(margin_ns=margin_ns)
        yield tree, backup, before


@settings(max_examples=300, deadline=None)
@given(histories(8), run_lengths, run_counts, st.sampled_from((0, EVER)))
def test_plain_tar_gives_the_tree_of_every_generation_whatever_happened_before(
    history: list[list[Change]], smallest_run: int, most_ranges: int, margin_ns: int
) -> None:
    for tree, backup, _ in replay(history, smallest_run, most_ranges, margin_ns):
        assert extract(backup.archive) == expected(tree)


@settings(deadline=None)
@given(histories(8), run_lengths)
def test_the_manifest_names_every_path_once_with_what_tar_finds_there(
    history: list[list[Change]], smallest_run: int
) -> None:
    for tree, backup, _ in replay(history, smallest_run):
        archive = backup.archive
        assert [e.name for e in archive.entries] == [e.name for e in tree.walk()]
        for entry in archive.entries:
            names = [record.name for record in archive.records[entry.chunk]]
            assert entry.name in names
            for number in entry.stale:
                assert entry.name in [record.name for record in archive.records[number]]


@settings(deadline=None)
@given(histories(8), run_lengths, run_counts)
def test_dead_bytes_stay_below_their_limit(
    history: list[list[Change]], smallest_run: int, most_ranges: int
) -> None:
    for _, backup, _ in replay(history, smallest_run, most_ranges):
        live, dead = backup.archive.live_and_dead_bytes()
        assert dead <= DEAD_LIMIT * live


@settings(deadline=None)
@given(histories(8), run_lengths, run_counts)
def test_every_run_is_long_enough_and_there_are_not_too_many(
    history: list[list[Change]], smallest_run: int, most_ranges: int
) -> None:
    for _, backup, before in replay(history, smallest_run, most_ranges):
        reuse = backup.reuse
        assert reuse is not None
        assert len(reuse.ranges) <= most_ranges
        assert reuse.ranges == sorted(reuse.ranges, key=lambda run: run.start)
        lengths = [sum(before.chunks[n].length for n in run) for run in reuse.ranges]
        assert all(length >= smallest_run for length in lengths)
        assert reuse.reused_bytes == sum(lengths)


@settings(deadline=None)
@given(histories(4))
def test_an_unchanged_tree_is_kept_whole_and_read_not_at_all(history: list[list[Change]]) -> None:
    for _, backup, _ in replay(history):
        used = {entry.chunk for entry in apart(backup.archive.entries)[0]}
        backup.run()
        assert backup.read_again == []
        assert backup.reuse is not None
        assert all(backup.reuse.moved[number] >= 0 for number in used)
        kept = {entry.chunk for entry in apart(backup.archive.entries)[0]}
        assert kept == {backup.reuse.moved[number] for number in used}


@settings(deadline=None)
@given(histories(4))
def test_a_moved_disk_is_read_and_nothing_is_written(history: list[list[Change]]) -> None:
    for tree, backup, _ in replay(history):
        tree.move_disk()
        files = [e.name for e in apart(tree.walk())[0] if e.type != "hardlink"]
        backup.run()
        assert backup.read_again == files
        assert backup.reuse is not None
        counts = backup.reuse.counts
        assert (counts.changed, counts.new, counts.gone) == (0, 0, 0)
        last = backup.archive
        backup.run()
        assert backup.read_again == []
        assert backup.archive.chunks == last.chunks


def tree_of(*names: str, size: int = 100) -> ModelTree:
    tree = ModelTree()
    for seed, name in enumerate(names):
        tree.write(name, seed, 0, size)
    return tree


def kept_after(backup: ModelBackup) -> list[bool]:
    backup.run()
    assert backup.reuse is not None
    return [number >= 0 for number in backup.reuse.moved]


def first_backup(tree: ModelTree) -> ModelBackup:
    backup = ModelBackup(tree, 1, 100)
    backup.run()
    return backup


def test_same_size_and_mtime_with_another_ctime_is_noticed() -> None:
    tree = tree_of("a", "b")
    backup = first_backup(tree)
    tree.sneak("a", 7)
    backup.run()
    assert backup.read_again == ["a"]
    assert extract(backup.archive) == expected(tree)


def test_a_file_whose_ctime_is_not_safely_older_than_the_run_is_read_again() -> None:
    tree = tree_of("a", "b")
    backup = first_backup(tree)
    inode = tree.inodes["b"]
    ctime_ns = inode.ctime_ns
    tree.sneak("b", 7)
    inode.ctime_ns = ctime_ns  # the clock was too coarse to tell
    backup.run(margin_ns=tree.now - ctime_ns + 1)
    assert backup.read_again == ["a", "b"] or backup.read_again == ["b"]
    assert extract(backup.archive) == expected(tree)


def test_a_file_whose_hash_was_lost_is_written_anew_so_that_it_can_be_checked() -> None:
    tree = tree_of(*"abcdefghijkl", size=512)
    tree.link("a", "a too")
    backup = first_backup(tree)
    for name in ("a", "b"):
        next(entry for entry in backup.archive.entries if entry.name == name).sha256 = ""
    next(entry for entry in backup.archive.entries if entry.name == "b").stale = (0,)
    backup.run()
    assert all(entry.sha256 for entry in backup.archive.entries if entry.type == "file")
    assert extract(backup.archive) == expected(tree)
    assert backup.run().entries == backup.archive.entries
    assert backup.reuse is not None
    assert backup.reuse.counts.changed == 0


def test_changed_files_leave_their_chunk_alone_until_they_are_too_many() -> None:
    tree = tree_of(*"abcdefghijkl", size=512)  # two of twelve entries may be dead, three not
    backup = first_backup(tree)
    tree.write("a", 8, 0, 512)
    tree.write("b", 9, 0, 512)
    assert kept_after(backup) == [True]
    tree.write("c", 9, 0, 512)
    assert kept_after(backup)[0] is False
    assert extract(backup.archive) == expected(tree)


def test_a_path_deleted_long_after_it_changed_takes_every_earlier_entry_along() -> None:
    tree = tree_of(*"abcdefghijkl", size=512)
    backup = first_backup(tree)
    tree.write("a", 8, 0, 512)
    backup.run()
    (a,) = (entry for entry in backup.archive.entries if entry.name == "a")
    assert a.stale == (0,)
    backup.run()
    tree.remove("a")
    assert kept_after(backup) == [False, False]
    assert extract(backup.archive) == expected(tree)


def test_earlier_entries_are_remembered_through_changes_and_new_numbers() -> None:
    tree = tree_of(*"abcdefghijklmnopqrstuvwx", size=6400)  # of which eight fill a chunk
    backup = first_backup(tree)

    def stale_after(*removed: str) -> tuple[int, ...]:
        for name in removed:
            tree.remove(name)
        backup.run()
        return next(entry.stale for entry in backup.archive.entries if entry.name == "w")

    tree.write("w", 8, 0, 6400)
    assert stale_after() == (2,)
    tree.write("w", 9, 0, 6400)
    assert stale_after("a") == (1,), "for the first chunk is gone"
    assert stale_after("i") == (0,)
    tree.remove("w")
    assert kept_after(backup)[0] is False
    assert extract(backup.archive) == expected(tree)


@pytest.mark.parametrize("make", [ModelTree.fifo, lambda tree, path: tree.symlink(path, "to")])
def test_what_is_no_file_leaves_no_earlier_entry_behind(make: object) -> None:
    tree = tree_of("b", "c", "d", "e", "f")
    make(tree, "a")  # type: ignore[operator]
    backup = first_backup(tree)
    make(tree, "a")  # type: ignore[operator]
    assert kept_after(backup) == [False]
    assert extract(backup.archive) == expected(tree)


def test_links_to_a_file_with_attributes_are_not_written_anew_on_another_disk() -> None:
    tree = tree_of("a")
    tree.xattr("a", 1)
    tree.link("a", "b")
    backup = first_backup(tree)
    tree.move_disk()
    assert kept_after(backup) == [True]


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("i\udcfe", "i\udcff")])
def test_links_are_written_anew_when_the_first_name_goes(first: str, second: str) -> None:
    tree = tree_of(first, "j")
    tree.link(first, second)
    tree.link(first, "z")
    for name in "pqrstuvw":
        tree.write(name, 1, 0, 100)
    backup = first_backup(tree)
    del tree.inodes[first]  # a clock too coarse for another ctime
    backup.run()
    assert extract(backup.archive) == expected(tree)


def test_a_link_further_in_front_than_its_file_is_written_anew() -> None:
    tree = tree_of("a", "b")
    tree.link("a", "z")
    backup = first_backup(tree)
    archive = backup.archive
    for name in ("a", "b"):  # as an interrupted run may have left it
        archive.add([record for record in archive.records[0] if record.name == name], 200)
        (entry,) = (entry for entry in archive.entries if entry.name == name)
        entry.chunk, entry.offset, entry.span = len(archive.chunks) - 1, 0, 200
    archive.records[0] = [record for record in archive.records[0] if record.name == "z"]
    archive.chunks[0] = Chunk(0, archive.chunks[0].length, "", 200)
    assert kept_after(backup) == [False, True, True]
    assert extract(backup.archive) == expected(tree)


def test_another_name_for_a_file_costs_no_chunk() -> None:
    tree = tree_of("a", "b", "c", "d")
    backup = first_backup(tree)
    tree.link("a", "h")
    assert kept_after(backup) == [True]
    tree.link("a", "i")
    assert kept_after(backup) == [True, True]
    assert extract(backup.archive) == expected(tree)


def test_links_go_with_the_file_they_lead_to_and_not_the_other_way_round() -> None:
    tree = tree_of(*"abcdefgijklm", size=512)
    backup = first_backup(tree)
    tree.link("a", "h")
    backup.run()
    tree.remove("h")
    assert kept_after(backup) == [True, False]
    tree.link("a", "h")
    backup.run()
    tree.write("a", 9, 0, 512)
    assert kept_after(backup) == [True, False], "the link must not come before what it leads to"
    assert extract(backup.archive) == expected(tree)


@pytest.mark.parametrize("make", [ModelTree.fifo, lambda tree, path: tree.symlink(path, "to")])
def test_links_go_with_what_is_no_file_too(make: object) -> None:
    tree = tree_of("b", "c", "d")
    make(tree, "a")  # type: ignore[operator]
    backup = first_backup(tree)
    tree.link("a", "h")
    assert kept_after(backup) == [True]
    for name in ("b", "c", "d"):
        tree.write(name, 9, 0, 100)
    assert kept_after(backup) == [False, False]
    assert extract(backup.archive) == expected(tree)


@pytest.mark.parametrize("is_broken_up", [False, True])
def test_a_chain_of_links_laid_out_on_purpose_takes_few_rounds(
    is_broken_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = 0

    def counted(*arguments: Any) -> bytearray:
        nonlocal rounds
        rounds += 1
        return choose_ranges(*arguments)

    monkeypatch.setattr(plan, "choose_ranges", counted)
    before = chain_of_links(100, is_broken_up=is_broken_up)
    walked = [replace(entry) for entry in before if not entry.name.endswith("gone")]
    assert decide(walked, before, 2000).moved[:2] == [0, 1]
    assert rounds == 1

    rounds = 0
    del walked[0 if is_broken_up else 1]
    reuse = decide(walked, before, 2000)
    assert rounds < 10
    kept = {entry.name for entry in before if reuse.keeps(entry)}
    links = [entry for entry in before if entry.type == "hardlink"]
    assert all(link.link in kept for link in links if link.name in kept)


def chain_of_links(length: int, *, is_broken_up: bool) -> list[Entry]:
    """In each chunk a file, and a link to the file in the chunk before.

    Broken up, the two have a chunk each, which are too short a run without the other one, as what
    follows them is gone.
    """
    entries = []
    for number in range(length):
        chunk = 3 * number if is_broken_up else number
        span = 1000 if is_broken_up else 500
        file = Entry(path=f"{number:04}b", type="file", nlink=2, span=span, sha256="5")
        file.chunk = chunk + 1 if is_broken_up else chunk
        link = replace(file, path=f"{number:04}a", type="hardlink", link=f"{number - 1:04}b")
        link.chunk = chunk
        entries += [link, file]
        if is_broken_up:
            gone = Entry(path=f"{number:04}gone", type="file", chunk=chunk + 2, sha256="5")
            entries.append(gone)
    entries[0].type, entries[0].link = "file", ""
    return entries


def decide(walked: list[Entry], before: list[Entry], smallest_run: int) -> Reuse:
    chunks = [Chunk(1000 * n, 1000, "", 1000) for n in range(before[-1].chunk + 1)]
    planner = ReusePlanner(chunks, EVER, lambda entry, old: True)
    list(planner.join(walked, [(replace(entry), -1, -1) for entry in before]))
    return planner.decide(smallest_run, 100)


def test_a_large_file_is_kept_whole_or_not_at_all() -> None:
    tree = tree_of("a", size=5 * CHUNK)
    backup = first_backup(tree)
    assert len(backup.archive.chunks) == 6
    assert kept_after(backup) == [True] * 6
    tree.write("a", 9, 0, 50)
    assert kept_after(backup) == [False] * 6


def test_a_chunk_without_a_live_byte_stays_where_its_neighbour_would_be_too_short_alone() -> None:
    names = [f"{number:03}" for number in range(240)]
    tree = tree_of(*names, size=6400)  # of which eight fill a chunk
    backup = first_backup(tree)
    lengths = [chunk.length for chunk in backup.archive.chunks]
    assert len(lengths) == 30
    for name in names[224:232]:
        tree.write(name, 9, 0, 6400)
    bridged = ModelBackup(tree, lengths[-1] + 1, 100)
    bridged.archive = backup.archive
    assert kept_after(bridged) == [True] * 30
    assert extract(bridged.archive) == expected(tree)


def test_the_plan_says_why_chunks_are_not_kept() -> None:
    tree = tree_of("a", "b", "c", "d", size=512)
    backup = first_backup(tree)
    tree.remove("a")
    backup.run()
    assert backup.reuse is not None
    assert backup.reuse.dropped["deleted or retyped"] == 1
    assert backup.reuse.counts.gone == 1
    for name in ("b", "c"):
        tree.write(name, 9, 0, 512)
    backup.run()
    assert backup.reuse.dropped["too many stale bytes"] == 1
    assert backup.reuse.counts.changed == 2
