"""Keys for encrypted backups, made by the tools that people make them with."""

from __future__ import annotations

import os
import pty
import select
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# For a hang alone.
_HANGS_SECONDS = 60
KINDS = ("X25519", "ssh-ed25519", "ssh-rsa")


@dataclass(frozen=True)
class KeyPair:
    """A file with a private key, and the public key as a profile names it."""

    file: Path
    recipient: str


def make_key(folder: Path, kind: str = "X25519", name: str = "key") -> KeyPair:
    """A new key of one of KINDS, by age-keygen or ssh-keygen."""
    file = folder / f"{name}.txt"
    if kind == "X25519":
        run("age-keygen", "-o", file)
        return KeyPair(file, run("age-keygen", "-y", file).decode().strip())
    run("ssh-keygen", "-q", "-t", kind.removeprefix("ssh-"), "-N", "", "-C", "me@here", "-f", file)
    return KeyPair(file, file.with_name(f"{name}.txt.pub").read_text().strip())


def run(*command: str | Path, content: bytes = b"") -> bytes:
    """What a program prints that must succeed."""
    done = subprocess.run(command, input=content, capture_output=True, check=True)
    return done.stdout


def decrypt(archive: Path, key: Path) -> bytes:
    """The ordinary .tar.gz in an encrypted archive, by GNU tar and age alone."""
    return run("tar", "xf", archive, f"--to-command=age -d -i {key}")


def recover(archive: Path, key: Path, target: Path) -> Path:
    """What GNU tar and age alone make of an encrypted archive, and the shell's verdict on it."""
    target.mkdir()
    script = f"cat '{archive}' | tar x --to-command='age -d -i {key}' | tar xz -C '{target}'"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    return target


def protect(key: Path, passphrase: str, *options: str) -> Path:
    """A copy of a key file that `age -p` encrypted."""
    protected = key.with_name(f"{key.name}.age")
    command = ["age", "-p", *options, "-o", str(protected), str(key)]
    code, said = on_terminal(command, [("passphrase", passphrase), ("onfirm", passphrase)])
    assert code == 0, said
    return protected


def on_terminal(
    command: Sequence[str],
    answers: Sequence[tuple[str, str]],
    *,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run a program on a terminal of its own.

    Args:
        answers: what to type, each once its question was seen.

    Returns:
        The exit code, and all that stood on the terminal.
    """
    child, terminal = pty.fork()
    if child == 0:  # the child, on the terminal
        try:
            os.chdir(cwd or ".")
            os.execvpe(command[0], command, dict(os.environ if environ is None else environ))
        finally:
            os._exit(127)
    said, waiting, seen = b"", list(answers), 0
    try:
        while True:
            ready, _, _ = select.select([terminal], [], [], _HANGS_SECONDS)
            assert ready, f"nothing more comes after {said!r}"
            try:
                piece = os.read(terminal, 4096)
            except OSError:  # Linux: the program has closed its end
                break
            if not piece:
                break
            said += piece
            if waiting and waiting[0][0].encode() in said[seen:]:
                seen = len(said)
                os.write(terminal, waiting.pop(0)[1].encode() + b"\n")
    finally:
        os.close(terminal)
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said.decode(errors="replace")
