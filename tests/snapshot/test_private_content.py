"""The private signing key gets into no archive, wherever its content lies."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from backup_tasks.claim.machine_key import key_file, open_own_key, private_files
from backup_tasks.common.paths import Paths
from backup_tasks.keys.signing import make_signing_key
from backup_tasks.snapshot import source_file
from backup_tasks.snapshot.private_content import USUAL_KEY_BYTES, KnownContent, Private
from tests.support.cli import Cli, cli
from tests.support.generations import LATER, Generations, fill, untar
from tests.support.histories import use_small_chunks

__all__ = ["cli"]


@pytest.fixture
def backups(tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Generations:
    use_small_chunks(monkeypatch)
    (tmp_path / "source").mkdir()
    made = Generations(tmp_path / "source", tmp_path / "store", paths, now=LATER)
    open_own_key(made.paths.state)
    return made


def own_pem(backups: Generations) -> bytes:
    return key_file(backups.paths.state).read_bytes()


def assert_not_stored(backups: Generations, pem: bytes, *names: str) -> None:
    """Neither by its name nor anywhere among the bytes of the newest archive."""
    assert pem not in gzip.decompress(backups.archive().read_bytes())
    stored = {entry.name.rpartition("/")[2] for entry in backups.manifest().entries()}
    assert stored.isdisjoint(names)


def test_a_key_is_as_long_as_is_believed() -> None:
    assert len(make_signing_key().render_pem()) == USUAL_KEY_BYTES


def _copy(pem: bytes, source: Path) -> None:
    (source / "copy").write_bytes(pem)


def _hardlinks(pem: bytes, source: Path) -> None:
    _copy(pem, source)
    os.link(source / "copy", source / "second")


def _with_large_headers(pem: bytes, source: Path) -> None:
    """Its headers alone are more than a chunk, so that it is stored in pieces."""
    _copy(pem, source)
    for number in range(3):
        os.setxattr(source / "copy", f"user.{number}", os.urandom(1200))


@pytest.mark.parametrize("plant", [_copy, _hardlinks, _with_large_headers])
def test_it_is_known_by_its_content_and_told(
    backups: Generations, plant: Callable[[bytes, Path], None]
) -> None:
    fill(backups, 3)
    pem = own_pem(backups)
    plant(pem, backups.source)
    (backups.source / "as long").write_bytes(b"x" * len(pem))
    (backups.source / "longer").write_bytes(pem + b"\n")
    record = backups.backup()
    assert_not_stored(backups, pem + bytes(1), "copy", "second")
    assert backups.entry("as long").size == backups.entry("longer").size - 1
    assert (record.result, record.exit_code, record.problems) == ("success", 0, [])
    [told] = record.warnings
    assert told.startswith("left out, for it is a private key that signs backups: ")
    assert f"{backups.source}/copy" in told


def test_a_bind_mount_of_the_state_directory_does_not_bring_it_in(cli: Cli) -> None:
    cli.write_profile()
    (cli.source / "mounted").mkdir()
    script = 'mount --bind "$1" "$2" && "${@:3}"'
    alone = ["unshare", "-m" if os.geteuid() == 0 else "-rm", "bash", "-c", script, "bash"]
    subprocess.run(
        [*alone, cli.state, cli.source / "mounted", *cli.command("backup", "--profile", "test")],
        cwd=cli.here,
        env=cli.environ,
        check=True,
    )
    raw = gzip.decompress((cli.store / cli.archives()[-1]).read_bytes())
    assert b"source/mounted/locks" in raw
    assert key_file(cli.state).read_bytes() not in raw
    [record] = cli.records()
    assert f"{cli.source}/mounted/signing.key" in record["warnings"][0]


def test_another_users_key_is_known_where_such_a_key_lies(backups: Generations) -> None:
    theirs, other = (make_signing_key().render_pem() for _ in range(2))
    state = backups.source / "anna" / ".local" / "state" / "backup-tasks"
    state.mkdir(parents=True)
    (state / "signing.key").write_bytes(theirs)
    (backups.source / "signing.key").write_bytes(other)  # another program's, for all we know
    backups.backup()
    assert theirs not in gzip.decompress(backups.archive().read_bytes())
    assert other in gzip.decompress(backups.archive().read_bytes())


def test_a_former_key_is_known_by_its_hash(backups: Generations) -> None:
    fill(backups, 3)
    former = own_pem(backups)
    backups.backup()
    key_file(backups.paths.state).rename(backups.source / "former")
    backups.backup()
    assert own_pem(backups) != former
    assert_not_stored(backups, former, "former")
    known = (backups.paths.state / "signing.known").read_bytes()
    assert known.count(b"119 ") == 2
    assert b"PRIVATE" not in known
    backups.backup()
    assert (backups.paths.state / "signing.known").read_bytes() == known


def test_a_torn_list_of_former_keys_costs_only_the_torn_line(backups: Generations) -> None:
    former = own_pem(backups)
    backups.backup()
    file = backups.paths.state / "signing.known"
    file.write_bytes(file.read_bytes() + b"119 abc")
    key_file(backups.paths.state).unlink()
    backups.backup()
    contents = private_files(backups.paths.state).contents
    assert contents == {KnownContent.of(pem) for pem in (former, own_pem(backups))}


def test_chunks_that_hold_it_are_not_kept(
    backups: Generations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive from before it was known by its source_file, and two that are built on it."""
    fill(backups)
    pem = own_pem(backups)
    _hardlinks(pem, backups.source)
    with monkeypatch.context() as patch:
        patch.setattr(Private, "holds", lambda *_: False)
        patch.setattr(Private, "may_be_in", lambda *_: False)
        backups.backup()
    assert pem in gzip.decompress(backups.archive().read_bytes())
    for number in range(2):
        record = backups.backup()
        assert record.copied_bytes > 0
        assert_not_stored(backups, pem, "copy", "second")
        unpacked = untar(backups.archive(), tmp_path / f"unpacked{number}")
        inside = unpacked / str(backups.source).lstrip("/")
        assert sorted(os.listdir(inside)) == sorted(
            set(os.listdir(backups.source)) - {"copy", "second"}
        )


def test_a_file_that_becomes_the_key_while_it_is_read_is_judged_by_what_is_stored(
    backups: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = own_pem(backups)
    (backups.source / "file").write_bytes(b"x" * len(pem))
    real, reads = os.preadv, []

    def swap_before(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if os.fstat(descriptor).st_size == len(pem):
            reads.append(descriptor)
            _overwrite(backups.source / "file", pem if len(reads) == 1 else b"y" * len(pem))
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(source_file.os, "preadv", swap_before)
    backups.backup()
    assert_not_stored(backups, pem, "file")


def _overwrite(file: Path, text: bytes) -> None:
    with open(file, "r+b") as opened:
        opened.write(text)


def test_the_version_before_stays_when_a_file_has_become_the_key(
    backups: Generations, tmp_path: Path
) -> None:
    """Plain tar would bring it back from a kept chunk, and the manifest must say the same."""
    fill(backups)
    file = backups.source / "file03"
    before = file.read_bytes()
    backups.backup()
    file.write_bytes(own_pem(backups))
    record = backups.backup()
    assert (record.result, len(record.warnings)) == ("success", 1)
    unpacked = untar(backups.archive(), tmp_path / "unpacked")
    assert (unpacked / str(file).lstrip("/")).read_bytes() == before
    assert backups.entry("file03").size == len(before)


def test_a_drill_does_not_miss_what_is_left_out(cli: Cli) -> None:
    cli.write_profile()
    _hardlinks(key_file(cli.state).read_bytes(), cli.source)
    assert cli.run("backup", "--profile", "test").code == 0
    done = cli.run("drill", "--profile", "test", "--against-sources")
    assert (done.code, done.err) == (0, "")
