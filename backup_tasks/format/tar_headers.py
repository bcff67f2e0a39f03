"""Entries as tar headers and back: POSIX.1-2001 pax, as GNU tar, bsdtar and Python read it.

Sources: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; the
`SCHILY.xattr` keyword as star and GNU tar write it; sparse files as GNU tar's "pax format 1.0".
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import islice
from typing import overload
from zlib import adler32

import msgspec

from backup_tasks.errors import ArchiveError
from backup_tasks.filesystem.posix_acl import KEYWORDS, acl_to_text
from backup_tasks.format.limits import MOST_RECORDS
from backup_tasks.format.manifest import EntryType

BLOCK_BYTES = 512
END_MARK = bytes(2 * BLOCK_BYTES)

_TYPE_FLAGS: dict[EntryType, bytes] = {
    "file": b"0",
    "hardlink": b"1",
    "symlink": b"2",
    "char": b"3",
    "block": b"4",
    "dir": b"5",
    "fifo": b"6",
}
_TYPES: dict[bytes, EntryType] = {flag: kind for kind, flag in _TYPE_FLAGS.items()} | {
    b"\0": "file",
    b"7": "file",
}
_PAX_FLAG = b"x"
_GLOBAL_FLAG = b"g"
# magic, version, owner's names, device, prefix, padding
_AFTER_LINK_BYTES = BLOCK_BYTES - 257
_OCTAL_7 = 8**7
_OCTAL_11 = 8**11
_XATTR = b"SCHILY.xattr."

SparseMap = Sequence[tuple[int, int]]


class SparseRuns(Sequence[tuple[int, int]]):
    """The map of a sparse file, small in memory: a file can have millions of runs.

    Args:
        numbers: offset and length of each run, in turn.
    """

    def __init__(self, numbers: array[int]) -> None:
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers) // 2

    @overload
    def __getitem__(self, number: int) -> tuple[int, int]: ...

    @overload
    def __getitem__(self, number: slice) -> list[tuple[int, int]]: ...

    def __getitem__(self, number: int | slice) -> tuple[int, int] | list[tuple[int, int]]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        place = 2 * range(len(self))[number]
        return self._numbers[place], self._numbers[place + 1]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        numbers = iter(self._numbers)
        return zip(numbers, numbers, strict=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class Member(msgspec.Struct, gc=False, array_like=True):
    """The content of one entry's headers.

    Attributes:
        path, link: raw bytes, relative.
        kind: as `manifest.EntryType`.
        size: bytes of the file as people see it; stored: bytes that follow in the archive,
            without padding (less than `size` for a sparse file).
        mtime_ns: since the epoch, may be negative.
        xattrs: full name -> value; ACLs and capabilities are among them.
        sparse: (offset, length) of each run of stored bytes; None if all bytes are stored.
    """

    path: bytes
    kind: EntryType
    size: int = 0
    stored: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    user: bytes = b""
    group: bytes = b""
    mtime_ns: int = 0
    link: bytes = b""
    rdev_major: int = 0
    rdev_minor: int = 0
    xattrs: Mapping[str, bytes] = msgspec.field(default_factory=dict)
    sparse: SparseMap | None = None


def padding_bytes(size: int) -> int:
    """Zeros that follow `size` bytes of content up to the next block."""
    return -size % BLOCK_BYTES


def encode_headers(member: Member) -> bytes:
    """The header blocks of an entry: a pax header where one is needed, then the ustar header."""
    seconds, nanoseconds = divmod(member.mtime_ns, 10**9)
    records = _pax_records(member, seconds, nanoseconds)
    path = member.path + b"/" if member.kind == "dir" else member.path
    if member.sparse is not None:
        path = _sparse_path(member.path)
    ustar = _ustar_block(member, path[:100], _TYPE_FLAGS[member.kind], member.stored, seconds)
    if not records:
        return ustar
    body = b"".join(_record(key, value) for key, value in records)
    return b"".join((_pax_block(len(body)), body, bytes(padding_bytes(len(body))), ustar))


def encode_global_header(name: bytes, records: Mapping[bytes, bytes], mtime: int) -> bytes:
    """A pax global header, which describes the whole archive and is not an entry."""
    body = b"".join(_record(key, value) for key, value in records.items())
    holder = Member(b"", "file", mode=0o600)
    block = _ustar_block(holder, name, _GLOBAL_FLAG, len(body), mtime)
    return b"".join((block, body, bytes(padding_bytes(len(body)))))


@cache
def _pax_block(size: int) -> bytes:
    """The header block of a pax header; it depends on the size alone, as its name means nothing."""
    return _ustar_block(Member(b"", "file", mode=0o644), b"./PaxHeaders", _PAX_FLAG, size, 0)


def encode_sparse_map(sparse: SparseMap) -> bytes:
    """The map that precedes a sparse file's bytes, padded to whole blocks (GNU pax format 1.0)."""
    numbers = [len(sparse)]
    for offset, length in sparse:
        numbers += (offset, length)
    text = b"".join(b"%d\n" % number for number in numbers)
    return text + bytes(padding_bytes(len(text)))


def _pax_records(member: Member, seconds: int, nanoseconds: int) -> list[tuple[bytes, bytes]]:
    records: list[tuple[bytes, bytes]] = []
    stored_path = member.path + b"/" if member.kind == "dir" else member.path
    if member.sparse is not None:
        records += [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", member.path),
            (b"GNU.sparse.realsize", b"%d" % member.size),
        ]
    elif len(stored_path) > 100:
        records.append((b"path", stored_path))
    if len(member.link) > 100:
        records.append((b"linkpath", member.link))
    if member.stored >= _OCTAL_11:
        records.append((b"size", b"%d" % member.stored))
    if nanoseconds or not 0 <= seconds < _OCTAL_11:
        records.append((b"mtime", _pax_time(member.mtime_ns)))
    if member.uid >= _OCTAL_7:
        records.append((b"uid", b"%d" % member.uid))
    if member.gid >= _OCTAL_7:
        records.append((b"gid", b"%d" % member.gid))
    if len(member.user) > 32:
        records.append((b"uname", member.user))
    if len(member.group) > 32:
        records.append((b"gname", member.group))
    if not all(value.isascii() or _is_utf8(value) for _, value in records):
        records.insert(0, (b"hdrcharset", b"BINARY"))
    if not member.xattrs:
        return records
    for name, keyword in KEYWORDS.items():
        if name in member.xattrs and (text := acl_to_text(member.xattrs[name])):
            records.append((keyword, text))
    return records + _xattr_records(member.xattrs)


def _xattr_records(xattrs: Mapping[str, bytes]) -> list[tuple[bytes, bytes]]:
    return [(_XATTR + encode_xattr_name(name), value) for name, value in sorted(xattrs.items())]


def measure_xattr(name: str, value: bytes) -> int:
    """Bytes that an extended attribute takes in a pax header."""
    length = len(_record(_XATTR + encode_xattr_name(name), value))
    if name in KEYWORDS and (text := acl_to_text(value)):
        length += len(_record(KEYWORDS[name], text))
    return length


def hash_xattrs(xattrs: Mapping[str, bytes]) -> str:
    """SHA-256, hex, of the pax records that hold the attributes; "" without attributes."""
    if not xattrs:
        return ""
    digest = hashlib.sha256()
    for key, value in _xattr_records(xattrs):
        digest.update(_record(key, value))
    return digest.hexdigest()


def encode_xattr_name(name: str) -> bytes:
    """Escape a name as GNU tar does: an equals sign would end the keyword."""
    raw = name.encode("utf-8", "surrogateescape")
    return raw.replace(b"%", b"%25").replace(b"=", b"%3D")


def decode_xattr_name(raw: bytes) -> str:
    """The name that `encode_xattr_name` has escaped."""
    text = raw.replace(b"%3D", b"=").replace(b"%25", b"%")
    return text.decode("utf-8", "surrogateescape")


def _pax_time(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    return sign + b"%d.%09d" % divmod(abs(nanoseconds), 10**9)


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _sparse_path(path: bytes) -> bytes:
    folder, _, leaf = path.rpartition(b"/")
    return (folder + b"/" if folder else b"") + b"GNUSparseFile.0/" + leaf


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH key=value` and a newline, where LENGTH counts itself too."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def _ustar_block(member: Member, name: bytes, flag: bytes, size: int, seconds: int) -> bytes:
    owner, rest, fixed_sum = _owner_fields(
        member.mode,
        member.uid,
        member.gid,
        member.user,
        member.group,
        member.rdev_major,
        member.rdev_minor,
    )
    numbers = b"%011o\0%011o\0" % (
        size if size < _OCTAL_11 else 0,
        min(max(seconds, 0), _OCTAL_11 - 1),
    )
    link = member.link[:100]
    # POSIX: the sum of all bytes, with the checksum's own field taken as eight spaces.
    checksum = fixed_sum + _sum(b"".join((name, numbers, flag, link))) + 8 * 0x20
    return b"%b%b%b%06o\0 %b%b%b" % (
        name.ljust(100, b"\0"),
        owner,
        numbers,
        checksum,
        flag,
        link.ljust(100, b"\0"),
        rest,
    )


@lru_cache(1024)
def _owner_fields(
    mode: int, uid: int, gid: int, user: bytes, group: bytes, major: int, minor: int
) -> tuple[bytes, bytes, int]:
    """The fields that many headers share, and the sum of their bytes.

    These are the fields between name and size, and those after the link. They are cached, because
    making them takes most of a header's time.
    """
    owner = b"%07o\0%07o\0%07o\0" % (
        mode,
        uid if uid < _OCTAL_7 else 0,
        gid if gid < _OCTAL_7 else 0,
    )
    rest = b"ustar\00000%b%b%07o\0%07o\0" % (
        user[:32].ljust(32, b"\0"),
        group[:32].ljust(32, b"\0"),
        major,
        minor,
    )
    return owner, rest.ljust(_AFTER_LINK_BYTES, b"\0"), sum(owner) + sum(rest)


def decode_headers(blocks: memoryview, start: int) -> tuple[Member, int]:
    """Read the headers of one entry that begin at `start`.

    Returns:
        The member and the position right after its headers (and sparse map), where its
        stored bytes begin.

    Raises:
        ArchiveError: there is no sound header here.
    """
    pax: dict[bytes, bytes] = {}
    position = start
    while True:
        block = bytes(blocks[position : position + BLOCK_BYTES])
        position += BLOCK_BYTES
        flag = block[156:157]
        if flag not in (_PAX_FLAG, _GLOBAL_FLAG):
            check_block(block)
            break
        size = _pax_size(block)
        if size > len(blocks) - position:
            raise ArchiveError("a pax header reaches beyond its chunk")
        if flag == _PAX_FLAG:
            pax.update(islice(parse_pax(bytes(blocks[position : position + size])), MOST_RECORDS))
            if len(pax) >= MOST_RECORDS:
                raise ArchiveError("a pax header holds more records than a file has attributes")
        position += size + padding_bytes(size)
    member = _member_of(block, flag, pax)
    if b"GNU.sparse.major" in pax:
        position = _read_sparse(member, pax, blocks, position)
    return member, position


@lru_cache(1024)
def _pax_size(block: bytes) -> int:
    """The size of a pax header, from its header block; cached, as `_pax_block` is.

    Raises:
        ArchiveError: the block is cut off, or its checksum or size is wrong.
    """
    check_block(block)
    return parse_octal(block[124:136])


def check_block(block: bytes) -> None:
    """Check the checksum of one header block.

    Raises:
        ArchiveError: the block is cut off, or its checksum is wrong.
    """
    if len(block) < BLOCK_BYTES:
        raise ArchiveError("a tar header is cut off")
    field = block[148:156]
    total = _sum(block) if block.isascii() else _sum(block[:256]) + _sum(block[256:])
    if total - _sum(field) + 8 * 0x20 != parse_octal(field):
        raise ArchiveError("a tar header's checksum is wrong")


def _sum(raw: bytes) -> int:
    """Sum up to 256 bytes, or 512 in ASCII, five times as fast as `sum`.

    Adler-32's lower half (RFC 1950) is the sum modulo 65,521, which is more than 256 * 255 and
    512 * 127.
    """
    return adler32(raw, 0) & 0xFFFF


def parse_octal(raw: bytes | memoryview) -> int:
    """Parse an octal number of a header; an empty field is 0.

    Raises:
        ArchiveError: it is not an octal number.
    """
    text = bytes(raw).strip(b"\0 ")
    # int() takes more than digits: a negative size would lead backwards, and round in circles.
    if text.strip(b"01234567"):
        raise ArchiveError(f"a tar header holds {text!r} for a number")
    return int(text or b"0", 8)


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise ArchiveError(f"a pax header holds {text[:40]!r} for a number")
    return int(text)


def _text(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


def parse_pax(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records of a pax header in their order; a keyword may repeat.

    Raises:
        ArchiveError: a record cannot be read.
    """
    position = 0
    while position < len(body):
        space = body.find(b" ", position, position + 20)
        digits = body[position:space]
        # Without digits `end` stays at `position` and is refused; else this would loop for ever.
        end = position + int(digits) if space > position and digits.isdigit() else position
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if not position < space < end <= len(body) or not equals or body[end - 1] != 0x0A:
            raise ArchiveError("a pax header holds a record that cannot be read")
        yield key, value
        position = end


def _member_of(block: bytes, flag: bytes, pax: dict[bytes, bytes]) -> Member:
    kind = _TYPES.get(flag)
    if kind is None:
        raise ArchiveError(f"a tar header has type {flag!r}, which this program never writes")
    mode, uid, gid, user, group, major, minor = _parse_owner(block[100:124], block[257:345])
    size = 0
    if kind == "file":
        size = _decimal(pax[b"size"]) if b"size" in pax else parse_octal(block[124:136])
    if b"mtime" in pax:
        mtime_ns = parse_time(pax[b"mtime"])
    else:
        mtime_ns = parse_octal(block[136:148]) * 10**9
    member = Member(
        path=_text(block[:100]).rstrip(b"/"),
        kind=kind,
        size=size,
        stored=size,
        mode=mode,
        uid=uid,
        gid=gid,
        user=user,
        group=group,
        mtime_ns=mtime_ns,
        link=_text(block[157:257]),
        rdev_major=major,
        rdev_minor=minor,
    )
    if len(pax) > (b"mtime" in pax):
        _apply_pax(member, pax)
    return member


@lru_cache(1024)
def _parse_owner(owner: bytes, rest: bytes) -> tuple[int, int, int, bytes, bytes, int, int]:
    """Read the fields of `_owner_fields`; cached, as this is most of the work of a header.

    Args:
        owner: the fields between name and size; rest: those after the link.
    """
    return (
        parse_octal(owner[:8]) & 0o7777,
        parse_octal(owner[8:16]),
        parse_octal(owner[16:]),
        _text(rest[8:40]),
        _text(rest[40:72]),
        parse_octal(rest[72:80]),
        parse_octal(rest[80:]),
    )


def _apply_pax(member: Member, pax: dict[bytes, bytes]) -> None:
    """Let the records of a pax header override the block's own fields."""
    member.path = pax.get(b"path", member.path).rstrip(b"/")
    member.link = pax.get(b"linkpath", member.link)
    member.uid = _decimal(pax[b"uid"]) if b"uid" in pax else member.uid
    member.gid = _decimal(pax[b"gid"]) if b"gid" in pax else member.gid
    member.user = pax.get(b"uname", member.user)
    member.group = pax.get(b"gname", member.group)
    member.xattrs = {
        decode_xattr_name(key[len(_XATTR) :]): value
        for key, value in pax.items()
        if key.startswith(_XATTR)
    }


def parse_time(text: bytes) -> int:
    """Nanoseconds of a pax time such as `-1.5`.

    Raises:
        ArchiveError: it is not a time.
    """
    whole, _, fraction = text.partition(b".")
    digits = whole.removeprefix(b"-")
    if fraction and not fraction.isdigit():
        raise ArchiveError(f"a pax header holds {text[:40]!r} for a time")
    nanoseconds = _decimal(digits) * 10**9 + int(fraction[:9].ljust(9, b"0"))
    return -nanoseconds if whole.startswith(b"-") else nanoseconds


def _read_sparse(member: Member, pax: dict[bytes, bytes], blocks: memoryview, position: int) -> int:
    """Read the map in front of a sparse file's bytes; returns where the bytes begin.

    Raises:
        ArchiveError: the map cannot be read, or does not fit the file.
    """
    numbers = array("Q")
    start = position
    wanted = 1
    try:
        while len(numbers) < wanted:
            line = bytes(blocks[position : position + 24]).split(b"\n", 1)[0]
            if not line.isdigit():
                raise ArchiveError("a sparse file's map cannot be read")
            position += len(line) + 1
            if position - start == len(line) + 1:
                wanted = 2 * int(line)
            else:
                numbers.append(int(line))
    except OverflowError as error:
        raise ArchiveError("a sparse file's map holds what no file is long") from error
    position += padding_bytes(position - start)
    runs = SparseRuns(numbers)
    try:
        member.size = _decimal(pax[b"GNU.sparse.realsize"])
        member.path = pax[b"GNU.sparse.name"]
    except KeyError as error:
        raise ArchiveError("a sparse file's header lacks its name or size") from error
    member.stored -= position - start
    end = 0
    for offset, length in runs:
        if offset < end:
            raise ArchiveError("a sparse file's map runs backwards")
        end = offset + length
    if end > member.size or sum(length for _, length in runs) != member.stored:
        raise ArchiveError("a sparse file's map does not fit its size")
    member.sparse = runs
    return position
