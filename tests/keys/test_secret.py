"""Secrets are read when used, and shown by nothing."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from backup_tasks.errors import ProfileError
from backup_tasks.keys import secret as secret_module
from backup_tasks.keys.secret import Placed, Secret

CANARY = "wJalrXUtnFEMI/K7MDENG-canary"
PLACE = "profiles/x.toml:3: store.secret_access_key"


def parse(value: object, folder: Path, environ: Mapping[str, str] | None = None) -> Secret:
    return Secret.parse(Placed(value, PLACE, folder, environ))


def refusal(secret: Secret) -> str:
    with pytest.raises(ProfileError) as caught:
        secret.reveal()
    assert CANARY not in str(caught.value)
    assert str(caught.value).startswith(f"{PLACE}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value).removeprefix(f"{PLACE}: ")


def script(folder: Path, body: str) -> dict[str, list[str]]:
    """A command that runs this Python."""
    return {"command": [sys.executable, "-c", body]}


def test_an_environment_variable_is_read_on_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = parse({"env": "SOME_SECRET"}, tmp_path)
    assert "the environment variable SOME_SECRET is not set" in refusal(secret)
    monkeypatch.setenv("SOME_SECRET", CANARY)
    assert secret.reveal() == CANARY


def test_an_environment_that_was_given_is_asked_instead(tmp_path: Path) -> None:
    assert parse({"env": "A"}, tmp_path, {"A": CANARY}).reveal() == CANARY
    assert "is empty" in refusal(parse({"env": "A"}, tmp_path, {"A": ""}))


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_file_is_read_beside_the_profile_without_its_line_break(tmp_path: Path, end: str) -> None:
    (tmp_path / "key").write_bytes(f"{CANARY} ".encode() + end.encode())
    assert parse({"file": "key"}, tmp_path).reveal() == f"{CANARY} "
    assert parse({"file": str(tmp_path / "key")}, Path("/")).reveal() == f"{CANARY} "


def test_a_file_that_gives_no_secret_is_named(tmp_path: Path) -> None:
    key = tmp_path / "key"
    secret = parse({"file": "key"}, tmp_path)
    assert refusal(secret) == f"the file {key} cannot be read: No such file or directory"
    key.write_text("")
    assert "is empty" in refusal(secret)
    key.write_text(f"{CANARY}\nuser: me\n")
    assert "several lines" in refusal(secret)
    key.write_bytes(b"\xff\xfe")
    assert "UTF-8" in refusal(secret)
    key.write_bytes(b"x" * 100_000)
    assert "more than 64 KiB" in refusal(secret)
    key.unlink()
    key.mkdir()
    assert "cannot be read: Is a directory" in refusal(secret)


def test_a_pipe_or_device_instead_of_a_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(parse({"file": "pipe"}, tmp_path))
    assert "not a regular file" in refusal(parse({"file": "/dev/zero"}, tmp_path))


def test_a_command_runs_without_shell_and_input_in_the_folder_of_the_profile(
    tmp_path: Path,
) -> None:
    body = "import os, sys; print(sys.stdin.read() + os.getcwd() + sys.argv[1])"
    command = [sys.executable, "-c", body, "$HOME; echo"]
    assert parse({"command": command}, tmp_path).reveal() == f"{tmp_path.resolve()}$HOME; echo"


def test_a_command_that_fails_is_named_without_its_arguments_and_its_output(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    body = f"import sys; print({CANARY!r}); print({CANARY!r}, file=sys.stderr); sys.exit(3)"
    problem = refusal(parse(script(tmp_path, body), tmp_path))
    assert problem == f'the command "{sys.executable}" failed with exit code 3; run it to see why'
    assert CANARY not in "".join(capfd.readouterr())
    absent = refusal(parse({"command": ["no-such-program", CANARY]}, tmp_path))
    assert absent == 'the command "no-such-program" cannot be started: No such file or directory'
    assert "is empty" in refusal(parse({"command": ["true"]}, tmp_path))


def test_a_command_without_end_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secret_module, "COMMAND_TIMEOUT_SECONDS", 1)
    note = tmp_path / "pid"
    # The child holds our pipe open after its parent is gone.
    body = f"""
import os, pathlib, time
child = os.fork()
if child:
    pathlib.Path({str(note)!r}).write_text(str(child))
else:
    time.sleep(600)
"""
    assert "gave no answer in 1 s" in refusal(parse(script(tmp_path, body), tmp_path))
    assert _is_gone(int(note.read_text()))


def _is_gone(pid: int) -> bool:
    """Whether the process ends; nobody but init may be there to collect it."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_literal_is_itself(tmp_path: Path) -> None:
    assert parse(CANARY, tmp_path).reveal() == CANARY
    assert parse(CANARY, tmp_path).kind == "literal"


@pytest.mark.parametrize(
    "value",
    [
        12345,
        True,
        "",
        "  ",
        f"{CANARY}\nx",
        [],
        [CANARY],
        {},
        {"env": f"${CANARY}"},
        {"env": ""},
        {"env": 7},
        {"environment": CANARY},
        {"env": "A", "file": CANARY},
        {"file": ""},
        {"file": f"~/{CANARY}"},
        {"file": f"{CANARY}\0"},
        {"command": CANARY},
        {"command": []},
        {"command": [""]},
        {"command": [CANARY, 7]},
        {"command": [f"{CANARY}\0"]},
    ],
)
def test_what_is_no_reference_is_refused_without_showing_it(value: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse(value, tmp_path)
    assert CANARY not in str(caught.value)


def test_nothing_but_reveal_shows_a_literal(tmp_path: Path) -> None:
    secret = parse(CANARY, tmp_path)
    placed = Placed(CANARY, PLACE, tmp_path)
    shown = [repr(secret), str(secret), f"{secret}", repr(placed), str([secret, placed])]
    shown.append(secret.describe())
    assert not [text for text in shown if CANARY in text]
    assert copy.deepcopy(secret) is secret
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(secret)


def test_equal_references_are_equal(tmp_path: Path) -> None:
    first, second = parse({"env": "A"}, tmp_path), parse({"env": "A"}, tmp_path)
    assert first == second
    assert hash(first) == hash(second)
    assert first != parse({"env": "B"}, tmp_path)
    assert first != "A"
