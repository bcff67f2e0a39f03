"""`invoke verify`: what it checks, what it says, and what damage costs."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, date
from pathlib import Path

import pytest
from hypothesis import given, settings

from backup_tasks.chunks.compress import compress_chunk
from backup_tasks.chunks.reader import ReadChunk
from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.errors import ArchiveError, UsageError
from backup_tasks.format.footer import END_CHUNK, FOOTER_BYTES
from backup_tasks.format.manifest import Chunk, Entry, EntryType
from backup_tasks.format.signature_member import MEMBER_BYTES
from backup_tasks.read.listing import list_entries
from backup_tasks.read.manifest_reader import read_manifest
from backup_tasks.restore.request import RestoreRequest
from backup_tasks.restore.run_restore import run_restore
from backup_tasks.verify import entry_check
from backup_tasks.verify.entry_check import EntryCheck
from backup_tasks.verify.run_verify import Sample, parse_sample, run_verify
from backup_tasks.verify.verified_chunks import VerifiedBefore
from backup_tasks.verify.verify_report import VerifyReport, render_verify
from tests.conftest import S3Bucket
from tests.support import attacks
from tests.support.attacks import Item
from tests.support.backups import Backups, small_backups
from tests.support.chunks import laid_out
from tests.support.cli import Cli, cli, s3_store
from tests.support.details import find_backups
from tests.support.histories import Change, RealTree, histories, play

__all__ = ["cli"]

DAY = date(2025, 6, 12)
LARGE_BYTES = 3 * 2**20 + 7


@pytest.fixture
def backups(tmp_path: Path, paths: Paths) -> Backups:
    """A large file with a hardlink and a stranger on either side, in chunks of 1 MiB."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "a-before").write_text("before\n")
    (source / "large").write_bytes(random.Random(1).randbytes(LARGE_BYTES))
    os.link(source / "large", source / "large-too")
    (source / "z-after").write_text("after\n")
    return Backups(source, tmp_path / "store", paths)


def verify(backups: Backups, sample: Sample | None = None) -> VerifyReport:
    """Look at the newest backup."""
    store = backups.open_store()
    return run_verify(store, find_backups(store, UTC)[-1], SilentProgress(), sample)


def chunks_of(backups: Backups) -> list[Chunk]:
    store = backups.open_store()
    manifest = read_manifest(store, find_backups(store, UTC)[-1].stored)
    assert manifest is not None
    manifest.close()
    return manifest.chunks


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def damage_chunk(backups: Backups, number: int) -> None:
    chunk = chunks_of(backups)[number]
    flip(backups.archive(), chunk.offset + chunk.length // 2)


def name_of(backups: Backups, name: str) -> str:
    return f"{backups.source}/{name}".lstrip("/")


def test_a_whole_archive_is_whole_and_all_of_it_was_read(backups: Backups) -> None:
    backups.backup()
    report = verify(backups)
    assert not report.is_damaged
    assert report.checked_chunks == report.chunks == 8
    assert report.checked_bytes == sum(chunk.length for chunk in chunks_of(backups))
    assert (report.files, report.raw_bytes) == (3, LARGE_BYTES + len("before\nafter\n"))
    (told,) = render_verify([report])
    assert told.startswith("2025-06-12_0200: whole (8 chunks, 3 files, 3.1MB); signed by ed25519:")


def test_an_archive_that_copied_from_another_one_is_whole(backups: Backups) -> None:
    for name in ("a-before", "b-new", "z-after"):
        backups.backup()
        (backups.source / name).write_text("changed\n")
    backups.backup()
    assert not verify(backups).is_damaged


@settings(max_examples=20, deadline=None)
@given(histories(generations=4))
def test_every_archive_of_any_history_is_whole(history: list[list[Change]]) -> None:
    with small_backups() as backups:
        tree = RealTree(backups.source)
        for changes in history:
            for change in changes:
                play(tree, change)
            backups.backup()
            report = verify(backups)
            assert not report.is_damaged, list(render_verify([report]))


def test_a_damaged_chunk_costs_the_large_file_that_goes_on_in_it_and_its_links(
    backups: Backups,
) -> None:
    backups.backup()
    damage_chunk(backups, 3)
    report = verify(backups)
    assert report.lost.count == 2
    assert report.lost.first == [
        (name_of(backups, "large"), "chunk 3 is damaged: its hash is wrong"),
        (name_of(backups, "large-too"), "it is a link to a file that is lost"),
    ]
    assert report.faults == [
        f"chunk 3 (bytes {chunks_of(backups)[3].offset:,} to {chunks_of(backups)[4].offset:,}): "
        "its hash is wrong"
    ]
    told = list(render_verify([report]))
    assert told[0].startswith("2025-06-12_0200-backup.tar.gz is damaged: chunk 3 (bytes ")
    assert told[0].endswith("; it costs 2 files")


def test_of_many_lost_files_the_first_are_named_and_all_are_counted(backups: Backups) -> None:
    for number in range(100):
        (backups.source / f"b-{number:03}").write_text(str(number))
    backups.backup()
    damage_chunk(backups, 0)
    report = verify(backups)
    assert report.lost.count == 101
    assert [path for path, _ in report.lost.first][:2] == [
        name_of(backups, "a-before"),
        name_of(backups, "b-000"),
    ]
    told = list(render_verify([report]))
    assert len(told) == 1 + 20 + 1
    assert told[-1] == "  and 81 more"


def test_names_that_could_mislead_are_shown_escaped(backups: Backups) -> None:
    (backups.source / "a\n\x1b[2J\u202e").write_text("x")
    backups.backup()
    damage_chunk(backups, 0)
    told = "\n".join(render_verify([verify(backups)]))
    assert "a\\n\\x1b[2J\\u202e" in told


@pytest.mark.parametrize(
    "tell_wrongly",
    [
        lambda entry: replace_entry(entry, mode=0o777),
        lambda entry: replace_entry(entry, mtime_ns=entry.mtime_ns + 1),
        lambda entry: replace_entry(entry, uid=entry.uid + 1),
        lambda entry: replace_entry(entry, path=entry.path + "x"),
        lambda entry: replace_entry(entry, sha256="0" * 64),
        lambda entry: replace_entry(entry, offset=entry.offset + 512),
        lambda entry: replace_entry(entry, chunk=entry.chunk + 1),
    ],
    ids=["mode", "time", "owner", "path", "content", "offset", "chunk"],
)
def test_a_manifest_that_does_not_fit_its_chunks_is_found(
    backups: Backups, monkeypatch: pytest.MonkeyPatch, tell_wrongly: Callable[[Entry], Entry]
) -> None:
    write_wrongly(monkeypatch, "z-after", tell_wrongly)
    backups.backup()
    report = verify(backups)
    assert report.is_damaged
    assert len(list(render_verify([report]))) <= 3


def test_a_lie_that_two_manifests_tell_is_found_in_both_of_them(
    backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wrongly(monkeypatch, "z-after", lambda entry: replace_entry(entry, sha256="0" * 64))
    for _ in range(2):
        backups.backup(full=True)
    store, before = backups.open_store(), VerifiedBefore()
    for backup in find_backups(store, UTC) * 2:
        report = run_verify(store, backup, SilentProgress(), before=before)
        assert "z-after" in str(report.lost.first)


def verify_forged(folder: Path, archive: bytes) -> VerifyReport:
    store, backup = attacks.put(folder, archive)
    return run_verify(store, backup, SilentProgress())


def test_a_file_that_goes_on_where_the_archive_ends_is_lost(tmp_path: Path) -> None:
    whole = Item("file", content=bytes(4096))
    archive = attacks.forge_ours([whole])
    assert not verify_forged(tmp_path / "whole", archive).lost.count
    cut = compress_chunk(whole.blocks()[:2048], 1)
    entry = attacks.entry_of(whole, chunk=0)
    chunk = Chunk(0, len(cut.stored), cut.sha256, cut.raw)
    report = verify_forged(
        tmp_path / "cut", cut.stored + attacks.forge_end(len(cut.stored), [chunk], [entry])
    )
    assert report.lost.first == [("file", "the archive ends before its content does")]


@pytest.mark.parametrize("too_many", [False, True])
def test_a_file_with_more_holes_than_can_be_hashed_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, too_many: bool
) -> None:
    monkeypatch.setattr(entry_check, "HOLES_LIMIT", 4096)
    holes = Item("file", content=b"end", sparse=[(4096 + too_many, 3)], size=4099 + too_many)
    report = verify_forged(tmp_path, attacks.forge_ours([holes]))
    assert report.lost.first == ([("file", entry_check.TOO_MANY_HOLES)] if too_many else [])


@pytest.mark.parametrize("names", [["a", "b", "a"], ["a", "a"], ["b", "a"]], ids="".join)
def test_a_manifest_that_lists_a_name_twice_or_out_of_order_is_found(
    tmp_path: Path, names: list[str]
) -> None:
    archive = attacks.forge_ours([Item(name) for name in names])
    archive = attacks.rewrite(archive, files=len(names), raw_bytes=6 * len(names))
    report = verify_forged(tmp_path / "store", archive)
    assert report.faults == ["the manifest lists 'a' out of order or twice"]


@pytest.mark.parametrize(("files", "content"), [(1, 12), (3, 12), (2, 11), (2, 13)])
def test_a_manifest_whose_header_counts_other_files_is_found(
    tmp_path: Path, files: int, content: int
) -> None:
    archive = attacks.forge_ours([Item("a"), Item("b"), Item("c", "dir")])
    right = attacks.rewrite(archive, files=2, raw_bytes=12)
    assert not verify_forged(tmp_path / "right", right).is_damaged
    wrong = attacks.rewrite(archive, files=files, raw_bytes=content)
    assert verify_forged(tmp_path / "wrong", wrong).faults == [
        f"the manifest lists 2 files of 12 bytes, its header says {files} of {content}"
    ]


def replace_entry(entry: Entry, **fields: object) -> Entry:
    import msgspec

    return msgspec.structs.replace(entry, **fields)


def write_wrongly(
    monkeypatch: pytest.MonkeyPatch, name: str, tell_wrongly: Callable[[Entry], Entry]
) -> None:
    """Let the next manifest say something else of one entry, with all hashes right."""
    import msgspec

    from backup_tasks.format import manifest

    real = manifest._encoder

    class Liar:
        def encode(self, record: object) -> bytes:
            if isinstance(record, Entry) and record.path.endswith(name) and record.chunk >= 0:
                record = tell_wrongly(record)
            return real.encode(record)

    assert isinstance(real, msgspec.json.Encoder)
    monkeypatch.setattr(manifest, "_encoder", Liar())


def test_bytes_between_manifest_and_footer_are_found(backups: Backups) -> None:
    backups.backup()
    content = backups.archive().read_bytes()
    end = len(content) - MEMBER_BYTES - FOOTER_BYTES
    backups.archive().write_bytes(content[:end] + END_CHUNK + content[end:])
    assert verify(backups).faults == [
        "179 bytes lie between manifest and footer, where tar's end mark takes 28, and 151 "
        "together with a signature"
    ]


def test_the_end_mark_is_what_gunzip_makes_zeros_of_at_any_level(backups: Backups) -> None:
    unpacked = subprocess.run(["gzip", "-dc"], input=END_CHUNK, capture_output=True, check=True)
    assert unpacked.stdout == bytes(1024)
    for level in (0, 3):
        backups.extra = f"compression_level = {level}"
        backups.backup()
        assert not verify(backups).is_damaged


def test_a_sample_is_another_one_each_day_and_the_same_all_day() -> None:
    chosen = [Sample(1, date(2025, 6, day)).choose(1000, "a") for day in range(1, 29)]
    assert all(len(numbers) == 10 for numbers in chosen)
    assert all(numbers == sorted(set(numbers)) for numbers in chosen)
    assert len({tuple(numbers) for numbers in chosen}) == 28
    assert Sample(1, DAY).choose(1000, "a") == Sample(1, DAY).choose(1000, "a")
    assert Sample(1, DAY).choose(1000, "a") != Sample(1, DAY).choose(1000, "b")


@pytest.mark.parametrize(("percent", "count", "wanted"), [(1, 7, 1), (100, 7, 7), (50, 0, 0)])
def test_a_sample_holds_at_least_one_chunk_if_there_is_any(
    percent: float, count: int, wanted: int
) -> None:
    assert len(Sample(percent, DAY).choose(count, "a")) == wanted


@pytest.mark.parametrize("text", ["1", "0%", "101%", "-1%", "x%", "1%%", "%"])
def test_a_sample_that_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="such as 1%"):
        parse_sample(text, DAY)
    assert parse_sample("0.5 %", DAY) == Sample(0.5, DAY)
    assert parse_sample("", DAY) is None


def test_a_sample_finds_the_damage_it_meets_and_says_how_little_it_saw(backups: Backups) -> None:
    backups.backup()
    damage_chunk(backups, 3)
    found = 0
    for day in range(1, 29):
        report = verify(backups, Sample(1, date(2025, 6, day)))
        assert report.checked_chunks == 1
        if report.is_damaged:
            assert report.faults[0].startswith("chunk 3 ")
            found += 1
        else:
            (told,) = render_verify([report])
            assert "nothing wrong is found (1 of 8 chunks" in told
            assert "a sample of 1%" in told
    assert 0 < found < 28
    assert verify(backups, Sample(100, DAY)).is_damaged


def test_a_sample_looks_at_manifest_and_end_in_any_case(backups: Backups) -> None:
    backups.backup()
    end = backups.archive().stat().st_size - FOOTER_BYTES - MEMBER_BYTES
    flip(backups.archive(), end - 10)
    (fault,) = verify(backups, Sample(1, DAY)).faults
    assert fault == "tar's end mark after the manifest is damaged"
    flip(backups.archive(), end - 40)
    (fault,) = verify(backups, Sample(1, DAY)).faults
    assert fault == "the manifest is damaged: its hash is wrong"


def foreign(backups: Backups, *options: str) -> Path:
    """An archive that GNU tar made, under our naming."""
    file = backups.store_folder / "2025-06-12_0200-backup.tar.gz"
    backups.write_profile()
    command = ["tar", *options, "-czf", str(file), "-C", str(backups.source), "."]
    subprocess.run(command, check=True)
    return file


def test_an_ordinary_archive_is_read_through_and_it_is_said_that_this_is_all(
    backups: Backups,
) -> None:
    foreign(backups)
    report = verify(backups)
    assert not report.is_damaged
    assert report.files == 3
    (told,) = render_verify([report])
    assert "no manifest of ours: only gzip's checksums and tar's headers were checked" in told


@pytest.mark.parametrize("place", [0.01, 0.3, 0.9, 0.999999])
def test_a_flipped_bit_in_an_ordinary_archive_is_found(backups: Backups, place: float) -> None:
    file = foreign(backups)
    flip(file, int(file.stat().st_size * place))
    assert_refused_everywhere(backups)


@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.5, 0.99, 0.9999999])
def test_an_ordinary_archive_that_was_cut_is_found(backups: Backups, kept: float) -> None:
    file = foreign(backups)
    os.truncate(file, int(file.stat().st_size * kept))
    assert_refused_everywhere(backups)


def test_of_an_ordinary_archive_without_an_end_mark_it_is_said(backups: Backups) -> None:
    """GNU tar takes it, and neither gzip nor tar would notice a cut between two entries."""
    file = foreign(backups)
    tar = subprocess.run(["gzip", "-dc", str(file)], capture_output=True, check=True).stdout
    packed = subprocess.run(
        ["gzip", "-c"], input=tar[: 512 * 3], capture_output=True, check=True
    ).stdout
    file.write_bytes(packed)
    report = verify(backups)
    assert not report.is_damaged
    assert "the archive has no end mark; if it was cut off" in report.limit
    store = backups.open_store()
    (backup,) = find_backups(store, UTC)
    target = backups.source.parent / "restored"
    restored = run_restore(store, backup, RestoreRequest((), target), SilentProgress())
    assert restored.extracted.problems == []
    assert any("has no end mark" in note for note in restored.extracted.notes)


def assert_refused_everywhere(backups: Backups) -> None:
    """By verify, restore and files; none takes what is left for the whole."""
    report = verify(backups)
    assert report.is_damaged
    (told,) = render_verify([report])
    assert told.startswith("2025-06-12_0200-backup.tar.gz is damaged: ")
    store = backups.open_store()
    (backup,) = find_backups(store, UTC)
    with pytest.raises(ArchiveError):
        list(list_entries(store, backup.stored, ()))
    target = backups.source.parent / "restored"
    with pytest.raises(ArchiveError):
        run_restore(store, backup, RestoreRequest((), target), SilentProgress())


@pytest.mark.parametrize("lost_bytes", [1, FOOTER_BYTES - 1, FOOTER_BYTES, FOOTER_BYTES + 28])
def test_an_archive_of_ours_without_its_end_is_named_as_such(
    backups: Backups, lost_bytes: int
) -> None:
    backups.backup()
    os.truncate(backups.archive(), backups.archive().stat().st_size - lost_bytes)
    assert verify(backups).faults[0].startswith("cut off, or damaged at its end: an archive of")
    assert_refused_everywhere(backups)
    store = backups.open_store()
    (backup,) = find_backups(store, UTC)
    target = backups.source.parent / "other"
    with pytest.raises(ArchiveError, match=r"docs/recovery\.md"):
        run_restore(store, backup, RestoreRequest((), target), SilentProgress())
    assert not list(target.iterdir())


@pytest.mark.parametrize("place", range(1, FOOTER_BYTES, 9))
def test_a_broken_footer_is_refused_before_anything_is_restored(
    backups: Backups, tmp_path: Path, place: int
) -> None:
    # The first chunk ends as a whole tar does, so that only the footer tells whose this is.
    (backups.source / "a-before").write_bytes(bytes(4096))
    backups.backup()
    flip(backups.archive(), backups.archive().stat().st_size - place)
    store = backups.open_store()
    (backup,) = find_backups(store, UTC)
    with pytest.raises(ArchiveError):
        run_restore(store, backup, RestoreRequest((), tmp_path / "restored"), SilentProgress())
    assert list((tmp_path / "restored").iterdir()) == []


def test_an_archive_of_ours_without_its_end_is_named_also_when_its_front_says_nothing(
    backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backup_tasks.read import manifest_reader as reader

    monkeypatch.setattr(reader, "refuse_cut_off", lambda *_: None)
    backups.backup()
    whole = backups.archive().stat().st_size
    for lost_bytes in (FOOTER_BYTES, 5000):
        os.truncate(backups.archive(), whole - lost_bytes)
        assert verify(backups).is_damaged


def test_skip_damaged_brings_back_all_but_what_the_damage_costs(
    backups: Backups, tmp_path: Path
) -> None:
    backups.backup()
    damage_chunk(backups, 3)
    store = backups.open_store()
    (backup,) = find_backups(store, UTC)
    with pytest.raises(ArchiveError, match="--skip-damaged"):
        run_restore(store, backup, RestoreRequest((), tmp_path / "a"), SilentProgress())
    request = RestoreRequest((), tmp_path / "b", skip_damaged=True)
    report = run_restore(store, backup, request, SilentProgress())
    restored = backups.in_target(tmp_path / "b")
    assert sorted(os.listdir(restored)) == ["a-before", "z-after"]
    assert (restored / "z-after").read_text() == "after\n"
    assert {path for path, _ in report.extracted.problems} == {
        name_of(backups, "large"),
        name_of(backups, "large-too"),
    }


def test_skip_damaged_leaves_what_was_there_before(backups: Backups, tmp_path: Path) -> None:
    backups.backup()
    damage_chunk(backups, 3)
    there = backups.in_target(tmp_path / "b")
    there.mkdir(parents=True)
    (there / "large").write_text("older, but whole")
    store = backups.open_store()
    request = RestoreRequest((), tmp_path / "b", overwrite="always", skip_damaged=True)
    run_restore(store, find_backups(store, UTC)[0], request, SilentProgress())
    assert (there / "large").read_text() == "older, but whole"
    assert sorted(os.listdir(there)) == ["a-before", "large", "z-after"]


def damage_newest(cli: Cli) -> Path:
    """Flip a bit in the first chunk of the newest archive."""
    archive = cli.store / cli.archives()[-1]
    flip(archive, 30)
    return archive


def test_the_command_says_that_all_is_well_and_leaves_a_line_and_a_record(cli: Cli) -> None:
    cli.write_profile()
    name = cli.back_up()
    done = cli.run("verify", "--profile", "test")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{name}: whole (")
    assert f"SUCCESS: verify test: {name}-backup.tar.gz is whole (3 files, " in cli.log()[-1]
    record = cli.records()[-1]
    assert (record["task"], record["result"], record["files"]) == ("verify", "success", 3)


def test_the_command_fails_with_one_clear_line_for_each_damaged_archive(cli: Cli) -> None:
    cli.write_profile()
    cli.store.mkdir(exist_ok=True)
    good = cli.back_up()
    bad, cut = "2025-06-12_0200", "2025-06-13_0200"
    for name in (bad, cut):
        shutil.copy(cli.store / f"{good}-backup.tar.gz", cli.store / f"{name}-backup.tar.gz")
    flip(cli.store / f"{bad}-backup.tar.gz", 30)
    os.truncate(cli.store / f"{cut}-backup.tar.gz", 600)
    assert cli.run("verify", "--profile", "test").code == 0

    done = cli.run("verify", "--profile", "test", "--all")
    assert done.code == 1
    assert done.out.startswith(f"{good}: whole (")
    first, *lost, last = done.err.splitlines()
    assert first.startswith(f"{bad}-backup.tar.gz is damaged: it holds another backup's bytes: ")
    assert "; chunk 0 (bytes 0 to " in first
    assert lost
    assert all(line.endswith("chunk 0 is damaged: its hash is wrong") for line in lost)
    assert last.startswith(f"{cut}-backup.tar.gz is damaged: cut off")
    record = cli.records()[-1]
    assert (record["result"], record["exit_code"]) == ("failure", 1)
    assert record["error"].splitlines() == [line.strip() for line in done.err.splitlines()]
    assert f"FAILURE: verify test: {bad}-backup.tar.gz is damaged: " in cli.log()[-1]

    for option in ("--name", "--date"):
        wanted = bad if option == "--name" else bad[:10]
        done = cli.run("verify", "--profile", "test", option, wanted, "--json")
        (report,) = json.loads(done.out)
        assert (done.code, report["name"], report["whole"]) == (1, bad, False)
        assert report["lost"]["total"] == len(lost)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--all", "--name", "2025-06-12_0200"), "--all"),
        (("--sample", "5"), "such as 1%"),
        (("--date", "2020-01-01"), "there is no backup of 2020-01-01"),
    ],
)
def test_words_that_do_not_go_together_are_a_usage_error(
    cli: Cli, options: tuple[str, ...], words: str
) -> None:
    cli.write_profile()
    cli.back_up()
    done = cli.run("verify", "--profile", "test", *options)
    assert (done.code, done.out) == (2, "")
    assert words in done.err


def test_restore_names_what_was_lost_and_fails(cli: Cli) -> None:
    cli.write_profile()
    (cli.source / "large").write_bytes(random.Random(1).randbytes(2 * 2**20))
    cli.back_up()
    archive = cli.store / cli.archives()[-1]
    flip(archive, 2**20)
    refused = cli.run("restore", "--profile", "test", "--to", "one")
    assert refused.code == 1
    assert "--skip-damaged" in refused.err
    done = cli.run("restore", "--profile", "test", "--to", "two", "--skip-damaged")
    assert done.code == 1
    assert "restored 3 files" in done.out
    assert f"{cli.source}/large: chunk ".lstrip("/") in done.err
    assert not (cli.here / "two" / str(cli.source / "large").lstrip("/")).exists()


def test_an_archive_in_a_bucket_is_verified_and_a_cut_one_is_found(
    cli: Cli, s3_bucket: S3Bucket
) -> None:
    cli.write_profile(s3_store(s3_bucket))
    (cli.source / "large").write_bytes(random.Random(1).randbytes(9 * 2**20))
    name = cli.back_up()
    assert cli.run("verify", "--profile", "test").code == 0
    (key,) = s3_bucket.keys()
    content = s3_bucket.client.get_object(Bucket=s3_bucket.bucket, Key=key)["Body"].read()
    s3_bucket.client.put_object(Bucket=s3_bucket.bucket, Key=key, Body=content[: 5 * 2**20])
    for task in ("verify", "restore", "drill"):
        done = cli.run(task, "--profile", "test")
        assert (done.code, done.out) == (1, "")
        assert f"{name}-backup.tar.gz" in done.err
        assert "cut off" in done.err
    flipped = content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]
    s3_bucket.client.put_object(Bucket=s3_bucket.bucket, Key=key, Body=flipped)
    assert "its hash is wrong" in cli.run("verify", "--profile", "test").err


def two_large_entries() -> tuple[bytes, list[Chunk], list[Entry]]:
    """The second begins where the first should go on; all hashes are right."""
    first, second = (Item(name, content=name.encode() * 4000) for name in "ab")
    blocks = first.blocks()[:1536], second.blocks()[:1536], second.blocks()[1536:]
    packed, chunks = laid_out(blocks)
    return packed, chunks, [attacks.entry_of(first, 0), attacks.entry_of(second, 1)]


def test_a_large_file_in_which_another_begins_before_it_has_ended_is_lost(tmp_path: Path) -> None:
    packed, chunks, entries = two_large_entries()
    end = attacks.forge_end(len(packed), chunks, entries, files=2, raw_bytes=8000)
    report = verify_forged(tmp_path, packed + end)
    assert report.lost.first == [("a", "another entry begins before its content ends")]
    assert report.is_damaged


def test_it_is_lost_too_where_its_chunks_were_found_whole_before() -> None:
    _, _, (first, second) = two_large_entries()
    check = EntryCheck()
    check.accept(ReadChunk(0, b""), [first], last_chunk=2)
    check.accept(ReadChunk(1, b""), [second], last_chunk=2)
    check.accept(ReadChunk(2, b""), [], last_chunk=2)
    check.finish()
    assert [name for name, _ in check.lost.first] == ["a"]
    assert check.files == 1


@pytest.mark.parametrize(
    ("kind", "link"), [("symlink", "/etc/passwd"), ("symlink", ""), ("hardlink", "other")]
)
def test_a_link_that_leads_elsewhere_than_the_manifest_says_is_lost(
    tmp_path: Path, kind: EntryType, link: str
) -> None:
    def claim(entry: Entry) -> None:
        entry.link, entry.mtime_ns = "honest", item.mtime_ns

    item = Item("link", kind, link=link, mode=0o777 if kind == "symlink" else 0o644)
    item.claim = claim
    report = verify_forged(tmp_path, attacks.forge_ours([item]))
    ((name, reason),) = report.lost.first
    assert (name, "link" in reason.rpartition(" in ")[2].split(", ")) == ("link", True)
