"""Make a new key pair: an identity file as age-keygen writes it, readable by its owner alone."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from backup_tasks.common.paths import home_folder, make_private, sync_folder
from backup_tasks.common.printable import printable
from backup_tasks.errors import UsageError


class NewKey(Struct, frozen=True):
    """The file with the private key, and the public key that belongs to it."""

    file: Path
    recipient: str


def default_identity_file(environ: dict[str, str] | os._Environ[str]) -> Path:
    """The default file for a new key, below the XDG base directory for configuration."""
    xdg = environ.get("XDG_CONFIG_HOME", "")
    base = Path(xdg) if xdg.startswith("/") else home_folder() / ".config"
    return base / "backup-tasks" / "key.txt"


def run_keygen(file: Path, now: datetime) -> NewKey:
    """Make an X25519 key and write it to a new file.

    A crash in the middle leaves a file without a whole key, which a later call does not overwrite.

    Raises:
        UsageError: the file exists already, and is left as it is; or it cannot be written.
    """
    import pyrage

    identity = pyrage.x25519.Identity.generate()
    recipient = str(identity.to_public())
    created = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = f"# created: {created}\n# public key: {recipient}\n{identity}\n"
    try:
        _make_folder(file.parent)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(descriptor)
        sync_folder(file.parent)
    except FileExistsError:
        raise UsageError(
            f"{printable(str(file))} is there already, and a key is never overwritten: backups "
            "made for it could not be opened any more. Choose another file with --output"
        ) from None
    except OSError as error:
        raise UsageError(f"{printable(str(file))} cannot be written: {error.strerror}") from None
    return NewKey(file, recipient)


def _make_folder(folder: Path) -> None:
    try:
        make_private(folder)
    except FileExistsError as error:
        raise NotADirectoryError(error.errno, "the folder above it is a file") from None


def render_new_key(key: NewKey) -> str:
    """Tell the operator where the key lies, what to do with it, and what losing it means."""
    shown = printable(str(key.file))
    return f"""\
wrote the private key to {shown}
public key: {key.recipient}

Whoever has this file can read every backup that is made for it. If it is lost, and no other
recipient has a key, these backups are lost too: nobody can help. Keep a copy elsewhere, on paper
or in a password manager, and not only on the server that is backed up. In the profile:

[encryption]
recipients = ["{key.recipient}"]

then: invoke key-check --profile NAME --identity {shown}"""
