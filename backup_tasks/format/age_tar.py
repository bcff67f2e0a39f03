"""The outer tar of an encrypted archive: plain ustar, one member for each age file.

A member has one spelling only: its whole header follows from the age file that it holds. So a
reader writes the member again and compares, which shows any changed byte.
"""

from __future__ import annotations

import hashlib
import re

from backup_tasks.errors import ArchiveError
from backup_tasks.format.tar_headers import BLOCK_BYTES, Member, encode_headers, padding_bytes

# 2004-01-10. The manifest holds the backup's time; at 0, tar would warn of an old time stamp.
OUTER_MTIME = 2**30
_NAME = re.compile(rb"[0-9a-f]{32}\.age\0")
# The name that `wrap_age_file` gives, and the magic of ustar, tell our members from other tars.
_USTAR = b"ustar\x0000"


def wrap_age_file(age_file: bytes) -> bytes:
    """Make one member: header, age file, zeros up to the next block.

    Its name comes from the age file's hash: it is unique, also among members copied from earlier
    archives, and reveals nothing.
    """
    name = hashlib.sha256(age_file).hexdigest()[:32].encode("ascii") + b".age"
    member = Member(
        name,
        "file",
        size=len(age_file),
        stored=len(age_file),
        mode=0o600,
        mtime_ns=OUTER_MTIME * 10**9,
    )
    return b"".join((encode_headers(member), age_file, bytes(padding_bytes(len(age_file)))))


def measure_member(header: bytes) -> int:
    """The length in bytes of the whole member that begins with this header.

    Raises:
        ArchiveError: it is not a member of ours, or is damaged.
    """
    if not begins_outer_tar(header):
        raise ArchiveError("there is no encrypted chunk where one should be")
    try:
        size = int(header[124:135], 8)
    except ValueError as error:
        raise ArchiveError("the header of an encrypted chunk is damaged") from error
    return BLOCK_BYTES + size + padding_bytes(size)


def unwrap_age_file(stored: bytes) -> bytes:
    """The age file in one member.

    Raises:
        ArchiveError: the bytes differ from the one spelling of a member.
    """
    length = measure_member(stored[:BLOCK_BYTES])
    if length != len(stored):
        raise ArchiveError("an encrypted chunk does not have the length that its header says")
    age_file = stored[BLOCK_BYTES : BLOCK_BYTES + int(stored[124:135], 8)]
    if wrap_age_file(age_file) != stored:
        raise ArchiveError("an encrypted chunk is damaged")
    return age_file


def begins_outer_tar(front: bytes) -> bool:
    """Whether these bytes begin like a member of ours."""
    return len(front) >= BLOCK_BYTES and bool(_NAME.match(front)) and front[257:265] == _USTAR
