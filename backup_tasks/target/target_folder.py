"""Write the content of a restored file, as long as the disk has room."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from backup_tasks.errors import ArchiveError
from backup_tasks.format.content_hash import ContentHash
from backup_tasks.format.limits import HOLES_LIMIT, TOO_MANY_HOLES
from backup_tasks.format.tar_headers import Member, SparseMap

_RESERVE_SHARE = 100
_RESERVE_BYTES = 256 * 2**20
_LOOK_EVERY_BYTES = 32 * 2**20
_LOOK_EVERY_FILES = 256
_TOO_MANY = "more bytes came than the header says"
_TOO_FEW = "fewer bytes came than the header says"


class SpaceGuard:
    """Stops a restore before the disk is full, so that the server lives on.

    Keeps one per cent of the file system free (256 MiB of a large one). Looks now and then at the
    free space, more often the less there is.
    """

    def __init__(self) -> None:
        self._bytes_left = 0
        self._files_left = 0

    def spend(self, descriptor: int, count: int) -> None:
        """Announce that `count` bytes are about to be written.

        Raises:
            OSError: the disk is nearly full (ENOSPC).
        """
        self._bytes_left -= count
        self._files_left -= count == 0
        if self._bytes_left < 0 or self._files_left < 0:
            self._look(descriptor, count)

    def _look(self, descriptor: int, count: int) -> None:
        disk = os.fstatvfs(descriptor)
        free = disk.f_frsize * (disk.f_bfree if os.geteuid() == 0 else disk.f_bavail)
        reserve = min(disk.f_frsize * disk.f_blocks // _RESERVE_SHARE, _RESERVE_BYTES)
        room = free - reserve - count
        if room <= 0 or (disk.f_files and disk.f_ffree <= disk.f_files // 1000):
            raise OSError(errno.ENOSPC, "the disk is nearly full")
        self._bytes_left = min(room // 2, _LOOK_EVERY_BYTES)
        self._files_left = _LOOK_EVERY_FILES


def refuse_holes_to_hash(member: Member) -> None:
    """Refuse a sparse file whose holes, as zeros, would take hours to hash.

    Raises:
        OSError: the holes are larger than HOLES_LIMIT (EFBIG).
    """
    if member.size - member.stored > HOLES_LIMIT:
        raise OSError(errno.EFBIG, TOO_MANY_HOLES)


def write_content(
    descriptor: int,
    member: Member,
    pieces: Iterable[memoryview],
    guard: SpaceGuard,
    digest: ContentHash | None,
) -> None:
    """Write the stored bytes to their places.

    Args:
        digest: takes the whole content.

    Raises:
        ArchiveError: `pieces` hold more or fewer bytes than the member says.
        OSError: the disk is nearly full, or writing failed.
    """
    guard.spend(descriptor, 0)
    if member.sparse is not None:
        _write_runs(descriptor, member, member.sparse, pieces, guard, digest)
        return
    position = 0
    for piece in pieces:
        if position + len(piece) > member.stored:
            raise ArchiveError(_TOO_MANY)
        guard.spend(descriptor, len(piece))
        if digest is not None:
            digest.add(position, piece)
        _write_at(descriptor, piece, position)
        position += len(piece)
    if position < member.stored:
        raise ArchiveError(_TOO_FEW)


def _write_runs(
    descriptor: int,
    member: Member,
    sparse: SparseMap,
    pieces: Iterable[memoryview],
    guard: SpaceGuard,
    digest: ContentHash | None,
) -> None:
    # First of all: a size that no file can have here fails before anything is hashed.
    os.ftruncate(descriptor, member.size)
    # One by one, as a map may name millions of runs.
    remaining = iter(sparse)
    rest: tuple[int, int] | None = None
    for piece in pieces:
        guard.spend(descriptor, len(piece))
        view = piece
        while view:
            run = rest or next(remaining, None)
            if run is None:
                raise ArchiveError(_TOO_MANY)
            offset, length = run
            part = view[:length]
            if digest is not None:
                digest.add(offset, part)
            _write_at(descriptor, part, offset)
            is_whole = len(part) == length
            rest = None if is_whole else (offset + len(part), length - len(part))
            view = view[len(part) :]
    if rest or any(length for _, length in remaining):
        raise ArchiveError(_TOO_FEW)


def _write_at(descriptor: int, part: memoryview, offset: int) -> None:
    written = os.pwrite(descriptor, part, offset)
    while written < len(part):
        written += os.pwrite(descriptor, part[written:], offset + written)
