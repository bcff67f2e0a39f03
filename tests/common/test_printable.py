"""Promises about other people's names: nothing in them moves a cursor, forges a line or is lost."""

from __future__ import annotations

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_tasks.common.printable import MOST_CHARACTERS, escaped, one_line, printable


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/etc/hosts", "/etc/hosts"),
        ("/srv/räksmörgås/日本", "/srv/räksmörgås/日本"),
        (b"/srv/caf\xe9", "/srv/caf\\xe9"),
        (os.fsdecode(b"/srv/caf\xe9"), "/srv/caf\\xe9"),
        ("a\nb\tc\x1b[31m", "a\\nb\\tc\\x1b[31m"),
        ("invoice\u202egpj.exe", "invoice\\u202egpj.exe"),
        ("a\\nb", "a\\\\nb"),
        ("a\u2028b\x85c", "a\\u2028b\\x85c"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("", ""),
    ],
)
def test_names_are_shown_without_what_could_mislead(path: str | bytes, shown: str) -> None:
    assert printable(path) == shown


@given(st.binary())
def test_any_name_is_one_line_that_every_log_and_mail_can_hold(path: bytes) -> None:
    shown = printable(path)
    shown.encode("utf-8")
    assert len(f"{shown}\n".splitlines()) == 1
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cf", "Cs"}


@given(st.binary(max_size=4), st.binary(max_size=4))
def test_different_names_never_look_the_same(one: bytes, other: bytes) -> None:
    assert (printable(one) == printable(other)) == (one == other)


@pytest.mark.parametrize("character", ["x", "/", "é", "\\", "\n", "\udcff", "\U000e0001"])
def test_a_name_of_any_length_is_shown_short_with_both_its_ends(character: str) -> None:
    shown = printable(f"/srv/{character * 40_000}/end")
    assert len(shown) <= MOST_CHARACTERS + 40
    assert shown.startswith("/srv/")
    assert shown.endswith("/end")
    head, _, rest = shown.partition("[")
    left_out, _, tail = rest.partition(" characters left out]")
    kept = len(head.encode()) + len(tail.encode()) - len("/srv//end")
    assert kept == (40_000 - int(left_out.replace(",", ""))) * len(escaped(character).encode())
    assert len(escaped(f"/srv/{character * 40_000}/end")) >= 40_000


@given(st.text(st.characters(), max_size=1000))
def test_nothing_is_left_out_of_a_name_that_fits(text: str) -> None:
    whole = escaped(text)
    if len(whole) <= MOST_CHARACTERS // 2:
        assert printable(text) == whole
    if printable(text) == whole:
        assert len(whole) <= MOST_CHARACTERS


@given(st.text(st.characters()))
def test_bytes_and_their_decoded_name_are_shown_alike(text: str) -> None:
    raw = text.encode("utf-8", "replace")
    assert printable(raw) == printable(os.fsdecode(raw))


@given(st.text(st.characters()))
def test_a_message_becomes_one_line(text: str) -> None:
    line = one_line(text)
    line.encode("utf-8")
    assert len(f"{line}\n".splitlines()) == 1


def test_a_message_keeps_its_backslashes_and_is_trimmed() -> None:
    assert one_line("  C:\\temp\nnext\n") == "C:\\temp\\nnext"
