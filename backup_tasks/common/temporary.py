"""Files without a name for what does not fit into memory, and whose errors say where they lie.

The system names no file when a write fails; in what the operator reads there must be one.
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
    """An unlinked file in $TMPDIR, to write and to read, for us alone.

    Raises BackupError that names the folder, at once or when what is written does not fit.
    """
    try:
        with tempfile.TemporaryFile(buffering=0) as made:
            return io.BufferedRandom(_Raw(os.dup(made.fileno()), "r+"))
    except OSError as error:
        raise _failed(error) from error


class TemporarySpool(_Spooled):
    """Bytes in memory, and beyond `most_bytes` in a `temporary_file`."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(max_size=most_bytes)
        self._is_on_disk = False

    def rollover(self) -> None:
        """Go on in a file. Raises as `temporary_file`."""
        if self._is_on_disk:
            return
        memory, file = self._file, temporary_file()
        place = memory.tell()
        memory.seek(0)
        file.write(memory.read())
        file.seek(place)
        # The names that `SpooledTemporaryFile` has for these, from 3.11 to 3.14.
        self._file, self._rolled, self._is_on_disk = file, True, True


@contextlib.contextmanager
def writes_to(place: Path) -> Iterator[None]:
    """Have each OSError of the block that names no file name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(place)
        raise


class _Raw(io.FileIO):
    """Under the buffer, so that it costs a call for each of its flushes alone."""

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
