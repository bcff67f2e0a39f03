"""A thread pool that reports every failure to the thread that waits for a result."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from backup_tasks.common.memory import THREAD_BYTES, demand_memory

# How often to look for a worker that has ended.
_LOOK_SECONDS = 1.0
_Result = TypeVar("_Result")


class Workers(ThreadPoolExecutor):
    """A `ThreadPoolExecutor` that also works on a machine short of memory.

    A thread that runs out of memory at its start never signals that it has begun. A thread that
    runs out of memory between two calls leaves the next call without an answer. Python itself
    waits for ever in both cases.
    """

    def __init__(self, count: int, name: str) -> None:
        super().__init__(count, thread_name_prefix=name)
        self._to_begin = count

    def submit(  # type: ignore[override]
        self, call: Callable[..., _Result], /, *arguments: Any
    ) -> Future[_Result]:
        """Run the call on one of the threads; `result_of` returns its result.

        Raises:
            BackupError: there is too little memory for another thread.
        """
        if self._to_begin:
            self._to_begin -= 1
            demand_memory(THREAD_BYTES)
        return super().submit(call, *arguments)

    def result_of(self, future: Future[_Result]) -> _Result:
        """Wait for a call; return its result, or raise its error.

        Raises:
            MemoryError: a thread of the pool has ended, which no thread does by itself.
        """
        while True:
            try:
                return future.result(_LOOK_SECONDS)
            except TimeoutError:
                if not future.done() and not all(one.is_alive() for one in self._threads):
                    raise MemoryError("a thread has ended") from None
                if future.done():
                    return future.result()
