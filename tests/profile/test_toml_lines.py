"""Lines of TOML keys, and the private parts of tomlkit that they lean on."""

from __future__ import annotations

import inspect
import tomllib

import pytest
import tomlkit.parser
from hypothesis import given
from hypothesis import strategies as st

from backup_tasks.profile.toml_lines import TomlError, parse_toml

DOCUMENT = """\
title = 1 # first

"quoted key".inner = [
  1,
  # a comment
  "two", [3,
   4], { k = [
5] }
]
[plain]
[plain.below]
table = { a = 1, b = { c = 2 } }
text = '''
x = 1
'''
[[many]]
a = 1
[many.sub]
a = 2
[[many]]
a = 3
[plain.later]
z = 1
"""


def test_every_key_and_element_has_its_line() -> None:
    lines = parse_toml(DOCUMENT).lines
    expected = {
        ("title",): 1,
        ("quoted key",): 3,
        ("quoted key", "inner"): 3,
        ("quoted key", "inner", 0): 4,
        ("quoted key", "inner", 1): 6,
        ("quoted key", "inner", 2, 1): 7,
        ("quoted key", "inner", 3, "k"): 7,
        ("quoted key", "inner", 3, "k", 0): 8,
        ("plain",): 10,
        ("plain", "below"): 11,
        ("plain", "below", "table", "b", "c"): 12,
        ("plain", "below", "text"): 13,
        ("plain", "later"): 22,
        ("plain", "later", "z"): 23,
    }
    assert {path: lines.get(path) for path in expected} == expected


def test_values_are_plain_and_the_same_as_those_of_another_parser() -> None:
    values = parse_toml(DOCUMENT).values
    assert values == tomllib.loads(DOCUMENT)
    assert type(values) is dict
    assert type(values["quoted key"]["inner"]) is list
    assert type(values["plain"]["below"]["text"]) is str


def test_windows_line_ends_are_counted_once() -> None:
    assert parse_toml("a = 1\r\n\r\nb = 2\r\n").lines[("b",)] == 3


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a = 1\n\na = 2\n", 3, '"a" is written twice; first in line 1'),
        ("[a]\nb = 1\n[c]\n[a]\n", 4, '"a" is written twice; first in line 1'),
        ("[a]\nx = { b = 1, b = 2 }", 2, '"a.x.b" is written twice; first in line 2'),
        ("[a]\nb = 1\n\n'b' = 2", 4, '"a.b" is written twice; first in line 2'),
        ("x = 1\na = \nb = 2", 2, "the line ends too early"),
        ("x = 1\nurl = s3://bucket", 2, 'unexpected "s" in column 7; text needs quotes'),
        ('x = 1\ny = "open', 2, "unexpected end of file"),
        ("x = 1\n[table", 2, "unexpected end of file"),
        ("a = 01", 1, "invalid number"),
        ("a = [1,,2]", 1, 'unexpected "," in column 8'),
        (f"a = {'[' * 200}{']' * 200}", 1, "TOML value nested"),
    ],
)
def test_a_fault_is_told_with_its_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(TomlError) as caught:
        parse_toml(text)
    assert (caught.value.line, reason in caught.value.reason) == (line, True), caught.value.reason


@given(st.text(alphabet='ab=[]{}.,#"\n\r\\ 1_\x00é', max_size=60))
def test_any_text_gives_a_document_or_one_fault_with_a_line_of_it(text: str) -> None:
    fault = None
    try:
        parse_toml(text)
    except TomlError as error:
        fault = error
    if fault:
        assert 1 <= fault.line <= text.count("\n") + text.count("\r") + 1
        assert fault.reason


def test_tomlkit_still_has_the_private_methods_that_are_overridden() -> None:
    parser = tomlkit.parser.Parser
    expected = {
        "_parse_table": ["self", "parent_name", "parent"],
        "_parse_key_value": ["self", "parse_comment"],
        "_parse_array": ["self"],
        "_parse_inline_table": ["self"],
        "_parse_value": ["self"],
        "_parse_key": ["self"],
        "_peek_table": ["self"],
    }
    found = {name: list(inspect.signature(getattr(parser, name)).parameters) for name in expected}
    assert found == expected
    fresh = parser("a = 1")
    assert fresh._idx == 0
    assert fresh._src.count("=") == 1
    with fresh._state(save_marker=True, restore=True):
        fresh.inc()
    assert fresh._idx == 0
