"""Read the evidence in an object of a store: footer, signature and manifest.

Whose the object should be is not asked here. The evidence is noted, and judged anew whenever the
accepted keys or names change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

from backup_tasks.common.printable import one_line
from backup_tasks.errors import ArchiveError, IdentityError
from backup_tasks.format.archive_names import is_encrypted_name
from backup_tasks.format.encrypted_footer import ENCRYPTED_FOOTER_BYTES
from backup_tasks.format.footer import Footer
from backup_tasks.format.limits import HEADER_PROBE_BYTES
from backup_tasks.format.manifest import Header
from backup_tasks.keys.identities import NO_KEYS, Keyring
from backup_tasks.keys.signing import render_public_key
from backup_tasks.stores.base import RangeReader, StoredObject

# An empty file as gzip packs it; an ordinary .tar.gz is larger still.
_LEAST_GZIP_BYTES = 20


class Evidence(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """The evidence that one object shows.

    Attributes:
        footer: the footer's `fingerprint`; "" if the object is no archive of ours. An ordinary
            .tar.gz has neither a footer nor trouble.
        key: the public key, as text, that truly signed it; "" if it is unsigned.
        is_whole: the manifest was read, and has the hash that the footer says.
        is_locked: it is encrypted and no key at hand opens it, so there is no header; `trouble`
            says which key is wanted.
        header: the manifest's first line.
        trouble: what is wrong with the object, fit to print, or "".
    """

    footer: str = ""
    key: str = ""
    is_whole: bool = False
    is_locked: bool = False
    header: Header | None = None
    trouble: str = ""


def evidence_of(footer: Footer, header: Header) -> Evidence:
    """The evidence of an archive just written here, equal to what `read_evidence` would find."""
    return Evidence(
        footer=footer.fingerprint, key=_true_signer(footer), is_whole=True, header=header
    )


def read_evidence(
    store: RangeReader,
    stored: StoredObject,
    keys: Keyring = NO_KEYS,
    *,
    is_worth: Callable[[Evidence], bool] = lambda _: True,
) -> Evidence:
    """Read an object's footer, signature and manifest header.

    Args:
        keys: open its header if it is encrypted.
        is_worth: given footer and signer, whether to read all of a large manifest for its hash; if
            not, `is_whole` is False although nothing is wrong. A stranger's manifest may be of any
            size.

    Raises:
        StoreError: the store does not give the object.
    """
    found = _read_once(store, stored, keys, is_worth)
    if found.trouble and not found.is_locked and not why_none(stored):
        return _read_once(store, stored, keys, is_worth)  # a byte may have come wrong
    return found


def _read_once(
    store: RangeReader, stored: StoredObject, keys: Keyring, is_worth: Callable[[Evidence], bool]
) -> Evidence:
    # Imported late, as mostly nothing has to be read.
    from backup_tasks.read.manifest_reader import read_footer

    if trouble := why_none(stored):
        return Evidence(trouble=trouble)
    try:
        footer = read_footer(store, stored)
    except ArchiveError as error:
        return Evidence(trouble=_told(stored, error))
    if footer is None:
        return Evidence()
    found = Evidence(footer=footer.fingerprint, key=_true_signer(footer))
    if footer.signature and not found.key:
        named = render_public_key(footer.signature.public_key)
        wrong = f"its signature is wrong: it is not by {named}, which it names"
        return msgspec.structs.replace(found, trouble=wrong)
    front = store.read_range(stored, footer.offset, min(footer.length, HEADER_PROBE_BYTES))
    if len(front) == footer.length or is_worth(found):
        if not _has_hash(store, stored, footer, front):
            damaged = "the manifest is damaged: its hash is wrong"
            return msgspec.structs.replace(found, trouble=damaged)
        found = msgspec.structs.replace(found, is_whole=True)
    return _with_header(_Remembering(store, footer.offset, front), stored, footer, keys, found)


def why_none(stored: StoredObject) -> str:
    """Why an object cannot be a backup, by its size alone, or ""."""
    if not stored.size:
        return "it is empty"
    least = ENCRYPTED_FOOTER_BYTES if is_encrypted_name(stored.name) else _LEAST_GZIP_BYTES
    return "" if stored.size >= least else "it is too short to be a backup"


def _with_header(
    store: RangeReader, stored: StoredObject, footer: Footer, keys: Keyring, found: Evidence
) -> Evidence:
    from backup_tasks.read.manifest_reader import read_header_at

    try:
        header = read_header_at(store, stored, footer, keys)
    except IdentityError as error:
        return msgspec.structs.replace(found, is_locked=True, trouble=_told(stored, error))
    except ArchiveError as error:
        return msgspec.structs.replace(found, trouble=_told(stored, error))
    return msgspec.structs.replace(found, header=header)


def _true_signer(footer: Footer) -> str:
    signature = footer.signature
    return render_public_key(signature.public_key) if signature and footer.is_truly_signed else ""


def _told(stored: StoredObject, error: Exception) -> str:
    return one_line(str(error)).removeprefix(f"{stored.name}: ")


def _has_hash(store: RangeReader, stored: StoredObject, footer: Footer, front: bytes) -> bool:
    """Whether the manifest has the hash that the footer says; `front` is its start, read before."""
    from backup_tasks.chunks.reader import read_ahead

    digest = hashlib.sha256(front)
    if left := footer.length - len(front):
        for piece in read_ahead(store, stored, footer.offset + len(front), left):
            digest.update(piece)
    return digest.digest() == footer.sha256


class _Remembering:
    """Read one range from memory, and all others from the store."""

    def __init__(self, store: RangeReader, start: int, content: bytes) -> None:
        self._store, self._start, self._content = store, start, content

    def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
        """As `Store.read_range`."""
        offset = start - self._start
        if offset >= 0 and offset + length <= len(self._content):
            return self._content[offset : offset + length]
        return self._store.read_range(source, start, length)
