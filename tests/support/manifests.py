"""Manifests by hand: a header, chunks, and any entries."""

from __future__ import annotations

import tempfile
from typing import Any

from backup_tasks.format.footer import Footer
from backup_tasks.format.manifest import Chunk, Entry, Header, encode_line, write_manifest
from backup_tasks.format.manifest_lines import Manifest


def header(**changes: Any) -> Header:
    said: dict[str, Any] = {
        "format": 1,
        "profile": "test",
        "host": "here",
        "started_at": "2025-06-12T02:00:00Z",
        "written_at": "2025-06-12T02:00:01Z",
        "tool": "test",
        "sources": ("/",),
        "entries": 0,
        "files": 0,
        "raw_bytes": 0,
        "chunks": 2,
        "chunk_bytes": 30,
    }
    return Header(**(said | changes))


CHUNKS = [Chunk(0, 10, "a" * 64, 512), Chunk(10, 20, "b" * 64, 1024)]


def manifest_of(
    found: list[Entry], table: list[Chunk] = CHUNKS, extra: bytes = b"", **changes: Any
) -> Manifest:
    lines = tempfile.TemporaryFile()  # noqa: SIM115
    said = header(**{"entries": len(found), **changes})
    write_manifest(lines, said, table, [encode_line(entry) for entry in found])
    lines.write(extra)
    return Manifest(lines, Footer(0, 0, bytes(32)))
