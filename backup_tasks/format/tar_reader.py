"""Read any tar stream from front to end: pax and ustar (POSIX), GNU tar, and tar before them.

Fit for archives of strangers: memory and time are bounded whatever a header says, and a truncated
stream is an error. Where programs differ, this follows GNU tar. The standard library's `tarfile`
keeps every member in memory, and reads pax headers of any length. Sources: as for `tar_headers`;
tar(5) of libarchive and GNU tar's manual, "Tar Internals", for the older formats and sparse files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from backup_tasks.errors import ArchiveError
from backup_tasks.filesystem.posix_acl import KEYWORDS, acl_from_text
from backup_tasks.format.limits import EXTENDED_BYTES
from backup_tasks.format.manifest import EntryType
from backup_tasks.format.tar_fields import (
    read_decimal,
    read_flag,
    read_number,
    read_text,
    read_time,
)
from backup_tasks.format.tar_headers import (
    BLOCK_BYTES,
    Member,
    decode_xattr_name,
    padding_bytes,
    parse_pax,
)

_PIECE_BYTES = 2**20
_XATTR = b"SCHILY.xattr."
# GNU tar's headers for a long name and a long link -> the pax records for the same.
_LONG = {b"L": b"path", b"K": b"linkpath"}
_KINDS: dict[bytes, EntryType] = {
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "char",
    b"4": "block",
    b"5": "dir",
    b"6": "fifo",
    b"D": "dir",
}
# No bytes follow these types, nor a folder marked by a final slash, whatever the size field says.
_WITHOUT_BYTES = frozenset(b"123456")

Records = dict[bytes, bytes]
Segments = list[tuple[int, int]]


class Source(Protocol):
    """Where the bytes come from: `read` may return fewer than asked for; no bytes mean the end."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(slots=True)
class Oddities:
    """Flaws of a tar that is read nevertheless.

    Attributes:
        lacks_end: there is no end mark.
        lacks_times: some pax times cannot be read; the header blocks' coarser times are used.
        unknown_names: some of the users and groups in ACLs that this machine does not know; the
            ACLs lose their entries.
    """

    lacks_end: bool = False
    lacks_times: bool = False
    unknown_names: set[str] = field(default_factory=set)


class TarReader:
    """Reads members one after the other.

    Args:
        source: the unpacked bytes. After the last member it stands behind the end mark's first
            block, if there is an end mark.

    Attributes:
        oddities: complete after the last member.
    """

    def __init__(self, source: Source) -> None:
        self.oddities = Oddities()
        self._source = source
        self._globals: Records = {}
        self._left = 0
        self._padding = 0

    def members(self) -> Iterator[tuple[Member, Iterator[memoryview]]]:
        """Yield each member, its path unchanged, with its stored bytes.

        The bytes must be read before the next member is asked for.

        Raises:
            ArchiveError: this is not a sound and whole tar; the bytes may raise it too.
        """
        found = self._next(self._exactly(BLOCK_BYTES))
        while found is not None:
            yield found, self._content()
            self._skip_rest()
            # Some programs write no end mark.
            front = self._source.read(BLOCK_BYTES)
            if not front:
                self.oddities.lacks_end = True
                return
            found = self._next(front + self._exactly(BLOCK_BYTES - len(front)))

    def _next(self, first: bytes) -> Member | None:
        """The member whose headers begin with this block; None at the end mark."""
        extended = _Extended(self._globals)
        room = EXTENDED_BYTES
        block = memoryview(first)
        while True:
            if not any(block):
                return None
            flag = read_flag(block)
            if flag not in (b"x", b"X", b"g", b"L", b"K", b"A", b"V"):
                return self._member(block, flag, extended)
            size = read_number(block[124:136]) if flag != b"V" else 0
            room -= size + BLOCK_BYTES
            if room < 0:
                raise ArchiveError("the names and attributes of one entry take too much room")
            body = self._exactly(size)
            self._exactly(padding_bytes(size))
            extended.add(flag, body)
            block = memoryview(self._exactly(BLOCK_BYTES))

    def _member(self, block: memoryview, flag: bytes, extended: _Extended) -> Member:
        records = extended.records
        size = read_decimal(records[b"size"]) if b"size" in records else read_number(block[124:136])
        member = _member_of(block, flag, records, self.oddities)
        if flag[0] in _WITHOUT_BYTES or (member.kind == "dir" and flag != b"D"):
            return member
        if flag == b"M":
            raise ArchiveError("it is one volume of several")
        self._left, self._padding = size, padding_bytes(size)
        if member.kind == "file":
            member.size = member.stored = size
            self._find_holes(member, block, flag, extended)
        return member

    def _find_holes(
        self, member: Member, block: memoryview, flag: bytes, extended: _Extended
    ) -> None:
        records = extended.records
        segments: Segments
        if flag == b"S":
            segments = self._old_sparse_map(block)
            member.size = read_number(block[483:495])
        elif records.get(b"GNU.sparse.major") == b"1":
            before = self._left
            segments = self._sparse_map()
            member.stored -= before - self._left
            member.size = read_decimal(records.get(b"GNU.sparse.realsize", b""))
        elif b"GNU.sparse.size" in records:
            segments = extended.sparse_map()
            member.size = read_decimal(records[b"GNU.sparse.size"])
        else:
            return
        _check_segments(segments, member)
        member.sparse = segments

    def _old_sparse_map(self, block: memoryview) -> Segments:
        """Read the map of a GNU tar header of type S, and of the blocks that continue it."""
        segments = _old_segments(block[386:482])
        more = block[482]
        while more:
            if len(segments) * 24 > EXTENDED_BYTES:
                raise ArchiveError("a sparse file's map is too long")
            block = memoryview(self._exactly(BLOCK_BYTES))
            segments += _old_segments(block[:504])
            more = block[504]
        return segments

    def _sparse_map(self) -> Segments:
        """Read the map in front of the stored bytes (GNU pax format 1.0)."""
        numbers: list[int] = []
        rest = b""
        wanted = 1
        while len(numbers) < wanted:
            if self._left < BLOCK_BYTES or len(rest) > 20 or wanted > EXTENDED_BYTES // 2:
                raise ArchiveError("a sparse file's map cannot be read")
            self._left -= BLOCK_BYTES
            *lines, rest = (rest + self._exactly(BLOCK_BYTES)).split(b"\n")
            numbers += [read_decimal(line) for line in lines]
            wanted = 1 + 2 * numbers[0] if numbers else 1
        return list(zip(numbers[1:wanted:2], numbers[2:wanted:2], strict=True))

    def _content(self) -> Iterator[memoryview]:
        while self._left:
            piece = self._source.read(min(self._left, _PIECE_BYTES))
            if not piece:
                raise ArchiveError("it is cut off in the middle of a file")
            self._left -= len(piece)
            yield memoryview(piece)

    def _skip_rest(self) -> None:
        for _ in self._content():
            pass
        self._exactly(self._padding)
        self._padding = 0

    def _exactly(self, size: int) -> bytes:
        pieces: list[bytes] = []
        while size:
            piece = self._source.read(size)
            if not piece:
                raise ArchiveError("it is cut off: tar's end mark is missing")
            size -= len(piece)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _Extended:
    """The extended headers in front of an entry's own header.

    Attributes:
        records: of pax headers and of GNU tar's long names. The entry's own pax records override
            global ones, and these override long names.
    """

    def __init__(self, global_records: Records) -> None:
        self._globals = global_records
        self._long: Records = {}
        self._own: Sequence[tuple[bytes, bytes]] = ()
        self.records = global_records

    def add(self, flag: bytes, body: bytes) -> None:
        """Take a header; it replaces an earlier header of its kind, but global ones add up."""
        if flag in _LONG:
            self._long[_LONG[flag]] = body.split(b"\0", 1)[0]
        elif flag == b"g":
            self._globals.update(parse_pax(body))
        elif flag in b"xX":
            self._own = list(parse_pax(body))
        self.records = {**self._long, **self._globals, **dict(self._own)}

    def sparse_map(self) -> Segments:
        """The map of GNU's pax formats 0.1 (one record) and 0.0 (repeated records)."""
        if b"GNU.sparse.map" in self.records:
            numbers = [read_decimal(text) for text in self.records[b"GNU.sparse.map"].split(b",")]
        else:
            keys = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
            numbers = [read_decimal(value) for key, value in self._own if key in keys]
        if len(numbers) % 2:
            raise ArchiveError("a sparse file's map cannot be read")
        return list(zip(numbers[::2], numbers[1::2], strict=True))


def _member_of(block: memoryview, flag: bytes, records: Records, oddities: Oddities) -> Member:
    path = records.get(b"GNU.sparse.name") or records.get(b"path") or _ustar_path(block)
    # Before folders had a type, a final slash marked them. POSIX: read an unknown type as a file.
    is_old_folder = flag in b"\x0007" and path.endswith(b"/")
    mtime_ns = read_time(records[b"mtime"]) if b"mtime" in records else None
    if mtime_ns is None:
        oddities.lacks_times |= b"mtime" in records
        mtime_ns = read_number(block[136:148], signed=True) * 10**9
    return Member(
        path=path,
        kind="dir" if is_old_folder else _KINDS.get(flag, "file"),
        mode=read_number(block[100:108]) & 0o7777,
        uid=read_decimal(records[b"uid"]) if b"uid" in records else read_number(block[108:116]),
        gid=read_decimal(records[b"gid"]) if b"gid" in records else read_number(block[116:124]),
        user=records.get(b"uname", read_text(block[265:297])),
        group=records.get(b"gname", read_text(block[297:329])),
        mtime_ns=mtime_ns,
        link=records.get(b"linkpath", read_text(block[157:257])),
        rdev_major=read_number(block[329:337]) if flag in b"34" else 0,
        rdev_minor=read_number(block[337:345]) if flag in b"34" else 0,
        xattrs=_xattrs_of(records, oddities.unknown_names),
    )


def _xattrs_of(records: Records, unknown: set[str]) -> dict[str, bytes]:
    found = {
        decode_xattr_name(key[len(_XATTR) :]): value
        for key, value in records.items()
        if key.startswith(_XATTR)
    }
    for name, keyword in KEYWORDS.items():
        if keyword in records:
            found[name] = acl_from_text(records[keyword], unknown)
    return found


def _ustar_path(block: memoryview) -> bytes:
    name = read_text(block[0:100])
    # GNU tar's own magic has two spaces here, and its headers have other fields than the prefix.
    prefix = read_text(block[345:500]) if bytes(block[257:263]) == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _old_segments(block: memoryview) -> Segments:
    segments: Segments = []
    for start in range(0, len(block), 24):
        if not any(block[start : start + 12]) and not any(block[start + 12 : start + 24]):
            break
        offset, length = block[start : start + 12], block[start + 12 : start + 24]
        segments.append((read_number(offset), read_number(length)))
    return segments


def _check_segments(segments: Sequence[tuple[int, int]], member: Member) -> None:
    end = total = 0
    for offset, length in segments:
        if offset < end:
            raise ArchiveError("a sparse file's map runs backwards")
        end = offset + length
        total += length
    if end > member.size or total != member.stored:
        raise ArchiveError("a sparse file's map does not fit its size")
