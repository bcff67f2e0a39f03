"""The claim as it lies in a store: `backup-tasks.json`, signed by its owner.

The object is JSON in UTF-8. Its key `signature` holds the base64 of an Ed25519 signature (RFC 8032)
by `owner`, over `DOMAIN` and the canonical form of all other keys: JSON in ASCII, keys sorted, no
spaces. Keys that a later version adds are signed too, and passed over here.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from backup_tasks.errors import ArchiveError
from backup_tasks.format.manifest import SourceCount
from backup_tasks.keys.signing import (
    Signature,
    SigningKey,
    is_signed,
    parse_public_key,
    render_public_key,
)

CLAIM_VERSION = 1
# More is no claim of ours: names, keys and reasons are few, and each has its limit below.
CLAIM_BYTES = 2**18
DOMAIN = b"backup-tasks claim 1\n"


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """What the last good backup held of the sources: the next ones are compared with it.

    Attributes:
        name: of that backup.
        counts: source -> what lay below it.
        mounts: mount points that sources lie on, and below them, as `mount_points` writes them.
        rules: a hash of what the profile left out.
    """

    name: str
    counts: dict[str, SourceCount] = {}
    mounts: tuple[str, ...] = ()
    rules: str = ""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing is deleted.

    Attributes:
        since: ISO 8601, UTC.
        reasons: in words, fit to print; of an encrypted profile without paths.
        before: what the sources are to be compared with; of an encrypted profile None.
    """

    since: str
    reasons: tuple[str, ...]
    before: Baseline | None = None


class Name(msgspec.Struct, frozen=True, array_like=True):
    """What the owner's backups call themselves in their manifests."""

    profile: str
    host: str


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """Whose the store is.

    Attributes:
        owner: public key as text; also: those whose backups are accepted besides.
        profile, host: of the run that wrote this; machine: a hash of its machine id, or "".
        names: what the owner's profile and host were called, the present names included.
        adopted: footers (SHA-256 of their bytes, hex) that count though nothing proves them.
        serial: random, another one each time that the claim is written.
        claimed_at: when the store became the owner's on its machine, renewed_at: when this was
            written; ISO 8601, UTC.
        is_taken_over: an operator said then that it is to be the owner's.
        hold: why nothing is deleted, or None.
    """

    owner: str
    profile: str
    host: str
    machine: str
    serial: str
    claimed_at: str
    renewed_at: str
    is_taken_over: bool = False
    version: int = CLAIM_VERSION
    also: tuple[str, ...] = ()
    names: tuple[Name, ...] = ()
    adopted: tuple[str, ...] = ()
    hold: Hold | None = None


class UnfitClaim(ArchiveError):
    """The object is no claim, or its owner did not sign it; the message says why."""


def render_claim(claim: Claim, key: SigningKey) -> bytes:
    """The object's bytes, signed.

    Args:
        key: the owner's.
    """
    fields: dict[str, Any] = msgspec.to_builtins(claim)
    signature = key.sign(_statement(fields)).signature
    signed = fields | {"signature": base64.b64encode(signature).decode("ascii")}
    return json.dumps(signed, indent=1, ensure_ascii=True, sort_keys=True).encode() + b"\n"


def parse_claim(content: bytes, written: Collection[Claim] = ()) -> Claim:
    """The claim in these bytes, which its owner has signed.

    Args:
        written: by this machine; for one that says the same no signature need be looked at.

    Raises UnfitClaim for anything else, also for a later version.
    """
    if len(content) > CLAIM_BYTES:
        raise UnfitClaim(f"it is larger than {CLAIM_BYTES // 1024} KiB, which no claim is")
    try:
        fields = json.loads(content)
        if not isinstance(fields, dict):
            raise ValueError("no object")
        signature = Signature(
            parse_public_key(str(fields.get("owner"))),
            base64.b64decode(str(fields.pop("signature", "")), validate=True),
        )
        statement = _statement(fields)
        claim = msgspec.convert(fields, Claim)
    except (ValueError, RecursionError, msgspec.MsgspecError, binascii.Error) as error:
        raise UnfitClaim("it is no claim of this program") from error
    if claim not in written and not is_signed(statement, signature):
        raise UnfitClaim(f"it is not signed by {claim.owner}, which it names as its owner")
    if claim.version != CLAIM_VERSION:
        raise UnfitClaim(
            f"it has version {claim.version}, this program reads version {CLAIM_VERSION}; update it"
        )
    return claim


def _statement(fields: Mapping[str, Any]) -> bytes:
    canonical = json.dumps(fields, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return DOMAIN + canonical.encode("ascii")


def owner_of(key: SigningKey) -> str:
    """The key as a claim names its owner."""
    return render_public_key(key.public_key)
