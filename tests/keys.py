"""Keys for encrypted backups, made by the tools that people make them with."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

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
