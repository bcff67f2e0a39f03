"""Recipients: the public keys that archives are encrypted for, and their traces in age files."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Sequence

_SSH_TYPES = ("ssh-ed25519", "ssh-rsa")
# age's own types of stanza; others belong to plugins, or are noise against ossification.
_STANZAS = ("X25519", "scrypt", *_SSH_TYPES)
_PRIVATE = re.compile(r"AGE-SECRET-KEY-|AGE-PLUGIN-|PRIVATE KEY", re.IGNORECASE)
_HEADER_LIMIT_BYTES = 64 * 2**10


def is_private_key(text: str) -> bool:
    """Whether this text holds a private key, and so must not be shown."""
    return _PRIVATE.search(text) is not None


def normalize_recipient(text: str) -> str:
    """Bring a public key to the form that is compared and kept: no outer spaces, no comment.

    Raises:
        ValueError: it is no public key for age. The message says why, and never holds the text:
            somebody may have put a private key there.
    """
    words = text.split()
    if is_private_key(text):
        raise ValueError(
            "is a private key; only the public one belongs here. Take it out of this file, and "
            "make a new key if others could read it"
        )
    if not words:
        raise ValueError("is empty")
    plain = (
        " ".join(words[:2]) if words[0].startswith(("ssh-", "ecdsa-", "sk-")) else " ".join(words)
    )
    try:
        parse_recipient(plain)
    except ValueError as error:
        raise ValueError(f"is no public key for age: {error}") from None
    return plain


def parse_recipient(text: str) -> object:
    """Parse a public key to the object that pyrage encrypts for.

    Raises:
        ValueError: it is damaged, needs a plugin, or is no public key for age.
    """
    import pyrage

    try:
        if text.startswith(_SSH_TYPES):
            return pyrage.ssh.Recipient.from_str(text)
        if text.startswith("age1"):
            return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        raise ValueError("it is damaged or cut off, or of a kind that needs a plugin") from None
    raise ValueError('it should begin with "age1", "ssh-ed25519" or "ssh-rsa"')


def ssh_tag(recipient: str) -> str:
    """The tag of an SSH key in age files: base64 of four bytes of its hash; "" for other keys."""
    words = recipient.split()
    if words[0] not in _SSH_TYPES:
        return ""
    digest = hashlib.sha256(base64.b64decode(words[1])).digest()
    return base64.b64encode(digest[:4]).decode("ascii").rstrip("=")


def describe_recipients(age_file: bytes, known: Sequence[str]) -> str:
    """Say whom an age file was encrypted for, as far as its header tells.

    Args:
        known: public keys to recognize; only SSH keys can be, as X25519 keys leave no trace.

    Source: the age specification, https://c2sp.org/age, "Header".
    """
    tags = {ssh_tag(recipient): recipient for recipient in known}
    found: Counter[str] = Counter()
    for line in age_file[:_HEADER_LIMIT_BYTES].split(b"\n---", 1)[0].split(b"\n"):
        words = line.decode("ascii", "replace").split(" ")
        if words[0] != "->" or len(words) < 2 or words[1] not in _STANZAS:
            continue
        if words[1] in _SSH_TYPES and len(words) > 2:
            tag = words[2][:16]
            name = f" {tags[tag].split()[1][-12:]}" if tag in tags else f" with the tag {tag}"
            found[f"{words[1]} key{name}"] += 1
        else:
            found["passphrase" if words[1] == "scrypt" else "X25519 key"] += 1
    words_of = [f"{count} {name}s" if count > 1 else f"one {name}" for name, count in found.items()]
    return " and ".join(words_of) or "nobody that age tells of"
