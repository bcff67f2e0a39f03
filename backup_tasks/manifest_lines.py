"""The lines of a manifest in the making, with stand-ins for what is to be put in at the end.

Most lines of an unchanged server are those of the last manifest. They are not carried along; a
stand-in says where they lie there. Folders are written last, and have stand-ins until then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

# No line of a manifest is empty, and none begins like the stand-in for kept ones.
FOLDER_LINE = b"\n"
_KEPT_MARK = b"="


def kept_lines(start: int, end: int) -> bytes:
    """Stands for the last manifest's lines from one place to another."""
    return b"%s%d %d\n" % (_KEPT_MARK, start, end)


def complete_lines(
    lines: Iterable[bytes],
    folder_lines: Iterable[bytes],
    lines_between: Callable[[int, int], bytes],
) -> Iterator[bytes]:
    """Put in what stand-ins stand for.

    Args:
        lines: in the order of the walk, stand-ins included.
        folder_lines: those of the folders, in the same order; FOLDER_LINE for one without.
        lines_between: gives the last manifest's lines.

    Yields:
        Lines, some at once.
    """
    folders = iter(folder_lines)
    for line in lines:
        if line == FOLDER_LINE:
            found = next(folders)
            if found != FOLDER_LINE:
                yield found
        elif line.startswith(_KEPT_MARK):
            start, end = line[len(_KEPT_MARK) :].split()
            yield lines_between(int(start), int(end))
        else:
            yield line
