"""Members that wait for their turn: small in memory at any number."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator

import msgspec

from backup_tasks.tarstream import Member
from backup_tasks.temporary import TemporarySpool

_SPILL_BYTES = 2 * 2**20
_ESCAPED = "utf-8", "surrogateescape"
_LENGTH = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode
# The names of attributes apart, as bytes: text that is not UTF-8 cannot be packed.
_decode = msgspec.msgpack.Decoder(tuple[Member, dict[bytes, bytes]]).decode


class MemberSpool:
    """Append members, then go through them; beyond two megabytes they lie in an unlinked
    temporary file. Takes about 8 bytes of memory a member.
    """

    def __init__(self) -> None:
        self._file = TemporarySpool(_SPILL_BYTES)
        # By the number of slashes in the path, in order.
        self._places: dict[int, array[int]] = {}
        self._end = 0
        # A seek would empty the file's buffer each time.
        self._is_at_end = True

    def append(self, member: Member) -> None:
        """Add one member at the end."""
        xattrs = {name.encode(*_ESCAPED): value for name, value in member.xattrs.items()}
        packed = _encode((msgspec.structs.replace(member, xattrs={}) if xattrs else member, xattrs))
        if not self._is_at_end:
            self._file.seek(self._end)
            self._is_at_end = True
        if len(packed) > _SPILL_BYTES:
            self._file.rollover()
        self._file.write(_LENGTH.pack(len(packed)))
        self._file.write(packed)
        depth = member.path.count(b"/")
        if depth not in self._places:
            self._places[depth] = array("Q")
        self._places[depth].append(self._end)
        self._end += _LENGTH.size + len(packed)

    def __iter__(self) -> Iterator[Member]:
        place = 0
        while place < self._end:
            yield self._read(place)
            place = self._file.tell()

    def depths(self) -> set[int]:
        """How many slashes there are in paths."""
        return set(self._places)

    def of_depth(self, depth: int) -> Iterator[Member]:
        """Those with so many slashes in their paths; what was added last comes first."""
        for place in reversed(self._places.get(depth, array("Q"))):
            yield self._read(place)

    def _read(self, place: int) -> Member:
        self._is_at_end = False
        self._file.seek(place)
        (length,) = _LENGTH.unpack(self._file.read(_LENGTH.size))
        member, xattrs = _decode(self._file.read(length))
        member.xattrs = {name.decode(*_ESCAPED): value for name, value in xattrs.items()}
        return member

    def close(self) -> None:
        """Free the memory or the file."""
        self._file.close()
