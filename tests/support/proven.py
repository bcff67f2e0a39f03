"""Small archives, sound and signed, under any name and of any time; and what a store of them is."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

from isal import igzip
from msgspec.structs import replace

from backup_tasks.backup.assembly import utc_text
from backup_tasks.chunks.encrypt import Sealer
from backup_tasks.format.archive_names import is_encrypted_name, parse_backup_name
from backup_tasks.format.encrypted_footer import encode_encrypted_footer
from backup_tasks.format.footer import END_CHUNK, Footer, encode_footer
from backup_tasks.format.manifest import MANIFEST_PATH, write_manifest
from backup_tasks.format.signature_member import encode_signature
from backup_tasks.format.tar_headers import Member, encode_headers, padding_bytes
from backup_tasks.keys.signing import SigningKey, make_signing_key, render_public_key
from tests.support.manifests import header

KEY = make_signing_key()
KEY_TEXT = render_public_key(KEY.public_key)


def proven_archive(
    name: str,
    started_at: datetime | str | None = None,
    *,
    zone: tzinfo = UTC,
    key: SigningKey | None = KEY,
    recipients: Sequence[str] = (),
    more: bytes = b"",
    **said: Any,
) -> bytes:
    """The bytes of an archive without entries.

    Args:
        started_at: what its manifest says; None: the time of its name, in `zone`.
        key: signs; None leaves it unsigned.
        recipients: whom it is encrypted for, if its name says that it is.
        more: what follows the manifest's first line.
        said: what else the header says.
    """
    began = started_at or parse_backup_name(name, zone)
    assert began is not None
    facts: dict[str, Any] = {
        "profile": "prod",
        "host": "web1",
        "started_at": began if isinstance(began, str) else utc_text(began),
        "name": name,
        "chunks": 0,
        "chunk_bytes": 0,
        "recipients": tuple(recipients),
    }
    with tempfile.TemporaryFile() as lines:
        write_manifest(lines, header(**(facts | said)), (), [more])
        length = lines.tell()
        lines.seek(0)
        raw = lines.read()
    raw = encode_headers(Member(MANIFEST_PATH.encode(), "file", size=length, stored=length)) + raw
    raw += bytes(padding_bytes(length))
    packed: bytes = igzip.compress(raw, 1)
    if is_encrypted_name(name):
        return _sealed(packed, Sealer(tuple(recipients)), key)
    footer = Footer(0, len(packed), hashlib.sha256(packed).digest())
    signature = encode_signature(key.sign(footer.statement)) if key else b""
    return packed + END_CHUNK + signature + encode_footer(footer)


def _sealed(packed: bytes, sealer: Sealer, key: SigningKey | None) -> bytes:
    manifest = sealer.seal(packed)
    footer = Footer(0, len(manifest), hashlib.sha256(manifest).digest())
    if key:
        footer = replace(footer, signature=key.sign(footer.statement))
    return manifest + sealer.seal(END_CHUNK) + encode_encrypted_footer(footer)


def keep_key(state: Path, key: SigningKey = KEY) -> None:
    """Make this the machine's own signing key."""
    from backup_tasks.claim.machine_key import key_file

    file = key_file(state)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.write_bytes(key.render_pem())
    file.chmod(0o600)
