"""The body of a part that is sent, as a file for boto3."""

from __future__ import annotations

import contextlib
import io
import threading

from backup_tasks.stores.base import PartBody

_SLICE_BYTES = 2**20


class BodyFile(io.RawIOBase):
    """A part as a file for boto3. Reads give slices of the part, without copying.

    When the upload is given up, reads fail: this ends the request under way and its retries.
    """

    def __init__(self, content: PartBody, stopped: threading.Event) -> None:
        self._view = memoryview(content)
        self._stopped = stopped
        self._at = 0

    def __len__(self) -> int:
        return len(self._view)

    def read(self, size: int = -1) -> memoryview:
        # Larger slices than the 16 KiB that are asked for: each one costs a system call.
        del size
        if self._stopped.is_set():
            raise InterruptedError("the upload was given up")
        piece = self._view[self._at : self._at + _SLICE_BYTES]
        self._at += len(piece)
        return piece

    def seek(self, offset: int, whence: int = 0) -> int:
        base = {0: 0, 1: self._at, 2: len(self._view)}[whence]
        self._at = min(max(0, base + offset), len(self._view))
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        # The owner of an mmap cannot close it while a view of it exists. Slices that an error's
        # traceback still holds keep a view of their own; the memory is freed with them.
        with contextlib.suppress(BufferError):
            self._view.release()
        super().close()
