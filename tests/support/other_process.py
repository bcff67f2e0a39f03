"""Functions called in a process of their own: of another user, or killed in the middle."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

IS_ROOT = os.geteuid() == 0
# Debian's own, there on every machine, and with a name.
NOBODY = 65534
Result = TypeVar("Result")

# Forked from a process that has no threads: a lock that another thread held would never open.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.support.backups", "tests.support.source_trees"])
# What is imported only when it is used: the interpreter may lie where others cannot read.
_LATE = (
    "_strptime",
    "encodings.idna",
    "encodings.utf_8_sig",
    "pathspec",
    "backup_tasks.profile.problems",
    "backup_tasks.stores.directory_writer",
    "tests.support.attacks",
)


@contextlib.contextmanager
def public_folder() -> Iterator[Path]:
    """A temporary folder that every user may enter, as those of pytest are not."""
    made = Path(tempfile.mkdtemp(prefix="test-public-", dir="/tmp"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        subprocess.run(["rm", "-rf", made], check=True)


def as_nobody(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call it in a process of an ordinary user, and return what it returned.

    The function must be one of a module's top level.
    """
    ours, theirs = _PROCESSES.Pipe(duplex=False)
    child = _PROCESSES.Process(target=_call_as_nobody, args=(theirs, function, arguments))
    child.start()
    theirs.close()
    try:
        is_good, result = ours.recv()
    except EOFError:
        is_good, result = False, "it died"
    child.join()
    if not is_good:
        raise AssertionError(result)
    return result  # type: ignore[no-any-return]


def _call_as_nobody(
    told: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    try:
        for name in _LATE:
            importlib.import_module(name)
        if IS_ROOT:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        told.send((True, function(*arguments)))
    except BaseException as error:
        told.send((False, f"{type(error).__name__}: {error}"))


def killed_after(
    calls: int, names: Collection[str], function: Callable[..., Any], *arguments: Any
) -> bool:
    """Call it in a process that kills itself right after so many calls of these functions of
    `os`. Returns whether it came to that."""
    child = _PROCESSES.Process(target=_call_until, args=(calls, names, function, arguments))
    child.start()
    child.join()
    return child.exitcode == -signal.SIGKILL


def _call_until(
    calls: int, names: Collection[str], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    left = calls

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal left
            result = real(*args, **options)
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in names:
        setattr(os, name, counted(getattr(os, name)))
    function(*arguments)
