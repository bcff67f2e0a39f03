"""`make demo`, run as its viewer runs it, and ended in all the ways that a viewer may end it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backup_tasks.common.paths import PROJECT_ROOT
from tests.support.project_copy import copy_project
from tests.support.trees import Comparison, TreeRules, compare_trees

# For a hang alone; a busy machine must not reach it.
_HANGS_SECONDS = 300
StartDemo = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Where the demo puts everything; its paths are short, for there will be sockets."""
    folder = tmp_path / "t"
    folder.mkdir()
    return folder


@pytest.fixture
def start_demo(temporary: Path) -> Iterator[StartDemo]:
    """Starts the demo of a project; whatever a test leaves running is ended."""
    started: list[subprocess.Popen[str]] = []

    def start(
        project: Path = PROJECT_ROOT, prefix: tuple[str, ...] = (), **environ: str
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-u", str(project / "demo.py")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary), **environ},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _running_below(folder: Path) -> list[str]:
    """The command lines of processes that name something below the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in line:
            found.append(line.replace(b"\0", b" ").decode(errors="replace"))
    return found


def _read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"the demo ended without saying {text!r}:\n{seen}")


def test_demo_backs_up_restores_and_compares_and_leaves_nothing_behind(
    start_demo: StartDemo, temporary: Path
) -> None:
    demo = start_demo()
    out, _ = demo.communicate(timeout=_HANGS_SECONDS)
    assert demo.returncode == 0, out
    for command in ("backup", "list", "files", "restore"):
        assert f"$ invoke {command} --profile demo" in out
    assert re.search(r"\d+-backup\.tar\.gz uploaded \(", out)
    assert len(re.findall(r"^Equal: [\d,]+ files \(.+\) byte for byte", out, re.M)) == 2
    assert re.search(r"aws .* s3 cp s3://demo/backups/\S+-backup\.tar\.gz - \| tar xz", out)
    assert "\x1b" not in out, "colours are for terminals"
    assert list(temporary.iterdir()) == []
    assert _running_below(temporary) == []


@pytest.mark.parametrize(
    ("ending", "moment"),
    [
        (signal.SIGINT, "SeaweedFS listens"),
        (signal.SIGINT, "$ invoke restore"),
        (signal.SIGTERM, "tar xz -C"),
        (signal.SIGTERM, "$ invoke backup"),
        (signal.SIGHUP, "$ invoke restore"),
    ],
)
def test_demo_that_is_ended_stops_its_server_and_removes_its_folder(
    start_demo: StartDemo, temporary: Path, ending: signal.Signals, moment: str
) -> None:
    demo = start_demo()
    _read_until(demo, moment)
    assert any("weed" in line for line in _running_below(temporary))
    demo.send_signal(ending)
    out, _ = demo.communicate(timeout=_HANGS_SECONDS)
    assert demo.returncode == 128 + ending, out
    assert f"ended by {ending.name}" in out
    assert "Traceback" not in out
    assert list(temporary.iterdir()) == []
    assert _running_below(temporary) == []


def test_demo_that_fails_says_why_and_stops_its_server(
    start_demo: StartDemo, temporary: Path, tmp_path: Path
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("tail", "setpriv"):  # but no tar
        found = shutil.which(name)
        assert found
        (programs / name).symlink_to(found)
    demo = start_demo(PATH=str(programs))
    out, _ = demo.communicate(timeout=_HANGS_SECONDS)
    assert demo.returncode == 1
    assert out.splitlines()[-1].endswith("tar cannot be started: No such file or directory")
    assert "Traceback" not in out
    assert list(temporary.iterdir()) == []
    assert _running_below(temporary) == []


def test_demo_of_somebody_who_may_not_read_everything_explains_that_and_succeeds(
    start_demo: StartDemo, tmp_path: Path
) -> None:
    project = copy_project(tmp_path / "project")
    (project / "secret.txt").write_text("nobody may read this")
    (project / "secret.txt").chmod(0)
    # Root becomes somebody without privileges who owns what root owns.
    prefix = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
    demo = start_demo(project, prefix if os.geteuid() == 0 else ())
    out, _ = demo.communicate(timeout=_HANGS_SECONDS)
    assert demo.returncode == 0, out
    assert re.search(r"secret\.txt: Permission denied", out)
    assert "Exit code 3: the backup is done and good" in out
    assert out.count("Equal: ") == 2


def _flip(tree: Path) -> None:
    (tree / "a").write_text("flipped!")
    os.utime(tree / "a", ns=(0, 0))


@pytest.mark.parametrize(
    ("why", "spoil"),
    [
        ("content", _flip),
        ("mode", lambda tree: (tree / "a").chmod(0o600)),
        ("time", lambda tree: os.utime(tree / "a", ns=(0, 1))),
        ("missing", lambda tree: (tree / "b" / "c").unlink()),
        ("not in the original", lambda tree: (tree / "b" / "d").touch()),
    ],
)
def test_compare_trees_finds_what_differs(
    tmp_path: Path, why: str, spoil: Callable[[Path], None]
) -> None:
    original = tmp_path / "original"
    (original / "b").mkdir(parents=True)
    (original / "a").write_text("original")
    (original / "b" / "c").symlink_to("../a")
    os.utime(original / "a", ns=(0, 0))
    target = tmp_path / "target"
    twin = target / str(original).lstrip("/")
    shutil.copytree(original, twin, symlinks=True)
    found = Comparison()
    compare_trees(original, target, TreeRules(), found)
    assert (found.differences, found.files, found.bytes, found.others) == ([], 1, 8, 3)
    spoil(twin)
    compare_trees(original, target, TreeRules(), found)
    assert any(f"({why})" in line for line in found.differences)
