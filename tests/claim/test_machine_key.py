"""The machine's own key: made once, for its owner alone, and never lost to a second one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from backup_tasks.claim.machine_key import key_file, open_own_key, read_own_key
from backup_tasks.common.paths import PROJECT_ROOT
from backup_tasks.errors import BackupError
from backup_tasks.keys.signing import make_signing_key

PEM = forms.Encoding.PEM, forms.PrivateFormat.PKCS8


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def put(state: Path, content: bytes, mode: int = 0o600) -> None:
    state.mkdir()
    key_file(state).write_bytes(content)
    key_file(state).chmod(mode)


def test_it_is_made_at_first_use_and_found_ever_after(state: Path) -> None:
    assert read_own_key(state) is None
    made, is_new = open_own_key(state)
    again, is_new_again = open_own_key(state)
    assert (is_new, is_new_again) == (True, False)
    found = read_own_key(state)
    assert found is not None
    assert made.public_key == again.public_key == found.public_key
    assert os.listdir(state) == ["signing.key"]


def test_it_is_for_its_owner_alone_whatever_the_umask(state: Path) -> None:
    old = os.umask(0)
    try:
        open_own_key(state)
    finally:
        os.umask(old)
    assert stat.S_IMODE(key_file(state).stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_runs_that_need_the_first_key_at_once_get_the_same(state: Path) -> None:
    script = (
        "import sys, pathlib; from backup_tasks.claim.machine_key import open_own_key; "
        "from backup_tasks.keys import signing; signing.make_signing_key(); "
        "print('ready', flush=True); "
        "sys.stdin.read(); key, is_new = open_own_key(pathlib.Path(sys.argv[1])); "
        "print(key.public_key.hex(), is_new)"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script, state],
            cwd=PROJECT_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for run in runs:
        assert run.stdout
        assert run.stdout.readline() == "ready\n"
    for run in runs:  # all wait for this, and go at once
        assert run.stdin
        run.stdin.close()
    told = [run.stdout.read().split() for run in runs if run.stdout]
    assert [run.wait() for run in runs] == [0] * 6
    assert len({public_key for public_key, _ in told}) == 1
    assert sorted(is_new for _, is_new in told) == ["False"] * 5 + ["True"]
    assert os.listdir(state) == ["signing.key"]


def test_a_crash_while_it_was_made_leaves_nothing_in_the_way(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def crash(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(os, "link", crash)
        with pytest.raises(KeyboardInterrupt):
            open_own_key(state)
    assert read_own_key(state) is None
    _, is_new = open_own_key(state)
    assert is_new
    assert os.listdir(state) == ["signing.key"]


def test_one_that_appears_meanwhile_is_not_overwritten(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backup_tasks.claim import machine_key as signing_key

    other = make_signing_key()
    real = signing_key.make_signing_key

    def make_late() -> object:
        key_file(state).write_bytes(other.render_pem())
        key_file(state).chmod(0o600)
        return real()

    monkeypatch.setattr(signing_key, "make_signing_key", make_late)
    with pytest.raises(BackupError, match="cannot be made: File exists"):
        open_own_key(state)
    assert key_file(state).read_bytes() == other.render_pem()


def _of_another_kind() -> bytes:
    return generate_private_key(SECP256R1()).private_bytes(*PEM, forms.NoEncryption())


def _with_a_passphrase() -> bytes:
    protection = forms.BestAvailableEncryption(b"passphrase")
    return Ed25519PrivateKey.generate().private_bytes(*PEM, protection)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: b"", "no private key in PEM"),
        (lambda: make_signing_key().render_pem()[:60], "no private key in PEM"),
        (lambda: b"\0" * 119, "no private key in PEM"),
        (lambda: os.urandom(10_000), "no private key in PEM"),
        (_of_another_kind, "another kind than Ed25519"),
        (_with_a_passphrase, "without a passphrase"),
    ],
    ids=["empty", "cut", "zeros", "noise", "another kind", "passphrase"],
)
def test_a_file_that_is_no_key_is_named_and_left_alone(
    state: Path, make: Callable[[], bytes], reason: str
) -> None:
    content = make()
    put(state, content)
    with pytest.raises(BackupError) as caught:
        open_own_key(state)
    told = str(caught.value)
    assert told.startswith(f"{key_file(state)} is no signing key: ")
    assert reason in told
    assert "move it away" in told
    assert "\n" not in told
    assert content.decode("latin-1")[:20] not in told or not content
    assert key_file(state).read_bytes() == content


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_one_that_others_can_read_is_refused(state: Path, mode: int) -> None:
    put(state, make_signing_key().render_pem(), mode)
    with pytest.raises(BackupError, match=r"can be read by others: chmod 600"):
        open_own_key(state)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_is_named(state: Path, make: Callable[[Path], None]) -> None:
    state.mkdir()
    make(key_file(state))
    with pytest.raises(BackupError, match=r"signing\.key is no file"):
        open_own_key(state)


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(BackupError, match="BACKUP_TASKS_STATE"):
        open_own_key(tmp_path / "state" / "below")
