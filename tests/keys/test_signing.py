"""Signatures: what they cover, how they are carried, and that no reader of gzip minds them."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from backup_tasks.chunks.compress import compress_chunk
from backup_tasks.format.encrypted_footer import decode_encrypted_footer, encode_encrypted_footer
from backup_tasks.format.footer import END_CHUNK, Footer, encode_footer
from backup_tasks.format.signature_member import MEMBER_BYTES, decode_signature, encode_signature
from backup_tasks.keys.signing import (
    Signature,
    is_signed,
    is_weak_key,
    make_signing_key,
    parse_public_key,
    parse_signing_key,
    render_public_key,
)

KEY = make_signing_key()
PUBLIC_KEY = bytes(range(32))
FOOTERS = st.builds(
    Footer,
    offset=st.integers(0, 2**64 - 1),
    length=st.integers(0, 2**64 - 1),
    sha256=st.binary(min_size=32, max_size=32),
)
SIGNATURES = st.builds(
    Signature,
    public_key=st.binary(min_size=32, max_size=32),
    signature=st.binary(min_size=64, max_size=64),
)


# What is signed


@given(FOOTERS)
def test_what_the_key_signed_is_signed_by_it(footer: Footer) -> None:
    signed = replace(footer, signature=KEY.sign(footer.statement))
    assert signed.is_truly_signed
    assert not footer.is_truly_signed


@given(FOOTERS, st.sampled_from(["offset", "length", "sha256", "version"]), st.data())
def test_no_other_footer_is(footer: Footer, name: str, data: st.DataObject) -> None:
    others = {
        "offset": st.integers(0, 2**64 - 1),
        "length": st.integers(0, 2**64 - 1),
        "sha256": st.binary(min_size=32, max_size=32),
        "version": st.integers(0, 2**16 - 1),
    }
    signature = KEY.sign(footer.statement)
    changed = data.draw(others[name].filter(lambda other: other != getattr(footer, name)))
    other = replace(footer, signature=signature, **{name: changed})  # type: ignore[arg-type]
    assert not other.is_truly_signed


@given(SIGNATURES)
def test_bytes_that_are_no_signature_and_no_key_sign_nothing(signature: Signature) -> None:
    assert not is_signed(b"statement", signature)


def test_a_signature_names_the_key_that_made_it_and_holds_for_no_other() -> None:
    signature = KEY.sign(b"statement")
    assert signature.public_key == KEY.public_key
    assert is_signed(b"statement", signature)
    assert not is_signed(b"statement", replace(signature, public_key=make_signing_key().public_key))


P = 2**255 - 19
WEAK_Y = (0, 1, P - 1, P, P + 1)


@pytest.mark.parametrize("y", WEAK_Y)
@pytest.mark.parametrize("sign", [0, 2**255])
def test_a_key_for_which_anybody_can_sign_signs_nothing(y: int, sign: int) -> None:
    key = (y | sign).to_bytes(32, "little")
    assert is_weak_key(key)
    # R is the same point and S is 0: right for some of a few statements, whoever made them.
    forged = Signature(key, key + bytes(32))
    assert not any(is_signed(b"%d" % number, forged) for number in range(64))


def test_the_other_weak_keys_are_those_of_order_eight() -> None:
    # d y**4 + 2 y**2 = 1, since doubling such a point gives y = 0 (RFC 8032, 5.1.4).
    d = -121665 * pow(121666, -1, P) % P
    for text in (
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    ):
        y = int.from_bytes(bytes.fromhex(text), "little")
        assert (d * pow(y, 4, P) + 2 * y * y - 1) % P == 0
        assert is_weak_key(y.to_bytes(32, "little"))
        assert is_weak_key((y | 2**255).to_bytes(32, "little"))


# Keys as text


def test_a_private_key_comes_back_from_its_text_and_openssl_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(KEY.render_pem())
    assert parse_signing_key(file.read_bytes()).public_key == KEY.public_key
    command = ["openssl", "pkey", "-in", file, "-pubout", "-outform", "DER"]
    told = subprocess.run(command, capture_output=True, check=True).stdout
    assert told[-32:] == KEY.public_key


def test_a_private_key_shows_nothing_of_itself() -> None:
    secret = KEY.render_pem().decode().splitlines()[1]
    assert secret not in repr(KEY)
    assert repr(KEY).startswith("SigningKey(public_key=")
    assert "private" not in repr(KEY)


@given(st.binary(min_size=32, max_size=32).filter(lambda key: not is_weak_key(key)))
def test_a_public_key_comes_back_from_its_text(public_key: bytes) -> None:
    assert parse_public_key(render_public_key(public_key)) == public_key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ed25519:",
        render_public_key(PUBLIC_KEY).removeprefix("ed25519:"),
        render_public_key(PUBLIC_KEY) + "\n",
        render_public_key(PUBLIC_KEY).rstrip("="),
        render_public_key(PUBLIC_KEY).replace("ed25519", "ED25519"),
        render_public_key(bytes(31)),
        render_public_key(bytes(33)),
        render_public_key(bytes(32)),
        # Bits that base64 leaves unused: another spelling of the same bytes.
        "ed25519:" + "A" * 42 + "B=",
        "ed25519:é",
        "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq",
    ],
)
def test_a_text_that_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no public signing key"):
        parse_public_key(text)


# How a signature is carried


@given(SIGNATURES)
def test_a_member_comes_back_and_unpacks_to_nothing(signature: Signature) -> None:
    member = encode_signature(signature)
    assert len(member) == MEMBER_BYTES
    assert decode_signature(member) == signature
    assert gzip.decompress(member) == b""


@given(SIGNATURES, st.integers(0, MEMBER_BYTES - 1), st.integers(1, 255))
def test_a_changed_byte_is_another_signature_or_none(
    signature: Signature, place: int, change: int
) -> None:
    member = bytearray(encode_signature(signature))
    member[place] ^= change
    assert decode_signature(bytes(member)) != signature


@given(st.binary(max_size=2 * MEMBER_BYTES))
def test_other_bytes_are_no_signature(member: bytes) -> None:
    assert decode_signature(member) is None


@given(FOOTERS, SIGNATURES)
def test_the_footer_of_an_encrypted_archive_carries_it(
    footer: Footer, signature: Signature
) -> None:
    signed = replace(footer, signature=signature)
    assume(signature != Signature(bytes(32), bytes(64)))  # which stands for none
    assert decode_encrypted_footer(encode_encrypted_footer(signed)) == signed
    assert decode_encrypted_footer(encode_encrypted_footer(footer)) == footer


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """A .tar.gz of one file that ends as ours do."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        info = tarfile.TarInfo("file")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"hello"))
    chunk = compress_chunk(tar.getvalue()[:1024], 1).stored
    footer = Footer(len(chunk), 0, bytes(32))
    end = END_CHUNK + encode_signature(KEY.sign(footer.statement)) + encode_footer(footer)
    file = tmp_path / "signed.tar.gz"
    file.write_bytes(chunk + end)
    return file


@pytest.mark.parametrize(
    "script",
    [
        'gzip -t "$1" && gzip -dc "$1" | tar xO',
        'pigz -t "$1" && pigz -dc "$1" | tar xO',
        'cat "$1" | tar xzO',
        'tar xOf "$1"',
        'bsdtar xOf "$1"',
        'cat "$1" | bsdtar xOf -',
        'busybox tar xzOf "$1"',
        'busybox gzip -dc "$1" | busybox tar xOf -',
    ],
)
def test_tools_pass_over_it_in_silence(signed: Path, script: str) -> None:
    command = ["bash", "-o", "pipefail", "-c", script, "bash", signed]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello", b"")


def test_python_passes_over_it_in_silence(signed: Path) -> None:
    with tarfile.open(signed) as archive:
        assert archive.getnames() == ["file"]
