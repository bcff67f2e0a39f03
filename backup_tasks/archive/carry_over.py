"""Reads entries of the previous backup back from the store, to write them once more.

This is needed when a file cannot be read any more and the chunk with its last version is not
reused. Otherwise the new archive would lose this version, or plain tar would restore an even older
one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from backup_tasks.archive.builder import ArchiveBuilder, Base, Position
from backup_tasks.chunks.compress import decompress_chunk
from backup_tasks.chunks.encrypt import open_encrypted_chunk
from backup_tasks.errors import (
    ArchiveError,
    BackupError,
    IdentityError,
    ObjectChanged,
    ObjectMissing,
    ReadRefused,
)
from backup_tasks.format.manifest import Chunk, Entry
from backup_tasks.keys.identities import NO_KEYS, Keyring
from backup_tasks.reuse.plan import is_large, piece_numbers
from backup_tasks.stores.base import RangeReader, StoredObject

_NOT_GIVEN = (ObjectChanged, ObjectMissing, ReadRefused)


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier archive: the table of its chunks, and the store in which they lie.

    Attributes:
        keys: open its encrypted chunks; a backup seldom has them.
        started_at: when its run started, as in its header.
        copies: whether the new archive may copy from it; else all bytes are read and sent.
    """

    base: Base
    reader: RangeReader
    keys: Keyring = NO_KEYS
    started_at: str = ""
    copies: bool = True
    # The chunk that was opened last, by its number. Unreadable files come in the order in which
    # they lie there, and a user may have made any number of them.
    _opened: dict[int, bytes] = field(default_factory=dict, init=False, repr=False)

    @property
    def may_lack(self) -> tuple[type[BackupError], ...]:
        """The errors that cost a single entry, and are no reason to make the archive anew."""
        return (IdentityError,) if self.copies else (IdentityError, ArchiveError, *_NOT_GIVEN)

    def carry_over(self, builder: ArchiveBuilder, entry: Entry) -> Position:
        """Append an entry as the base holds it; returns where it begins.

        If `copies`, only those bytes of a large entry are read that fill up a part; the rest is
        copied.

        Raises:
            StoreError: the store fails.
            ArchiveError: a chunk is damaged.
            IdentityError: a chunk is encrypted and cannot be opened here.
        """
        if is_large(entry):
            numbers = range(entry.chunk, piece_numbers(entry, self.base.chunks).stop)
            if self.copies:
                return builder.keep_again(numbers)
            return builder.send_again(self.base, numbers, self.read_stored)
        if entry.chunk not in self._opened:
            raw = self._open(entry.chunk)
            self._opened.clear()
            self._opened[entry.chunk] = raw
        raw = self._opened[entry.chunk]
        return builder.add_headers(raw[entry.offset : entry.offset + entry.raw_span])

    def _open(self, number: int) -> bytes:
        """The raw bytes of a chunk.

        Raises:
            StoreError: the store fails.
            ArchiveError: the chunk is damaged.
            IdentityError: the chunk is encrypted and cannot be opened here.
        """
        chunk, source = self.base.chunks[number], self.base.source_of(number)
        if chunk.content:
            try:
                self.keys.load()
            except IdentityError as error:
                raise IdentityError(
                    f"a file that cannot be read any more should keep its last version, which only "
                    f"{source.name} holds: {error}"
                ) from None
        packed = self.read_stored(source, chunk)
        if chunk.content:
            packed = open_encrypted_chunk(packed, chunk.content, self.keys)
        return decompress_chunk(packed, chunk.raw)

    def read_stored(self, source: StoredObject, chunk: Chunk) -> bytes:
        """The stored bytes of a chunk.

        Raises:
            StoreError: the store fails.
            ArchiveError: the chunk is damaged.
        """
        stored = self.reader.read_range(source, chunk.offset, chunk.length)
        if hashlib.sha256(stored).hexdigest() != chunk.sha256:
            raise ArchiveError(f"{source.name}: the chunk at byte {chunk.offset:,} is damaged")
        return stored
