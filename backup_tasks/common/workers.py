"""A pool of threads whose failures always reach whoever waits for them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from backup_tasks.common.memory import THREAD_BYTES, demand_memory

# A worker that ended is looked for no more often than this.
_LOOK_SECONDS = 1.0
_Result = TypeVar("_Result")


class Workers(ThreadPoolExecutor):
    """As `ThreadPoolExecutor`, for a machine without memory too.

    A thread that runs out of memory while it begins never says that it has begun, and one that
    does so between two calls leaves the next without an answer: Python waits for both for ever.

    Raises BackupError, from `submit` too, when a thread would have no room.
    """

    def __init__(self, count: int, name: str) -> None:
        super().__init__(count, thread_name_prefix=name)
        self._to_begin = count

    def submit(  # type: ignore[override]
        self, call: Callable[..., _Result], /, *arguments: Any
    ) -> Future[_Result]:
        """Have the call made by one of the threads; `result_of` gives what comes of it."""
        if self._to_begin:
            self._to_begin -= 1
            demand_memory(THREAD_BYTES)
        return super().submit(call, *arguments)

    def result_of(self, future: Future[_Result]) -> _Result:
        """What a call gave or raised, once it has ended.

        Raises MemoryError when a thread of the pool has ended, which none does by itself.
        """
        while True:
            try:
                return future.result(_LOOK_SECONDS)
            except TimeoutError:
                if not future.done() and not all(one.is_alive() for one in self._threads):
                    raise MemoryError("a thread has ended") from None
                if future.done():
                    return future.result()
