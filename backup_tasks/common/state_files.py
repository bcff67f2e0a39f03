"""Names of what is kept in the state directory, and how it is read: whatever lies there now.

A bad disk, a copy that was restored or a slip of a hand may have put anything in a file's place.
No pipe is waited for, and nothing is read of what is larger than it can be.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
from pathlib import Path
from typing import IO, Any

from backup_tasks.common.paths import make_private, sync_folder
from backup_tasks.common.temporary import writes_to

# The largest note names some recipients or uploads.
_NOTE_BYTES = 2**20


def state_key(profile: str, store_url: str) -> str:
    """A file name for what belongs to one profile and its store together."""
    return hashlib.sha256(f"{profile}\0{store_url}".encode()).hexdigest()[:16]


def open_kept(file: Path) -> IO[bytes]:
    """The file, to read. Raises OSError, also for what is no regular file."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(file))
    return open(descriptor, "rb")


def read_kept(file: Path, most_bytes: int) -> bytes:
    """What the file holds. Raises OSError, also for one that holds more."""
    with open_kept(file) as opened:
        content = opened.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(file))
    return content


def read_note(file: Path) -> Any:
    """What a small file of JSON says. Raises OSError, ValueError."""
    return parse_note(read_kept(file, _NOTE_BYTES))


def parse_note(content: bytes) -> Any:
    """What such a file says. Raises ValueError."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def write_note(file: Path, note: Any) -> None:
    """Write such a file anew, as `write_state_file` does. Raises OSError."""
    write_state_file(file, json.dumps(note, indent=1, sort_keys=True).encode())


def write_state_file(file: Path, content: bytes) -> None:
    """Write a file anew, to stay; a crash leaves the old or the new one. Raises OSError.

    Not for what is appended to (journals, `signing.known`), for the signing key, which is made once
    and by nobody twice (`link`), nor for what is locked while it is open.
    """
    make_private(file.parent)
    temporary = file.with_name(f".{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with writes_to(file), open(descriptor, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(descriptor)
        os.replace(temporary, file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)
