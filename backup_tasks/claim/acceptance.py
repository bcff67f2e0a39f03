"""Which backups of a store to accept: by key, by name, or because they were adopted. Pure."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from msgspec import Struct

from backup_tasks.claim.claim_file import Claim, Name


class Acceptance(Struct, frozen=True):
    """The conditions under which a backup counts.

    Attributes:
        keys: public keys as text, one of which must have signed. Empty: no key is known, and
            any true signature is enough (a reader on a new machine).
        names: profile and host that a manifest may name; None: any.
        adopted: footers (`Footer.fingerprint`) that count whatever signed them.
        trusts_locked: a true signature is enough for an encrypted backup that nobody here can
            open, as when the claim says that the store has one owner.
        former: those of `keys` that owned the store before.
        until: when their ownership ended, aware. Backups that they sign later do not count: a
            machine that was replaced may come to life again.
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
    """Decide what counts for this profile, here and now.

    Args:
        claim: the store's, if it has one that counts here.
        own_key: this machine's public key as text, "" if it has none yet.
        signers: the public keys that `[signing] public_key` names.
        name: this profile and host.
    """
    if signers:
        # The operator wrote the profile, so it outranks the store's claim.
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
