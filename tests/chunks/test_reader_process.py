"""Reading chunks in another process: the same chunks, and nothing of it left however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from backup_tasks.chunks.compress import CHUNK_BYTES
from backup_tasks.chunks.reader import ReadChunk
from backup_tasks.chunks.reader_process import _SLOTS, WORTH_A_PROCESS, read_chunks_apart
from backup_tasks.common.progress import SilentProgress
from backup_tasks.errors import ArchiveError, ObjectChanged, StoreError
from backup_tasks.format.manifest import Entry
from backup_tasks.restore.request import RestoreRequest
from backup_tasks.restore.run_restore import run_restore
from backup_tasks.stores.base import Store, StoredObject
from backup_tasks.stores.directory import DirectoryStore
from tests.support import attacks
from tests.support.attacks import Item, forge_ours
from tests.support.chunks import laid_out

NAME = "x.tar.gz"
MANY = 4 * WORTH_A_PROCESS


def children() -> list[int]:
    """The processes that this one has started and that have not been waited for."""
    tasks = f"/proc/{os.getpid()}/task"
    found = []
    for task in os.listdir(tasks):
        with contextlib.suppress(FileNotFoundError):  # a thread that ended
            found += Path(tasks, task, "children").read_text().split()
    return sorted(map(int, found))


def is_there(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def noise(count: int, size: int = 2**18) -> list[bytes]:
    rng = random.Random(count)
    return [rng.randbytes(size) for _ in range(count)]


@pytest.fixture
def before() -> list[int]:
    return children()


class Placed:
    """An object in a folder that holds these chunks, and its table."""

    def __init__(self, folder: Path, raw_chunks: Sequence[bytes]) -> None:
        packed, self.chunks = laid_out(raw_chunks)
        folder.mkdir(exist_ok=True)
        (folder / NAME).write_bytes(packed)
        self.store = DirectoryStore(folder)
        self.stored = self.store.stat(NAME)

    def read(self, store: Store | None = None) -> Generator[ReadChunk, None, None]:
        numbers = range(len(self.chunks))
        return read_chunks_apart(store or self.store, self.stored, self.chunks, numbers)


def wait_until_it_may_not_go_on(reading: object, left: int) -> None:
    """Wait until the reader has told of as many chunks as it has room for, or of all `left`."""
    # One slot is still used here; after the last chunk it says that this was all.
    most = min(_SLOTS - 1, left + 1)
    with socket.socket(fileno=os.dup(reading._pipe.fileno())) as pipe:  # type: ignore[attr-defined]
        while count_messages(pipe.recv(2**20, socket.MSG_PEEK)) < most:
            time.sleep(0.0005)


def count_messages(waiting: bytes) -> int:
    """How many of multiprocessing's messages are there: each has its length in front."""
    count = place = 0
    while place < len(waiting):
        (length,) = struct.unpack_from("!i", waiting, place)
        place += 4 + length
        count += 1
    return count


def test_they_are_the_same_chunks_from_another_process(tmp_path: Path, before: list[int]) -> None:
    raw_chunks = noise(MANY)
    placed = Placed(tmp_path, raw_chunks)
    taken = 0
    reading = placed.read()
    for chunk in reading:
        assert len(children()) == len(before) + 1
        # Until the next is asked for, however far the reader has run ahead.
        wait_until_it_may_not_go_on(reading, MANY - taken - 1)
        assert (chunk.number, bytes(chunk.raw), chunk.damage) == (taken, raw_chunks[taken], "")
        taken += 1
    assert taken == MANY
    assert next(reading, None) is None
    assert children() == before


def test_only_the_wanted_ones_come(tmp_path: Path) -> None:
    raw_chunks = noise(MANY)
    placed = Placed(tmp_path, raw_chunks)
    wanted = range(1, MANY, 3)
    got = {
        chunk.number: bytes(chunk.raw)
        for chunk in read_chunks_apart(placed.store, placed.stored, placed.chunks, wanted)
    }
    assert got == {number: raw_chunks[number] for number in wanted}


def test_a_chunk_too_long_for_shared_memory_comes_all_the_same(tmp_path: Path) -> None:
    raw_chunks = noise(MANY, 2**10)
    for number in (0, 7, 8, MANY - 1):
        raw_chunks[number] = random.Random(number).randbytes(CHUNK_BYTES + 1 + number)
    raw_chunks[9] = random.Random(9).randbytes(CHUNK_BYTES)
    raw_chunks[10] = b""
    placed = Placed(tmp_path, raw_chunks)
    assert [bytes(chunk.raw) for chunk in placed.read()] == raw_chunks


def test_damage_is_told_of_the_chunk_that_has_it(tmp_path: Path) -> None:
    placed = Placed(tmp_path, noise(MANY))
    content = bytearray((tmp_path / NAME).read_bytes())
    content[placed.chunks[5].offset + 100] ^= 1
    (tmp_path / NAME).write_bytes(content)
    placed.stored = placed.store.stat(NAME)
    damaged = {chunk.number: chunk.damage for chunk in placed.read() if chunk.damage}
    assert damaged == {5: "its hash is wrong"}


def test_few_chunks_are_read_here(tmp_path: Path, before: list[int]) -> None:
    placed = Placed(tmp_path, noise(WORTH_A_PROCESS - 1))
    for chunk in placed.read():
        assert isinstance(chunk.raw, bytes)
        assert children() == before


def test_one_processor_reads_them_here(
    tmp_path: Path, before: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    for _ in Placed(tmp_path, noise(MANY)).read():
        assert children() == before


def test_where_there_can_be_no_more_processes_they_are_read_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    raw_chunks = noise(MANY)
    placed = Placed(tmp_path, raw_chunks)
    descriptors = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "fork", refuse)
    assert [chunk.raw for chunk in placed.read()] == raw_chunks
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)


def test_the_store_s_error_is_raised_here(tmp_path: Path, before: list[int]) -> None:
    placed = Placed(tmp_path, noise(MANY))
    placed.stored = replace(placed.stored, etag="another one")
    with pytest.raises(ObjectChanged, match=f"{NAME} was replaced") as kept:
        next(placed.read())
    assert children() == before, kept


class Buggy(DirectoryStore):
    def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
        raise KeyError("no such thing")


def test_a_bug_in_the_reader_is_a_bug_here_and_says_where(
    tmp_path: Path, before: list[int]
) -> None:
    placed = Placed(tmp_path, noise(MANY))
    with pytest.raises(RuntimeError, match=r"(?s)in read_range.*KeyError: 'no such thing'"):
        next(placed.read(Buggy(tmp_path)))
    assert children() == before


def test_a_reader_that_is_killed_is_one_clear_line(tmp_path: Path, before: list[int]) -> None:
    reading = Placed(tmp_path, noise(MANY)).read()
    next(reading)
    (reader,) = set(children()) - set(before)
    os.kill(reader, signal.SIGKILL)
    with pytest.raises(
        StoreError,
        match=rf"^{NAME}: .* from outside \(SIGKILL\); .* Run again, with --overwrite never$",
    ):
        for _ in reading:
            pass
    assert children() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_for_the_whole_group_is_the_parent_s_to_obey(
    tmp_path: Path, before: list[int], number: signal.Signals
) -> None:
    reading = Placed(tmp_path, noise(MANY)).read()
    next(reading)
    (reader,) = set(children()) - set(before)
    os.kill(reader, number)
    assert sum(1 for _ in reading) == MANY - 1


class Hanging(DirectoryStore):
    """A server that does not answer any more."""

    def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
        if start:
            time.sleep(3600)
        return super().read_range(source, start, length)


def test_closing_ends_a_reader_that_waits_for_its_server(tmp_path: Path, before: list[int]) -> None:
    placed = Placed(tmp_path, noise(MANY))
    with closing(placed.read(Hanging(tmp_path))) as reading:
        next(reading)
        assert len(children()) == len(before) + 1
        wait_until_it_may_not_go_on(reading, MANY - 1)
    assert children() == before


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_restore_of_many_chunks_has_such_a_reader_and_leaves_none(
    tmp_path: Path, before: list[int], is_damaged: bool
) -> None:
    seen: set[int] = set()

    class Looks(SilentProgress):
        def advance(self, bytes_done: int = 0, files_done: int = 0) -> None:
            seen.update(children())

    items = [Item(f"f{number:03}", content=b"%d" % number) for number in range(MANY)]
    archive = bytearray(forge_ours(items))
    if is_damaged:
        chunk = next(line for line in attacks.read_lines(bytes(archive)) if line.get("offset"))
        archive[chunk["offset"] + 30] ^= 1
    store, backup = attacks.put(tmp_path / "store", bytes(archive))
    request = RestoreRequest((), tmp_path / "target")
    with pytest.raises(ArchiveError) if is_damaged else contextlib.nullcontext():
        run_restore(store, backup, request, Looks())
    assert len(seen - set(before)) == 1
    assert children() == before
    restored = {path.name: path.read_bytes() for path in (tmp_path / "target").iterdir()}
    assert restored == {item.path: item.content for item in items[: 1 if is_damaged else MANY]}


def test_a_manifest_that_turns_out_wrong_leaves_no_reader_and_no_file(
    tmp_path: Path, before: list[int]
) -> None:
    def lies(entry: Entry) -> None:
        entry.chunk = MANY

    items = [Item(f"f{number:03}") for number in range(MANY - 1)] + [Item("last", claim=lies)]
    store, backup = attacks.put(tmp_path / "store", forge_ours(items))
    # All is wanted, so that reading begins before the last of its lines is seen.
    with pytest.raises(ArchiveError, match="names a chunk that is not there"):
        run_restore(store, backup, RestoreRequest((), tmp_path / "target"), SilentProgress())
    assert children() == before
    assert list((tmp_path / "target").iterdir()) == []


PARENT = """
import sys, time
from pathlib import Path
from tests.chunks.test_reader_process import Hanging, Placed, children, noise, MANY

reading = Placed(Path(sys.argv[1]), noise(MANY)).read(Hanging(Path(sys.argv[1])))
next(reading)
print(*children(), flush=True)
time.sleep(3600)
"""


def test_a_reader_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        reader = int(parent.stdout.readline())
        assert is_there(reader)
        parent.kill()
        # The pipe is at its end when nobody holds its other end any more, the reader last of all.
        assert parent.stdout.read() == ""
    until = time.monotonic() + 20
    while is_there(reader) and time.monotonic() < until:
        time.sleep(0.01)
    assert not is_there(reader)
