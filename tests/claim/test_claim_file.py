"""Promises of the claim as it lies in a store: whole, signed by its owner, or refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_tasks.claim.acceptance import plan_acceptance
from backup_tasks.claim.claim_file import (
    CLAIM_BYTES,
    Baseline,
    Claim,
    Hold,
    Name,
    UnfitClaim,
    owner_of,
    parse_claim,
    render_claim,
)
from backup_tasks.format.manifest import SourceCount
from backup_tasks.keys.signing import make_signing_key

KEY = make_signing_key()
OTHER = make_signing_key()
HOLD = Hold(
    since="2025-06-12T02:00:00Z",
    reasons=("/srv/data: no longer mounted",),
    before=Baseline(
        name="2025-06-11_0200-backup.tar.gz", counts={"/srv/data": SourceCount(12, 3400)}
    ),
)
CLAIM = Claim(
    owner=owner_of(KEY),
    profile="prod",
    host="web1",
    machine="0" * 64,
    serial="00112233445566778899aabbccddeeff",
    claimed_at="2025-06-01T02:00:00Z",
    renewed_at="2025-06-12T02:00:00Z",
    also=(owner_of(OTHER),),
    names=(Name("prod", "web1"), Name("old", "web0")),
    adopted=("ab" * 32,),
    hold=HOLD,
)


def test_a_claim_comes_back_as_it_was_written() -> None:
    assert parse_claim(render_claim(CLAIM, KEY)) == CLAIM


@given(st.data())
def test_no_changed_byte_of_a_claim_changes_what_it_says(data: st.DataObject) -> None:
    content = bytearray(render_claim(CLAIM, KEY))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    try:
        claim = parse_claim(bytes(content))
    except UnfitClaim:
        return
    assert claim == CLAIM  # white space, say


@pytest.mark.parametrize(
    "change",
    [{"owner": owner_of(OTHER)}, {"hold": None}, {"also": []}, {"adopted": ["cd" * 32]}],
    ids=lambda change: next(iter(change)),
)
def test_a_claim_that_its_owner_did_not_sign_is_refused(change: dict[str, object]) -> None:
    fields = json.loads(render_claim(CLAIM, KEY)) | change
    with pytest.raises(UnfitClaim, match="not signed by"):
        parse_claim(json.dumps(fields).encode())


def test_a_later_version_is_named_and_its_keys_are_signed_too() -> None:
    later = Claim(
        **{name: getattr(CLAIM, name) for name in CLAIM.__struct_fields__} | {"version": 2}
    )
    with pytest.raises(UnfitClaim, match="has version 2"):
        parse_claim(render_claim(later, KEY))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        b'{"owner": "ed25519:AAAA"}',
        b"[" * 99_999,
        b" " * (CLAIM_BYTES + 1),
    ],
    ids=["empty", "one byte", "a list", "nothing in it", "no key", "deep", "large"],
)
def test_anything_else_is_refused_in_words(content: bytes) -> None:
    with pytest.raises(UnfitClaim):
        parse_claim(content)


def test_the_profiles_own_word_on_keys_is_stronger_than_the_stores() -> None:
    name = Name("prod", "web1")
    own, signer = owner_of(KEY), owner_of(make_signing_key())
    found = plan_acceptance(CLAIM, own_key=own, signers=[signer], name=name)
    assert found.keys == {own, signer}
    assert found.names == {name, Name("old", "web0")}


def test_without_a_claim_the_own_key_and_name_count() -> None:
    name = Name("prod", "web1")
    found = plan_acceptance(None, own_key=owner_of(KEY), signers=(), name=name)
    assert (found.keys, found.names) == ({owner_of(KEY)}, {name})
    assert plan_acceptance(None, own_key="", signers=(), name=name).keys == frozenset()
