"""Sign and check statements with Ed25519 (RFC 8032), and convert keys from and to text.

An archive's signature covers this statement: `DOMAIN`, then 50 little-endian bytes with the
footer's format version and the manifest's offset, length and SHA-256. The manifest holds the
archive's name and the hash of every chunk, so the signature covers every byte, and the name.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

# No other statement that this key may ever sign begins like this.
DOMAIN = b"backup-tasks signature 1\n"
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
_FACTS = struct.Struct("<HQQ32s")
_KIND = "ed25519:"
# RFC 8410: these bytes, then the 32 of the key; together 48 bytes, 64 characters of base64.
_PKCS8_PREFIX = bytes.fromhex("302e020100300506032b657004220420")
_PEM = re.compile(rb"-----BEGIN PRIVATE KEY-----\n([A-Za-z0-9+/]{64})\n-----END PRIVATE KEY-----\n")
# Points of small order, without their sign bit. With such a point as the public key, anybody can
# make up a signature for any statement without a private key, and OpenSSL accepts it.
_WEAK_KEYS = frozenset(
    bytes.fromhex(low) + bytes.fromhex(high)
    for low, high in (
        ("00" * 16, "00" * 16),
        ("01" + "00" * 15, "00" * 16),
        ("26e8958fc2b227b045c3f489f2ef98f0", "d5dfac05d3c63339b13802886d53fc05"),
        ("c7176a703d4dd84fba3c0b760d10670f", "2a2053fa2c39ccc64ec7fd7792ac037a"),
        ("ec" + "ff" * 15, "ff" * 15 + "7f"),
        ("ed" + "ff" * 15, "ff" * 15 + "7f"),
        ("ee" + "ff" * 15, "ff" * 15 + "7f"),
    )
)


class Signature(Struct, frozen=True):
    """A signature in an archive, with the public key that it names; both raw."""

    public_key: bytes
    signature: bytes


def render_statement(version: int, offset: int, length: int, sha256: bytes) -> bytes:
    """The statement to sign for an archive with this footer."""
    return DOMAIN + _FACTS.pack(version, offset, length, sha256)


def is_signed(statement: bytes, signature: Signature) -> bool:
    """Whether the key that the signature names has signed exactly this statement."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if is_weak_key(signature.public_key):
        return False
    try:
        key = Ed25519PublicKey.from_public_bytes(signature.public_key)
        key.verify(signature.signature, statement)
    except (InvalidSignature, ValueError):  # ValueError: these bytes are no key
        return False
    return True


def is_weak_key(public_key: bytes) -> bool:
    """Whether this key is one of the few points of small order, for which anybody can sign."""
    return public_key[:-1] + bytes([public_key[-1] & 0x7F]) in _WEAK_KEYS


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key; its `repr` shows only the public half."""

    public_key: bytes
    _pem: bytes = field(repr=False)

    def sign(self, statement: bytes) -> Signature:
        """Sign a statement."""
        return Signature(self.public_key, _parse_private(self._pem).sign(statement))

    def render_pem(self) -> bytes:
        """The private key as PKCS #8 in PEM (RFC 8410), which `openssl pkey` reads."""
        return _render_private(_parse_private(self._pem))


def make_signing_key() -> SigningKey:
    """Make a new key from the system's randomness."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    return SigningKey(private.public_key().public_bytes_raw(), _render_private(private))


def parse_signing_key(pem: bytes) -> SigningKey:
    """Parse a private key in PEM, as `SigningKey.render_pem` writes it.

    Raises:
        ValueError: it is no Ed25519 key without a passphrase; the message shows nothing of it.
    """
    return SigningKey(_parse_private(pem).public_key().public_bytes_raw(), pem)


def known_signing_key(pem: bytes, public_key: bytes) -> SigningKey:
    """Make a key without parsing it, so that a run that does not sign loads no slow modules.

    Args:
        public_key: raw; noted when this very `pem` was parsed before.
    """
    return SigningKey(public_key, pem)


def _render_private(private: Ed25519PrivateKey) -> bytes:
    content = base64.b64encode(_PKCS8_PREFIX + private.private_bytes_raw())
    return b"-----BEGIN PRIVATE KEY-----\n%b\n-----END PRIVATE KEY-----\n" % content


def _parse_private(pem: bytes) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if usual := _PEM.fullmatch(pem):
        content = base64.b64decode(usual[1])
        if content.startswith(_PKCS8_PREFIX):
            return Ed25519PrivateKey.from_private_bytes(content[len(_PKCS8_PREFIX) :])
    return _parse_unusual(pem)


def _parse_unusual(pem: bytes) -> Ed25519PrivateKey:
    """Parse a key in another form than ours; the modules for this take 12 ms to load.

    Raises:
        ValueError: as `parse_signing_key`.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it wants a passphrase
        raise ValueError("no private key in PEM without a passphrase") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise ValueError("a private key of another kind than Ed25519")
    return private


def render_public_key(public_key: bytes) -> str:
    """Render a public key as in profiles and messages: `ed25519:` and base64."""
    return _KIND + base64.b64encode(public_key).decode("ascii")


def parse_public_key(text: str) -> bytes:
    """Parse the text of `render_public_key` to the raw public key.

    Raises:
        ValueError: it is anything else, also another spelling of a key, or a weak key.
    """
    try:
        raw = base64.b64decode(text.removeprefix(_KIND), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    # Accept only one spelling, so that equal keys are equal texts.
    is_whole = len(raw) == PUBLIC_KEY_BYTES and render_public_key(raw) == text
    if not is_whole or is_weak_key(raw):
        raise ValueError("no public signing key, which is ed25519: and 44 characters of base64")
    return raw
