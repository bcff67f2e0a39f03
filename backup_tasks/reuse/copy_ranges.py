"""Which ranges of old chunks to keep: the cheapest choice that the store's rules allow. Pure.

A dropped chunk costs its live bytes, which are written anew. A reused chunk costs its dead bytes at
a price, since they lie in every archive that follows. Each range must be long enough to be copied.
Under these rules dynamic programming finds the cheapest choice, in one pass over the chunks.

If dead bytes are more than DEAD_WELCOME, the price rises, for the oldest chunks first, until they
are few enough, or until cleaning has cost about half as many bytes as are new. So no day pays
for many. Dead bytes beyond DEAD_LIMIT are cleaned whatever the cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

# Dead bytes tolerated before cleaning, as a fraction of live bytes.
DEAD_WELCOME = 0.07
# Dead bytes tolerated at most, when cleaning costs much, as a fraction of live bytes.
DEAD_LIMIT = 0.2
# Live bytes that cleaning may write anew in one backup, as a fraction of its new bytes. Ranges that
# are too short to copy are included.
CLEANING_SHARE = 0.55
# At this price a chunk that is four fifths dead is written anew even if dead bytes are few.
_LOWEST_PRICE = 0.25
# Above this price, no dead byte is copied along.
_HIGHEST_PRICE = 2.0**20
# The chunks that pay a higher price are searched in steps of this fraction of all: 1/512.
_STEPS = 512


class ChunkCosts(Struct, frozen=True):
    """For each chunk of an archive, the costs of keeping and of dropping it.

    Attributes:
        live, dead: raw bytes of entries that count, and of superseded ones.
        stored: bytes in the object; by these a range is long enough or too short.
    """

    live: Sequence[int]
    dead: Sequence[int]
    stored: Sequence[int]


class RangeRules(Struct, frozen=True):
    """The rules that the ranges must keep.

    Attributes:
        smallest_bytes: stored bytes of the shortest range that can be copied.
        most: the largest number of ranges; beyond it the shortest are given up.
        new_bytes: raw bytes of entries that are written in any case.
    """

    smallest_bytes: int
    most: int
    new_bytes: int = 0


def choose_ranges(costs: ChunkCosts, may_keep: bytearray, rules: RangeRules) -> bytearray:
    """The chunks to keep: 1 for each that stays, 0 for the others.

    Args:
        may_keep: 0 for chunks that must go.

    Returns:
        A choice whose dead bytes are at most DEAD_LIMIT of all live bytes.
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
    return sum(live for live, reused in zip(costs.live, chosen, strict=True) if not reused)


def _dead_bytes(costs: ChunkCosts, chosen: bytearray) -> int:
    return sum(dead for dead, reused in zip(costs.dead, chosen, strict=True) if reused)


def _cheapest(
    costs: ChunkCosts, may_keep: bytearray, prices: Sequence[float], smallest_bytes: int
) -> bytearray:
    """The choice of least cost: the live bytes of dropped chunks, and the priced dead bytes of
    reused ones.

    `dropped[i]` is the least cost of the first i chunks if the last of them is dropped; `reused[i]`
    if it ends a range that is long enough.
    """
    count = len(may_keep)
    dropped, reused = [0.0] * (count + 1), [math.inf] * (count + 1)
    begins, follows_range = [0] * (count + 1), bytearray(count + 1)
    # Cost and stored bytes of all chunks before each, as if every one were reused.
    cost, place = [0.0] * (count + 1), [0] * (count + 1)
    best, best_begin, next_begin = math.inf, 0, 0
    for number in range(count):
        end = number + 1
        dead = costs.dead[number]
        cost[end] = cost[number] + (prices[number] * dead if dead and may_keep[number] else 0.0)
        place[end] = place[number] + costs.stored[number]
        follows_range[end] = reused[number] <= dropped[number]
        dropped[end] = min(reused[number], dropped[number]) + costs.live[number]
        if not may_keep[number] or cost[end] == math.inf:
            best, next_begin = math.inf, end
            cost[end] = cost[number]
            continue
        while next_begin < end and place[end] - place[next_begin] >= smallest_bytes:
            if dropped[next_begin] - cost[next_begin] < best:
                best, best_begin = dropped[next_begin] - cost[next_begin], next_begin
            next_begin += 1
        if best < math.inf:
            reused[end], begins[end] = cost[end] + best, best_begin
    chosen = bytearray(count)
    end, in_range = count, reused[count] <= dropped[count]
    while end > 0:
        if in_range:
            begin = begins[end]
            chosen[begin:end] = b"\1" * (end - begin)
            end, in_range = begin, False
        else:
            end, in_range = end - 1, bool(follows_range[end])
    return chosen


def ranges_of(chosen: bytearray) -> list[range]:
    """The ranges of chunks that are reused, in order."""
    ranges: list[range] = []
    start = chosen.find(1)
    while start >= 0:
        end = chosen.find(0, start)
        end = len(chosen) if end < 0 else end
        ranges.append(range(start, end))
        start = chosen.find(1, end)
    return ranges


def _without_shortest(chosen: bytearray, stored: Sequence[int], most: int) -> bytearray:
    ranges = ranges_of(chosen)
    if len(ranges) > most:
        longest = sorted(ranges, key=lambda span: sum(stored[span.start : span.stop]), reverse=True)
        for span in longest[most:]:
            chosen[span.start : span.stop] = bytes(len(span))
    return chosen
