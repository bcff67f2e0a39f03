"""The newest archive's manifest, kept in the state directory so that a run need not fetch it.

What is kept is the end of the object as it was sent, from the manifest to the footer, under
the object's identity. It is read like the object itself, and checked by its hash. Of an encrypted
archive the end is kept as it was before it was encrypted, because servers have no key that would
open it: so the file is for its owner alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from msgspec.structs import replace

from backup_tasks.common.state_files import open_kept, write_state_file
from backup_tasks.errors import ArchiveError
from backup_tasks.format.archive_names import ENCRYPTED_SUFFIX, PLAIN_SUFFIX, is_encrypted_name
from backup_tasks.format.footer import FOOTER_BYTES, decode_footer
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

    def in_front_of(
        self, store: RangeReader, stored: StoredObject
    ) -> tuple[RangeReader, StoredObject]:
        """What to read the manifest of this very object from: the kept end, if there is one.

        Returns:
            The object itself; or, for an encrypted one whose end is kept, the plain archive
            that it would be, of which nothing but the end can be read.
        """
        try:
            end = _KeptEnd(self._file(stored), store)
            tail = end.tail(FOOTER_BYTES)
        except OSError:
            return store, stored
        if not is_encrypted_name(stored.name):
            return end, stored
        try:
            footer = decode_footer(tail)
        except ArchiveError:
            footer = None
        if footer is None:
            return store, stored
        name = stored.name.removesuffix(ENCRYPTED_SUFFIX) + PLAIN_SUFFIX
        return end, replace(stored, name=name, size=footer.offset + end.size)

    def write(self, stored: StoredObject, end: bytes) -> None:
        """Keep the end of this object, and of no other. Failing to is no error."""
        target = self._file(stored)
        with contextlib.suppress(OSError):
            write_state_file(target, end)
            for other in self._folder.iterdir():
                if other != target:
                    other.unlink()


class _KeptEnd:
    """Reads the object's end from the kept file, and all else from the store.

    Attributes:
        size: its bytes.

    Raises OSError when the file cannot be opened.
    """

    def __init__(self, file: Path, store: RangeReader) -> None:
        self._file = open_kept(file)
        self._descriptor = self._file.fileno()
        self._store = store
        self.size = os.fstat(self._descriptor).st_size

    def tail(self, length: int) -> bytes:
        """Its last bytes. Raises OSError."""
        return os.pread(self._descriptor, length, max(0, self.size - length))

    def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
        """As `Store.read_range`."""
        offset = start - (source.size - self.size)
        if offset < 0:
            return self._store.read_range(source, start, length)
        return os.pread(self._descriptor, length, offset)
