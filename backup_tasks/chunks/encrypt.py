"""Chunks encrypted and decrypted: a gzip member in an age file in a member of the outer tar."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import IO

from backup_tasks.chunks.compress import StoredChunk
from backup_tasks.common.temporary import temporary_file
from backup_tasks.errors import ArchiveError
from backup_tasks.format.age_tar import measure_member, unwrap_age_file, wrap_age_file
from backup_tasks.format.tar_headers import BLOCK_BYTES
from backup_tasks.keys.identities import Keyring
from backup_tasks.keys.recipients import parse_recipient


class Sealer:
    """Encrypts for some recipients; whoever has the private key of one of them can read it.

    Args:
        recipients: public keys, as `normalize_recipient` gives them.
    """

    def __init__(self, recipients: Sequence[str]) -> None:
        self._recipients = [parse_recipient(recipient) for recipient in recipients]

    def seal(self, content: bytes) -> bytes:
        """A member of the outer tar that holds these bytes; never the same twice."""
        import pyrage

        return wrap_age_file(pyrage.encrypt(content, self._recipients))

    def seal_chunk(self, chunk: StoredChunk) -> StoredChunk:
        """The same chunk, encrypted."""
        stored = self.seal(chunk.stored)
        sha256 = hashlib.sha256(stored).hexdigest()
        return StoredChunk(stored, sha256, chunk.raw, content=chunk.sha256)


def open_encrypted(stored: bytes, keys: Keyring) -> bytes:
    """What one member of the outer tar holds. Raises: ArchiveError, IdentityError."""
    return keys.open(unwrap_age_file(stored))


def open_encrypted_chunk(stored: bytes, content_sha256: str, keys: Keyring) -> bytes:
    """The gzip member in a encrypted chunk, which must be the one that the manifest lists.

    Raises: ArchiveError, IdentityError.
    """
    content = open_encrypted(stored, keys)
    if hashlib.sha256(content).hexdigest() != content_sha256:
        raise ArchiveError("what it holds is not what the manifest says")
    return content


def open_encrypted_file(
    encrypted: IO[bytes], length: int, keys: Keyring, longest: int
) -> IO[bytes]:
    """What the members of the outer tar in a file hold, one after the other, in a temporary file.

    Args:
        encrypted: read from where it stands; length: where its last member ends.
        longest: bytes of the longest member that is believed.

    Raises: ArchiveError, IdentityError.
    """
    plain = temporary_file()
    try:
        while encrypted.tell() < length:
            header = encrypted.read(BLOCK_BYTES)
            member_bytes = measure_member(header)
            if member_bytes > longest:
                raise ArchiveError(f"a encrypted chunk claims {member_bytes:,} bytes")
            rest = encrypted.read(member_bytes - len(header))
            plain.write(open_encrypted(header + rest, keys))
        plain.seek(0)
    except BaseException:
        plain.close()
        raise
    return plain
