"""Without memory a command ends soon, with one line that says so: no traceback, no waiting."""

from __future__ import annotations

import concurrent.futures.thread
import resource
import shutil
import subprocess
import threading
from pathlib import Path
from typing import NoReturn

import pytest

from backup_tasks.chunks import reader
from backup_tasks.chunks.reader_process import WORTH_A_PROCESS, read_chunks_apart
from backup_tasks.common import memory
from backup_tasks.common.memory import explain_memory
from backup_tasks.common.workers import Workers
from backup_tasks.errors import BackupError
from backup_tasks.stores.directory import DirectoryStore
from tests.support.chunks import laid_out
from tests.support.cli import Cli, cli
from tests.support.histories import noise

__all__ = ["cli"]

_SOON_SECONDS = 100
COMMANDS = {
    "backup": (),
    "restore": ("--to", "target"),
    "verify": (),
    "files": (),
    "list": (),
    "drill": (),
}


@pytest.fixture
def filled(cli: Cli) -> Cli:
    """A backup of enough chunks for a process that reads them."""
    for number in range(40):
        (cli.source / f"file{number}").write_bytes(noise(number, 900_000))
    cli.write_profile()
    cli.back_up()
    return cli


def run_within(cli: Cli, mebibytes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (mebibytes * 2**20, mebibytes * 2**20))

    return subprocess.run(
        cli.command(arguments[0], "--profile", "test", *arguments[1:]),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cli.here,
        env=cli.environ,
        preexec_fn=limit,
        timeout=_SOON_SECONDS,
        check=False,
    )


def test_a_command_without_memory_says_so_in_one_line(filled: Cli) -> None:
    for name, arguments in COMMANDS.items():
        for mebibytes in (80, 150) if name in ("restore", "verify") else (80,):
            done = run_within(filled, mebibytes, name, *arguments)
            place = (name, mebibytes, done)
            if done.returncode:
                assert done.returncode == 1, place
                assert len(done.stderr.splitlines()) == 1, place
                assert "out of memory" in done.stderr, place
            else:
                assert done.stderr == "", place
            for path in (filled.here / "target").rglob("*"):
                whole = Path("/") / path.relative_to(filled.here / "target")
                assert not path.is_file() or path.read_bytes() == whole.read_bytes(), place
            shutil.rmtree(filled.here / "target", ignore_errors=True)
    failures = [record["error"] for record in filled.records() if record["exit_code"]]
    assert failures
    assert all(error.startswith("out of memory") for error in failures)


def test_a_worker_that_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(item: object) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(concurrent.futures.thread._WorkItem, "run", run_out)
    with Workers(2, "test") as pool, pytest.raises(MemoryError, match="a thread has ended"):
        pool.result_of(pool.submit(int))


def test_a_call_that_takes_its_time_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backup_tasks.common.workers._LOOK_SECONDS", 0.001)
    go_on = threading.Event()
    with Workers(1, "test") as pool:
        future = pool.submit(go_on.wait)
        threading.Timer(0.05, go_on.set).start()
        assert pool.result_of(future) is True
        timed_out = pool.submit(_time_out)
        with pytest.raises(TimeoutError, match="of the call itself"):
            pool.result_of(timed_out)


def _time_out() -> NoReturn:
    raise TimeoutError("of the call itself")


def test_a_thread_that_has_no_room_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "is_there", lambda length: False)
    with Workers(1, "test") as pool, pytest.raises(BackupError, match="out of memory"):
        pool.submit(int)
    assert not pool._threads


def test_a_reading_process_without_memory_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, chunks = laid_out([noise(number, 1000) for number in range(WORTH_A_PROCESS)])
    (tmp_path / "x.tar.gz").write_bytes(packed)
    store = DirectoryStore(tmp_path)

    def run_out(stored: bytes, raw_length: int) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(reader, "decompress_chunk", run_out)
    reading = read_chunks_apart(store, store.stat("x.tar.gz"), chunks, range(len(chunks)))
    with pytest.raises((BackupError, MemoryError)) as caught:
        next(reading)
    reading.close()
    assert explain_memory(caught.value).startswith("out of memory")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
        ImportError("x.so: failed to map segment from shared object"),
    ],
)
def test_a_lack_of_memory_is_known_by_its_errors(error: Exception) -> None:
    assert explain_memory(error).startswith("out of memory")
    wrapped = ValueError("while something else was done")
    wrapped.__context__ = error
    assert explain_memory(wrapped).startswith("out of memory")
    assert explain_memory(ValueError("a bug")) == ""
