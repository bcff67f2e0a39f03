"""Checks a store's copies where only the store's word says that it copied the right bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from backup_tasks.chunks.reader import read_chunks
from backup_tasks.errors import CopyUnsupported
from backup_tasks.format.manifest import Chunk
from backup_tasks.stores.base import Store, StoredObject

# At most this many chunks are read, about 32 MiB, however large the archive is.
_SAMPLE = 32


def check_copies(store: Store, stored: StoredObject, chunks: Sequence[Chunk]) -> None:
    """Read chunks all over a new archive, the last one among them, and compare their hashes.

    Raises:
        CopyUnsupported: a chunk is wrong; the archive was removed, since it holds bytes that were
            never backed up.
        StoreError: the store fails.
    """
    step = max(1, -(-len(chunks) // _SAMPLE))
    numbers = sorted({*range(0, len(chunks), step), *range(len(chunks))[-1:]})
    with contextlib.closing(
        read_chunks(store, stored, chunks, numbers, is_known=lambda _: True)
    ) as sample:
        wrong = next((read.number for read in sample if read.damage), None)
    if wrong is not None:
        store.delete(stored.name)
        raise CopyUnsupported(
            f"{store.url}: the store copied other bytes than it was asked for into {stored.name} "
            f"(chunk {wrong}), which was removed"
        )
