"""The lines of a manifest in the making, with stand-ins for lines that are put in at the end.

On an unchanged server, most lines are those of the previous manifest. They are not carried along; a
stand-in says where they lie there. Entries of later groups, and folders and late links, which come
last, have stand-ins until they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

# A manifest's lines are JSON objects, so none begins like one of these stand-ins.
FOLDER_LINE = b"/\n"
LATE_LINK_LINE = b"@\n"
_REUSED_MARK = b"="
# Stands for an entry that was to be written later, but could not be.
NO_LINE = b"\n"


def group_line(group: int) -> bytes:
    """The stand-in for the line of an entry that is written in this group, 1 to 9."""
    return b"%d\n" % group


def reused_lines(start: int, end: int) -> bytes:
    """The stand-in for the previous manifest's lines from one place to another."""
    return b"%s%d %d\n" % (_REUSED_MARK, start, end)


def complete_lines(
    lines: Iterable[bytes],
    awaited: Mapping[bytes, Iterable[bytes]],
    lines_between: Callable[[int, int], bytes],
) -> Iterator[bytes]:
    """Replace stand-ins by the lines that they stand for.

    Args:
        lines: in the order of the walk, stand-ins included.
        awaited: stand-in -> its lines, in the same order; NO_LINE for an entry that was not
            written.
        lines_between: gives the previous manifest's lines between two places.

    Yields:
        One line, or several at once.
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
