"""gitignore patterns on paths, fast enough to ask for every file of a server."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from backup_tasks.common.printable import one_line
from backup_tasks.errors import UsageError

_ALL_INSIDE = re.compile(r"/\*\*\s*$")


class PathPatterns:
    """A list of patterns, matched against paths relative to /.

    Rules are gitignore's: a slash in front or in the middle anchors a pattern to /, a slash
    at the end matches folders only, `!` takes an earlier match back.

    Raises:
        UsageError: one of the texts is no pattern, such as a lone `!`.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._might_match: Callable[[str], object] | None = None
        if not patterns:
            return
        from pathspec import GitIgnoreSpec

        # gitignore(5): "a/**" means everything inside a, not a itself.
        lines = [_ALL_INSIDE.sub("/**/*", pattern) for pattern in patterns]
        try:
            self._spec = GitIgnoreSpec.from_lines(lines)
        except ValueError as error:
            raise UsageError(
                f"{', '.join(map(repr, patterns))}: not a pattern as gitignore writes them: "
                f"{one_line(str(error))}"
            ) from error
        # One alternation answers "no pattern matches" for almost every path at a tenth of
        # the cost of asking pattern by pattern.
        sources = [p.regex.pattern for p in self._spec.patterns if p.include and p.regex]
        if sources:
            any_of_them = re.compile("|".join(f"(?:{_unname(s)})" for s in sources))
            is_anchored = all(source.startswith("^") for source in sources)
            self._might_match = any_of_them.match if is_anchored else any_of_them.search

    @property
    def is_empty(self) -> bool:
        """Whether no path can match."""
        return self._might_match is None

    def match(self, path: str, is_folder: bool) -> bool:
        """Whether the patterns match this path (no slash in front), or a folder above it."""
        if self._might_match is None:
            return False
        asked = path + "/" if is_folder else path
        if "\n" in asked:
            # In an expression `.` does not match a newline, and `$` matches before a final one.
            asked = asked.replace("\n", "\0")
        return bool(self._might_match(asked)) and self._spec.match_file(asked)


def _unname(pattern: str) -> str:
    """Drop the names of groups, which may not repeat within one expression."""
    return re.sub(r"\(\?P<[^>]+>", "(?:", pattern)
