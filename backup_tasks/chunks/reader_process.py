"""Read chunks in a process of its own, so that whoever writes files has an interpreter alone.

Python runs one thread at a time: beside the one that writes, those that fetch, check and unpack
hand the interpreter's lock to and fro a thousand times a second. In a forked process they do not.
Raw bytes lie in memory that both processes see, and a pipe says which chunk lies there. When the
pipe is closed the reader ends, whatever it is at; so it does when its parent ends in any way.
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

# Fewer are read before a process would be of use.
WORTH_A_PROCESS = 32
# Chunks that lie in the shared memory, beyond those that wait in the reader itself.
_SLOTS = 6
# Weaker than its parent where both want the same core, for it is ahead most of the time.
_NICENESS = 5

_Reading = Callable[[], Generator[ReadChunk, None, None]]


class ReadChunks(Protocol):
    """Chunks that come one after the other, from wherever they are read."""

    def __iter__(self) -> Iterator[ReadChunk]: ...

    def __next__(self) -> ReadChunk: ...

    def close(self) -> None:
        """Read no more."""


class _Told(NamedTuple):
    """What the reader says of a chunk: how many bytes of it lie in the next slot, or all of them
    where they are too many for one."""

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
    """As `read_chunks`, but many chunks are read by another process where there is a core for it,
    and it begins at once; not where there are very long ones, which two processes would hold.

    The bytes of a chunk are good until the next one is asked for. Whoever keeps it closes it.

    What is returned raises what `read_chunks` does, and StoreError when the process was ended by
    others.
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
        """None where there can be no more processes."""
        # Imported here: most runs need none of it.
        from multiprocessing.connection import Pipe

        slots = memoryview(mmap.mmap(-1, _SLOTS * CHUNK_BYTES))
        ours, theirs = Pipe()
        # What asks for the end is not to be raised in both processes.
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
        if self._taken:  # the slot of the one before is free
            with contextlib.suppress(ConnectionError):  # `_receive` says so
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
        """End it, wherever it is."""
        self._pipe.close()
        if self._exit_code is None:
            with contextlib.suppress(ChildProcessError):  # whoever ignores SIGCHLD has no children
                self._exit_code = os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])


def _fork() -> int:
    with warnings.catch_warnings():
        # From 3.12 on Python warns of other threads, whose locks nobody would open again. A
        # progress bar's is the only one here, and the reader shows nothing.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _slot(slots: memoryview, number: int) -> memoryview:
    """The one for the chunk that comes so many after the first."""
    start = number % _SLOTS * CHUNK_BYTES
    return slots[start : start + CHUNK_BYTES]


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return "nobody knows how"
    return signal.Signals(-exit_code).name


def _be_the_reader(
    pipe: Connection, slots: memoryview, store: Store, reading: _Reading
) -> NoReturn:
    """All that the new process does."""
    try:
        for number in ENDING_SIGNALS:
            # A terminal and systemd tell both processes; the parent decides for both.
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
        gc.freeze()  # to look through what was there before would copy the memory that it is in
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
    """Take back slots until the parent has closed its end, or has ended."""
    try:
        while True:
            pipe.recv_bytes()
            free.release()
    finally:
        os._exit(0)


def _to_send(error: Exception) -> Exception:
    """The error itself if it is for the operator; a bug of ours with its traceback as text."""
    if isinstance(error, BackupError | OSError):
        return error
    if why := explain_memory(error):
        return BackupError(why)
    return RuntimeError("in the process that reads:\n" + "".join(traceback.format_exception(error)))
