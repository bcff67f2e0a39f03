"""Numbers and names that are sorted outside of memory."""

from __future__ import annotations

import os
import random

import pytest

from backup_tasks.spools import folder_names
from backup_tasks.spools import numbers as number_spool
from backup_tasks.spools.folder_names import sorted_names
from backup_tasks.spools.numbers import NumberSpool


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 100])
def test_numbers_come_in_order_as_often_as_asked_for(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(number_spool, "RUN_NUMBERS", 16)
    monkeypatch.setattr(number_spool, "_READ_NUMBERS", 5)
    chooser = random.Random(count)
    numbers = [chooser.randrange(2**64) for _ in range(count)]
    spool = NumberSpool()
    for added, number in enumerate(numbers, start=1):
        spool.add(number)
        if added in (3, 40):
            assert list(spool) == sorted(numbers[:added])
    assert len(spool) == count
    assert list(spool) == list(spool) == sorted(numbers)
    spool.close()


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 100])
def test_names_come_in_the_order_of_their_bytes(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(folder_names, "RUN_NAMES", 16)
    monkeypatch.setattr(folder_names, "_READ_BYTES", 7)
    chooser = random.Random(count)
    letters = ["a", "b", "\udcff", "\u00e9", "\U0001f600", "."]
    names = {"".join(chooser.choices(letters, k=9)) for _ in range(count)}
    assert list(sorted_names(names)) == sorted(names, key=os.fsencode)
