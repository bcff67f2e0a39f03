"""gitignore patterns on paths, fast enough to ask for every file of a server."""

from __future__ import annotations

import re
from collections.abc import Sequence


class PathPatterns:
    """A list of patterns, matched against paths relative to /.

    Rules are gitignore's: a slash in front or in the middle anchors a pattern to /, a slash
    at the end matches folders only, `!` takes an earlier match back.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._prefilter: re.Pattern[str] | None = None
        if not patterns:
            return
        from pathspec import GitIgnoreSpec

        self._spec = GitIgnoreSpec.from_lines(patterns)
        # One alternation answers "no pattern matches" for almost every path at a tenth of
        # the cost of asking pattern by pattern.
        sources = [p.regex.pattern for p in self._spec.patterns if p.include and p.regex]
        if sources:
            self._prefilter = re.compile("|".join(f"(?:{_unname(s)})" for s in sources))

    def match(self, path: str, is_folder: bool) -> bool:
        """Whether this path (no slash in front) is meant, or lies below a folder that is."""
        if self._prefilter is None:
            return False
        asked = path + "/" if is_folder else path
        return bool(self._prefilter.match(asked)) and self._spec.match_file(asked)


def _unname(pattern: str) -> str:
    """Drop the names of groups, which may not repeat within one expression."""
    return re.sub(r"\(\?P<[^>]+>", "(?:", pattern)
