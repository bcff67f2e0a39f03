"""Whose backups are believed in a store: keys, names and what was adopted. Pure."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from msgspec import Struct

from backup_tasks.claim.claim_file import Claim, Name


class Acceptance(Struct, frozen=True):
    """What a backup must show to count.

    Attributes:
        keys: public keys as text, of which one must have signed; none: nothing is known, and
            any true signature does (a reader on a new machine).
        names: profile and host that a manifest may name; None: any, for the store belongs to
            one owner and the keys tell.
        adopted: footers (`Footer.fingerprint`) that count whatever signed them.
        trusts_locked: a true signature does for encrypted backups that nobody here can open: the
            store has one owner, as its claim says.
        former: those of the keys that owned the store before; until: when that ended, aware. What
            they sign later does not count: a machine that was replaced may come to life again.
    """

    keys: frozenset[str]
    names: frozenset[Name] | None
    adopted: frozenset[str] = frozenset()
    trusts_locked: bool = False
    former: frozenset[str] = frozenset()
    until: datetime | None = None


def plan_acceptance(
    claim: Claim | None,
    *,
    own_key: str,
    signers: Collection[str],
    name: Name,
) -> Acceptance:
    """What counts for this profile, here and now.

    Args:
        claim: the store's, if it has one whose word counts here.
        own_key: this machine's public key as text, "" if it has none yet.
        signers: what `[signing] public_key` names.
        name: this profile and host.
    """
    if signers:
        # The profile's word is the operator's own, and stronger than the store's.
        keys = frozenset(signers) | ({own_key} - {""})
    elif claim is not None:
        keys = frozenset({claim.owner, *claim.also})
    else:
        keys = frozenset({own_key} - {""})
    if claim is None:
        return Acceptance(keys, frozenset({name}))
    return Acceptance(
        keys,
        frozenset({name, *claim.names}),
        frozenset(claim.adopted),
        trusts_locked=True,
        former=frozenset(claim.also) - {own_key, *signers},
        until=_moment(claim.claimed_at),
    )


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
