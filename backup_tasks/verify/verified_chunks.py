"""Remember the chunks that `verify` found whole, so that equal ones need not be unpacked again.

Archives stand alone, so every byte of each is read and hashed. But chunks with the hashes of chunks
that were unpacked before hold the same. If the manifest also lists the same entries in them, these
entries are whole as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from backup_tasks.format.manifest import Chunk, Entry

# Digests of groups that were found whole; some 100 bytes each.
VerifiedBefore = set[bytes]


class Groups:
    """The chunks of one archive in groups: one in which entries begin, and those up to the next.

    Args:
        before: groups that were found whole; those of this archive are added. With None, no group
            counts as known.
        chunks: all chunks of the archive.
    """

    def __init__(self, before: VerifiedBefore | None, chunks: Sequence[Chunk]) -> None:
        self._before = before
        self._chunks = chunks
        self._known = bytearray(len(chunks))
        # Last chunk -> first chunk and digest, for each group that is not known.
        self._awaited: dict[int, tuple[int, bytes]] = {}
        self._last_unsound = -1

    def expect(self, group: range, begin: Sequence[Entry]) -> None:
        """Look up a group.

        Args:
            group: its chunk numbers; begin: the entries that begin in its first chunk.
        """
        if self._before is None:
            return
        digest = digest_group(self._chunks[group.start : group.stop], begin)
        if digest in self._before:
            self._known[group.start : group.stop] = b"\1" * len(group)
        else:
            self._awaited[group[-1]] = group.start, digest

    def is_known(self, number: int) -> bool:
        """Whether the chunk is in a group given to `expect` that was found whole before."""
        return bool(self._known[number])

    def took(self, number: int, *, is_sound: bool, is_open: bool) -> None:
        """Note that a chunk was checked; call it in ascending order.

        Args:
            is_sound: whether no fault was found; is_open: whether a file goes on behind the chunk.
        """
        if not is_sound:
            self._last_unsound = number
        first, digest = self._awaited.pop(number, (0, b""))
        if self._before is not None and digest and not is_open and self._last_unsound < first:
            self._before.add(digest)


def digest_group(chunks: Sequence[Chunk], begin: Sequence[Entry]) -> bytes:
    """SHA-256 of all that decides whether a group is whole.

    Args:
        chunks: the group's chunks; begin: the entries that begin in the first of them.
    """
    stored = [(chunk.sha256, chunk.content, chunk.raw) for chunk in chunks]
    # The fields that `entry_check` checks against the chunks.
    entries = [
        (
            entry.path,
            entry.path_b64,
            entry.type,
            entry.size,
            entry.mode,
            entry.uid,
            entry.gid,
            entry.mtime_ns,
            entry.link,
            entry.link_b64,
            entry.sha256,
            entry.sparse_sha256,
            entry.offset,
        )
        for entry in begin
    ]
    return hashlib.sha256(msgspec.json.encode((stored, entries))).digest()
