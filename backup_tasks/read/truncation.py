"""Tell an archive of ours that lost its end from an ordinary .tar.gz.

Neither gzip nor tar notices that an archive was cut at the end of a gzip member, and without the
footer nothing says how long the archive was. Read as a plain tar it would restore in part and look
like a success.
"""

from __future__ import annotations

from isal import isal_zlib

from backup_tasks.chunks.compress import CHUNK_BYTES, IsalError
from backup_tasks.errors import ArchiveError
from backup_tasks.format.age_tar import begins_outer_tar
from backup_tasks.format.encrypted_footer import is_like_encrypted_footer
from backup_tasks.format.footer import FOOTER_BYTES, Footer, encode_footer
from backup_tasks.format.tar_headers import BLOCK_BYTES, END_MARK, decode_headers
from backup_tasks.stores.base import RangeReader, StoredObject

# How our gzip members begin, at levels above 0 and at 0; gzip itself writes a time or OS 3.
_MEMBER_STARTS = tuple(bytes.fromhex("1f8b080000000000") + end for end in (b"\0\xff", b"\4\xff"))
# These bytes hold the first chunk, unless an entry's headers alone are longer than a chunk.
_FRONT_BYTES = CHUNK_BYTES + 2**17
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = 31
_TEMPLATE = encode_footer(Footer(0, 0, bytes(32)))
_FIXED_PLACES = (*range(18), *range(66, FOOTER_BYTES))
_ENOUGH_EQUAL = 20


def cut_off_error(name: str) -> ArchiveError:
    """The error for an archive of ours that has no sound footer."""
    return ArchiveError(
        f"{name}: cut off, or damaged at its end: an archive of this program without its footer. "
        "Choose another backup; docs/recovery.md says how to get out what is left"
    )


def refuse_cut_off(store: RangeReader, stored: StoredObject, tail: bytes) -> None:
    """Refuse an object without a footer that is an archive of ours all the same.

    Knows such an archive by a whole first chunk, or by most of a footer. One that escapes lacks
    the end mark or holds our manifest, and is refused when it is read.

    Args:
        tail: the object's last bytes, which are no footer.

    Raises:
        ArchiveError: the object is an archive of ours, or cannot be a .tar.gz at all.
    """
    if _is_broken_footer(tail):
        raise cut_off_error(stored.name)
    start = _read_start(store, stored)
    if not start.startswith(_GZIP_MAGIC):
        raise ArchiveError(f"{stored.name}: no .tar.gz: it does not begin as gzip does")
    if not _may_be_ours(start):
        return
    front = store.read_range(stored, 0, min(stored.size, _FRONT_BYTES))
    if _begins_with_chunk(front, is_all=len(front) == stored.size):
        raise cut_off_error(stored.name)


def refuse_without_end(store: RangeReader, stored: StoredObject) -> None:
    """Refuse a tar without an end mark if its gzip may be ours.

    Raises:
        ArchiveError: the object begins as our gzip members do.
    """
    if _may_be_ours(_read_start(store, stored)):
        raise cut_off_error(stored.name)


def _read_start(store: RangeReader, stored: StoredObject) -> bytes:
    return store.read_range(stored, 0, min(stored.size, len(_MEMBER_STARTS[0])))


def _may_be_ours(start: bytes) -> bool:
    return any(known.startswith(start) for known in _MEMBER_STARTS)


def refuse_without_encrypted_footer(store: RangeReader, stored: StoredObject, tail: bytes) -> None:
    """Refuse an object with an encrypted archive's name and no sound footer.

    Args:
        tail: the object's last bytes, which are no footer.

    Raises:
        ArchiveError: always; says whether the archive was cut off or is none of ours.
    """
    front = store.read_range(stored, 0, min(stored.size, BLOCK_BYTES))
    if begins_outer_tar(front) or is_like_encrypted_footer(tail):
        raise cut_off_error(stored.name)
    raise ArchiveError(
        f"{stored.name}: no encrypted archive of this program, although it is called like one"
    )


def _is_broken_footer(tail: bytes) -> bool:
    if len(tail) != FOOTER_BYTES:
        return False
    equal = [place for place in _FIXED_PLACES if tail[place] == _TEMPLATE[place]]
    return len(equal) >= _ENOUGH_EQUAL


def _begins_with_chunk(front: bytes, *, is_all: bool) -> bool:
    """Whether the first gzip member holds whole tar blocks, but not a whole tar.

    Args:
        is_all: `front` is the whole object, so that a member without an end was cut.
    """
    unpacker = isal_zlib.decompressobj(_GZIP_WINDOW)
    try:
        raw = unpacker.decompress(front, 2 * _FRONT_BYTES)
        if unpacker.eof:
            decode_headers(memoryview(raw), 0)
    except (IsalError, ArchiveError):
        return False
    if not unpacker.eof:
        return is_all and len(raw) < 2 * _FRONT_BYTES
    is_whole_blocks = len(raw) % BLOCK_BYTES == 0
    return is_whole_blocks and not raw.endswith(END_MARK)
