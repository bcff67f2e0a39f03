"""Running out of memory: noticed early, and reported in one line."""

from __future__ import annotations

import errno
import mmap
import resource
from collections.abc import Iterator

from backup_tasks.common.units import render_bytes
from backup_tasks.errors import BackupError

# The least that a task needs beyond the memory that it holds at its start.
TASK_BYTES = 64 * 2**20
# A thread's stack of 8 MiB, and the memory that it needs to signal its start.
THREAD_BYTES = 12 * 2**20
_LITTLE_BYTES = 8 * 2**20
_ADVICE = "raise the limit (ulimit -v), or free some memory"


def is_there(length: int) -> bool:
    """Whether this many bytes can be allocated now; they are freed at once."""
    try:
        mmap.mmap(-1, length).close()
    except (OSError, MemoryError):
        return False
    return True


def demand_memory(length: int) -> None:
    """Check that this many bytes can be allocated.

    With less memory, failures go unreported: a library ends the process, or a thread ends before
    it signals its start, and the thread that started it waits for ever.

    Raises:
        BackupError: these bytes cannot be allocated; names the limit.
    """
    if not is_there(length):
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        set_to = f" (ulimit -v: {render_bytes(limit)})" if limit != resource.RLIM_INFINITY else ""
        raise BackupError(
            f"out of memory: there are not the {render_bytes(length)} that this takes at the "
            f"least{set_to}; {_ADVICE}"
        )


def explain_memory(error: BaseException) -> str:
    """The message for an error that comes from a lack of memory; "" for any other error."""
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
    """The error and its causes, the error first."""
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in seen:
        seen.append(one)
        yield one
        one = one.__cause__ or one.__context__
