"""Loss never looks like success: whatever happens to an archive's bytes is found and said.

One small archive of many chunks is cut, dropped from, swapped, repeated and flipped, at every
border and anywhere. `verify` must find each of these; `restore` may only give what was stored
or say that it could not.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from itertools import combinations
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backup_tasks.census.catalog import Backup, choose_backup
from backup_tasks.claim.machine_key import read_own_key
from backup_tasks.common.progress import SilentProgress
from backup_tasks.errors import BackupError
from backup_tasks.format.archive_names import is_encrypted_name
from backup_tasks.format.footer import END_CHUNK
from backup_tasks.format.manifest import Header
from backup_tasks.format.signature_member import MEMBER_BYTES
from backup_tasks.keys.identities import Keyring
from backup_tasks.keys.signing import render_public_key
from backup_tasks.read.listing import list_entries
from backup_tasks.read.manifest_reader import footer_length, read_footer, read_manifest
from backup_tasks.restore.request import RestoreRequest
from backup_tasks.restore.run_restore import run_restore
from backup_tasks.stores.directory import DirectoryStore
from backup_tasks.verify.run_verify import run_verify
from backup_tasks.verify.verify_report import render_verify
from tests.support.backups import Backups, paths_in
from tests.support.details import find_backups, read_details
from tests.support.histories import use_small_chunks
from tests.support.keys import make_key

NAME = "2025-06-13_0200-backup.tar.gz"
CHUNK_BYTES = 4096
HANGS_SECONDS = 60
# Thousands of small trees are made and removed.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
EXAMPLES = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

# path -> (kind, mode, time, content's hash or link target); folders have no time here, for what
# could not be restored leaves theirs changed.
Tree = dict[str, tuple[object, ...]]


@dataclass(frozen=True, repr=False)
class Sound:
    """An archive as it was written, and what it holds.

    Attributes:
        name: of the object; keys: open it, if it is encrypted.
        borders: where its gzip members begin, and its end.
        header: the manifest's first line.
        tree: what a whole restore gives.
        entries: what `files` lists.
        signers: the public key that signed it, as a profile names it.
    """

    content: bytes
    borders: list[int]
    header: Header
    tree: Tree
    entries: list[str]
    name: str
    keys: Keyring
    signers: tuple[str, ...]

    def put(self, folder: Path, content: bytes) -> tuple[DirectoryStore, Backup]:
        """A store that holds this."""
        return put(folder, content, self.name)

    @property
    def end_members(self) -> int:
        """How many members follow the chunks: manifest, end mark, footer; signature if plain."""
        return 3 if is_encrypted_name(self.name) else 4

    @property
    def chunks(self) -> int:
        """How many there are."""
        return len(self.borders) - 1 - self.end_members

    @property
    def members(self) -> list[bytes]:
        return [self.content[a:b] for a, b in zip(self.borders, self.borders[1:], strict=False)]


def fill(source: Path) -> None:
    """Small files that share chunks, large ones with chunks of their own, links, holes."""
    chooser = random.Random(7)
    for number in range(12):
        content = chooser.randbytes(40) * chooser.randrange(30)
        (source / f"small-{number:02}").write_bytes(content)
    (source / "large").write_bytes(b"".join(b"line %d\n" % number for number in range(1500)))
    (source / "large-zeros").write_bytes(bytes(3 * CHUNK_BYTES + 5))
    (source / "below").mkdir()
    (source / "below" / "deep").write_text("deep\n")
    os.link(source / "large", source / "x-link-to-large")
    os.link(source / "small-03", source / "x-link-to-small")
    (source / "x-symlink").symlink_to("/nowhere")
    with open(source / "x-sparse", "wb") as file:
        file.truncate(200_000)
        file.seek(100_000)
        file.write(b"in the middle")


@pytest.fixture(scope="module", params=["plain", "encrypted"])
def sound(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Sound:
    """One archive for all tests of this file, in chunks of 4 KiB."""
    here = tmp_path_factory.mktemp("damage")
    (here / "source").mkdir()
    fill(here / "source")
    backups = Backups(here / "source", here / "store", paths_in(here))
    if request.param == "encrypted":
        pair = make_key(here)
        backups.recipients, backups.key = (pair.recipient,), pair.file
    with pytest.MonkeyPatch.context() as patch:
        use_small_chunks(patch, CHUNK_BYTES)
        # The first archive's chunks are copied into the second, which is the one to damage.
        backups.backup()
        (here / "source" / "small-05").write_text("changed\n")
        (here / "source" / "y-new").write_text("new\n")
        backups.backup()
    content, name, keys = backups.archive().read_bytes(), backups.archive().name, backups.keys
    name = name.replace(name[:15], NAME[:15])
    store, backup = put(here / "store", content, name)
    run_restore(store, backup, RestoreRequest((), here / "whole"), SilentProgress(), keys)
    entries = [entry.name for entry in list_entries(store, backup.stored, (), keys)]
    (details,) = read_details(store, [backup], keys)
    assert details.header is not None
    borders = borders_of(store, backup, keys)
    tree = read_tree(here / "whole")
    own_key = read_own_key(backups.paths.state)
    assert own_key is not None
    signers = (render_public_key(own_key.public_key),)
    return Sound(content, borders, details.header, tree, entries, name, keys, signers)


def borders_of(store: DirectoryStore, backup: Backup, keys: Keyring) -> list[int]:
    manifest = read_manifest(store, backup.stored, keys)
    footer = read_footer(store, backup.stored)
    assert manifest is not None
    assert footer is not None
    starts = [chunk.offset for chunk in manifest.chunks]
    manifest.close()
    end = footer.offset + footer.length
    size = backup.stored.size
    footer_at = size - footer_length(backup.stored)
    if is_encrypted_name(backup.stored.name):
        return [*starts, footer.offset, end, footer_at, size]
    signature_at = end + len(END_CHUNK)
    assert footer_at == signature_at + MEMBER_BYTES
    return [*starts, footer.offset, end, signature_at, footer_at, size]


def put(folder: Path, content: bytes, name: str) -> tuple[DirectoryStore, Backup]:
    """A store that holds this."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    store = DirectoryStore(folder)
    return store, choose_backup(find_backups(store, UTC), name=name)


def read_tree(root: Path) -> Tree:
    tree: Tree = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            else:
                tree[os.path.relpath(path, root)] = ("folder", stat.S_IMODE(status.st_mode))
                continue
            kind = stat.S_IFMT(status.st_mode)
            mode = stat.S_IMODE(status.st_mode)
            tree[os.path.relpath(path, root)] = (kind, mode, status.st_mtime_ns, content)
    return tree


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """Fail what never ends, instead of waiting for it."""

    def fail(number: int, frame: FrameType | None) -> None:
        raise AssertionError("this hangs")

    before = signal.signal(signal.SIGALRM, fail)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def assert_found(sound: Sound, damaged: bytes) -> None:
    """`verify` finds the damage; nothing else takes it for what was stored."""
    assert damaged != sound.content
    signal.alarm(HANGS_SECONDS)
    here = Path(tempfile.mkdtemp(prefix="test-damage-", dir=MEMORY))
    try:
        store, backup = sound.put(here / "store", damaged)
        report = run_verify(store, backup, SilentProgress(), None, sound.keys, sound.signers)
        assert report.is_damaged
        told = list(render_verify([report]))
        assert re.match(f"{sound.name} is (damaged|not to be believed): ", told[0])
        assert all("\n" not in line for line in told)
        assert_restore_is_honest(sound, store, backup, here / "restored", skip_damaged=False)
        assert_restore_is_honest(sound, store, backup, here / "skipped", skip_damaged=True)
        assert_listing_is_honest(sound, store, backup)
    finally:
        signal.alarm(0)
        shutil.rmtree(here)


def assert_restore_is_honest(
    sound: Sound, store: DirectoryStore, backup: Backup, target: Path, *, skip_damaged: bool
) -> None:
    """Everything is restored, or somebody is told; and no file is there half."""
    request = RestoreRequest((), target, skip_damaged=skip_damaged)
    try:
        report = run_restore(store, backup, request, SilentProgress(), sound.keys)
        lost = {path for path, _ in report.extracted.problems}
    except BackupError as error:
        told = str(error)
    else:
        told = " ".join(lost)
        assert set(sound.tree) - set(read_tree(target)) <= lost
    assert told or read_tree(target) == sound.tree
    restored = read_tree(target) if target.exists() else {}
    for path, found in restored.items():
        if found[0] != "folder":
            assert found == sound.tree[path], path


def assert_listing_is_honest(sound: Sound, store: DirectoryStore, backup: Backup) -> None:
    (details,) = read_details(store, [backup], sound.keys)
    assert details.header in (None, sound.header)
    try:
        listed = [entry.name for entry in list_entries(store, backup.stored, (), sound.keys)]
    except BackupError:
        return
    assert listed == sound.entries


def test_the_sound_archive_is_whole_and_has_all_kinds_of_chunks(
    sound: Sound, tmp_path: Path
) -> None:
    store, backup = sound.put(tmp_path / "store", sound.content)
    report = run_verify(store, backup, SilentProgress(), None, sound.keys, sound.signers)
    assert not report.is_damaged
    assert report.checked_chunks == report.chunks == sound.chunks >= 12
    assert report.entries == len(sound.entries)
    assert_restore_is_honest(sound, store, backup, tmp_path / "all", skip_damaged=False)
    assert read_tree(tmp_path / "all") == sound.tree


@EXAMPLES
@given(st.data())
def test_every_flipped_bit_is_found(sound: Sound, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(sound.content) - 1))
    assert_found(sound, flipped(sound.content, place, data.draw(st.integers(0, 7))))


def flipped(content: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


def test_every_flipped_bit_at_the_end_is_found(sound: Sound) -> None:
    end = sound.borders[-sound.end_members]
    for place in range(end, len(sound.content)):
        assert_found(sound, flipped(sound.content, place, place % 8))


def test_a_flipped_bit_that_gunzip_ignores_is_found(sound: Sound) -> None:
    # RFC 1952: flags, time, extra flags and system of a member; its checksum and size.
    for start, end in zip(sound.borders, sound.borders[1:], strict=False):
        for place in (*range(start + 3, start + 10, 2), *range(end - 8, end, 3)):
            assert_found(sound, flipped(sound.content, place, place % 8))


def test_every_cut_at_a_border_is_found(sound: Sound) -> None:
    for border in sound.borders:
        for end in (border - 1, border, border + 1):
            if 0 <= end < len(sound.content):
                assert_found(sound, sound.content[:end])
            if end > 0:
                assert_found(sound, sound.content[end:])


@EXAMPLES
@given(st.data())
def test_every_cut_is_found(sound: Sound, data: st.DataObject) -> None:
    assert_found(sound, sound.content[: data.draw(st.integers(0, len(sound.content) - 1))])


def test_every_dropped_member_is_found(sound: Sound) -> None:
    for number in range(len(sound.members)):
        rest = sound.members[:number] + sound.members[number + 1 :]
        assert_found(sound, b"".join(rest))


def test_every_repeated_member_is_found(sound: Sound) -> None:
    for number in range(len(sound.members)):
        more = sound.members[: number + 1] + sound.members[number:]
        assert_found(sound, b"".join(more))


def test_every_pair_of_swapped_members_is_found(sound: Sound) -> None:
    count = len(sound.members)
    for one, other in combinations(range(count), 2):
        # All neighbours, all with the end, and some of the others.
        if other - one > 1 and other < sound.chunks - 1 and (one + other) % 5:
            continue
        members = sound.members
        members[one], members[other] = members[other], members[one]
        if b"".join(members) != sound.content:
            assert_found(sound, b"".join(members))


@EXAMPLES
@given(st.data())
def test_every_piece_put_in_left_out_or_overwritten_is_found(
    sound: Sound, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(sound.content)))
    end = data.draw(st.integers(start, min(len(sound.content), start + 5000)))
    piece = data.draw(st.one_of(st.binary(max_size=64), st.just(bytes(end - start))))
    damaged = sound.content[:start] + piece + sound.content[end:]
    if damaged != sound.content:
        assert_found(sound, damaged)


def test_something_appended_is_found(sound: Sound) -> None:
    for more in (b"\0", bytes(10240), END_CHUNK, sound.members[0], sound.content):
        assert_found(sound, sound.content + more)
