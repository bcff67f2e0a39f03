"""A file with zeros in place of what could not be read is never called whole, by anybody."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from backup_tasks.command.backup_job import run_backup_job
from backup_tasks.common.paths import PROJECT_ROOT, Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.format.manifest import Entry, Header, decode_entry, decode_header, encode_line
from backup_tasks.snapshot.source_file import SourceFile
from tests.support.cli import Cli, cli
from tests.support.generations import LATER, Generations, fill, restored, untar
from tests.support.histories import CHUNK, fingerprint, noise, use_small_chunks
from tests.support.unreadable import bad_sectors, refused

__all__ = ["cli"]


@pytest.fixture
def backups(tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Generations:
    use_small_chunks(monkeypatch)
    (tmp_path / "source").mkdir()
    return Generations(tmp_path / "source", tmp_path / "store", paths, now=LATER)


def content_by_both(backups: Generations, name: str, place: Path) -> bytes:
    untarred = backups.in_target(untar(backups.archive(), place.with_suffix(".tar")))
    ours = backups.in_target(restored(backups, -1, place.with_suffix(".ours")))
    assert fingerprint(untarred) == fingerprint(ours)
    return (ours / name).read_bytes()


@pytest.mark.parametrize("start", [0, 1], ids=["from the first byte", "in the middle"])
@pytest.mark.parametrize("size", [900, 5 * CHUNK, 900 + 5 * CHUNK])
def test_a_file_with_an_input_output_error_keeps_its_last_version_night_after_night(
    backups: Generations, tmp_path: Path, size: int, start: int
) -> None:
    fill(backups, count=4)
    path = backups.source / "m"
    path.write_bytes(noise(1, size))
    backups.backup()
    path.write_bytes(noise(2, size))
    with bad_sectors(path, start=start * size // 2):
        for night in range(2):
            (backups.source / "file00").write_bytes(noise(70 + night, 1000))
            record = backups.backup()
            assert content_by_both(backups, "m", tmp_path / f"{night}") == noise(1, size)
            (problem,) = record.problems
            assert problem.kind == "carried"
            assert problem.reason.endswith("; the version of 2100-01-01 was kept")
            assert (record.exit_code, record.carried, record.torn) == (3, 1, 0)
            assert backups.entry("m").carried == "2100-01-01T02:00:00Z"
            assert backups.manifest().header.carried == 1
    record = backups.backup()
    assert record.problems == []
    assert content_by_both(backups, "m", tmp_path / "whole") == noise(2, size)
    assert backups.entry("m").carried == ""


@pytest.mark.parametrize("size", [900, 5 * CHUNK])
def test_without_a_last_version_it_is_padded_and_marked_until_it_is_read(
    backups: Generations, tmp_path: Path, size: int
) -> None:
    fill(backups, count=4)
    path = backups.source / "m"
    path.write_bytes(noise(1, size))
    with bad_sectors(path, start=512):
        for night in range(2):
            record = backups.backup()
            expected = noise(1, size)[:512] + bytes(size - 512)
            assert content_by_both(backups, "m", tmp_path / f"{night}") == expected
            assert (record.exit_code, record.torn, record.carried) == (3, 1, 0)
            assert backups.entry("m").torn == "padded"
            assert backups.manifest().header.torn == 1
    backups.backup()
    assert backups.entry("m").torn == ""
    assert backups.manifest().header.torn == 0


def test_both_names_of_a_file_keep_its_last_version(backups: Generations, tmp_path: Path) -> None:
    path = backups.source / "a"
    path.write_bytes(noise(1, 900))
    os.link(path, backups.source / "b")
    backups.backup()
    path.write_bytes(noise(2, 900))
    with bad_sectors(path), bad_sectors(backups.source / "b"):
        record = backups.backup()
    assert [problem.kind for problem in record.problems] == ["carried", "carried"]
    for name in ("a", "b"):
        assert content_by_both(backups, name, tmp_path / name) == noise(1, 900)


def test_a_file_that_was_cut_while_it_was_read_is_stored_as_it_is(
    backups: Generations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = backups.source / "m"
    path.write_bytes(noise(1, 5 * CHUNK))
    backups.backup()
    path.write_bytes(noise(2, 5 * CHUNK))
    real = SourceFile.fill

    def fill_and_cut(self: SourceFile, view: memoryview) -> None:
        real(self, view)
        os.truncate(path, CHUNK)

    monkeypatch.setattr(SourceFile, "fill", fill_and_cut)
    record = backups.backup()
    assert (record.torn, record.carried) == (1, 0)
    assert content_by_both(backups, "m", tmp_path / "there")[:CHUNK] == noise(2, 5 * CHUNK)[:CHUNK]


def test_a_file_that_is_gone_by_the_time_a_full_run_comes_to_it_does_not_come_back(
    backups: Generations,
) -> None:
    fill(backups, count=4)
    backups.backup()
    backups.on_write = lambda: (backups.source / "file02").unlink(missing_ok=True)
    record = backups.backup(full=True)
    assert [problem.kind for problem in record.problems] == ["vanished"]
    assert (record.carried, record.unreadable, record.needed_backups) == (0, 0, [])


def test_an_archive_without_these_keys_reads_as_whole_and_unknown_ones_do_no_harm() -> None:
    plain = encode_line(Entry(path="a", type="file"))
    assert b"torn" not in plain
    assert b"carried" not in plain
    told = b'{"path":"a","type":"file","torn":"padded","carried":"2025","later":[1]}\n'
    assert (decode_entry(told).torn, decode_entry(told).carried) == ("padded", "2025")
    header = (
        b'{"format":1,"profile":"p","host":"h","started_at":"","written_at":"","tool":"",'
        b'"sources":[],"entries":0,"files":0,"raw_bytes":0,"chunks":0,"chunk_bytes":0}\n'
    )
    found: Header = decode_header(header)
    assert (found.torn, found.carried, found.unreadable, found.needed_backups) == (0, 0, 0, ())


# What the commands say of it


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "io_error.so"
    source = PROJECT_ROOT / "tests/support/io_error_shim.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def test_every_command_tells_of_files_that_are_padded_or_of_an_earlier_day(
    cli: Cli, shim: Path
) -> None:
    profile = ("--profile", "test")
    cli.write_profile()
    (cli.source / "m-all-bad").write_bytes(b"of the first day")
    first = cli.back_up()
    (cli.source / "m-all-bad").write_bytes(b"of the second day")
    (cli.source / "n-bad-sector").write_bytes(os.urandom(3 * 2**20))
    done = cli.run("backup", *profile, LD_PRELOAD=str(shim))
    day = f"{first[:10]}"
    assert done.code == 3
    assert "is done, but not whole: 1 file (16B) of an earlier day, 1 file torn:" in done.err
    assert f"m-all-bad: Input/output error; the version of {day} was kept" in done.err
    assert cli.log()[-1].startswith("WARNING: ") or "WARNING: " in cli.log()[-1]
    record = cli.records()[-1]
    assert (record["torn"], record["carried"], record["unreadable"]) == (1, 1, 0)

    listed = cli.run("list", *profile)
    assert "1 file of an earlier day, 1 file torn" in listed.out
    [_, told] = json.loads(cli.run("list", *profile, "--json").out)
    assert (told["manifest"]["torn"], told["manifest"]["carried"]) == (1, 1)

    earlier = f"  (of {day}: a later backup could not read it)"
    padded = "  (zeros stand for what could not be read)"
    lines = cli.run("files", *profile).out.splitlines()
    assert [line for line in lines if line.endswith(f"m-all-bad{earlier}")]
    assert [line for line in lines if line.endswith(f"n-bad-sector{padded}")]
    marks = {
        entry["path"].rpartition("/")[2]: (entry.get("torn"), entry.get("carried", "")[:10])
        for entry in json.loads(cli.run("files", *profile, "--json").out)
    }
    assert marks["m-all-bad"] == (None, day)
    assert marks["n-bad-sector"] == ("padded", "")
    assert marks["hosts"] == (None, "")

    summary = "1 file was not whole when the backup was made, 1 file is of an earlier day"
    done = cli.run("verify", *profile)
    assert (done.code, summary in done.out) == (0, True)
    [told] = json.loads(cli.run("verify", *profile, "--json").out)
    assert told["not_whole"]["torn"]["total"] == 1
    assert told["not_whole"]["earlier"]["total"] == 1

    done = cli.run("restore", *profile, "--to", "everything")
    assert (done.code, summary in done.err) == (3, True)
    assert "n-bad-sector: zeros stand for what could not be read" in done.err
    record = cli.records()[-1]
    assert (record["result"], record["exit_code"], record["torn"]) == ("incomplete", 3, 1)
    assert record["warnings"] == ["1 file is of an earlier day than the backup"]
    done = cli.run("restore", *profile, "--to", "one", "--path", "m-all-bad")
    assert (done.code, "1 file is of an earlier day" in done.err) == (0, True)
    done = cli.run("restore", *profile, "--to", "other", "--path", "hosts", "--json")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["not_whole"]["torn"]["total"] == 0
    done = cli.run("restore", *profile, "--to", "two", "--path", "n-bad-sector", "--json")
    assert done.code == 3
    assert json.loads(done.out)["not_whole"]["torn"]["total"] == 1

    done = cli.run("drill", *profile)
    assert (done.code, "passed" in done.out, summary in done.out) == (3, False, True)
    record = cli.records()[-1]
    assert (record["result"], record["exit_code"]) == ("incomplete", 3)
    assert json.loads(cli.run("drill", *profile, "--json").out)["passed"] is False
    done = cli.run("drill", *profile, "--name", first)
    assert (done.code, "passed" in done.out) == (0, True)


def test_nothing_is_pruned_while_a_source_cannot_be_read(backups: Generations) -> None:
    file = backups.write_profile()
    file.write_text(file.read_text() + "[retention]\nkeep_last = 1\n")
    (backups.source / "file").write_bytes(noise(1, 100))

    def run() -> list[str]:
        clock = backups.now
        backups.now = clock.replace(day=clock.day + 1)
        record = run_backup_job(str(file), backups.paths, lambda: clock, SilentProgress())
        return record.unpruned

    run()
    with refused(backups.source, way="list"):
        for _ in range(3):
            told = run()
            assert told[-1].startswith("held since ")
            assert f"{backups.source} cannot be read" in told[-1]
    assert len(list(backups.store_folder.glob("*.tar.gz"))) == 4
    run()
    assert len(list(backups.store_folder.glob("*.tar.gz"))) == 1
