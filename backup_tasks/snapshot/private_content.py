"""Keeps the private signing key out of archives: a reader of it could sign in our name.

The key is recognized by its content, wherever it lies: in a bind mount, a snapshot, a copy, under
another link. Only files of exactly its size are looked at. Paths serve for files without content
yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct, structs

from backup_tasks.format.manifest import Entry

# An Ed25519 key without a passphrase, as PKCS #8 in PEM (RFC 8410); all are of one length.
USUAL_KEY_BYTES = 119
_PEM_BEGINS = b"-----BEGIN PRIVATE KEY-----\n"
# Where other users of this program, and other machines in our sources, keep their keys.
_USUAL_NAMES = ("backup-tasks/signing.key", "backup-tasks/signing.key.new")


class KnownContent(Struct, frozen=True):
    """A content that must not be stored: its size in bytes, and its SHA-256 in hex."""

    size: int
    sha256: str

    @classmethod
    def of(cls, content: bytes | bytearray) -> KnownContent:
        """Size and hash of a content."""
        return cls(len(content), hashlib.sha256(content).hexdigest())


class Private(Struct, frozen=True):
    """Files and contents that stay out of archives.

    Attributes:
        paths: files to leave out whatever they hold.
        contents: those of this machine's key and of its former keys.
        sizes: the file sizes that must be looked at; computed from `contents`.
    """

    paths: tuple[Path, ...] = ()
    contents: frozenset[KnownContent] = frozenset()
    sizes: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        sizes = {USUAL_KEY_BYTES, *(known.size for known in self.contents)}
        structs.force_setattr(self, "sizes", frozenset(sizes))

    def holds(self, path: str, content: bytes | bytearray) -> bool:
        """Whether a file of this content is left out.

        Another user's key is recognized only under its usual name, since other Ed25519 keys
        belong in a backup.
        """
        if KnownContent.of(content) in self.contents:
            return True
        looks_like_a_key = len(content) == USUAL_KEY_BYTES and content.startswith(_PEM_BEGINS)
        return looks_like_a_key and _is_usual(path)

    def may_be_in(self, entry: Entry) -> bool:
        """Whether an entry of an earlier archive is, or may be, a file that is left out."""
        if KnownContent(entry.size, entry.sha256) in self.contents:
            return True
        return entry.size == USUAL_KEY_BYTES and _is_usual(entry.name)


def parse_known(lines: Iterable[str]) -> set[KnownContent]:
    """The contents of lines that `render_known` wrote; torn and empty lines are passed over."""
    found = set()
    for line in lines:
        size, _, digest = line.strip().partition(" ")
        if size.isdecimal() and int(size) > 0 and len(digest) == 64:
            found.add(KnownContent(int(size), digest))
    return found


def render_known(known: KnownContent) -> str:
    """One line: `119 9f86d081...`."""
    return f"{known.size} {known.sha256}\n"


def _is_usual(path: str) -> bool:
    return f"/{path}".endswith(tuple(f"/{name}" for name in _USUAL_NAMES))


NOTHING_PRIVATE = Private()
