"""The archive's last bytes: an empty gzip member that tells where the manifest lies.

    offset  bytes  meaning
         0      4  1f 8b 08 04: gzip, deflate, FEXTRA (RFC 1952, 2.3)
         4      6  no time, no flags, OS 255 (unknown)
        10      2  XLEN: 54, little-endian
        12      2  subfield "BT"
        14      2  its length: 50
        16      2  format version
        18      8  manifest: offset in the object
        26      8  manifest: length
        34     32  manifest: SHA-256 of that range, as stored
        66      2  03 00: an empty deflate block
        68      8  CRC-32 and size of nothing: zeros

It decompresses to nothing, so every reader of gzip passes over it.

`END_CHUNK` precedes it, and the signature if there is one. Its bytes are fixed: others decompress
to the same zeros, so only a comparison shows that they are unchanged.
"""

from __future__ import annotations

import hashlib
import struct

from msgspec import Struct

from backup_tasks.errors import ArchiveError
from backup_tasks.keys.signing import Signature, is_signed, render_statement

FORMAT_VERSION = 1
_LAYOUT = struct.Struct("<4sIBBH2sHHQQ32s2s8s")
FOOTER_BYTES = _LAYOUT.size
# tar's end mark as one gzip member: 1,024 zeros, without name and time.
END_CHUNK = bytes.fromhex("1f8b08000000000000ff631805a360148c5800002eafb5ef00040000")
_MAGIC = b"\x1f\x8b\x08\x04"
_SUBFIELD = b"BT"
_SUBFIELD_BYTES = 50


class Footer(Struct, frozen=True):
    """Where the manifest lies in the object, and the hash of that range.

    Attributes:
        signature: the signature that the archive carries beside these bytes, if any.
    """

    offset: int
    length: int
    sha256: bytes
    version: int = FORMAT_VERSION
    signature: Signature | None = None

    @property
    def statement(self) -> bytes:
        """The bytes that a signature of this archive signs."""
        return render_statement(self.version, self.offset, self.length, self.sha256)

    @property
    def fingerprint(self) -> str:
        """SHA-256, hex, of the footer in the form of a plain archive.

        No two backups share it, and another signature does not change it.
        """
        return hashlib.sha256(encode_footer(self)).hexdigest()

    @property
    def is_truly_signed(self) -> bool:
        """Whether the key that the signature names made it; False without a signature."""
        return self.signature is not None and is_signed(self.statement, self.signature)


def encode_footer(footer: Footer) -> bytes:
    """The `FOOTER_BYTES` bytes that end an archive."""
    return _LAYOUT.pack(
        _MAGIC,
        0,
        0,
        255,
        _SUBFIELD_BYTES + 4,
        _SUBFIELD,
        _SUBFIELD_BYTES,
        footer.version,
        footer.offset,
        footer.length,
        footer.sha256,
        b"\x03\x00",
        bytes(8),
    )


def decode_footer(tail: bytes) -> Footer | None:
    """Read the footer; None when these bytes are not a footer of ours.

    Raises:
        ArchiveError: the footer has a version that this program does not know.
    """
    if len(tail) != FOOTER_BYTES:
        return None
    (_, _, _, _, _, _, _, version, offset, length, sha256, _, _) = _LAYOUT.unpack(tail)
    footer = Footer(offset, length, sha256, version)
    if encode_footer(footer) != tail:
        return None
    if version != FORMAT_VERSION:
        raise unknown_format(version)
    return footer


def unknown_format(version: int) -> ArchiveError:
    """The error for an archive of a format version that this program does not know."""
    return ArchiveError(
        f"the archive has format {version}, this program reads format {FORMAT_VERSION}; "
        "update it, or restore with plain tar (docs/recovery.md)"
    )
