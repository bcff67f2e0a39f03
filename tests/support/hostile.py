"""Archives whose manifest claims more than memory holds, sound in every hash that is looked at."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from isal import isal_zlib

from backup_tasks.format.footer import END_CHUNK, Footer, encode_footer
from backup_tasks.format.manifest import MANIFEST_PATH
from backup_tasks.format.signature_member import encode_signature
from backup_tasks.format.tar_headers import Member, encode_headers, padding_bytes
from backup_tasks.keys.signing import SigningKey

NAME = "2025-06-12_0200-backup.tar.gz"
SHA256 = b"5" * 64
_LINES_AT_ONCE = 4096


def chunk_lines(count: int, length: int, raw: int, content: bytes = b"") -> Iterator[bytes]:
    """Lines of equal chunks that follow each other, of which nothing is there."""
    rest = b',"length":%d,"sha256":"%s","raw":%d}\n' % (length, SHA256, raw)
    yield from (b'{"offset":%d' % (number * length) + rest for number in range(count))


def entry_lines(numbers: Iterable[int], chunk: Callable[[int], int]) -> Iterator[bytes]:
    """Lines of small folders, in the order of the walk."""
    for number in numbers:
        yield b'{"path":"f%09d","type":"dir","chunk":%d,"offset":%d}\n' % (
            number,
            chunk(number),
            512 * (number % 2000),
        )


def write_archive(
    file: Path,
    chunks: Iterable[bytes],
    entries: Iterable[bytes],
    header: Mapping[str, object],
    *,
    front: bytes = b"",
    key: SigningKey | None = None,
) -> None:
    """Write an archive of these lines.

    Args:
        header: what the first line says besides; `chunk_bytes` is where the manifest begins.
        front: what really lies at the front of the object; up to the manifest follow zeros.
        key: signs; None leaves it unsigned.
    """
    said = {
        "format": 1,
        "profile": "test",
        "host": "here",
        "started_at": "2025-06-12T02:00:00Z",
        "written_at": "2025-06-12T02:00:01Z",
        "tool": "hostile",
        "sources": ["/"],
        "files": 0,
        "raw_bytes": 0,
        "name": NAME,
        **header,
    }
    offset = said["chunk_bytes"]
    assert isinstance(offset, int)
    with tempfile.TemporaryFile() as lines:
        lines.write(json.dumps(said).encode() + b"\n")
        lines.writelines(chunks)
        lines.writelines(entries)
        with open(file, "wb") as out:
            out.write(front)
            out.seek(offset)
            length, digest = _pack(lines, out)
            footer = Footer(offset, length, digest)
            signature = encode_signature(key.sign(footer.statement)) if key else b""
            out.write(END_CHUNK + signature + encode_footer(footer))


def _pack(lines: IO[bytes], out: IO[bytes]) -> tuple[int, bytes]:
    """The manifest's stored length and SHA-256."""
    size = lines.tell()
    lines.seek(0)
    digest, length = hashlib.sha256(), 0
    piece = encode_headers(Member(MANIFEST_PATH.encode(), "file", size=size, stored=size))
    packer = isal_zlib.compressobj(1, wbits=31)
    while piece:
        packed = packer.compress(piece)
        digest.update(packed)
        length += out.write(packed)
        piece = lines.read(2**20)
    packed = packer.compress(bytes(padding_bytes(size))) + packer.flush()
    digest.update(packed)
    return length + out.write(packed), digest.digest()
