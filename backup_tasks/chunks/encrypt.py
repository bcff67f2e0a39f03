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
    """Encrypts for some recipients; the private key of any one of them decrypts.

    Args:
        recipients: public keys, as `normalize_recipient` gives them.
    """

    def __init__(self, recipients: Sequence[str]) -> None:
        self._recipients = [parse_recipient(recipient) for recipient in recipients]

    def seal(self, content: bytes) -> bytes:
        """Encrypt bytes into a member of the outer tar; the result is never the same twice."""
        import pyrage

        return wrap_age_file(pyrage.encrypt(content, self._recipients))

    def seal_chunk(self, chunk: StoredChunk) -> StoredChunk:
        """The same chunk, encrypted."""
        stored = self.seal(chunk.stored)
        sha256 = hashlib.sha256(stored).hexdigest()
        return StoredChunk(stored, sha256, chunk.raw, content=chunk.sha256)


def open_encrypted(stored: bytes, keys: Keyring) -> bytes:
    """Decrypt one member of the outer tar.

    Raises:
        ArchiveError: the member is damaged.
        IdentityError: the keys cannot be read, or none of them fits.
    """
    return keys.open(unwrap_age_file(stored))


def open_encrypted_chunk(stored: bytes, content_sha256: str, keys: Keyring) -> bytes:
    """Decrypt a chunk to its gzip member, which must be the one that the manifest lists.

    Raises:
        ArchiveError: the chunk is damaged, or holds another gzip member.
        IdentityError: as `open_encrypted`.
    """
    content = open_encrypted(stored, keys)
    if hashlib.sha256(content).hexdigest() != content_sha256:
        raise ArchiveError("what it holds is not what the manifest says")
    return content


def open_encrypted_file(
    encrypted: IO[bytes], length: int, keys: Keyring, longest: int
) -> IO[bytes]:
    """Decrypt all members of an outer tar, one after the other, into a temporary file.

    Args:
        encrypted: read from where it stands; length: where its last member ends.
        longest: bytes of the longest member to accept.

    Raises:
        ArchiveError: a member is damaged or too long.
        IdentityError: as `open_encrypted`.
        BackupError: the temporary file cannot be written.
    """
    plain = temporary_file()
    try:
        while encrypted.tell() < length:
            header = encrypted.read(BLOCK_BYTES)
            member_bytes = measure_member(header)
            if member_bytes > longest:
                raise ArchiveError(f"an encrypted chunk claims {member_bytes:,} bytes")
            rest = encrypted.read(member_bytes - len(header))
            plain.write(open_encrypted(header + rest, keys))
        plain.seek(0)
    except BaseException:
        plain.close()
        raise
    return plain
