"""What does not fit is told with its place: temporary files, the state directory, target, store."""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_tasks.common.paths import PROJECT_ROOT
from backup_tasks.common.temporary import TemporarySpool, temporary_file, writes_to
from backup_tasks.errors import BackupError
from tests.support.cli import Cli, Done, assert_refused, cli

__all__ = ["cli"]


@pytest.fixture
def little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """$TMPDIR, in which no file gets larger than 100 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield tmp_path
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_temporary_file_that_cannot_grow_is_told_with_its_folder(little_room: Path) -> None:
    with temporary_file() as file, pytest.raises(BackupError) as caught:
        file.write(bytes(200_000))
    told = f"a temporary file in {little_room} cannot be written: File too large; free some space"
    assert str(caught.value).startswith(told)


def test_what_moves_from_memory_to_the_disk_is_told_alike(little_room: Path) -> None:
    with TemporarySpool(150_000) as spool:
        spool.write(bytes(140_000))
        with pytest.raises(BackupError, match=f"a temporary file in {little_room} cannot be"):
            spool.write(bytes(20_000))


def test_a_folder_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(BackupError, match=f"a temporary file in {tmp_path}/gone cannot be written"):
        temporary_file()


def test_nothing_is_left_behind_and_nobody_else_may_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_file() as file:
        assert os.listdir(tmp_path) == []
        status = os.fstat(file.fileno())
        assert (status.st_mode & 0o077, status.st_nlink) == (0, 0)


@given(st.lists(st.tuples(st.binary(max_size=60), st.integers(0, 200))), st.integers(1, 100))
def test_a_spool_holds_what_a_file_would(steps: list[tuple[bytes, int]], most_bytes: int) -> None:
    with TemporarySpool(most_bytes) as spool, tempfile.TemporaryFile() as plain:
        both: tuple[IO[bytes], IO[bytes]] = (spool, plain)
        for written, place in steps:
            assert len({(f.write(written), f.seek(place), f.read(7), f.tell()) for f in both}) == 1
        assert len({(f.seek(0), f.read()) for f in both}) == 1


def test_an_error_without_a_name_gets_one_and_one_with_a_name_keeps_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=str(tmp_path / "note")), writes_to(tmp_path / "note"):
        os.write(os.open("/dev/full", os.O_WRONLY), b"x")
    with pytest.raises(OSError, match="another"), writes_to(tmp_path / "note"):
        os.open(tmp_path / "another", os.O_RDONLY)


@pytest.mark.parametrize("place", ["tmp", "state"])
def test_a_full_disk_is_named_wherever_it_is(cli: Cli, place: str) -> None:
    """A file system of 64 kB, which only these commands see, in place of one folder."""
    cli.write_profile()
    for number in range(500):
        (cli.source / f"{os.urandom(20).hex()}{number}").write_text("x")
    full = cli.here / place
    full.mkdir(exist_ok=True)
    cli.back_up()
    spill = (
        f"import sys; sys.path.insert(0, {str(PROJECT_ROOT)!r}); "
        "from backup_tasks.spools import records as spool; "
        "spool.SPILL_BYTES = 1; spool._BLOCK_BYTES = 64;"
    )
    script = (
        'mount -t tmpfs -o size=64k,mode=0700 full "$1"; '
        'if [ "$2" = state ]; then head -c 64k /dev/zero >"$1/filler"; fi; "${@:3}"'
    )
    program = f"{spill} from invoke.main import program; program.run()"
    command = cli.command("backup", "--full", "--profile", "test")
    command[1:3] = ["-P", "-c", program]
    alone = ["unshare", "-m" if os.geteuid() == 0 else "-rm", "bash", "-c", script, "bash"]
    done = subprocess.run(
        [*alone, full, place, *command],
        capture_output=True,
        cwd=cli.here,
        env={**cli.environ, "TMPDIR": str(cli.here / "tmp")},
        text=True,
        check=False,
    )
    told = Done(done.returncode, done.stdout, done.stderr)
    # Before the first write, where it is known how much that would take.
    why = "No space left on device" if place == "state" else "of temporary files"
    assert_refused(cli, told, 1, str(full), why)
