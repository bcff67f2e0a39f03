"""Files of the state directory: named, replaced durably, and read whatever lies there now.

A bad disk, a restored copy or a slip of the hand may have put anything in a file's place.
Reading never waits for a pipe, and refuses a file larger than its kind can be.
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

# Ample: the largest note names some recipients or uploads.
_NOTE_BYTES = 2**20


def state_key(profile: str, store_url: str) -> str:
    """The file name for the state of one profile together with its store."""
    return hashlib.sha256(f"{profile}\0{store_url}".encode()).hexdigest()[:16]


def open_kept(file: Path) -> IO[bytes]:
    """Open a file for reading.

    Raises:
        OSError: the file cannot be opened, or is not a regular file.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(file))
    return open(descriptor, "rb")


def read_kept(file: Path, most_bytes: int) -> bytes:
    """Read a whole file of at most `most_bytes`.

    Raises:
        OSError: the file cannot be read, is not a regular file, or holds more.
    """
    with open_kept(file) as opened:
        content = opened.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(file))
    return content


def read_note(file: Path) -> Any:
    """Read a small file of JSON.

    Raises:
        OSError: as `read_kept`; a note holds 1 MiB at most.
        ValueError: it is not JSON, or is nested too deeply.
    """
    return parse_note(read_kept(file, _NOTE_BYTES))


def parse_note(content: bytes) -> Any:
    """Decode the content of a small file of JSON.

    Raises:
        ValueError: it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def write_note(file: Path, note: Any) -> None:
    """Replace a small file of JSON, as `write_state_file` does.

    Raises:
        OSError: the file cannot be written.
    """
    write_state_file(file, json.dumps(note, indent=1, sort_keys=True).encode())


def write_state_file(file: Path, content: bytes) -> None:
    """Replace a file durably; a crash leaves the old content or the new.

    Not for files that grow by appending (journals, `signing.known`), nor for the signing key,
    which `link` makes only once, nor for files that are locked while open.

    Raises:
        OSError: the file or its folder cannot be written.
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
