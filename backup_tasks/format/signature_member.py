"""The signature in an archive: an empty gzip member between the end mark and the footer.

    offset  bytes  meaning
         0      4  1f 8b 08 04: gzip, deflate, FEXTRA (RFC 1952, 2.3)
         4      6  no time, no flags, OS 255 (unknown)
        10      2  XLEN: 101, little-endian
        12      2  subfield "BS"
        14      2  its length: 97
        16      1  version of the signature: 1
        17     32  public key, Ed25519
        49     64  signature
       113      2  03 00: an empty deflate block
       115      8  CRC-32 and size of nothing: zeros

It decompresses to nothing, like the footer, so that every gzip reads a signed archive.
"""

from __future__ import annotations

import struct

from backup_tasks.keys.signing import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Signature

_LAYOUT = struct.Struct(f"<4sIBBH2sHB{PUBLIC_KEY_BYTES}s{SIGNATURE_BYTES}s2s8s")
MEMBER_BYTES = _LAYOUT.size
_MAGIC = b"\x1f\x8b\x08\x04"
_SUBFIELD = b"BS"
_SUBFIELD_BYTES = 1 + PUBLIC_KEY_BYTES + SIGNATURE_BYTES
_VERSION = 1


def encode_signature(signature: Signature) -> bytes:
    """The `MEMBER_BYTES` bytes that carry a signature."""
    return _LAYOUT.pack(
        _MAGIC,
        0,
        0,
        255,
        _SUBFIELD_BYTES + 4,
        _SUBFIELD,
        _SUBFIELD_BYTES,
        _VERSION,
        signature.public_key,
        signature.signature,
        b"\x03\x00",
        bytes(8),
    )


def decode_signature(member: bytes) -> Signature | None:
    """Read the member; None when these bytes are not a signature of ours."""
    if len(member) != MEMBER_BYTES:
        return None
    *_, public_key, signature, _, _ = _LAYOUT.unpack(member)
    found = Signature(public_key, signature)
    return found if encode_signature(found) == member else None
