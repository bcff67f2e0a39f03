"""Identity files: what `age -i` takes works here too, and what is wrong is one clear line."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest

from backup_tasks.chunks.compress import compress_chunk
from backup_tasks.chunks.encrypt import Sealer, open_encrypted, open_encrypted_chunk
from backup_tasks.errors import ArchiveError, IdentityError
from backup_tasks.format.age_tar import unwrap_age_file, wrap_age_file
from backup_tasks.format.encrypted_footer import (
    ENCRYPTED_FOOTER_BYTES,
    decode_encrypted_footer,
    encode_encrypted_footer,
)
from backup_tasks.format.footer import Footer
from backup_tasks.keys.identities import Keyring, NoKeyFits
from backup_tasks.keys.recipients import describe_recipients, normalize_recipient
from backup_tasks.keys.signing import Signature
from tests.support.keys import KINDS, make_key, protect, run

CONTENT = b"content" * 20_000


@pytest.mark.parametrize("kind", KINDS)
def test_what_we_encrypt_age_decrypts_and_the_other_way_round(tmp_path: Path, kind: str) -> None:
    pair = make_key(tmp_path, kind)
    recipient = normalize_recipient(pair.recipient)
    sealed = Sealer([recipient]).seal(CONTENT)
    (tmp_path / "by-us.age").write_bytes(unwrap_age_file(sealed))
    assert run("age", "-d", "-i", pair.file, tmp_path / "by-us.age") == CONTENT
    for armor in ([], ["-a"]):
        by_age = run("age", *armor, "-r", pair.recipient, content=CONTENT)
        assert Keyring(pair.file).open(by_age) == CONTENT
        assert open_encrypted(wrap_age_file(by_age), Keyring(pair.file)) == CONTENT


def test_one_of_several_identities_is_enough_and_comments_are_passed_over(tmp_path: Path) -> None:
    one, two = make_key(tmp_path, name="one"), make_key(tmp_path, name="two")
    both = tmp_path / "both.txt"
    both.write_text(f"# mine\n\n{one.file.read_text()}\n  # theirs\n{two.file.read_text()}")
    for pair in (one, two):
        sealed = Sealer([pair.recipient]).seal(CONTENT)
        assert open_encrypted(sealed, Keyring(both)) == CONTENT


@pytest.mark.parametrize("kind", ["X25519", "ssh-ed25519"])
@pytest.mark.parametrize("armor", [(), ("--armor",)], ids=["binary", "armored"])
def test_a_passphrase_is_asked_once_and_opens_the_identity_file(
    tmp_path: Path, kind: str, armor: tuple[str, ...]
) -> None:
    pair = make_key(tmp_path, kind)
    protected = protect(pair.file, "correct horse", *armor)
    asked = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "correct horse"

    keys = Keyring(protected, ask)
    sealed = Sealer([normalize_recipient(pair.recipient)]).seal(CONTENT)
    assert open_encrypted(sealed, keys) == CONTENT
    assert open_encrypted(sealed, keys) == CONTENT
    assert asked == [f"Passphrase for {protected}: "]
    asked.clear()
    wrong = Keyring(protected, lambda prompt: asked.append(prompt) or "wrong horse")
    for _ in range(2):
        with pytest.raises(IdentityError, match="the passphrase is wrong") as caught:
            wrong.load()
        assert "horse" not in str(caught.value)
    assert len(asked) == 1
    with pytest.raises(IdentityError, match="nobody is asked here"):
        Keyring(protected).load()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "holds no key"),
        (b"# only a comment\n", "holds no key"),
        (b"AGE-SECRET-KEY-1SECRET\n", "is none: it should hold"),
        (b"hello\n", "is none"),
        (b"\xff\xfe\x00", "is none"),
        (b"x" * 2_000_000, "is none"),
        (b"AGE-PLUGIN-YUBIKEY-1SECRET\n", "for a plugin"),
        (b"age1tslaj4qpak48vffgx9klt00a0k6490mwyxd4cgngmgg6nfr8n3uqmf5gw2\n", "is none"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nSECRET\n", "or damaged"),
    ],
)
def test_what_is_no_identity_file_is_one_line_without_its_content(
    tmp_path: Path, content: bytes, told: str
) -> None:
    file = tmp_path / "key.txt"
    file.write_bytes(content)
    with pytest.raises(IdentityError, match=told) as caught:
        Keyring(file).load()
    assert "SECRET-KEY-1SECRET" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 12


def test_an_ssh_key_with_a_passphrase_or_of_another_kind_is_told(tmp_path: Path) -> None:
    for options, told in (
        (["-t", "ed25519", "-N", "horse"], "with a passphrase, which is not supported"),
        (["-t", "ecdsa", "-N", ""], "of a kind that age does not know"),
    ):
        file = tmp_path / options[1]
        run("ssh-keygen", "-q", *options, "-f", file)
        with pytest.raises(IdentityError, match=told):
            Keyring(file).load()


def test_a_missing_identity_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="cannot be read: No such file"):
        Keyring(tmp_path / "none").load()
    with pytest.raises(IdentityError, match="cannot be read: Is a directory"):
        Keyring(tmp_path).load()


def test_whom_a_file_was_made_for_is_told_as_far_as_age_does(tmp_path: Path) -> None:
    pairs = [make_key(tmp_path, kind, kind) for kind in ("X25519", *KINDS[1:])]
    more = make_key(tmp_path, name="more")
    options = [word for pair in (*pairs, more) for word in ("-r", pair.recipient)]
    age_file = run("age", *options, content=b"x")
    told = describe_recipients(age_file, [])
    assert told.startswith("2 X25519 keys and one ssh-ed25519 key with the tag ")
    assert " and one ssh-rsa key with the tag " in told
    known = [normalize_recipient(pair.recipient) for pair in pairs]
    told = describe_recipients(age_file, known)
    assert "with the tag" not in told
    assert known[1].split()[1][-12:] in told
    # What pyrage adds against ossification is none of a recipient.
    ours = unwrap_age_file(Sealer([pairs[0].recipient]).seal(b"x"))
    assert describe_recipients(ours, []) == "one X25519 key"


def test_a_key_that_does_not_fit_and_a_damaged_file_are_told_apart(tmp_path: Path) -> None:
    pair, other = make_key(tmp_path), make_key(tmp_path, name="other")
    age_file = unwrap_age_file(Sealer([pair.recipient]).seal(CONTENT))
    with pytest.raises(NoKeyFits):
        Keyring(other.file).open(age_file)
    for damaged in (age_file[:-1], age_file[:30], b"", age_file[:-1] + b"?", b"age" * 100):
        with pytest.raises(ArchiveError, match="cannot be decrypted"):
            Keyring(pair.file).open(damaged)


def test_a_member_of_the_outer_tar_has_one_spelling(tmp_path: Path) -> None:
    pair = make_key(tmp_path)
    sealed = Sealer([pair.recipient]).seal(b"content")
    for place in range(len(sealed)):
        flipped = bytearray(sealed)
        flipped[place] ^= 1 << place % 8
        with pytest.raises(ArchiveError):
            unwrap_age_file(bytes(flipped))
    for wrong in (sealed[:-512], sealed + bytes(512), sealed[:100], b""):
        with pytest.raises(ArchiveError):
            unwrap_age_file(wrong)


def test_a_sealed_chunk_must_hold_what_the_manifest_lists(tmp_path: Path) -> None:
    pair = make_key(tmp_path)
    sealed = Sealer([pair.recipient]).seal_chunk(compress_chunk(b"raw", 1))
    keys = Keyring(pair.file)
    assert (
        open_encrypted_chunk(sealed.stored, sealed.content, keys)
        == compress_chunk(b"raw", 1).stored
    )
    with pytest.raises(ArchiveError, match="is not what the manifest says"):
        open_encrypted_chunk(sealed.stored, compress_chunk(b"other", 1).sha256, keys)


def test_the_footer_has_one_spelling_and_a_fixed_length() -> None:
    footer = Footer(2**62, 2**40, b"s" * 32, 1, Signature(b"k" * 32, b"g" * 64))
    tail = encode_encrypted_footer(footer)
    assert (
        len(tail) == ENCRYPTED_FOOTER_BYTES == len(encode_encrypted_footer(Footer(0, 0, b"0" * 32)))
    )
    assert decode_encrypted_footer(tail) == footer
    for place in range(len(tail)):
        flipped = bytearray(tail)
        flipped[place] ^= 1 << place % 8
        with contextlib.suppress(ArchiveError):  # a version that nobody knows
            assert decode_encrypted_footer(bytes(flipped)) != footer


@pytest.mark.parametrize("program", [["tar"], ["bsdtar"], ["busybox", "tar"]], ids=" ".join)
def test_tar_finds_nothing_in_the_footer(tmp_path: Path, program: list[str]) -> None:
    (tmp_path / "footer.tar").write_bytes(encode_encrypted_footer(Footer(1, 2, b"s" * 32)))
    done = subprocess.run(
        [*program, "-t", "-f", tmp_path / "footer.tar"], capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")
