"""Which ranges of chunks stay: legal, within the budget, and never dearer than need be."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_tasks.reuse import copy_ranges
from backup_tasks.reuse.copy_ranges import (
    CLEANING_SHARE,
    DEAD_LIMIT,
    DEAD_WELCOME,
    ChunkCosts,
    RangeRules,
    choose_ranges,
    ranges_of,
)

Chunks = list[tuple[int, int, bool]]
chunk_lists = st.lists(
    st.tuples(st.integers(1, 100), st.sampled_from((0, 0, 0, 1, 5, 30, 200)), st.booleans()),
    max_size=9,
)


def costs_of(chunks: Chunks) -> ChunkCosts:
    live, dead = [c[0] for c in chunks], [c[1] for c in chunks]
    return ChunkCosts(live, dead, [one + other for one, other in zip(live, dead, strict=True)])


def choose(chunks: Chunks, smallest: int, most: int = 100, new: int = 10**9) -> bytearray:
    rules = RangeRules(smallest, most, new)
    return choose_ranges(costs_of(chunks), bytearray(c[2] for c in chunks), rules)


def is_legal(chosen: bytearray, chunks: Chunks, smallest: int) -> bool:
    lengths = [sum(chunks[n][0] + chunks[n][1] for n in span) for span in ranges_of(chosen)]
    allowed = all(chunks[n][2] for n, kept in enumerate(chosen) if kept)
    return allowed and all(length >= smallest for length in lengths)


def price_of(chosen: bytearray, chunks: Chunks, price: float) -> float:
    return sum(
        price * dead if kept else live for (live, dead, _), kept in zip(chunks, chosen, strict=True)
    )


@settings(deadline=None)
@given(
    chunk_lists,
    st.sampled_from((1, 60, 150)),
    st.sampled_from((1, 2, 100)),
    st.sampled_from((0, 100, 10**9)),
)
def test_what_is_kept_is_legal_and_below_the_limit(
    chunks: Chunks, smallest: int, most: int, new: int
) -> None:
    chosen = choose(chunks, smallest, most, new)
    assert is_legal(chosen, chunks, smallest)
    assert len(ranges_of(chosen)) <= most
    dead = sum(chunk[1] for chunk, kept in zip(chunks, chosen, strict=True) if kept)
    assert dead <= DEAD_LIMIT * sum(chunk[0] for chunk in chunks)


@settings(deadline=None)
@given(chunk_lists, st.sampled_from((1, 60, 150)), st.sampled_from((0.25, 0.5, 1.0, 4.0)))
def test_no_legal_choice_is_cheaper(chunks: Chunks, smallest: int, price: float) -> None:
    may_keep = bytearray(chunk[2] for chunk in chunks)
    chosen = copy_ranges._cheapest(costs_of(chunks), may_keep, [price] * len(chunks), smallest)
    cheapest = min(
        price_of(bytearray(one), chunks, price)
        for one in itertools.product((0, 1), repeat=len(chunks))
        if is_legal(bytearray(one), chunks, smallest)
    )
    assert price_of(chosen, chunks, price) == cheapest


def test_all_stays_where_nothing_changed() -> None:
    assert choose([(100, 0, True)] * 20, 1000) == b"\1" * 20


def test_a_few_dead_bytes_stay_where_they_are() -> None:
    chunks = [(100, 0, True)] * 9 + [(60, 40, True)]
    assert choose(chunks, 100) == b"\1" * 10


def test_a_chunk_that_is_mostly_dead_goes_although_there_is_room() -> None:
    chunks = [(100, 0, True)] * 30 + [(10, 90, True)]
    assert choose(chunks, 100) == b"\1" * 30 + b"\0"


def test_the_dirtiest_chunks_go_first() -> None:
    chunks = [(90, 10, True)] * 10 + [(60, 40, True)] + [(90, 10, True)] * 10
    assert choose(chunks, 100)[10] == 0


def test_where_there_is_too_much_the_oldest_chunks_are_cleaned_and_the_others_wait() -> None:
    chosen = choose([(89, 11, True)] * 100, 100)
    assert ranges_of(chosen) == [range(100 - sum(chosen), 100)]
    assert sum(chosen) * 11 <= DEAD_WELCOME * 8900 < (sum(chosen) + 1) * 11


@pytest.mark.parametrize("new", [0, 500, 1000])
def test_cleaning_costs_at_most_its_share_of_what_is_new(new: int) -> None:
    chosen = choose([(89, 11, True)] * 100, 100, new=new)
    assert len(chosen) - sum(chosen) == int(new * CLEANING_SHARE / 89)


def test_at_the_limit_cleaning_is_paid_whatever_it_costs() -> None:
    chosen = choose([(80, 20, True)] * 100, 100, new=0)
    assert sum(chosen) * 20 <= DEAD_LIMIT * 8000 < (sum(chosen) + 1) * 20


def test_what_is_short_between_two_gaps_is_given_up() -> None:
    chunks = [(100, 0, True)] * 5 + [(100, 0, False), (100, 0, True), (100, 0, False)]
    assert choose(chunks, 300) == b"\1" * 5 + bytes(3)
