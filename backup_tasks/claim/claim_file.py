"""The claim as it lies in a store: `backup-tasks.json`, signed by its owner.

The object is JSON in UTF-8. Its key `signature` holds the base64 of an Ed25519 signature (RFC 8032)
by `owner`, over `DOMAIN` and the canonical form of all other keys: JSON in ASCII, keys sorted, no
spaces. The signature also covers keys that a later version adds; this version ignores them.
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
# No claim of ours is larger: names, keys and reasons are few, and each has its own limit.
CLAIM_BYTES = 2**18
DOMAIN = b"backup-tasks claim 1\n"


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """The sources as the last good backup held them; later runs compare theirs with it.

    Attributes:
        name: that backup's.
        counts: source -> what lay below it.
        mounts: mount points that sources lie on, and those below sources, as `mount_text` writes
            them.
        rules: a hash of the profile's exclude rules.
    """

    name: str
    counts: dict[str, SourceCount] = {}
    mounts: tuple[str, ...] = ()
    rules: str = ""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing is deleted.

    Attributes:
        since: ISO 8601, UTC.
        reasons: in words, fit to print; without paths in the claim of an encrypted profile.
        before: the baseline that sources are compared with; None in the claim of an encrypted
            profile, or if it is too large for the claim.
    """

    since: str
    reasons: tuple[str, ...]
    before: Baseline | None = None


class Name(msgspec.Struct, frozen=True, array_like=True):
    """The profile and host that the owner's backups name in their manifests."""

    profile: str
    host: str


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """Statement of who owns a store.

    Attributes:
        owner: public key as text; also: other public keys whose backups are accepted.
        profile, host: of the run that wrote this; machine: a hash of its machine id, or "".
        names: every name that the owner's profile and host have had, the present ones included.
        adopted: footers (SHA-256 of their bytes, hex) that count though nothing proves them.
        serial: random, new each time that the claim is written.
        claimed_at: when `owner` got the store, on `machine`; renewed_at: when this claim was
            written. Both ISO 8601, UTC.
        is_taken_over: the owner got the store by the operator's `--take-over`.
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
    """Render the claim as the object's bytes, signed.

    Args:
        key: the owner's.
    """
    fields: dict[str, Any] = msgspec.to_builtins(claim)
    signature = key.sign(_statement(fields)).signature
    signed = fields | {"signature": base64.b64encode(signature).decode("ascii")}
    return json.dumps(signed, indent=1, ensure_ascii=True, sort_keys=True).encode() + b"\n"


def parse_claim(content: bytes, written: Collection[Claim] = ()) -> Claim:
    """Parse a claim, and check that its owner signed it.

    Args:
        written: claims that this machine wrote; an equal claim needs no check of its signature.

    Raises:
        UnfitClaim: the bytes are no claim, its owner did not sign it, or it has another version.
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
    """Render the key as a claim names its owner."""
    return render_public_key(key.public_key)
