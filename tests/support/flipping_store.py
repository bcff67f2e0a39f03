"""A store whose answers come with one byte flipped on the way, once."""

from __future__ import annotations

from typing import Any

from backup_tasks.stores.base import Store, StoredObject


class FlippingStore:
    """Passes everything on, but for one byte the first time that it is read.

    Args:
        place: of the byte in the object.
    """

    def __init__(self, store: Store, place: int) -> None:
        self._store = store
        self._place = place
        self.flips = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
        content = self._store.read_range(source, start, length)
        if self.flips or not start <= self._place < start + length:
            return content
        self.flips += 1
        changed = bytearray(content)
        changed[self._place - start] ^= 1
        return bytes(changed)
