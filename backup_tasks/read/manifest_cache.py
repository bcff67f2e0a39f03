"""The newest archive's manifest, kept in the state directory so that a run need not fetch it.

The file holds the end of the object as it was sent, from the manifest to the footer, and is named
by the object's identity. It is read like the object itself, and checked by its hash. The end of
an encrypted archive is kept unencrypted, because servers have no key that opens it; so only the
file's owner may read the file.
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
    """The kept end of one profile's newest archive; losing it costs a download, nothing else.

    Args:
        state: the state directory.
        key: names profile and store, fit for a file name.
    """

    def __init__(self, state: Path, key: str) -> None:
        self._folder = state / "manifests" / key

    def _file(self, stored: StoredObject) -> Path:
        identity = f"{stored.name}\0{stored.etag}\0{stored.size}"
        return self._folder / hashlib.sha256(identity.encode()).hexdigest()[:32]

    def in_front_of(
        self, store: RangeReader, stored: StoredObject
    ) -> tuple[RangeReader, StoredObject]:
        """Choose where to read this object's manifest from: the kept end, if there is one.

        Returns:
            A reader, and the object to read with it: for an encrypted object whose end is kept,
            this is the unencrypted archive that it would be, of which only the end can be read.
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
        """Keep the end of this object, and drop all others. A failure is no error."""
        target = self._file(stored)
        with contextlib.suppress(OSError):
            write_state_file(target, end)
            for other in self._folder.iterdir():
                if other != target:
                    other.unlink()


class _KeptEnd:
    """Reads the object's end from the kept file, and all else from the store.

    Attributes:
        size: bytes of the kept end.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, file: Path, store: RangeReader) -> None:
        self._file = open_kept(file)
        self._descriptor = self._file.fileno()
        self._store = store
        self.size = os.fstat(self._descriptor).st_size

    def tail(self, length: int) -> bytes:
        """The object's last bytes.

        Raises:
            OSError: the file cannot be read.
        """
        return os.pread(self._descriptor, length, max(0, self.size - length))

    def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
        """As `Store.read_range`."""
        offset = start - (source.size - self.size)
        if offset < 0:
            return self._store.read_range(source, start, length)
        return os.pread(self._descriptor, length, offset)
