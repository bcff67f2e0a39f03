"""The last bytes of an encrypted archive: a pax global header that tells where the manifest lies.

    offset  bytes  meaning
         0    512  ustar header of type "g" (POSIX.1-2017, pax, "pax Header Block")
       512    512  one record, zeros up to the end of the block:
                   339 comment=backup-tasks footer FFFFF OOO.. LLL.. SSS.. PPP.. GGG..\\n
      1024   1024  tar's end mark: zeros

Fields of the record, with a space between: format version (5 digits), offset of the manifest in
the object (20 digits), its stored bytes (20 digits), SHA-256 of that range (64 hex digits), and
an Ed25519 public key (64 hex digits) with its signature (128 hex digits), both zeros when the
archive is not signed.

tar passes over a comment in silence. Each footer has one spelling only, so that a comparison shows
any flipped bit.
"""

from __future__ import annotations

import re

from backup_tasks.format.age_tar import OUTER_MTIME
from backup_tasks.format.footer import FORMAT_VERSION, Footer, unknown_format
from backup_tasks.format.tar_headers import BLOCK_BYTES, END_MARK, encode_global_header
from backup_tasks.keys.signing import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Signature

ENCRYPTED_FOOTER_BYTES = 2 * BLOCK_BYTES + len(END_MARK)
_MAGIC = b"backup-tasks footer "
_NAME = b"backup-tasks-footer"
_RECORD = re.compile(
    rb"\d+ comment=backup-tasks footer (\d{5}) (\d{20}) (\d{20}) "
    rb"([0-9a-f]{64}) ([0-9a-f]{64}) ([0-9a-f]{128})\n"
)


_UNSIGNED = Signature(bytes(PUBLIC_KEY_BYTES), bytes(SIGNATURE_BYTES))


def encode_encrypted_footer(footer: Footer) -> bytes:
    """The `ENCRYPTED_FOOTER_BYTES` bytes that end an encrypted archive."""
    signature = footer.signature or _UNSIGNED
    comment = b"%s%05d %020d %020d %s %s %s" % (
        _MAGIC,
        footer.version,
        footer.offset,
        footer.length,
        footer.sha256.hex().encode("ascii"),
        signature.public_key.hex().encode("ascii"),
        signature.signature.hex().encode("ascii"),
    )
    return encode_global_header(_NAME, {b"comment": comment}, OUTER_MTIME) + END_MARK


def decode_encrypted_footer(tail: bytes) -> Footer | None:
    """Read the footer; None when these bytes are not a sound footer of ours.

    Raises:
        ArchiveError: the footer has a version that this program does not know.
    """
    match = _RECORD.match(tail, BLOCK_BYTES)
    if len(tail) != ENCRYPTED_FOOTER_BYTES or not match:
        return None
    version, offset, length = (int(match[group]) for group in (1, 2, 3))
    hashes = (bytes.fromhex(match[group].decode("ascii")) for group in (4, 5, 6))
    sha256, *signature = hashes
    found = Signature(*signature)
    footer = Footer(offset, length, sha256, version, found if found != _UNSIGNED else None)
    if encode_encrypted_footer(footer) != tail:
        return None
    if version != FORMAT_VERSION:
        raise unknown_format(version)
    return footer


def is_like_encrypted_footer(tail: bytes) -> bool:
    """Whether these bytes are a footer of ours, or the remains of a damaged one."""
    return _MAGIC in tail or tail.startswith(_NAME)
