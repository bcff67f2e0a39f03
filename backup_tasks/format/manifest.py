"""The manifest: the index of an archive, carried inside it as JSON lines.

Line 1 is the header, then one line a chunk, then one line an entry in the order of the walk.
docs/format.md lists every key.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import IO, Literal, TypeVar

import msgspec

from backup_tasks.errors import ArchiveError
from backup_tasks.format.limits import LEAST_ENTRY_BYTES, PACKED_BYTES

MANIFEST_PATH = ".backup/manifest.jsonl"
# A pax header with its one block of records, and the ustar header.
USUAL_HEADER_BYTES = 1536
# The values of `Entry.torn`. A reader takes any other text for one more way of not being whole.
TORN = "torn"  # it changed while it was read, or said a wrong size
PADDED = "padded"  # zeros stand for bytes that could not be read, or were cut off meanwhile
STRIPPED = "stripped"  # its content is whole; some of its extended attributes are missing
EntryType = Literal["file", "dir", "symlink", "hardlink", "fifo", "char", "block"]


class SourceCount(msgspec.Struct, frozen=True):
    """The size of one source: entries of any kind, and content bytes of its files.

    The holes of files with many are not counted: they are not content, and anybody may make more.
    """

    entries: int
    bytes: int


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """Line 1: whose archive this is, and its totals.

    Attributes:
        started_at, written_at: ISO 8601, UTC, of the run's start and of this manifest.
        sources: the absolute paths that the profile named.
        entries, files: numbers; raw_bytes: content bytes of the files.
        chunks, chunk_bytes: number and stored bytes of the chunks listed.
        problems: how many source files could not be stored whole.
        torn, carried, unreadable: of these, files stored torn or padded; files of an earlier day,
            because they could not be read; files of which this archive holds nothing.
        copied_from: the archive whose chunks were copied, or "".
        copied_bytes: stored bytes that were copied from it.
        full_at: start of the last run that read every file, as `started_at`.
        recipients: the public keys that the chunks are encrypted for, sorted; none if plain.
        name: the archive's own name; "" in an archive from before this key.
        needed_backups: names of archives that hold the files that this one lacks.
        source_counts: the sizes of the first sources, in their order; None for a missing one.
        mounts: mount points above, at and below sources whose content is here, as `mount_points`
            writes them.
        rules: a hash of the profile's rules of exclusion; it changes when they do.
        alarms: how many reasons there are not to compare later backups with this one, such as
            losses of its sources.
    """

    format: int
    profile: str
    host: str
    started_at: str
    written_at: str
    tool: str
    sources: tuple[str, ...]
    entries: int
    files: int
    raw_bytes: int
    chunks: int
    chunk_bytes: int
    problems: int = 0
    copied_from: str = ""
    copied_bytes: int = 0
    full_at: str = ""
    recipients: tuple[str, ...] = ()
    name: str = ""
    torn: int = 0
    carried: int = 0
    unreadable: int = 0
    needed_backups: tuple[str, ...] = ()
    source_counts: tuple[SourceCount | None, ...] = ()
    mounts: tuple[str, ...] = ()
    rules: str = ""
    alarms: int = 0


class Chunk(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One gzip member, as it is or encrypted.

    Attributes:
        offset, length: where it lies in the object; sha256: of these stored bytes, hex.
        raw: its raw length.
        content: SHA-256, hex, of the gzip member if it is encrypted; needed because encrypting
            the same bytes twice gives different results.
    """

    offset: int
    length: int
    sha256: str
    raw: int
    content: str = ""

    @property
    def end(self) -> int:
        """Where it ends in the object."""
        return self.offset + self.length

    @property
    def gzip_sha256(self) -> str:
        """SHA-256 of the gzip member, hex."""
        return self.content or self.sha256

    def at(self, offset: int) -> Chunk:
        """The same chunk at another offset."""
        return Chunk(offset, self.length, self.sha256, self.raw, self.content)


class Entry(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """One file, directory, link or device.

    Attributes:
        path: relative to /, without a leading slash; `path_b64` instead when it is not UTF-8.
        size: content bytes of a file.
        mode: permission bits with setuid, setgid and sticky.
        link: target of a symlink, or the path that a hardlink joins; `link_b64` as above.
        rdev: device number of a device node; device: number of the file system it lies on.
        sha256: of a file's content, hex; "" where `sparse_sha256` replaces it.
        sparse_sha256: of a file with more than 1 GiB of holes, as `content_hash.SparseHash`
            makes it.
        chunk, offset: where its tar headers begin: chunk number, and byte in the raw chunk.
        span: raw bytes of headers, content and padding, if not as `raw_span` computes them.
        nlink: number of hardlinks that the file has, wherever they are.
        xattrs: SHA-256 of its extended attributes as they stand in the pax header, hex.
        stale: other chunks that still hold an earlier entry of this path. tar lets the last entry
            win; when the path goes, these chunks must go too.
        torn: why the file is not whole: TORN, PADDED or STRIPPED; "" if it is.
        carried: start of the run that read this version, as in a header, if later runs could not
            read the file and took the version over; "" if the run of its own archive read it.
    """

    path: str = ""
    path_b64: str = ""
    type: EntryType
    size: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    user: str = ""
    group: str = ""
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0
    device: int = 0
    rdev: int = 0
    link: str = ""
    link_b64: str = ""
    sha256: str = ""
    sparse_sha256: str = ""
    chunk: int = -1
    offset: int = 0
    span: int = 0
    nlink: int = 1
    xattrs: str = ""
    stale: tuple[int, ...] = ()
    torn: str = ""
    carried: str = ""

    @property
    def raw_span(self) -> int:
        """Raw bytes that the entry takes in the archive: headers, content, padding."""
        return self.span or USUAL_HEADER_BYTES + self.size + -self.size % 512

    @property
    def read_size(self) -> int:
        """About how many content bytes are to be read, without the holes of a file with many."""
        return min(self.size, max(0, self.span - USUAL_HEADER_BYTES)) if self.span else self.size

    @property
    def content_hash(self) -> str:
        """The hash of the file's content, hex; "" if it is unknown."""
        return self.sha256 or self.sparse_sha256

    @property
    def lacks_hash(self) -> bool:
        """Whether this is a file that no hash can check: version 0.1.0 loses sparse hashes."""
        return self.type == "file" and not self.content_hash

    @property
    def is_hashed_sparse(self) -> bool:
        """Whether `content_hash` is the sparse hash; see `SparseHash`."""
        return not self.sha256 and bool(self.sparse_sha256)

    @property
    def name(self) -> str:
        """The path as the file system gives it: surrogateescape where it is not UTF-8."""
        return self.path or (_from_base64(self.path_b64) if self.path_b64 else "")

    @property
    def link_name(self) -> str:
        """The link's target, in the form of `name`."""
        return self.link or (_from_base64(self.link_b64) if self.link_b64 else "")

    @property
    def walk_key(self) -> bytes:
        """The key that sorts entries as the walk meets them, by the bytes of each name."""
        return walk_key(self.name)


def carry_entry(entry: Entry, started_at: str) -> None:
    """Mark an entry as carried over; an earlier mark stays.

    The entry's ctime becomes 0, which no file has, so that the file is read as soon as it can be.

    Args:
        started_at: start of the archive that the entry is carried over from.
    """
    entry.carried = entry.carried or started_at
    entry.ctime_ns = 0


def walk_key(name: str) -> bytes:
    """The sort key of a depth-first walk: a name's end sorts before any byte of a name."""
    return name.encode("utf-8", "surrogateescape").replace(b"/", b"\0")


def name_fields(name: str) -> tuple[str, str]:
    """A path as (`path`, `path_b64`); one of the two is empty."""
    if name.isascii():
        return name, ""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raw = name.encode("utf-8", "surrogateescape")
        return "", base64.b64encode(raw).decode("ascii")
    return name, ""


def _from_base64(text: str) -> str:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ArchiveError(
            f"the manifest holds a path that is not base64: {text[:80]!r}"
        ) from error
    return raw.decode("utf-8", "surrogateescape")


_encoder = msgspec.json.Encoder()
_entry_decoder = msgspec.json.Decoder(Entry)
_chunk_decoder = msgspec.json.Decoder(Chunk)
_header_decoder = msgspec.json.Decoder(Header)
# msgspec raises its own errors, and two more for invalid UTF-8 and for deep nesting.
_DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_NO_CHUNK = "the manifest holds a line that is no chunk"
_Record = TypeVar("_Record")


def encode_line(record: Header | Chunk | Entry) -> bytes:
    """One line of the manifest, with its newline."""
    return _encoder.encode(record) + b"\n"


def encode_text(text: str) -> bytes:
    """A text as it stands in a line, with the comma behind it."""
    return _encoder.encode(text) + b","


def decode_header(line: bytes) -> Header:
    """Decode the manifest's first line.

    Raises:
        ArchiveError: it is not a header.
    """
    return _decoded(_header_decoder, line, "the manifest's first line is not a header")


def decode_entry(line: bytes) -> Entry:
    """Decode the line of an entry.

    Raises:
        ArchiveError: it is not an entry.
    """
    return _decoded(_entry_decoder, line, "the manifest holds a line that is no entry")


def decode_entries(lines: bytes) -> list[Entry]:
    """Decode many lines at once.

    Raises:
        ArchiveError: a line is not an entry.
    """
    try:
        return _entry_decoder.decode_lines(lines)
    except _DECODE_ERRORS as error:
        raise ArchiveError(f"the manifest holds a line that is no entry: {error}") from error


def decode_chunk(line: bytes) -> Chunk:
    """Decode the line of a chunk.

    Raises:
        ArchiveError: it is not a chunk.
    """
    return _decoded(_chunk_decoder, line, _NO_CHUNK)


def decode_chunks(lines: bytes) -> list[Chunk]:
    """Decode many lines at once.

    Raises:
        ArchiveError: a line is not a chunk.
    """
    try:
        return _chunk_decoder.decode_lines(lines)
    except _DECODE_ERRORS as error:
        raise ArchiveError(f"{_NO_CHUNK}: {error}") from error


def _decoded(decoder: msgspec.json.Decoder[_Record], line: bytes, complaint: str) -> _Record:
    try:
        return decoder.decode(line)
    except _DECODE_ERRORS as error:
        raise ArchiveError(f"{complaint}: {error}") from error


# An entry, and where its line begins and ends in the manifest's file.
PlacedEntry = tuple[Entry, int, int]


def most_entries(raw: int) -> int:
    """How many entries can begin in a chunk of this raw length."""
    return raw // LEAST_ENTRY_BYTES if raw <= PACKED_BYTES else 1


def write_manifest(
    out: IO[bytes], header: Header, chunks: Iterable[Chunk], entry_lines: Iterable[bytes]
) -> None:
    """Write a manifest: the header's line, the chunks' lines, the entries' lines."""
    out.write(encode_line(header))
    for chunk in chunks:
        out.write(encode_line(chunk))
    out.writelines(entry_lines)
