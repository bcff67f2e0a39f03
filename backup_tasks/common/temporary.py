"""Unnamed temporary files for data too large for memory; their errors name the folder.

When a write fails, the system names no file; the operator must learn where space is missing.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from backup_tasks.common.printable import printable
from backup_tasks.errors import BackupError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    _Spooled = tempfile.SpooledTemporaryFile[bytes]
else:
    _Spooled = tempfile.SpooledTemporaryFile


def temporary_file() -> IO[bytes]:
    """Open an unlinked, private file in $TMPDIR for writing and reading.

    Raises:
        BackupError: the file cannot be made, or a later write fails; names the folder.
    """
    try:
        with tempfile.TemporaryFile(buffering=0) as made:
            return io.BufferedRandom(_Raw(os.dup(made.fileno()), "r+"))
    except OSError as error:
        raise _failed(error) from error


class TemporarySpool(_Spooled):
    """A file in memory up to `most_bytes`, beyond that in a `temporary_file`."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(max_size=most_bytes)
        self._is_on_disk = False

    def rollover(self) -> None:
        """Move the bytes from memory to a file.

        Raises:
            BackupError: as `temporary_file`.
        """
        if self._is_on_disk:
            return
        memory, file = self._file, temporary_file()
        place = memory.tell()
        memory.seek(0)
        file.write(memory.read())
        file.seek(place)
        # `SpooledTemporaryFile` itself uses the first two names, in Python 3.11 to 3.14.
        self._file, self._rolled, self._is_on_disk = file, True, True


@contextlib.contextmanager
def writes_to(place: Path) -> Iterator[None]:
    """Add this path to each OSError of the block that names no file."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(place)
        raise


class _Raw(io.FileIO):
    """The raw file below the buffer, so that only a flush costs the extra call."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise _failed(error) from error


def _failed(error: OSError) -> BackupError:
    folder = printable(tempfile.tempdir or os.environ.get("TMPDIR", "") or "/tmp")  # noqa: S108
    return BackupError(
        f"a temporary file in {folder} cannot be written: {error.strerror}; free some space there, "
        "or name another folder in TMPDIR"
    )
