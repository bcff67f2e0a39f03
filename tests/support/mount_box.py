"""A mount namespace in which a test mounts and unmounts what it likes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.cli import Cli, Done

_IS_ROOT = os.geteuid() == 0


@dataclass(frozen=True)
class MountBox:
    """Runs programs in the namespace; whatever it mounts is gone with it."""

    pid: int

    def run(self, *words: str | Path) -> None:
        """Run a program that must succeed, such as mount."""
        subprocess.run([*self._enter(), *map(str, words)], check=True)

    def invoke(self, cli: Cli, *arguments: str | Path) -> Done:
        """`Cli.run`, in the namespace."""
        return _Inside(**vars(cli), prefix=self._enter()).run(*arguments)

    def _enter(self) -> list[str]:
        spaces = f"/proc/{self.pid}/ns"
        user = [] if _IS_ROOT else [f"--user={spaces}/user", "--preserve-credentials"]
        return ["nsenter", f"--mount={spaces}/mnt", *user, "--"]


@dataclass
class _Inside(Cli):
    prefix: list[str] = dataclasses.field(default_factory=list)

    def command(self, *arguments: str | Path) -> list[str]:
        return [*self.prefix, *super().command(*arguments)]


@contextlib.contextmanager
def open_mount_box() -> Iterator[MountBox]:
    """A namespace, until the block ends."""
    # cat ends by itself with our end of the pipe, whatever happens to us.
    holding = subprocess.Popen(
        ["unshare", "-m" if _IS_ROOT else "-rm", "sh", "-c", "echo $$; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holding.stdout
    try:
        yield MountBox(int(holding.stdout.readline()))
    finally:
        holding.terminate()
        holding.communicate(timeout=30)
