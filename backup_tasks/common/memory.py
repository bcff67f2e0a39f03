"""Running out of memory: noticed early, and told in one line."""

from __future__ import annotations

import errno
import mmap
import resource
from collections.abc import Iterator

from backup_tasks.common.units import render_bytes
from backup_tasks.errors import BackupError

# What a task takes besides what it has when it begins, at the least.
TASK_BYTES = 64 * 2**20
# A thread's stack of 8 MiB, and what it needs to say that it has begun.
THREAD_BYTES = 12 * 2**20
_LITTLE_BYTES = 8 * 2**20
_ADVICE = "raise the limit (ulimit -v), or free some memory"


def is_there(length: int) -> bool:
    """Whether so many bytes can be had just now; they are given back at once."""
    try:
        mmap.mmap(-1, length).close()
    except (OSError, MemoryError):
        return False
    return True


def demand_memory(length: int) -> None:
    """Raises BackupError when so many bytes cannot be had.

    Where less is left, much goes wrong that cannot be told: a library ends the process, or a thread
    ends before it says that it began, and whoever waits for that waits for ever.
    """
    if not is_there(length):
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        set_to = f" (ulimit -v: {render_bytes(limit)})" if limit != resource.RLIM_INFINITY else ""
        raise BackupError(
            f"out of memory: there are not the {render_bytes(length)} that this takes at the "
            f"least{set_to}; {_ADVICE}"
        )


def explain_memory(error: BaseException) -> str:
    """What to tell of an error that comes from a lack of memory, or "" if it does not."""
    for one in _chain(error):
        if isinstance(one, BackupError) and str(one).startswith("out of memory"):
            return str(one)
        if isinstance(one, RuntimeError) and "can't start new thread" in str(one):
            return f"out of memory, or of threads (ulimit -u): {one}; {_ADVICE}"
        if _is_lack(one):
            return f"out of memory; {_ADVICE}"
    return "" if is_there(_LITTLE_BYTES) else f"out of memory; {_ADVICE}"


def _is_lack(error: BaseException) -> bool:
    if isinstance(error, ImportError):
        return "map segment" in str(error) or "allocate memory" in str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno == errno.ENOMEM
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those that led to it."""
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in seen:
        seen.append(one)
        yield one
        one = one.__cause__ or one.__context__
