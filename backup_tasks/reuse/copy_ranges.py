"""Which runs of old chunks to keep: the cheapest choice that the store's rules allow. Pure.

What is not kept is written anew, and costs its live bytes. What is kept costs its dead bytes at a
price: they lie in every archive that follows. Runs must not be too short to be copied. Under
these rules dynamic programming finds the cheapest choice, in one pass over the chunks.

Where dead bytes are more than is welcome, the price rises, for the oldest chunks first, until
they are few enough or the cleaning has cost about half as much as what is new: so no day pays
for many. Only where they come to a limit is it paid whatever it costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

# Of the bytes of entries that count, those of entries that do not may be so many unasked.
DEAD_WELCOME = 0.07
# And so many in the end, when cleaning up is dear.
DEAD_LIMIT = 0.2
# What cleaning up may cost in one backup, of what is new in it; runs that are too short included.
CLEANING_SHARE = 0.55
# A chunk that is four fifths dead is worth writing anew even where there is room.
_LOWEST_PRICE = 0.25
# Above this, no byte that is dead is kept.
_HIGHEST_PRICE = 2.0**20
# The chunks that a higher price is tried on are cut into so many steps.
_STEPS = 512


class ChunkCosts(Struct, frozen=True):
    """The chunks of an archive, each by what it costs to keep and not to keep.

    Attributes:
        live, dead: raw bytes of entries that count, and of those that do not.
        stored: bytes in the object, which make a run long enough.
    """

    live: Sequence[int]
    dead: Sequence[int]
    stored: Sequence[int]


class RunRules(Struct, frozen=True):
    """What the runs must keep to.

    Attributes:
        smallest_bytes: stored bytes of the shortest run that can be copied.
        most: how many runs there may be; beyond that the shortest are given up.
        new_bytes: raw bytes of entries that are written in any case.
    """

    smallest_bytes: int
    most: int
    new_bytes: int = 0


def choose_runs(costs: ChunkCosts, may_keep: bytearray, rules: RunRules) -> bytearray:
    """The chunks to keep: 1 for each that stays, 0 for the others.

    Args:
        may_keep: 0 for chunks that must go.

    Returns:
        A choice whose dead bytes are at most DEAD_LIMIT of all live ones.
    """
    count, live = len(may_keep), sum(costs.live)

    def choose(price: float, dearer: float = 0.0, up_to: int = 0) -> bytearray:
        prices = [dearer] * up_to + [price] * (count - up_to)
        return _cheapest(costs, may_keep, prices, rules.smallest_bytes)

    def is_too_dear(chosen: bytearray) -> bool:
        return _cost_bytes(costs, chosen) > allowance

    def is_enough(chosen: bytearray) -> bool:
        dead = _dead_bytes(costs, chosen)
        return dead <= DEAD_WELCOME * live or (dead <= DEAD_LIMIT * live and is_too_dear(chosen))

    price, fewer = _LOWEST_PRICE, choose(_LOWEST_PRICE)
    most = _cost_bytes(costs, may_keep) + CLEANING_SHARE * rules.new_bytes
    allowance = max(most, _cost_bytes(costs, fewer))
    more = fewer
    if not is_enough(fewer):
        while True:
            dearer = price * 2 if price < _HIGHEST_PRICE else math.inf
            more = choose(dearer)
            if is_enough(more):
                break
            price, fewer = dearer, more
        low, high = 0, count
        while high - low > max(1, count // _STEPS):
            middle = (low + high) // 2
            attempt = choose(price, dearer, middle)
            if is_enough(attempt):
                high, more = middle, attempt
            else:
                low, fewer = middle, attempt
        if is_too_dear(more) and _dead_bytes(costs, fewer) <= DEAD_LIMIT * live:
            more = fewer
    return _without_shortest(more, costs.stored, rules.most)


def _cost_bytes(costs: ChunkCosts, chosen: bytearray) -> int:
    return sum(live for live, kept in zip(costs.live, chosen, strict=True) if not kept)


def _dead_bytes(costs: ChunkCosts, chosen: bytearray) -> int:
    return sum(dead for dead, kept in zip(costs.dead, chosen, strict=True) if kept)


def _cheapest(
    costs: ChunkCosts, may_keep: bytearray, prices: Sequence[float], smallest_bytes: int
) -> bytearray:
    """The choice of least cost: live bytes that are not kept, and dead ones that are, at a price.

    `dropped[i]` and `kept[i]` are the least costs of the first i chunks, the last of which is
    dropped, or ends a run that is long enough.
    """
    count = len(may_keep)
    dropped, kept = [0.0] * (count + 1), [math.inf] * (count + 1)
    begins, follows_run = [0] * (count + 1), bytearray(count + 1)
    # Cost and stored bytes of all chunks before each, as if every one were kept.
    cost, place = [0.0] * (count + 1), [0] * (count + 1)
    best, best_begin, next_begin = math.inf, 0, 0
    for number in range(count):
        end = number + 1
        dead = costs.dead[number]
        cost[end] = cost[number] + (prices[number] * dead if dead and may_keep[number] else 0.0)
        place[end] = place[number] + costs.stored[number]
        follows_run[end] = kept[number] <= dropped[number]
        dropped[end] = min(kept[number], dropped[number]) + costs.live[number]
        if not may_keep[number] or cost[end] == math.inf:
            best, next_begin = math.inf, end
            cost[end] = cost[number]
            continue
        while next_begin < end and place[end] - place[next_begin] >= smallest_bytes:
            if dropped[next_begin] - cost[next_begin] < best:
                best, best_begin = dropped[next_begin] - cost[next_begin], next_begin
            next_begin += 1
        if best < math.inf:
            kept[end], begins[end] = cost[end] + best, best_begin
    chosen = bytearray(count)
    end, in_run = count, kept[count] <= dropped[count]
    while end > 0:
        if in_run:
            begin = begins[end]
            chosen[begin:end] = b"\1" * (end - begin)
            end, in_run = begin, False
        else:
            end, in_run = end - 1, bool(follows_run[end])
    return chosen


def runs_of(chosen: bytearray) -> list[range]:
    """The runs of chunks that are kept, in order."""
    runs: list[range] = []
    start = chosen.find(1)
    while start >= 0:
        end = chosen.find(0, start)
        end = len(chosen) if end < 0 else end
        runs.append(range(start, end))
        start = chosen.find(1, end)
    return runs


def _without_shortest(chosen: bytearray, stored: Sequence[int], most: int) -> bytearray:
    runs = runs_of(chosen)
    if len(runs) > most:
        longest = sorted(runs, key=lambda run: sum(stored[run.start : run.stop]), reverse=True)
        for run in longest[most:]:
            chosen[run.start : run.stop] = bytes(len(run))
    return chosen
