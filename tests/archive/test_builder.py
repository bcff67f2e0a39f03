"""How an archive is laid out: DESIGN's chunks, each with whole tar blocks, in a known order."""

from __future__ import annotations

import gzip
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from backup_tasks.chunks.compress import CHUNK_BYTES
from backup_tasks.common.paths import Paths
from backup_tasks.common.time_zones import find_zone
from backup_tasks.format.footer import END_CHUNK, FOOTER_BYTES, decode_footer
from backup_tasks.format.manifest import MANIFEST_PATH, USUAL_HEADER_BYTES, Chunk, Entry, Header
from backup_tasks.format.signature_member import decode_signature
from backup_tasks.format.tar_headers import decode_headers
from backup_tasks.read.manifest_reader import read_manifest
from backup_tasks.reuse.late_links import LateLinks
from tests.support.backups import Backups
from tests.support.details import find_backups
from tests.support.source_trees import make_whole_tree

MIB = 2**20
UTC = find_zone("UTC")


@dataclass
class Laid:
    """An archive taken apart."""

    content: bytes
    header: Header
    chunks: list[Chunk]
    entries: dict[str, Entry]

    def raw(self, number: int) -> bytes:
        chunk = self.chunks[number]
        return gzip.decompress(self.content[chunk.offset : chunk.offset + chunk.length])


def lay_open(backups: Backups) -> Laid:
    store = backups.open_store()
    manifest = read_manifest(store, find_backups(store, UTC)[-1].stored)
    assert manifest is not None
    found = {entry.name: entry for entry in manifest.entries()}
    return Laid(backups.archive().read_bytes(), manifest.header, list(manifest.chunks), found)


@pytest.fixture
def backups(tmp_path: Path, paths: Paths) -> Backups:
    return Backups(tmp_path / "source", tmp_path / "store", paths)


@pytest.fixture
def whole(backups: Backups) -> Laid:
    make_whole_tree(backups.source)
    backups.backup()
    return lay_open(backups)


def test_chunks_lie_one_after_the_other_from_the_very_front(whole: Laid) -> None:
    end = 0
    for number, chunk in enumerate(whole.chunks):
        assert chunk.offset == end
        stored = whole.content[chunk.offset : chunk.offset + chunk.length]
        assert hashlib.sha256(stored).hexdigest() == chunk.sha256
        raw = whole.raw(number)
        assert (len(raw), len(raw) % 512) == (chunk.raw, 0)
        assert len(raw) <= CHUNK_BYTES
        end += chunk.length


def test_manifest_end_mark_and_footer_follow_in_this_order(whole: Laid) -> None:
    footer = decode_footer(whole.content[-FOOTER_BYTES:])
    assert footer is not None
    assert footer.offset == whole.chunks[-1].offset + whole.chunks[-1].length
    packed = whole.content[footer.offset : footer.offset + footer.length]
    assert hashlib.sha256(packed).digest() == footer.sha256
    member, _ = decode_headers(memoryview(gzip.decompress(packed)), 0)
    assert member.path == MANIFEST_PATH.encode()
    rest = whole.content[footer.offset + footer.length : -FOOTER_BYTES]
    end_mark, signature = rest[: len(END_CHUNK)], decode_signature(rest[len(END_CHUNK) :])
    assert end_mark == END_CHUNK
    assert gzip.decompress(rest) == bytes(1024)
    assert replace(footer, signature=signature).is_truly_signed


def test_every_entry_has_its_headers_where_the_manifest_says(whole: Laid) -> None:
    for name, entry in whole.entries.items():
        member, _ = decode_headers(memoryview(whole.raw(entry.chunk)), entry.offset)
        assert os.fsdecode(member.path) == name
        assert (member.kind, member.size) == (entry.type, entry.size)
        if entry.type != "hardlink":
            assert (member.mode, member.mtime_ns) == (entry.mode, entry.mtime_ns)


def test_the_headers_totals_are_what_is_there(whole: Laid) -> None:
    files = [entry for entry in whole.entries.values() if entry.type == "file"]
    assert whole.header.entries == len(whole.entries)
    assert whole.header.files == len(files)
    assert whole.header.raw_bytes == sum(entry.size for entry in files)
    assert whole.header.chunks == len(whole.chunks)
    assert whole.header.chunk_bytes == sum(chunk.length for chunk in whole.chunks)


def test_every_file_has_the_hash_of_its_whole_content(whole: Laid) -> None:
    for name, entry in whole.entries.items():
        if entry.type == "file":
            content = Path(f"/{name}").read_bytes() if len(name) < 4000 else b""
            assert entry.sha256 == hashlib.sha256(content).hexdigest()


def test_folders_come_last_after_late_links_in_chunks_without_other_entries(whole: Laid) -> None:
    late = LateLinks()
    folders, links, others = [], [], []
    for entry in whole.entries.values():
        kind = folders if entry.type == "dir" else links if late.has(entry) else others
        kind.append((entry.chunk, entry.offset))
    assert links
    assert min(folders) > max(links)
    assert min(links)[0] > max(others)[0]
    assert max(folders)[0] == len(whole.chunks) - 1


def test_the_manifest_is_in_the_order_of_the_walk(whole: Laid) -> None:
    keys = [entry.walk_key for entry in whole.entries.values()]
    assert keys == sorted(keys)


def test_a_link_comes_after_the_file_that_it_joins(whole: Laid) -> None:
    for entry in whole.entries.values():
        if entry.type == "hardlink":
            first = whole.entries[entry.link_name]
            assert (first.chunk, first.offset) < (entry.chunk, entry.offset)


@pytest.mark.parametrize(
    "size",
    [CHUNK_BYTES - 1535, CHUNK_BYTES - 512, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * MIB, 3 * MIB + 777],
)
def test_a_large_file_has_chunks_of_its_own_bytes_cut_at_fixed_places(
    backups: Backups, size: int
) -> None:
    backups.source.mkdir()
    (backups.source / "a").write_text("before")
    content = os.urandom(size)
    (backups.source / "b").write_bytes(content)
    (backups.source / "c").write_text("after")
    backups.backup()
    laid = lay_open(backups)
    entry = laid.entries[str(backups.source / "b").lstrip("/")]
    assert (entry.offset, len(laid.raw(entry.chunk))) == (0, USUAL_HEADER_BYTES)
    for piece, start in enumerate(range(0, size, CHUNK_BYTES), start=1):
        raw = laid.raw(entry.chunk + piece)
        wanted = content[start : start + CHUNK_BYTES]
        assert raw == wanted + bytes(-len(wanted) % 512)


def test_the_largest_file_that_fits_into_one_chunk_with_its_headers_lies_there_whole(
    backups: Backups,
) -> None:
    backups.source.mkdir()
    content = os.urandom(CHUNK_BYTES - USUAL_HEADER_BYTES)
    (backups.source / "b").write_bytes(content)
    backups.backup()
    laid = lay_open(backups)
    entry = laid.entries[str(backups.source / "b").lstrip("/")]
    raw = laid.raw(entry.chunk)
    assert (entry.offset, len(raw)) == (0, CHUNK_BYTES)
    assert raw.endswith(content)


def test_small_files_share_chunks(backups: Backups) -> None:
    backups.source.mkdir()
    for number in range(500):
        (backups.source / f"{number:03}").write_bytes(os.urandom(1000))
    backups.backup()
    laid = lay_open(backups)
    assert len(laid.chunks) <= 4


def test_equal_sources_give_equal_chunks(backups: Backups, tmp_path: Path, paths: Paths) -> None:
    """Nothing of a run's own time or place gets into a chunk."""
    make_whole_tree(backups.source)
    hashes = []
    for _ in range(2):
        backups.backup()
        laid = lay_open(backups)
        # The folders above the source change with every test.
        folders = {entry.chunk for entry in laid.entries.values() if entry.type == "dir"}
        hashes.append([chunk.sha256 for chunk in laid.chunks[: min(folders)]])
        backups.archive().unlink()
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_every_compression_level_makes_a_sound_archive(backups: Backups, level: int) -> None:
    backups.extra = f"compression_level = {level}"
    backups.source.mkdir()
    (backups.source / "text").write_text("all work and no play " * 100_000)
    backups.backup()
    laid = lay_open(backups)
    assert sum(len(laid.raw(number)) for number in range(len(laid.chunks))) > 2_000_000
    assert len(laid.content) < 200_000
