"""Archives made by hand: both of our own format and plain .tar.gz, honest or hostile."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backup_tasks.census.catalog import Backup
from backup_tasks.chunks.compress import compress_chunk
from backup_tasks.common.progress import SilentProgress
from backup_tasks.common.time_zones import find_zone
from backup_tasks.format.footer import (
    END_CHUNK,
    FOOTER_BYTES,
    FORMAT_VERSION,
    Footer,
    decode_footer,
    encode_footer,
)
from backup_tasks.format.manifest import (
    MANIFEST_PATH,
    Chunk,
    Entry,
    EntryType,
    Header,
    encode_line,
    name_fields,
)
from backup_tasks.format.signature_member import encode_signature
from backup_tasks.format.tar_headers import (
    END_MARK,
    Member,
    decode_headers,
    encode_headers,
    padding_bytes,
)
from backup_tasks.keys.signing import SigningKey
from backup_tasks.restore.request import RestoreReport, RestoreRequest
from backup_tasks.restore.run_restore import run_restore
from backup_tasks.stores.directory import DirectoryStore
from tests.support.details import find_backups

NAME = "2025-06-12_0200-backup.tar.gz"
UTC = find_zone("UTC")
MTIME = 1_700_000_000 * 10**9


@dataclass
class Item:
    """One entry as an attacker writes it.

    Attributes:
        claim: changes its line in the manifest.
    """

    path: str
    kind: EntryType = "file"
    content: bytes = b"attack"
    link: str = ""
    mode: int = 0o644
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    mtime_ns: int = MTIME
    rdev: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict)
    sparse: list[tuple[int, int]] | None = None
    size: int | None = None
    claim: Callable[[Entry], None] = lambda entry: None

    def member(self) -> Member:
        has_content = self.kind == "file"
        stored = len(self.content) if has_content else 0
        return Member(
            path=self.path.encode("utf-8", "surrogateescape"),
            kind=self.kind,
            size=self.size if self.size is not None else stored,
            stored=stored,
            mode=self.mode,
            uid=self.uid,
            gid=self.gid,
            mtime_ns=self.mtime_ns,
            link=self.link.encode("utf-8", "surrogateescape"),
            rdev_major=self.rdev[0],
            rdev_minor=self.rdev[1],
            xattrs=self.xattrs,
            sparse=self.sparse,
        )

    def blocks(self) -> bytes:
        member = self.member()
        body = b""
        if member.kind == "file":
            body = self.content
            if member.sparse is not None:
                lines = [len(member.sparse), *(n for run in member.sparse for n in run)]
                text = b"".join(b"%d\n" % line for line in lines)
                body = text + bytes(padding_bytes(len(text))) + body
                member.stored = len(body)
        if b"\0" in member.path:  # which a ustar field cannot hold: make it long
            return _pax_path(member) + body + bytes(padding_bytes(len(body)))
        return encode_headers(member) + body + bytes(padding_bytes(len(body)))


def _pax_path(member: Member) -> bytes:
    long = Member(b"p" * 200, member.kind, **{k: getattr(member, k) for k in ("size", "stored")})
    headers = encode_headers(long)
    wanted = member.path.ljust(200, b"x")
    return headers.replace(b"path=" + b"p" * 200, b"path=" + wanted)


Forge = Callable[[Sequence[Item]], bytes]


def forge_plain(items: Sequence[Item]) -> bytes:
    """An ordinary .tar.gz."""
    return gzip.compress(b"".join(item.blocks() for item in items) + END_MARK, 1)


def forge_ours(items: Sequence[Item]) -> bytes:
    """An archive of our own format, sound in every hash: the attacker knows the format."""
    out = bytearray()
    chunks: list[Chunk] = []
    entries: list[Entry] = []
    for number, item in enumerate(items):
        raw = item.blocks()
        stored = compress_chunk(raw, 1)
        chunks.append(Chunk(len(out), len(stored.stored), stored.sha256, len(raw)))
        out += stored.stored
        entries.append(entry_of(item, number))
    return bytes(out) + forge_end(len(out), chunks, entries)


def entry_of(item: Item, chunk: int) -> Entry:
    """Its line in the manifest, at the beginning of a chunk, with what it claims."""
    member = item.member()
    path, encoded = name_fields(item.path)
    link, link_encoded = name_fields(item.link)
    full = bytearray(member.size if member.size < 2**20 else 0)
    position = 0
    for offset, length in member.sparse or [(0, min(member.size, len(full)))]:
        full[offset : offset + length] = item.content[position : position + length]
        position += length
    entry = Entry(
        path=path,
        path_b64=encoded,
        type=item.kind,
        size=member.size,
        mode=item.mode,
        mtime_ns=item.mtime_ns,
        link=link,
        link_b64=link_encoded,
        sha256=hashlib.sha256(full).hexdigest() if item.kind == "file" else "",
        chunk=chunk,
        offset=0,
    )
    item.claim(entry)
    return entry


def forge_end(
    offset: int, chunks: Sequence[Chunk], entries: Sequence[Entry], **header: object
) -> bytes:
    """Manifest, end mark and footer for chunks that take `offset` bytes."""
    said = {
        "format": FORMAT_VERSION,
        "profile": "forged",
        "host": "elsewhere",
        "started_at": "2025-06-12T02:00:00Z",
        "written_at": "2025-06-12T02:00:01Z",
        "tool": "by hand",
        "sources": ("/",),
        "entries": len(entries),
        "files": 0,
        "raw_bytes": 0,
        "chunks": len(chunks),
        "chunk_bytes": offset,
        **header,
    }
    records = [Header(**said), *chunks, *entries]  # type: ignore[arg-type]
    return seal(offset, pack_manifest(b"".join(map(encode_line, records))))


def pack_manifest(text: bytes) -> bytes:
    """The lines of a manifest as they are stored."""
    member = Member(MANIFEST_PATH.encode(), "file", size=len(text), stored=len(text), mode=0o600)
    raw = encode_headers(member) + text + bytes(padding_bytes(len(text)))
    return compress_chunk(raw, 1).stored


def seal(offset: int, manifest: bytes, key: SigningKey | None = None) -> bytes:
    """The packed manifest with the end mark and a footer that fits it, signed if there is a key."""
    footer = Footer(offset, len(manifest), hashlib.sha256(manifest).digest())
    signature = encode_signature(key.sign(footer.statement)) if key else b""
    return manifest + END_CHUNK + signature + encode_footer(footer)


def read_lines(archive: bytes) -> list[dict[str, Any]]:
    """The manifest of a plain archive, line by line, as JSON has it."""
    footer = decode_footer(archive[-FOOTER_BYTES:])
    assert footer
    raw = gzip.decompress(archive[footer.offset : footer.offset + footer.length])
    member, start = decode_headers(memoryview(raw), 0)
    return [json.loads(line) for line in raw[start : start + member.size].splitlines()]


def rewrite(archive: bytes, key: SigningKey | None = None, **header: object) -> bytes:
    """The archive with other keys in its manifest's header, and all that must fit made to fit.

    Args:
        key: signs it; None leaves it unsigned.
    """
    footer = decode_footer(archive[-FOOTER_BYTES:])
    assert footer
    first, *others = read_lines(archive)
    return _sealed(archive[: footer.offset], [{**first, **header}, *others], key)


def _sealed(chunks: bytes, lines: Sequence[dict[str, Any]], key: SigningKey | None) -> bytes:
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return chunks + seal(len(chunks), pack_manifest(text), key)


def falsify(archive: bytes, content: bytes, other: bytes, key: SigningKey | None = None) -> bytes:
    """The archive with other content of the same length in a file, sound in every hash."""
    assert len(content) == len(other)
    chunks = bytearray()
    header, *lines = read_lines(archive)
    for line in lines:
        if "raw" in line:
            start = line["offset"]
            raw = gzip.decompress(archive[start : start + line["length"]])
            chunk = compress_chunk(raw.replace(content, other), 1)
            length = len(chunk.stored)
            line |= {"offset": len(chunks), "length": length, "sha256": chunk.sha256}
            chunks += chunk.stored
        elif line.get("sha256") == hashlib.sha256(content).hexdigest():
            line["sha256"] = hashlib.sha256(other).hexdigest()
    return _sealed(bytes(chunks), [{**header, "chunk_bytes": len(chunks)}, *lines], key)


def put(store_folder: Path, archive: bytes, name: str = NAME) -> tuple[DirectoryStore, Backup]:
    """The archive as the only backup of that store."""
    store_folder.mkdir(exist_ok=True)
    (store_folder / name).write_bytes(archive)
    store = DirectoryStore(store_folder)
    return store, find_backups(store, UTC)[-1]


def restore(store_folder: Path, archive: bytes, target: Path, **options: object) -> RestoreReport:
    """Restore these bytes; `options` as `RestoreRequest` has them."""
    store, backup = put(store_folder, archive)
    request = RestoreRequest(**{"paths": (), "target": target, **options})  # type: ignore[arg-type]
    return run_restore(store, backup, request, SilentProgress())


def fingerprint(folder: Path) -> str:
    """A hash of everything in this folder: names, content, and all that `stat` tells."""
    digest = hashlib.sha256()
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in [".", *sorted(folders), *sorted(files)]:
            path = os.path.join(root, name)
            found = os.lstat(path)
            told = (path, found.st_mode, found.st_uid, found.st_gid, found.st_size, found.st_nlink)
            times = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_rdev)
            digest.update(repr((told, times)).encode("utf-8", "surrogateescape"))
            if stat.S_ISREG(found.st_mode):
                digest.update(Path(path).read_bytes())
            elif stat.S_ISLNK(found.st_mode):
                digest.update(os.fsencode(os.readlink(path)))
    return digest.hexdigest()
