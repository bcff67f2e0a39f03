"""Compare the signature and name of an archive with those that are expected. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Literal

from msgspec import Struct

from backup_tasks.common.printable import printable
from backup_tasks.errors import UnprovenError
from backup_tasks.format.footer import Footer
from backup_tasks.format.manifest_lines import Manifest
from backup_tasks.keys.signing import render_public_key

# "wrong": the archive has a signature, but not by the key that the signature names.
State = Literal["trusted", "not compared", "unsigned", "another key", "wrong"]


class Trust(Struct, frozen=True):
    """Whose archives are believed.

    Attributes:
        signers: public keys as text, one of which must have signed; empty believes anybody.
        unproven: accept an archive despite doubts about whose it is.
    """

    signers: tuple[str, ...] = ()
    unproven: bool = False


ANYBODY = Trust()


class Proof(Struct, frozen=True):
    """Proof of where one archive comes from.

    Attributes:
        public_key: the key that the signature names, as text, or "".
        doubts: the reasons not to believe the archive, in words; empty if it is believed.
    """

    state: State
    public_key: str
    doubts: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "state": self.state,
            "public_key": self.public_key or None,
            "doubts": list(self.doubts),
        }

    def __str__(self) -> str:
        if not self.public_key:
            return "unsigned"
        why = {"not compared": " (not compared: [signing] public_key is not set)"}
        return f"signed by {self.public_key}{why.get(self.state, '')}"


NO_PROOF = Proof("unsigned", "", ())


def weigh_proof(manifest: Manifest | None, stored_name: str, signers: Collection[str]) -> Proof:
    """Judge whose archive it is by its signature and by the name in its manifest.

    Args:
        manifest: None for a plain tar.
        stored_name: the object's name in the store.
        signers: public keys as text, one of which must have signed; empty believes anybody.
    """
    own_name = manifest.header.name if manifest else ""
    return _weigh(manifest.footer if manifest else None, own_name, stored_name, signers)


def _weigh(
    footer: Footer | None, own_name: str, stored_name: str, signers: Collection[str]
) -> Proof:
    signature = footer.signature if footer else None
    named = render_public_key(signature.public_key) if signature else ""
    state: State
    if footer is None or signature is None:
        state = "unsigned"
    elif not footer.is_truly_signed:
        state = "wrong"
    elif not signers:
        state = "not compared"
    else:
        state = "trusted" if named in signers else "another key"
    return Proof(state, named, tuple(_doubts(state, named, own_name, stored_name, signers)))


def _doubts(
    state: State, named: str, own_name: str, stored_name: str, signers: Collection[str]
) -> Iterator[str]:
    wanted = f"where [signing] public_key asks for {' or '.join(signers)}"
    if state == "unsigned" and signers:
        yield f"it is unsigned, {wanted}"
    elif state == "another key":
        yield f"it is signed by {named}, {wanted}"
    elif state == "wrong":
        yield f"its signature is wrong: it is not by {named}, which it names"
    if own_name not in ("", stored_name):
        yield f"it holds another backup's bytes: those of {printable(own_name)}"


def demand_signature(footer: Footer | None, stored_name: str, trust: Trust) -> None:
    """Refuse somebody else's archive by its footer, before reading anything that it points to.

    The signature covers place, length and hash of the manifest; `demand_proof` checks the name
    in the manifest.

    Args:
        footer: None for a plain tar.

    Raises:
        UnprovenError: the signature leaves doubts, and `trust.unproven` is not set.
    """
    _demand(_weigh(footer, "", stored_name, trust.signers), stored_name, trust)


def demand_proof(manifest: Manifest | None, stored_name: str, trust: Trust) -> Proof:
    """As `weigh_proof`, but refuse a doubtful archive.

    Raises:
        UnprovenError: there are doubts, and `trust.unproven` is not set.
    """
    return _demand(weigh_proof(manifest, stored_name, trust.signers), stored_name, trust)


def _demand(proof: Proof, stored_name: str, trust: Trust) -> Proof:
    if proof.doubts and not trust.unproven:
        raise UnprovenError(
            f"{stored_name} is refused: {'; '.join(proof.doubts)}; choose another backup, or, if "
            "you know where this one comes from, restore it with --unproven"
        )
    return proof
