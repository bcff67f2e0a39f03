"""Members that wait for their turn: small in memory at any number."""

from __future__ import annotations

import struct
import tempfile
from array import array
from collections.abc import Iterator
from dataclasses import replace

import msgspec

from backup_tasks.tarstream import Member

_SPILL_BYTES = 8 * 2**20
_ESCAPED = "utf-8", "surrogateescape"
_LENGTH = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode
# The names of attributes apart, as bytes: text that is not UTF-8 cannot be packed.
_decode = msgspec.msgpack.Decoder(tuple[Member, dict[bytes, bytes]]).decode


class MemberSpool:
    """Append members, then go through them; beyond some megabytes they lie in an unlinked
    temporary file. Takes about 12 bytes of memory a member.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_SPILL_BYTES)  # noqa: SIM115
        self._places = array("Q")
        self._depths = array("L")
        self._end = 0

    def append(self, member: Member) -> None:
        """Add one member at the end."""
        xattrs = {name.encode(*_ESCAPED): value for name, value in member.xattrs.items()}
        packed = _encode((replace(member, xattrs={}), xattrs))
        self._file.seek(self._end)
        self._file.write(_LENGTH.pack(len(packed)) + packed)
        self._places.append(self._end)
        self._depths.append(member.path.count(b"/"))
        self._end += _LENGTH.size + len(packed)

    def __iter__(self) -> Iterator[Member]:
        for place in self._places:
            yield self._read(place)

    def deepest_first(self) -> Iterator[Member]:
        """Those with the longest paths, in names, before others; equally long ones in order."""
        for number in sorted(range(len(self._depths)), key=lambda n: -self._depths[n]):
            yield self._read(self._places[number])

    def _read(self, place: int) -> Member:
        self._file.seek(place)
        (length,) = _LENGTH.unpack(self._file.read(_LENGTH.size))
        member, xattrs = _decode(self._file.read(length))
        member.xattrs = {name.decode(*_ESCAPED): value for name, value in xattrs.items()}
        return member

    def close(self) -> None:
        """Free the memory or the file."""
        self._file.close()
