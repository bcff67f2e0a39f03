"""The lines of a manifest in the making, with stand-ins for what is to be put in at the end.

Most lines of an unchanged server are those of the last manifest. They are not carried along; a
stand-in says where they lie there. What is written later than the walk met it, and folders and
late links, which come last, have stand-ins until then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

# A manifest's lines are JSON objects, so that none begins like one of these.
FOLDER_LINE = b"/\n"
LATE_LINK_LINE = b"@\n"
_REUSED_MARK = b"="
# In place of a line that was waited for, but did not come.
NO_LINE = b"\n"


def group_line(group: int) -> bytes:
    """Stands for the line of an entry that is written in this group, 1 to 9."""
    return b"%d\n" % group


def reused_lines(start: int, end: int) -> bytes:
    """Stands for the last manifest's lines from one place to another."""
    return b"%s%d %d\n" % (_REUSED_MARK, start, end)


def complete_lines(
    lines: Iterable[bytes],
    awaited: Mapping[bytes, Iterable[bytes]],
    lines_between: Callable[[int, int], bytes],
) -> Iterator[bytes]:
    """Put in what stand-ins stand for.

    Args:
        lines: in the order of the walk, stand-ins included.
        awaited: stand-in -> the lines that it stands for, in the same order; NO_LINE for one
            that was not written.
        lines_between: gives the last manifest's lines.

    Yields:
        Lines, some at once.
    """
    waiting = {stand_in: iter(those) for stand_in, those in awaited.items()}
    for line in lines:
        if line in waiting:
            found = next(waiting[line])
            if found != NO_LINE:
                yield found
        elif line.startswith(_REUSED_MARK):
            start, end = line[len(_REUSED_MARK) :].split()
            yield lines_between(int(start), int(end))
        else:
            yield line
