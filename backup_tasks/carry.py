"""What the last archive holds, read back from the store to be written once more.

That is needed when a file cannot be read any more and the chunk with its last version is not
kept: otherwise the new archive would lose it, or plain tar would bring back an even older one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from backup_tasks.archive import ArchiveBuilder, Base, Place
from backup_tasks.compress import decompress_chunk
from backup_tasks.errors import ArchiveError
from backup_tasks.manifest import Chunk, Entry
from backup_tasks.plan import is_large, piece_numbers
from backup_tasks.stores.base import RangeReader, StoredObject


@dataclass(frozen=True, slots=True)
class Earlier:
    """What was written earlier: the table of its chunks, and the store that they lie in."""

    base: Base
    reader: RangeReader

    def carry_over(self, builder: ArchiveBuilder, entry: Entry) -> Place:
        """Append an entry as the base holds it; returns where it begins.

        Of a large one only what fills up a part is read; the rest is copied.

        Raises: StoreError; ArchiveError when a chunk is damaged.
        """
        if is_large(entry):
            numbers = range(entry.chunk, piece_numbers(entry, self.base.chunks).stop)
            return builder.keep_again(numbers, self._read)
        chunk = self.base.chunks[entry.chunk]
        raw = decompress_chunk(self._read(self.base.source_of(entry.chunk), chunk), chunk.raw)
        return builder.add_headers(raw[entry.offset : entry.offset + entry.raw_span])

    def _read(self, source: StoredObject, chunk: Chunk) -> bytes:
        stored = self.reader.read_range(source, chunk.offset, chunk.length)
        if hashlib.sha256(stored).hexdigest() != chunk.sha256:
            raise ArchiveError(f"{source.name}: the chunk at byte {chunk.offset:,} is damaged")
        return stored
