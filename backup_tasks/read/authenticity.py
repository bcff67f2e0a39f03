"""Whose archive is it: what signature and name prove, held against what is expected. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Literal

from msgspec import Struct

from backup_tasks.common.printable import printable
from backup_tasks.errors import UnprovenError
from backup_tasks.format.footer import Footer
from backup_tasks.format.manifest_lines import Manifest
from backup_tasks.keys.signing import render_public_key

# "wrong": there is a signature, and it is not by the key that it names.
State = Literal["trusted", "not compared", "unsigned", "another key", "wrong"]


class Trust(Struct, frozen=True):
    """Whose archives are believed.

    Attributes:
        signers: public keys as text, of which one must have signed; none means anybody's.
        unproven: go on all the same when nothing proves whose archive it is.
    """

    signers: tuple[str, ...] = ()
    unproven: bool = False


ANYBODY = Trust()


class Proof(Struct, frozen=True):
    """What one archive proves about where it comes from.

    Attributes:
        public_key: the key that its signature names, as text, or "".
        doubts: why it is not to be believed, in words; none if it is.
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
    """What an archive's signature, and the name in its manifest, prove.

    Args:
        manifest: None for an ordinary .tar.gz that we did not write.
        stored_name: what the store calls the object.
        signers: public keys as text, of which one must have signed; none means anybody's.
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
    """Refuse somebody else's archive by its last bytes, before anything that they lead to is read.

    The signature covers place, length and hash of the manifest; what name stands in that is for
    `demand_proof`.

    Args:
        footer: None for an ordinary .tar.gz that we did not write.

    Raises UnprovenError as `demand_proof`.
    """
    _demand(_weigh(footer, "", stored_name, trust.signers), stored_name, trust)


def demand_proof(manifest: Manifest | None, stored_name: str, trust: Trust) -> Proof:
    """As `weigh_proof`, for whoever is about to use the archive.

    Raises UnprovenError when there are doubts, unless the operator asked to go on all the same.
    """
    return _demand(weigh_proof(manifest, stored_name, trust.signers), stored_name, trust)


def _demand(proof: Proof, stored_name: str, trust: Trust) -> Proof:
    if proof.doubts and not trust.unproven:
        raise UnprovenError(
            f"{stored_name} is refused: {'; '.join(proof.doubts)}; choose another backup, or, if "
            "you know where this one comes from, restore it with --unproven"
        )
    return proof
