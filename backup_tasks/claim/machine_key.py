"""This machine's own signing key: made at first use, kept in the state directory."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backup_tasks.common.paths import Paths, make_private, sync_folder
from backup_tasks.common.printable import printable
from backup_tasks.common.state_files import read_kept, read_note, write_note
from backup_tasks.errors import BackupError
from backup_tasks.journal.run_record import RunRecord, open_log
from backup_tasks.keys.signing import (
    SigningKey,
    known_signing_key,
    make_signing_key,
    parse_public_key,
    parse_signing_key,
    render_public_key,
)
from backup_tasks.profile.model import Profile
from backup_tasks.snapshot.private_content import KnownContent, Private, parse_known, render_known

_NAME = "signing.key"
# A crash may leave this file; the next run writes it anew.
_NEW_NAME = "signing.key.new"
# Size and hash of every key that signed here: no copy of a former key may get into an archive.
_KNOWN_NAME = "signing.known"
# The public half, and the hash of the key file that it belongs to.
_PUBLIC_NAME = "signing.public"
_MOST_BYTES = 4096
_MOST_KNOWN_BYTES = 2**18


def key_file(state: Path) -> Path:
    """Where the key lies."""
    return state / _NAME


def private_files(state: Path) -> Private:
    """Content to keep out of archives: the key by place and content, and former keys by content."""
    own = state / _NAME, state / _NEW_NAME
    contents = {KnownContent.of(held) for held in map(_peek, own) if b"PRIVATE KEY" in held}
    return Private(own, frozenset(contents | _read_known(state)))


def _peek(file: Path, most_bytes: int = _MOST_BYTES) -> bytes:
    """A file's content; b"" if the file is missing, too large, or cannot be read."""
    try:
        return read_kept(file, most_bytes)
    except OSError:
        return b""


def _read_known(state: Path) -> set[KnownContent]:
    text = _peek(state / _KNOWN_NAME, _MOST_KNOWN_BYTES).decode("ascii", "replace")
    return parse_known(text.splitlines())


def _note_known(state: Path, key: SigningKey) -> None:
    """Remember this key, for the time when another has replaced it.

    Raises:
        OSError: the note cannot be written.
    """
    forms = {KnownContent.of(key.render_pem()), KnownContent.of(_peek(state / _NAME))}
    if new := {form for form in forms if form.size} - _read_known(state):
        how = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        with open(os.open(state / _KNOWN_NAME, how, 0o600), "ab") as file:
            # First end a line that a crash may have torn.
            file.write(("\n" + "".join(map(render_known, new))).encode("ascii"))


def _note_public(state: Path, key: SigningKey) -> None:
    """Remember the public half, so that runs that do not sign need not parse the key.

    Raises:
        OSError: the note cannot be written.
    """
    note = {"file": _hash(_peek(state / _NAME)), "key": render_public_key(key.public_key)}
    if _read_public(state) != note:
        write_note(state / _PUBLIC_NAME, note)


def _known_key(state: Path, pem: bytes) -> SigningKey | None:
    """The key in these bytes, if its public half was noted for exactly these bytes."""
    note = _read_public(state)
    try:
        if note["file"] == _hash(pem):
            return known_signing_key(pem, parse_public_key(note["key"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    return None


def _read_public(state: Path) -> Any:
    try:
        return read_note(state / _PUBLIC_NAME)
    except (OSError, ValueError):
        return {}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_own_key(state: Path) -> SigningKey | None:
    """Read this machine's key; None when none was made yet.

    Raises:
        BackupError: the file cannot be read, is no key of ours, or others may read it.
    """
    file = key_file(state)
    try:
        # Do not wait for the writer of a named pipe.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BackupError(
            f"the signing key {_place(file)} cannot be read: {error.strerror}; "
            "BACKUP_TASKS_STATE names another folder for it"
        ) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise BackupError(f"{_place(file)} is no file; {_REMEDY}")
    with open(descriptor, "rb") as opened:
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise BackupError(
                f"{_place(file)}, the private signing key, can be read by others: chmod 600 it; "
                "if somebody may have, remove it too, so that a new one is made"
            )
        pem = opened.read(_MOST_BYTES)
        try:
            return _known_key(state, pem) or parse_signing_key(pem)
        except ValueError as error:
            raise BackupError(f"{_place(file)} is no signing key: {error}; {_REMEDY}") from error


_REMEDY = "bring it back from a copy, or move it away: then the next backup makes a new key"


def open_own_key(state: Path) -> tuple[SigningKey, bool]:
    """The key, made if there is none yet; and whether it was made just now.

    If several runs need the first key at once, one makes it and all use it. A crash leaves the
    whole key or none. An existing key is never overwritten.

    Raises:
        BackupError: as `read_own_key`; or the state directory cannot be written.
    """
    if key := read_own_key(state):
        return key, False
    try:
        with _only_one(state) as new_file:
            key = read_own_key(state)
            if is_new := key is None:
                key = make_signing_key()
                _write_whole(new_file, key.render_pem())
                os.link(state / _NEW_NAME, key_file(state))
            # A run that waits for this file's lock then finds the key, and writes nothing.
            (state / _NEW_NAME).unlink(missing_ok=True)
            sync_folder(state)
            return key, is_new
    except OSError as error:
        raise BackupError(
            f"the signing key {_place(key_file(state))} cannot be made: {error.strerror}; "
            "BACKUP_TASKS_STATE names another folder for it"
        ) from error


def open_key_of_run(profile: Profile, paths: Paths, record: RunRecord) -> SigningKey:
    """The key for a backup of this profile.

    Logs a new key; warns in `record` of a key that the profile does not name.

    Raises:
        BackupError: as `open_own_key`.
    """
    key, is_new = open_own_key(paths.state)
    try:
        _note_known(paths.state, key)
        _note_public(paths.state, key)
    except OSError as error:
        place = _place(paths.state / _KNOWN_NAME)
        record.warnings.append(f"{place} cannot be written: {error.strerror}")
    public_key, wanted = render_public_key(key.public_key), profile.signing.public_key
    if is_new:
        open_log(paths).info(
            "backup %s: archives are signed from now on with this machine's new key; so that "
            'verify and restore notice forgeries, set in the profile: [signing] public_key = "%s"',
            profile.name,
            public_key,
        )
    if wanted and public_key not in wanted:
        record.warnings.append(
            f"signed by this machine's key {public_key}, which [signing] public_key does not name: "
            "restore and verify will refuse this archive until it does"
        )
    return key


@contextlib.contextmanager
def _only_one(state: Path) -> Iterator[int]:
    """Open the file that becomes the key, locked for one process at a time."""
    make_private(state)
    how = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    descriptor = os.open(state / _NEW_NAME, how, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _write_whole(descriptor: int, content: bytes) -> None:
    os.fchmod(descriptor, 0o600)
    os.ftruncate(descriptor, 0)
    while content:
        content = content[os.write(descriptor, content) :]
    os.fsync(descriptor)


def _place(file: Path) -> str:
    return printable(str(file))
