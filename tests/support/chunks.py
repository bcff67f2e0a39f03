"""Chunks without an archive around them."""

from __future__ import annotations

from collections.abc import Iterable

from backup_tasks.chunks.compress import compress_chunk
from backup_tasks.format.manifest import Chunk


def laid_out(raw_chunks: Iterable[bytes]) -> tuple[bytes, list[Chunk]]:
    """These raw bytes packed one after the other, and the table of where."""
    packed, chunks = bytearray(), []
    for raw in raw_chunks:
        one = compress_chunk(raw, 1)
        chunks.append(Chunk(len(packed), len(one.stored), one.sha256, one.raw))
        packed += one.stored
    return bytes(packed), chunks
