"""Whatever lies in the state directory: every task works, or says one clear line; none waits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from backup_tasks.census.newest_seen import NewestSeen
from backup_tasks.common.paths import Paths
from backup_tasks.common.state_files import open_kept, read_kept, read_note, state_key, write_note
from tests.support.backups import Backups
from tests.support.cli import Cli, cli

__all__ = ["cli"]

MIB = 2**20


def as_pipe(file: Path) -> None:
    os.mkfifo(file, 0o600)


def as_deep_list(file: Path) -> None:
    file.write_text("[" * 10**5)


def as_huge_file(file: Path) -> None:
    with open(file, "wb") as opened:
        opened.truncate(2**40)


@pytest.mark.parametrize("put", [as_pipe, as_deep_list, as_huge_file])
def test_every_task_works_whatever_stands_in_the_place_of_its_notes(
    cli: Cli, put: Callable[[Path], None]
) -> None:
    cli.write_profile()
    cli.back_up()
    key = state_key("test", f"file://{cli.store}/")
    notes = [
        *(cli.state / "manifests" / key).iterdir(),
        *(cli.state / folder / f"{key}.json" for folder in ("newest", "no-copy", "uploads")),
        *(cli.state / name for name in (f"staging/{key}-0123abcd.jsonl", "drills/note.json")),
        *(cli.state / name for name in ("proven-recipients.json", "signing.known")),
    ]
    for task in ("list", "drill", "verify", "prune", "backup"):
        for file in notes:
            file.parent.mkdir(mode=0o700, exist_ok=True)
            file.unlink(missing_ok=True)
            put(file)
            file.chmod(0o600)
        done = cli.run(task, "--profile", "test")
        assert (done.code, "Traceback" in done.err) == (0, False), done
    assert len(cli.archives()) == 2


def test_nothing_is_read_of_what_is_no_regular_file_or_too_large(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe", "missing"):
        with pytest.raises(OSError, match=name):
            open_kept(tmp_path / name)
    (tmp_path / "file").write_bytes(b"x" * 10)
    assert read_kept(tmp_path / "file", 10) == b"x" * 10
    with pytest.raises(OSError, match="too large"):
        read_kept(tmp_path / "file", 9)
    with pytest.raises(OSError, match="too large"):
        read_note(as_sparse(tmp_path / "sparse"))


def as_sparse(file: Path) -> Path:
    as_huge_file(file)
    return file


def test_a_note_that_cannot_be_written_leaves_the_one_before_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "notes" / "note.json"
    write_note(file, {"a": 1})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"note\.json"):
        write_note(file, {"a": 2})
    monkeypatch.undo()
    assert read_note(file) == {"a": 1}
    assert os.listdir(file.parent) == ["note.json"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_note_cut_anywhere_is_told_and_costs_no_run(tmp_path: Path, paths: Paths) -> None:
    source = tmp_path / "source"
    source.mkdir()
    backups = Backups(source, tmp_path / "store", paths)
    backups.backup()
    (note,) = (paths.state / "newest").iterdir()
    whole = note.read_bytes()
    seen = NewestSeen(paths.state, backups.profile(), backups.open_store())
    for length in range(len(whole)):
        note.write_bytes(whole[:length])
        told = seen.what_vanished(None, backups.now)
        assert "cannot be read" in told
