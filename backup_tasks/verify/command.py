"""The profile's own test of a restored tree: a program, run in it without a shell."""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from msgspec import Struct

from backup_tasks.common.printable import one_line
from backup_tasks.common.processes import end_group
from backup_tasks.errors import DrillError
from backup_tasks.verify.temporary_tree import signals_held

TAIL_LINES = 20
_TAIL_BYTES = 16 * 1024
_LINE_LENGTH = 300
_STEP_SECONDS = 0.2
# Environment variables may hold secrets: pass on only those that a program needs to run.
_PASSED_ON = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"}


class CommandResult(Struct, frozen=True):
    """How the command ended.

    Attributes:
        shown: the command, as one would type it.
        exit_code: negative for a signal; None if the command took too long and was ended.
        tail: the last lines of the output, fit to print.
    """

    shown: str
    exit_code: int | None
    tail: tuple[str, ...]
    timeout_seconds: int

    @property
    def passed(self) -> bool:
        """Whether the command found the tree to be good."""
        return self.exit_code == 0

    @property
    def outcome(self) -> str:
        """How the command ended, in words."""
        if self.exit_code is None:
            return f"took longer than {self.timeout_seconds} s and was ended"
        if self.exit_code < 0:
            return f"was ended by signal {-self.exit_code}"
        return f"ended with exit code {self.exit_code}"


def run_command(
    command: Sequence[str], tree: Path, timeout_seconds: int, secrets: Sequence[str]
) -> CommandResult:
    """Run the command in the tree and keep the end of its output.

    The command gets no input and few environment variables. It ends with this call, however the
    call ends, and so do all processes that it started.

    Args:
        secrets: texts to blot out of the output.

    Raises:
        DrillError: the command cannot be started.
    """
    shown = one_line(shlex.join(command))
    with contextlib.ExitStack() as guard:
        with signals_held():
            process = _start(command, tree, shown)
            guard.callback(end_group, process)
        output, is_cut, in_time = _read_tail(process, timeout_seconds)
    tail = _render_tail(output, secrets, is_cut=is_cut)
    return CommandResult(shown, process.returncode if in_time else None, tail, timeout_seconds)


def _start(command: Sequence[str], tree: Path, shown: str) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            cwd=tree,
            env=_bare_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise DrillError(
            f"drill.command {shown} cannot be started: {error.strerror}; it is looked for in PATH, "
            "or give its full path"
        ) from error


def _bare_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith("LC_")
    }


def _read_tail(process: subprocess.Popen[bytes], timeout_seconds: int) -> tuple[bytes, bool, bool]:
    """The end of the output, whether more came before, and whether the command ended in time.

    Does not wait for a process that the command left running and that holds the output open.
    """
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    os.set_blocking(descriptor, False)
    deadline = monotonic() + timeout_seconds
    tail = b""
    count = 0
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        is_open = True
        while monotonic() < deadline:
            has_ended = process.poll() is not None
            ready = selector.select(0 if has_ended else _STEP_SECONDS) if is_open else []
            if ready:
                piece = os.read(descriptor, 65536)
                is_open = bool(piece)
                tail = (tail + piece)[-_TAIL_BYTES:]
                count += len(piece)
            elif has_ended:
                return tail, count > len(tail), True
            if not is_open and not has_ended:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_STEP_SECONDS)
    return tail, count > len(tail), False


def _render_tail(output: bytes, secrets: Sequence[str], *, is_cut: bool) -> tuple[str, ...]:
    text = output.decode("utf-8", "surrogateescape")
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    if is_cut:  # perhaps in the middle of a secret
        text = text[max((len(secret) for secret in secrets), default=0) :]
    lines = [one_line(line)[:_LINE_LENGTH] for line in text.splitlines()]
    return tuple(line for line in lines if line)[-TAIL_LINES:]
