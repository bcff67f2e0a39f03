"""Work that must wait for a lock: it is seen waiting by the kernel's own list, not by a clock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def waiting_for_lock(place: Path, work: Callable[[], Any]) -> Iterator[Future[Any]]:
    """Hold the flock of a file or folder while the block runs, and `work` waits for it.

    When the block ends the lock is given back, and `work` comes to its end. Raises AssertionError
    when it does not wait.
    """
    with ThreadPoolExecutor(1) as pool:
        descriptor = os.open(place, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            coming = pool.submit(work)
            while not _somebody_waits():
                assert not coming.done(), f"it did not wait for the lock: {coming.exception()!r}"
                time.sleep(0.001)
            yield coming
        finally:
            os.close(descriptor)


def _somebody_waits() -> bool:
    """Whether a thread of this process waits for a flock."""
    locks = Path("/proc/locks").read_text()
    return re.search(rf"-> FLOCK +ADVISORY +WRITE {os.getpid()} ", locks) is not None
