"""Read chunks in another process, so that the writer does not share the GIL.

Python runs one thread at a time: threads that fetch, check and unpack would pass the lock to and
from the writing thread a thousand times a second. A forked process has a lock of its own. Raw
bytes lie in shared memory, and a pipe says which chunk lies there. The reader ends at once when
the pipe is closed, and when its parent ends in any way.

A restore of 125,842 entries that takes 11 s takes 0.5 to 1.5 s less this way (docs/performance.md).
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Protocol, Self

from backup_tasks.chunks.compress import CHUNK_BYTES
from backup_tasks.chunks.reader import ALONE_BYTES, ReadChunk, read_chunks
from backup_tasks.common.memory import THREAD_BYTES, demand_memory, explain_memory
from backup_tasks.errors import ENDING_SIGNALS, BackupError, StoreError
from backup_tasks.format.manifest import Chunk
from backup_tasks.keys.identities import NO_KEYS, Keyring
from backup_tasks.stores.base import Store, StoredObject

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

# Fewer chunks are read before a process would pay off.
WORTH_A_PROCESS = 32
# Chunks that lie in the shared memory, besides those that wait in the reader itself.
_SLOTS = 6
# The reader yields to its parent where both want the same core: it is ahead most of the time.
_NICENESS = 5

_Reading = Callable[[], Generator[ReadChunk, None, None]]


class ReadChunks(Protocol):
    """Iterates over chunks, in whichever process they are read."""

    def __iter__(self) -> Iterator[ReadChunk]: ...

    def __next__(self) -> ReadChunk: ...

    def close(self) -> None:
        """Stop reading."""


class _Told(NamedTuple):
    """The reader's message about a chunk.

    Attributes:
        length: how many raw bytes there are; they lie in the next slot.
        too_long: all raw bytes, if they are too many for a slot; else empty.
    """

    number: int
    damage: str
    length: int
    too_long: bytes
    fetched_again: bool


def read_chunks_apart(
    store: Store,
    stored: StoredObject,
    chunks: Sequence[Chunk],
    numbers: Sequence[int],
    keys: Keyring = NO_KEYS,
) -> ReadChunks:
    """As `read_chunks`, but another process reads if there are many chunks and a second core.

    That process begins at once. There is none for very long chunks, which both processes would
    hold in memory. A chunk's bytes are valid until the next chunk is asked for. The caller closes
    the iterator.

    Raises:
        StoreError: while iterating: the store fails, or somebody else ended the process.
        IdentityError: while iterating, as `read_chunks`.
    """
    reading = partial(read_chunks, store, stored, chunks, numbers, keys)
    is_worth_it = (
        len(numbers) >= WORTH_A_PROCESS
        and len(os.sched_getaffinity(0)) > 1
        and not any(chunks[number].raw > ALONE_BYTES for number in numbers)
    )
    reader = _Reader.start(store, reading, stored.name) if is_worth_it else None
    return reader or reading()


class _Reader:
    """The reading process, as its parent sees it."""

    def __init__(self, process: int, pipe: Connection, slots: memoryview, archive: str) -> None:
        self._process, self._pipe, self._slots, self._archive = process, pipe, slots, archive
        self._taken = 0
        self._exit_code: int | None = None

    @classmethod
    def start(cls, store: Store, reading: _Reading, archive: str) -> Self | None:
        """Start the process; None if the system allows no more processes."""
        # Imported here, as most runs do not need it.
        from multiprocessing.connection import Pipe

        slots = memoryview(mmap.mmap(-1, _SLOTS * CHUNK_BYTES))
        ours, theirs = Pipe()
        # A signal that asks for the end must not be raised in both processes.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
        try:
            process = _fork()
            if not process:
                ours.close()
                _be_the_reader(theirs, slots, store, reading)
        except OSError:
            ours.close()
            return None
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        return cls(process, ours, slots, archive)

    def __iter__(self) -> Iterator[ReadChunk]:
        return self

    def __next__(self) -> ReadChunk:
        if self._pipe.closed:
            raise StopIteration
        if self._taken:  # the slot of the chunk before is free now
            with contextlib.suppress(ConnectionError):  # `_receive` reports it
                self._pipe.send_bytes(b"")
        told = self._receive()
        if not isinstance(told, _Told):
            self.close()
            raise told or StopIteration
        raw = _slot(self._slots, self._taken)[: told.length]
        self._taken += 1
        return ReadChunk(told.number, told.too_long or raw, told.damage, told.fetched_again)

    def _receive(self) -> _Told | Exception | None:
        try:
            told: _Told | Exception | None = self._pipe.recv()
        except (EOFError, ConnectionError):
            self.close()
            raise StoreError(
                f"{self._archive}: the process that read it was ended from outside "
                f"({_describe_exit(self._exit_code)}); is there enough memory? Run again, with "
                "--overwrite never"
            ) from None
        return told

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._pipe.close()
        if self._exit_code is None:
            with contextlib.suppress(ChildProcessError):  # where SIGCHLD is ignored
                self._exit_code = os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])


def _fork() -> int:
    with warnings.catch_warnings():
        # From 3.12 on Python warns of other threads, whose locks would stay shut in the child. A
        # progress bar's thread is the only one here, and the reader shows nothing.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _slot(slots: memoryview, number: int) -> memoryview:
    """The slot of a chunk, given as its place in the order of reading, from 0."""
    start = number % _SLOTS * CHUNK_BYTES
    return slots[start : start + CHUNK_BYTES]


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return "nobody knows how"
    return signal.Signals(-exit_code).name


def _be_the_reader(
    pipe: Connection, slots: memoryview, store: Store, reading: _Reading
) -> NoReturn:
    """Do all the work of the new process, and end it."""
    try:
        for number in ENDING_SIGNALS:
            # A terminal and systemd signal both processes; the parent decides for both.
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
        gc.freeze()  # else collecting the parent's objects would copy the memory they lie in
        with contextlib.suppress(OSError):
            os.nice(_NICENESS)
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        free = threading.Semaphore(_SLOTS)
        demand_memory(THREAD_BYTES)
        watch = threading.Thread(target=_watch_parent, args=(pipe, free))
        watch.start()
        try:
            store.after_fork()
            _deliver(pipe, slots, free, reading())
        except Exception as error:
            pipe.send(_to_send(error))
        watch.join()
    finally:
        os._exit(1)


def _deliver(
    pipe: Connection, slots: memoryview, free: threading.Semaphore, chunks: Iterator[ReadChunk]
) -> None:
    for number, chunk in enumerate(chunks):
        free.acquire()
        length = len(chunk.raw)
        fits = length <= CHUNK_BYTES
        if fits:
            _slot(slots, number)[:length] = chunk.raw
        too_long = b"" if fits else bytes(chunk.raw)
        pipe.send(_Told(chunk.number, chunk.damage, length, too_long, chunk.fetched_again))
    pipe.send(None)


def _watch_parent(pipe: Connection, free: threading.Semaphore) -> None:
    """Free slots until the parent has closed its end, or has ended; then end the process."""
    try:
        while True:
            pipe.recv_bytes()
            free.release()
    finally:
        os._exit(0)


def _to_send(error: Exception) -> Exception:
    """The error itself if it is meant for the operator; a bug as text with its traceback."""
    if isinstance(error, BackupError | OSError):
        return error
    if why := explain_memory(error):
        return BackupError(why)
    return RuntimeError("in the process that reads:\n" + "".join(traceback.format_exception(error)))
