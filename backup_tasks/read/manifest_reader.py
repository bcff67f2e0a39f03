"""Read the end of an archive: footer and manifest, checked against each other."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from typing import IO

from isal import igzip, isal_zlib
from msgspec.structs import replace

from backup_tasks.chunks.compress import IsalError
from backup_tasks.chunks.encrypt import open_encrypted, open_encrypted_file
from backup_tasks.chunks.reader import read_ahead
from backup_tasks.common.printable import printable
from backup_tasks.common.temporary import temporary_file
from backup_tasks.common.units import render_bytes
from backup_tasks.errors import ArchiveError, BackupError, IdentityError
from backup_tasks.format.age_tar import measure_member
from backup_tasks.format.archive_names import is_encrypted_name
from backup_tasks.format.encrypted_footer import ENCRYPTED_FOOTER_BYTES, decode_encrypted_footer
from backup_tasks.format.footer import END_CHUNK, FOOTER_BYTES, Footer, decode_footer
from backup_tasks.format.limits import (
    END_BYTES,
    HEADER_PROBE_BYTES,
    HEADER_RAW_BYTES,
    most_manifest_bytes,
)
from backup_tasks.format.manifest import MANIFEST_PATH, Header, decode_header
from backup_tasks.format.manifest_lines import Manifest
from backup_tasks.format.signature_member import MEMBER_BYTES, decode_signature
from backup_tasks.format.tar_headers import BLOCK_BYTES, decode_headers
from backup_tasks.keys.identities import NO_KEYS, Keyring, NoKeyFits
from backup_tasks.read.truncation import refuse_cut_off, refuse_without_encrypted_footer
from backup_tasks.stores.base import RangeReader, StoredObject

# Limit for a member of an encrypted manifest: ours hold 1 MiB each, before compression.
_MEMBER_BYTES = 4 * 2**20
# A manifest counts as damaged when it came wrong this many times.
_FETCHES = 2
# A tenth of the free space for temporary files is left to others.
_KEPT_FREE = 10
_SIGNED_END_BYTES = len(END_CHUNK) + MEMBER_BYTES


def read_footer(store: RangeReader, stored: StoredObject) -> Footer | None:
    """The archive's footer, with its signature if it has one; None for a plain tar.

    Raises:
        ArchiveError: the object is empty, or no .tar.gz; its footer cannot be true; it is an
            archive of ours that lost its footer; or it has the name of an encrypted archive,
            and is none of ours.
    """
    if stored.size == 0:
        raise ArchiveError(f"{stored.name}: empty")
    try:
        if footer := _read_footer(store, stored):
            return footer
    except ArchiveError:
        pass  # a byte may have been flipped on the way
    return _read_footer(store, stored)


def _read_footer(store: RangeReader, stored: StoredObject) -> Footer | None:
    is_encrypted = is_encrypted_name(stored.name)
    length = min(stored.size, MEMBER_BYTES + footer_length(stored))
    end = store.read_range(stored, stored.size - length, length)
    tail, before = end[-footer_length(stored) :], end[: -footer_length(stored)]
    footer = decode_encrypted_footer(tail) if is_encrypted else decode_footer(tail)
    if footer is None:
        refuse = refuse_without_encrypted_footer if is_encrypted else refuse_cut_off
        refuse(store, stored, tail)
        return None
    if footer.offset + footer.length + len(tail) > stored.size:
        raise ArchiveError(f"{stored.name}: the footer points beyond the object's end")
    return footer if is_encrypted else replace(footer, signature=decode_signature(before))


def footer_length(stored: StoredObject) -> int:
    """Bytes of the footer that ends an object of this name."""
    return ENCRYPTED_FOOTER_BYTES if is_encrypted_name(stored.name) else FOOTER_BYTES


def read_header(store: RangeReader, stored: StoredObject, keys: Keyring = NO_KEYS) -> Header | None:
    """Read only the manifest's first line, in two or three small requests; None for a plain tar.

    The hash of a large manifest is not checked, so base no decision that matters on this line.

    Raises:
        ArchiveError: the footer or the manifest is damaged.
        IdentityError: the archive is encrypted, and `keys` do not open it.
    """
    footer = read_footer(store, stored)
    if footer is None:
        return None
    try:
        return read_header_at(store, stored, footer, keys)
    except ArchiveError:  # a byte may have been flipped on the way, also of the footer
        footer = read_footer(store, stored)
        return read_header_at(store, stored, footer, keys) if footer else None


def read_header_at(
    store: RangeReader, stored: StoredObject, footer: Footer, keys: Keyring
) -> Header:
    """As `read_header`, with a footer that was read before; nothing is fetched a second time."""
    front = store.read_range(stored, footer.offset, min(footer.length, HEADER_PROBE_BYTES))
    if is_encrypted_name(stored.name):
        front = _open_first_member(store, stored, footer, front, keys)
    elif len(front) == footer.length and hashlib.sha256(front).digest() != footer.sha256:
        raise ArchiveError(f"{stored.name}: the manifest is damaged: its hash is wrong")
    try:
        raw = isal_zlib.decompressobj(31).decompress(front, HEADER_RAW_BYTES)
        _, start = decode_headers(memoryview(raw), 0)
        return decode_header(raw[start:].split(b"\n", 1)[0])
    except (IsalError, ArchiveError) as error:
        raise ArchiveError(f"{stored.name}: the manifest cannot be read: {error}") from error


def _open_first_member(
    store: RangeReader, stored: StoredObject, footer: Footer, front: bytes, keys: Keyring
) -> bytes:
    """Decrypt the first gzip member of an encrypted manifest.

    Args:
        front: the manifest's first bytes; the rest of the member is fetched.
    """
    try:
        length = measure_member(front)
        if length > min(footer.length, _MEMBER_BYTES):
            raise ArchiveError("it is longer than the footer says")
        if length > len(front):
            more = footer.offset + len(front)
            front += store.read_range(stored, more, length - len(front))
        return open_encrypted(front[:length], keys)
    except ArchiveError as error:
        raise ArchiveError(f"{stored.name}: the manifest cannot be read: {error}") from error
    except IdentityError as error:
        raise type(error)(f"{stored.name}: {error}") from None


def read_manifest(
    store: RangeReader,
    stored: StoredObject,
    keys: Keyring = NO_KEYS,
    believe: Callable[[Footer | None], object] = lambda _: None,
) -> Manifest | None:
    """The whole manifest, checked against the footer; None for a plain tar.

    Its lines lie in an unlinked temporary file until `Manifest.close`.

    Args:
        believe: called with the footer, or None, before anything that the footer points to is
            fetched; raises for an archive that must not be read.

    Raises:
        ArchiveError: hash, order or totals are wrong.
        IdentityError: the archive is encrypted, and `keys` do not open it.
        BackupError: there is no room for temporary files.
    """
    footer = read_footer(store, stored)
    if footer is not None and not footer.is_truly_signed:
        footer = read_footer(store, stored)  # perhaps a byte of the signature came wrong
    believe(footer)
    if footer is None:
        return None
    is_encrypted = is_encrypted_name(stored.name)
    with contextlib.ExitStack() as opened:
        packed = opened.enter_context(_fetch_manifest(store, stored, footer))
        try:
            if is_encrypted:
                packed = opened.enter_context(
                    open_encrypted_file(packed, footer.length, keys, _MEMBER_BYTES)
                )
            most = most_manifest_bytes(footer.length)
            manifest = Manifest(_unpack_manifest(packed, most), footer)
        except IdentityError as error:
            raise type(error)(f"{stored.name}: {error}") from None
        except (OSError, EOFError, IsalError, ArchiveError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # not the archive's fault
            raise ArchiveError(f"{stored.name}: the manifest cannot be read: {error}") from error
    if is_encrypted and not all(chunk.content for chunk in manifest.chunks):
        manifest.close()
        raise ArchiveError(f"{stored.name}: the manifest lists chunks that are not encrypted")
    if manifest.header.chunk_bytes != footer.offset:
        manifest.close()
        raise ArchiveError(f"{stored.name}: the chunks do not end where the manifest begins")
    return manifest


def _fetch_manifest(store: RangeReader, stored: StoredObject, footer: Footer) -> IO[bytes]:
    """Fetch the manifest, as it is stored, into a temporary file.

    Fetches it once more if its hash is wrong: a byte may have been flipped on the way.
    """
    for _ in range(_FETCHES):
        packed = temporary_file()
        try:
            _check_room(packed, footer.length)
            digest = hashlib.sha256()
            for piece in read_ahead(store, stored, footer.offset, footer.length):
                digest.update(piece)
                packed.write(piece)
            if digest.digest() == footer.sha256:
                packed.seek(0)
                return packed
        except BaseException:
            packed.close()
            raise
        packed.close()
    raise ArchiveError(f"{stored.name}: the manifest is damaged: its hash is wrong")


def _check_room(file: IO[bytes], needed: int) -> None:
    """Refuse to fill up the file system of a temporary file.

    Raises:
        BackupError: `needed` bytes leave less than a tenth of the free space.
    """
    there = os.fstatvfs(file.fileno())
    free = there.f_bavail * there.f_frsize
    if needed > free - free // _KEPT_FREE:
        raise BackupError(
            f"{printable(tempfile.gettempdir())}: the manifest takes {render_bytes(needed)} of "
            f"temporary files, and {render_bytes(free)} are free; set TMPDIR to a folder with "
            "more room"
        )


def find_fault_at_end(
    store: RangeReader, stored: StoredObject, footer: Footer, keys: Keyring = NO_KEYS
) -> str:
    """The fault in the bytes between manifest and footer; "" if there is none.

    Only tar's end mark belongs there and, in an unencrypted archive, the signature. Bytes that
    look wrong are fetched once more.
    """
    fault = _fault_at_end(store, stored, footer, keys)
    return fault and _fault_at_end(store, stored, footer, keys)


def _fault_at_end(store: RangeReader, stored: StoredObject, footer: Footer, keys: Keyring) -> str:
    start = footer.offset + footer.length
    length = stored.size - footer_length(stored) - start
    if is_encrypted_name(stored.name):
        if length > END_BYTES:
            return f"{length:,} bytes lie between manifest and footer, where tar's end mark belongs"
        try:
            end = open_encrypted(store.read_range(stored, start, length), keys)
        except (ArchiveError, NoKeyFits) as error:
            return f"tar's end mark after the manifest is damaged: {error}"
    elif length not in (len(END_CHUNK), _SIGNED_END_BYTES):
        return (
            f"{length:,} bytes lie between manifest and footer, where tar's end mark takes "
            f"{len(END_CHUNK)}, and {_SIGNED_END_BYTES} together with a signature"
        )
    else:
        end = store.read_range(stored, start, len(END_CHUNK))
        if length == _SIGNED_END_BYTES and footer.signature is None:
            return "the signature before the footer is damaged"
    return "" if end == END_CHUNK else "tar's end mark after the manifest is damaged"


def _unpack_manifest(packed: IO[bytes], most_bytes: int) -> IO[bytes]:
    lines = temporary_file()
    try:
        with igzip.IGzipFile(fileobj=packed, mode="rb") as unpacked:  # type: ignore[no-untyped-call]
            head = unpacked.read(BLOCK_BYTES)
            if head[156:157] == b"x":  # from 8 GiB on, a pax header gives its size
                head += unpacked.read(2 * BLOCK_BYTES)
            member, _ = decode_headers(memoryview(head), 0)
            if member.path != MANIFEST_PATH.encode():
                raise ArchiveError(f"there is {member.path!r} where it should be")
            if member.size > most_bytes:
                raise ArchiveError(f"it would unpack to {member.size:,} bytes, which none does")
            _check_room(lines, member.size)
            left = member.size
            while left:
                piece = unpacked.read(min(left, 2**20))
                if not piece:
                    raise ArchiveError("it ends too early")
                lines.write(piece)
                left -= len(piece)
    except BaseException:
        lines.close()
        raise
    return lines
