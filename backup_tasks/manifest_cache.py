"""The newest archive's manifest, kept in the state directory so that a run need not fetch it.

What is kept is the end of the object as it was sent, from the manifest to the footer, under
the object's identity. It is read like the object itself, and checked by the same hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from backup_tasks.stores.base import RangeReader, StoredObject


class ManifestCache:
    """The kept ends of one profile's newest archive; losing it costs a download, nothing else.

    Args:
        state: the state directory.
        key: whose archives these are, fit for a file name.
    """

    def __init__(self, state: Path, key: str) -> None:
        self._folder = state / "manifests" / key

    def _file(self, stored: StoredObject) -> Path:
        identity = f"{stored.name}\0{stored.etag}\0{stored.size}"
        return self._folder / hashlib.sha256(identity.encode()).hexdigest()[:32]

    def in_front_of(self, store: RangeReader, stored: StoredObject) -> RangeReader:
        """A reader that has the end of this very object at hand, if it is kept."""
        try:
            return _KeptEnd(self._file(stored).read_bytes(), store)
        except OSError:
            return store

    def write(self, stored: StoredObject, end: bytes) -> None:
        """Keep the end of this object, and of no other. Failing to is no error."""
        target = self._file(stored)
        temporary = target.with_name(f".{secrets.token_hex(8)}")
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(
                os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
            ) as file:
                file.write(end)
            os.replace(temporary, target)
            for other in self._folder.iterdir():
                if other != target:
                    other.unlink()


class _KeptEnd:
    """Reads the object's end from memory, and all else from the store."""

    def __init__(self, end: bytes, store: RangeReader) -> None:
        self._end = end
        self._store = store

    def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
        """As `Store.read_range`."""
        offset = start - (source.size - len(self._end))
        if offset < 0:
            return self._store.read_range(source, start, length)
        return self._end[offset : offset + length]
