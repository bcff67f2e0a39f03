"""The end of an archive: whatever it says, it is believed only as far as it fits the object."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.errors import ArchiveError
from backup_tasks.format.footer import END_CHUNK, FOOTER_BYTES, Footer, decode_footer, encode_footer
from backup_tasks.format.manifest import Chunk, encode_line
from backup_tasks.read.manifest_reader import read_footer, read_header, read_manifest
from backup_tasks.verify.run_verify import run_verify
from tests.support import attacks, manifests
from tests.support.attacks import Item
from tests.support.backups import Backups
from tests.support.generations import Generations, fill
from tests.support.keys import make_key

ITEMS = [Item("a", content=b"1" * 600), Item("b", content=b"2" * 600)]


def footer_of(archive: bytes) -> Footer:
    footer = decode_footer(archive[-FOOTER_BYTES:])
    assert footer is not None
    return footer


def with_footer(archive: bytes, change: Callable[[Footer], Footer]) -> bytes:
    """The archive with a footer that says something else."""
    return archive[:-FOOTER_BYTES] + encode_footer(change(footer_of(archive)))


@pytest.mark.parametrize("gap", [b"x", b"x" * 600])
def test_chunks_that_end_before_the_manifest_begins_are_refused(tmp_path: Path, gap: bytes) -> None:
    """What lies between them would be in no table, and tar would unpack it."""
    archive = attacks.forge_ours(ITEMS)
    footer = footer_of(archive)
    hidden = archive[: footer.offset] + gap + archive[footer.offset :]
    hidden = with_footer(hidden, lambda one: replace(one, offset=one.offset + len(gap)))
    store, backup = attacks.put(tmp_path, hidden)
    with pytest.raises(ArchiveError, match="do not end where the manifest begins"):
        read_manifest(store, backup.stored)
    assert run_verify(store, backup, SilentProgress()).is_damaged


def test_a_manifest_with_another_hash_than_the_footer_says_is_refused(tmp_path: Path) -> None:
    wrong = with_footer(attacks.forge_ours(ITEMS), lambda one: replace(one, sha256=bytes(32)))
    store, backup = attacks.put(tmp_path, wrong)
    for read in (read_manifest, read_header):
        with pytest.raises(ArchiveError, match="the manifest is damaged: its hash is wrong"):
            read(store, backup.stored)  # type: ignore[operator]


@pytest.mark.parametrize("beyond", [1, 10**9])
def test_a_footer_that_points_beyond_the_object_is_refused(tmp_path: Path, beyond: int) -> None:
    archive = attacks.forge_ours(ITEMS)
    footer = footer_of(archive)
    room = len(archive) - FOOTER_BYTES - footer.offset - footer.length
    wrong = with_footer(archive, lambda one: replace(one, length=one.length + room + beyond))
    store, backup = attacks.put(tmp_path, wrong)
    with pytest.raises(ArchiveError, match="points beyond the object's end"):
        read_footer(store, backup.stored)


def test_a_manifest_that_is_not_called_so_is_refused(tmp_path: Path) -> None:
    """The member where it should be is one of a user's files, which says what he likes."""
    text = b"".join(map(encode_line, [manifests.header(chunks=0, chunk_bytes=0)]))
    item = Item(".backup/manifest.jsonl.old", content=text)
    from backup_tasks.chunks.compress import compress_chunk

    packed = compress_chunk(item.blocks(), 1).stored
    footer = Footer(0, len(packed), hashlib.sha256(packed).digest())
    store, backup = attacks.put(tmp_path, packed + END_CHUNK + encode_footer(footer))
    with pytest.raises(ArchiveError, match="where it should be"):
        read_manifest(store, backup.stored)


def test_one_plain_chunk_among_encrypted_ones_is_refused(
    tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever knows the public key can forge the manifest; the chunk could be read by anybody."""
    from backup_tasks.format import manifest as manifest_room

    (tmp_path / "source").mkdir()
    pair = make_key(tmp_path)
    backups = Generations(tmp_path / "source", tmp_path / "store", paths)
    backups.recipients, backups.key = (pair.recipient,), pair.file
    fill(backups)
    (backups.source / "large").write_bytes(b"x" * 3 * 2**20)
    real = manifest_room._encoder
    said: list[Chunk] = []

    class Liar:
        def encode(self, record: object) -> bytes:
            if isinstance(record, Chunk):
                said.append(record)
                if len(said) == 2:
                    record = replace_content(record)
            return real.encode(record)

    monkeypatch.setattr(manifest_room, "_encoder", Liar())
    backups.backup()
    assert len(said) > 2
    with pytest.raises(ArchiveError, match="lists chunks that are not encrypted"):
        backups.manifest()


def replace_content(chunk: Chunk) -> Chunk:
    return Chunk(chunk.offset, chunk.length, chunk.sha256, chunk.raw)


def test_bytes_that_came_wrong_once_are_fetched_again(tmp_path: Path) -> None:
    """A byte flipped on its way must not pass for a damaged archive, nor for a sound one."""
    store, backup = attacks.put(tmp_path, attacks.forge_ours(ITEMS))
    footer = read_footer(store, backup.stored)
    assert footer is not None

    class Flips:
        """Flips a byte of each range once."""

        def __init__(self) -> None:
            self.seen: set[int] = set()

        def read_range(self, source: object, start: int, length: int) -> bytes:
            content = bytearray(store.read_range(backup.stored, start, length))
            if start not in self.seen:
                self.seen.add(start)
                content[len(content) // 2] ^= 1
            return bytes(content)

    for _ in range(2):
        manifest = read_manifest(Flips(), backup.stored)
        assert manifest is not None
        assert [entry.name for entry in manifest.entries()] == ["a", "b"]


def test_two_backups_of_one_day_that_change_places_are_both_refused(
    tmp_path: Path, paths: Paths
) -> None:
    """Each is whole and signed, and neither is what its name says."""
    from datetime import timedelta

    from backup_tasks.errors import UnprovenError
    from backup_tasks.read.authenticity import Trust, demand_proof

    (tmp_path / "source").mkdir()
    backups = Backups(tmp_path / "source", tmp_path / "store", paths)
    for content in ("morning", "evening"):
        (backups.source / "file").write_text(content)
        backups.backup()
        backups.now -= timedelta(hours=23)
    morning, evening = sorted(backups.store_folder.iterdir())
    assert morning.name[:10] == evening.name[:10]
    morning.rename(tmp_path / "aside")
    evening.rename(morning)
    (tmp_path / "aside").rename(evening)
    store = backups.open_store()
    for stored in store.list_objects():
        with pytest.raises(UnprovenError, match="it holds another backup's bytes"):
            demand_proof(read_manifest(store, stored), stored.name, Trust())


def test_an_end_mark_of_other_bytes_that_unpack_to_the_same_zeros_is_told(tmp_path: Path) -> None:
    """Only its bytes tell whether it is what was written."""
    archive = attacks.rewrite(attacks.forge_ours(ITEMS), files=2, raw_bytes=1200)
    place = archive.index(END_CHUNK)
    other = bytearray(archive)
    other[place + 9] ^= 1  # which system made it: gunzip passes over it
    for content, is_damaged in ((archive, False), (bytes(other), True)):
        store, backup = attacks.put(tmp_path / str(is_damaged), content)
        assert run_verify(store, backup, SilentProgress()).is_damaged == is_damaged
