"""Patterns are gitignore's, and the short cut that makes them fast changes no answer."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pathspec import GitIgnoreSpec

from backup_tasks.common.gitignore import PathPatterns
from backup_tasks.errors import UsageError


# (patterns, path, is a folder, whether it is meant); gitignore(5) says why.
@pytest.mark.parametrize(
    ("patterns", "path", "is_folder", "meant"),
    [
        (["*.tmp"], "a.tmp", False, True),
        (["*.tmp"], "home/anna/a.tmp", False, True),
        (["*.tmp"], "home/a.tmp/inside", False, True),
        (["*.tmp"], "a.tmpx", False, False),
        (["node_modules/"], "srv/node_modules", True, True),
        (["node_modules/"], "srv/node_modules", False, False),
        (["node_modules/"], "srv/node_modules/x/y", False, True),
        (["/var/cache"], "var/cache", True, True),
        (["/var/cache"], "srv/var/cache", True, False),
        (["var/cache"], "srv/var/cache", True, False),
        (["/etc/*.d"], "etc/cron.d", True, True),
        (["/etc/*.d"], "etc/deeper/cron.d", True, False),
        (["**/logs"], "a/b/logs", True, True),
        (["a/**/z"], "a/z", False, True),
        (["a/**/z"], "a/b/c/z", False, True),
        (["a/**"], "a", True, False),
        (["a/**"], "a/b", False, True),
        (["*/"], "a", True, True),
        (["*/"], "a", False, False),
        (["*/"], "a/b", False, True),
        (["**"], "a", True, True),
        (["?.x"], "a.x", False, True),
        (["?.x"], "ab.x", False, False),
        (["[a-c].x"], "b.x", False, True),
        (["*.log", "!keep.log"], "keep.log", False, False),
        (["*.log", "!keep.log"], "other.log", False, True),
        (["!keep.log"], "keep.log", False, False),
        ([r"\!important"], "!important", False, True),
        ([r"\#x"], "#x", False, True),
        (["#x"], "#x", False, False),
        ([], "anything", False, False),
        ([""], "anything", False, False),
    ],
)
def test_patterns_are_those_of_gitignore(
    patterns: list[str], path: str, is_folder: bool, meant: bool
) -> None:
    assert PathPatterns(patterns).match(path, is_folder) is meant


@pytest.mark.parametrize(
    ("pattern", "path", "meant"),
    [
        ("*.tmp", "a.tmp\n", False),
        ("*.tmp", "a\nb.tmp", True),
        ("*.tmp", "folder\nwith a line\n/x.tmp", True),
        ("x", "a\nb/x", True),
        ("x/", "a\nb/x/c\nd", True),
        ("/a?b", "a\nb", True),
        ("*.tmp", "caf\udce9.tmp", True),
        ("caf?", "caf\udce9", True),
    ],
)
def test_line_breaks_and_odd_bytes_in_names_are_ordinary_characters(
    pattern: str, path: str, meant: bool
) -> None:
    assert PathPatterns([pattern]).match(path, False) is meant


PIECES = st.sampled_from(
    ["a", "b", "ab", "*", "**", "?", "*.x", "a.x", "[ab]", "!a", "#", " ", "é"]
)
PATTERNS = st.builds(
    lambda front, pieces, end: front + "/".join(pieces) + end,
    st.sampled_from(["", "/", "!", "!/"]),
    st.lists(PIECES, min_size=1, max_size=4),
    st.sampled_from(["", "/", "/*", "/**"]),
)
PATHS = st.lists(
    st.sampled_from(["a", "b", "ab", "a.x", "b.x", "c", "#", "!a", "é"]), min_size=1, max_size=5
).map("/".join)


@pytest.mark.parametrize("pattern", ["!", "! "])
def test_what_is_no_pattern_is_refused_in_one_line(pattern: str) -> None:
    with pytest.raises(UsageError, match=f"'{pattern}': not a pattern"):
        PathPatterns([pattern])


@given(st.lists(PATTERNS, max_size=5), st.lists(PATHS, max_size=8), st.booleans())
@settings(deadline=None)
def test_the_short_cut_changes_no_answer(
    patterns: list[str], paths: list[str], is_folder: bool
) -> None:
    assume("!" not in [line.strip() for line in patterns])
    # pathspec takes "a/**" for a itself too, which git does not.
    slow = GitIgnoreSpec.from_lines([re.sub(r"/\*\*$", "/**/*", line) for line in patterns])
    quick = PathPatterns(patterns)
    for path in paths:
        assert quick.match(path, is_folder) == slow.match_file(path + "/" * is_folder)
