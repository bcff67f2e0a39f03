"""Members that wait for their turn: small in memory at any number."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator

import msgspec

from backup_tasks.common.temporary import TemporarySpool
from backup_tasks.format.tar_headers import Member

_SPILL_BYTES = 2 * 2**20
# Bytes read at once when members are read from the last one to the first.
_BLOCK_BYTES = 64 * 2**10
_ESCAPED = "utf-8", "surrogateescape"
_LENGTH = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode
# Names of attributes are packed apart, as bytes: text that is not UTF-8 cannot be packed.
_decode = msgspec.msgpack.Decoder(tuple[Member, dict[bytes, bytes]]).decode


class MemberSpool:
    """Append members, then go through them.

    Beyond two megabytes they lie in an unlinked temporary file. Takes about 8 bytes of memory for
    each member.
    """

    def __init__(self) -> None:
        self._file = TemporarySpool(_SPILL_BYTES)
        # Number of slashes in the path -> places in the file, in order.
        self._places: dict[int, array[int]] = {}
        self._end = 0
        # Saves a seek, which would empty the file's buffer each time.
        self._is_at_end = True

    def append(self, member: Member) -> None:
        """Add one member at the end."""
        xattrs = {}
        if member.xattrs:
            xattrs = {name.encode(*_ESCAPED): value for name, value in member.xattrs.items()}
            member = msgspec.structs.replace(member, xattrs={})
        packed = _encode((member, xattrs))
        if not self._is_at_end:
            self._file.seek(self._end)
            self._is_at_end = True
        if len(packed) > _SPILL_BYTES:
            self._file.rollover()
        self._file.writelines((_LENGTH.pack(len(packed)), packed))
        depth = member.path.count(b"/")
        places = self._places.get(depth)
        if places is None:
            places = self._places[depth] = array("Q")
        places.append(self._end)
        self._end += _LENGTH.size + len(packed)

    def __iter__(self) -> Iterator[Member]:
        place = 0
        while place < self._end:
            yield self._read(place)
            place = self._file.tell()

    def depths(self) -> set[int]:
        """The numbers of slashes that the paths have."""
        return set(self._places)

    def of_depth(self, depth: int) -> Iterator[Member]:
        """The members with `depth` slashes in their paths, the last added first."""
        places = self._places.get(depth, array("Q"))
        end = len(places)
        while end:
            end -= 1
            yield self._read(places[end])
            # Read the members close before it together: a seek for each would empty the file's
            # buffer each time.
            first = bisect_left(places, places[end] - _BLOCK_BYTES, hi=end)
            block = memoryview(self._bytes_at(places[first], places[end] - places[first]))
            for place in reversed(places[first:end]):
                yield _unpack(block[place - places[first] :])
            end = first

    def _read(self, place: int) -> Member:
        (length,) = _LENGTH.unpack(self._bytes_at(place, _LENGTH.size))
        return _member_of(self._file.read(length))

    def _bytes_at(self, place: int, length: int) -> bytes:
        self._is_at_end = False
        self._file.seek(place)
        return self._file.read(length)

    def close(self) -> None:
        """Free the memory or the file."""
        self._file.close()


def _unpack(block: memoryview) -> Member:
    """The member that a block begins with, after its length."""
    (length,) = _LENGTH.unpack_from(block)
    return _member_of(block[_LENGTH.size : _LENGTH.size + length])


def _member_of(packed: bytes | memoryview) -> Member:
    member, xattrs = _decode(packed)
    if xattrs:
        member.xattrs = {name.decode(*_ESCAPED): value for name, value in xattrs.items()}
    return member
