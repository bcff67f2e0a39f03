"""Encrypted backups end to end: the server has public keys alone, and age alone brings all back."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from datetime import UTC
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from backup_tasks.chunks.encrypt import Sealer, open_encrypted
from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.errors import ArchiveError, IdentityError
from backup_tasks.format.archive_names import ENCRYPTED_SUFFIX
from backup_tasks.keys.identities import Keyring
from backup_tasks.read.listing import list_entries
from backup_tasks.read.manifest_reader import read_manifest
from backup_tasks.stores.base import PartLimits
from backup_tasks.verify.run_verify import run_verify
from tests.backup.test_incremental import check_dead_bytes, new_replay, vanishing
from tests.support.details import find_backups, read_details
from tests.support.generations import (
    ANY,
    EARLIER,
    LATER,
    NARROW,
    Generations,
    fill,
    restored,
    untar,
)
from tests.support.histories import CHUNK, Change, fingerprint, histories, noise, use_small_chunks
from tests.support.keys import KINDS, decrypt, make_key, recover
from tests.support.unreadable import refused

CANARY = b"THE-TEXT-OF-A-FILE-AND-ITS-NAME"


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_chunks(monkeypatch)


@pytest.fixture
def backups(tmp_path: Path, paths: Paths) -> Generations:
    """Encrypted ones; the tests have the key, the profile has not."""
    (tmp_path / "source").mkdir()
    pair = make_key(tmp_path)
    made = Generations(tmp_path / "source", tmp_path / "store", paths, now=LATER)
    made.recipients, made.key = (pair.recipient,), pair.file
    return made


def key_of(backups: Generations) -> Path:
    assert backups.key is not None
    return backups.key


def forget_manifest(backups: Generations) -> None:
    (kept,) = (backups.paths.state / "manifests").glob("*/*")
    kept.unlink()


# Every generation, whatever changed


@pytest.mark.parametrize(
    ("limits", "now"), [(ANY, LATER), (NARROW, LATER), (NARROW, EARLIER)], ids=str
)
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=histories(4))
def test_age_and_tar_alone_bring_back_every_generation(
    history: list[list[Change]], limits: PartLimits, now: object
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        replay = new_replay(Path(folder), LATER if now is LATER else EARLIER, limits)
        pair = make_key(replay.folder)
        replay.backups.recipients, replay.backups.key = (pair.recipient,), pair.file
        for number, archive in enumerate(replay.play(history)):
            assert archive.name.endswith(ENCRYPTED_SUFFIX)
            untarred = untar(archive, replay.folder / f"tar{number}", key=pair.file)
            assert replay.twin(untarred) == replay.trees[-1]
            check_dead_bytes(replay.backups.manifest())
            for written in replay.backups.stores[-1].written:
                written.check(limits)
        for number, tree in enumerate(replay.trees):
            ours = restored(replay.backups, number, replay.folder / f"ours{number}")
            assert replay.twin(ours) == tree
        for backup in find_backups(replay.backups.open_store(), UTC):
            store, keys = replay.backups.open_store(), replay.backups.keys
            report = run_verify(store, backup, SilentProgress(), None, keys)
            assert not report.is_damaged


def test_a_later_backup_copies_what_is_encrypted_already(backups: Generations) -> None:
    fill(backups)
    backups.backup()
    assert backups.copied() == 0
    (backups.source / "file03").write_bytes(noise(77, 100))
    record = backups.backup()
    assert "everything" not in backups.log()
    assert backups.copied() > 5 * CHUNK
    assert backups.sent() < 2 * CHUNK
    read = backups.stores[-1].reads_but_of(record.archive)
    assert read == [], "neither a manifest nor a chunk was fetched"


def test_a_large_file_changed_in_one_place_sends_one_chunk(backups: Generations) -> None:
    fill(backups)
    backups.backup()
    with open(backups.source / "large", "r+b") as file:
        file.seek(2 * CHUNK + 9)
        file.write(b"changed")
    backups.backup()
    before = backups.manifest().chunks
    assert backups.sent() < 3 * CHUNK + 4096
    assert all(chunk.content and chunk.content != chunk.sha256 for chunk in before)


def test_known_pieces_that_must_be_sent_are_fetched_as_they_are(
    backups: Generations, tmp_path: Path
) -> None:
    backups.limits = NARROW
    (backups.source / "large").write_bytes(noise(1, 12 * CHUNK))
    backups.backup()
    hashes = {chunk.sha256 for chunk in backups.manifest().chunks}
    with open(backups.source / "large", "r+b") as file:
        file.seek(5 * CHUNK)
        file.write(b"changed")
    record = backups.backup()
    kept = [chunk for chunk in backups.manifest().chunks if chunk.sha256 in hashes]
    assert len(kept) == 11
    fetched = sum(length for _, length in backups.stores[-1].reads_but_of(record.archive))
    assert 0 < fetched < 6 * CHUNK
    (written,) = backups.stores[-1].written
    written.check(NARROW)
    untarred = backups.in_target(untar(backups.archive(), tmp_path / "tar", key=key_of(backups)))
    assert fingerprint(untarred) == fingerprint(backups.source)


# What others see


def test_neither_name_nor_content_of_a_file_can_be_read_in_the_store(backups: Generations) -> None:
    (backups.source / CANARY.decode()).write_bytes(CANARY * 100)
    backups.backup()
    backups.backup()
    for archive in backups.store_folder.iterdir():
        content = archive.read_bytes()
        assert CANARY not in content
        assert b"manifest.jsonl" not in content
        assert backups.host.encode() not in content.replace(b"ustar", b"")
    assert CANARY in decrypt(backups.archive(), key_of(backups)) or CANARY.decode() in {
        entry.name.rpartition("/")[2] for entry in backups.manifest().entries()
    }


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_every_tar_passes_over_the_footer_in_silence(backups: Generations, program: str) -> None:
    fill(backups)
    backups.backup()
    done = subprocess.run([program, "tf", backups.archive()], capture_output=True, check=True)
    assert done.stderr == b""
    names = done.stdout.split()
    assert len(set(names)) == len(names) > len(backups.manifest().chunks) + 1
    assert all(len(name) == 36 and name.endswith(b".age") for name in names)


def test_what_is_kept_here_is_for_its_owner_alone(backups: Generations) -> None:
    (backups.source / CANARY.decode()).touch()
    backups.backup()
    for file in backups.paths.state.rglob("*"):
        if file.is_file():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
            assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700, file.parent


# Keys


def test_without_a_key_a_backup_whose_manifest_is_lost_is_a_full_one_and_says_why(
    backups: Generations,
) -> None:
    fill(backups)
    backups.backup()
    forget_manifest(backups)
    record = backups.backup()
    assert record.copied_bytes == 0
    (line,) = [line for line in backups.log().splitlines() if "everything" in line]
    assert "its manifest is not in the state directory, and it is encrypted, and no key" in line
    assert backups.backup().copied_bytes


def test_with_a_key_the_lost_manifest_is_read_from_the_store(backups: Generations) -> None:
    fill(backups)
    backups.backup()
    forget_manifest(backups)
    backups.server_has_key = True
    assert backups.backup().copied_bytes
    assert backups.log() == ""


def test_a_manifest_that_is_kept_damaged_is_noticed(backups: Generations) -> None:
    fill(backups)
    backups.backup()
    (kept,) = (backups.paths.state / "manifests").glob("*/*")
    content = bytearray(kept.read_bytes())
    content[50] ^= 1
    kept.write_bytes(content)
    assert backups.backup().copied_bytes == 0
    assert "the manifest is damaged" in backups.log()


def test_other_recipients_get_an_archive_of_which_nothing_is_kept(
    backups: Generations, tmp_path: Path
) -> None:
    fill(backups)
    backups.backup()
    new = make_key(tmp_path, name="new")
    backups.recipients = (new.recipient,)
    assert backups.backup().copied_bytes == 0
    assert "everything is read and sent: the recipients changed" in backups.log()
    target = recover(backups.archive(), new.file, tmp_path / "recovered")
    assert fingerprint(backups.in_target(target)) == fingerprint(backups.source)
    with pytest.raises(subprocess.CalledProcessError):
        decrypt(backups.archive(), key_of(backups))


def test_the_order_and_the_comments_of_recipients_do_not_matter(
    backups: Generations, tmp_path: Path
) -> None:
    fill(backups)
    ssh = make_key(tmp_path, "ssh-ed25519", "ssh")
    backups.recipients = (*backups.recipients, ssh.recipient)
    backups.backup()
    first, second = backups.recipients
    backups.recipients = (f"{second} another comment", first)
    assert backups.backup().copied_bytes


def test_turning_encryption_off_and_on_keeps_nothing(backups: Generations) -> None:
    fill(backups)
    backups.backup()
    recipients, backups.recipients = backups.recipients, ()
    assert backups.backup().copied_bytes == 0
    assert "encryption was turned off" in backups.log()
    assert backups.archive().name.endswith("-backup.tar.gz")
    backups.recipients = recipients
    assert backups.backup().copied_bytes == 0
    assert "encryption was turned on" in backups.log()
    assert backups.archive().name.endswith(ENCRYPTED_SUFFIX)


def test_an_encrypted_and_a_plain_backup_of_one_minute_get_different_ids(
    backups: Generations,
) -> None:
    backups.backup()
    backups.now = LATER
    backups.recipients = ()
    backups.backup()
    ids = [backup.id for backup in find_backups(backups.open_store(), UTC)]
    assert ids == ["2100-01-01_0200", "2100-01-01_0201"]


def test_encrypted_archives_of_others_do_not_stand_in_the_way(backups: Generations) -> None:
    fill(backups)
    backups.backup()
    for number in range(5):
        other = Generations(
            backups.source, backups.store_folder, backups.paths, now=backups.now, name=f"n{number}"
        )
        other.recipients = backups.recipients
        other.backup()
    backups.now = other.now
    log = backups.log()
    assert backups.backup().copied_bytes
    assert backups.log() == log, "nothing is told of what is none of ours"


def test_a_last_version_that_only_a_key_could_fetch_costs_that_file_alone(
    backups: Generations, tmp_path: Path
) -> None:
    fill(backups, size=500)
    made = backups.backup()
    (backups.source / "file05").write_bytes(noise(5, 600))
    (backups.source / "file04").unlink()  # takes along the chunk that both lie in
    with refused(backups.source / "file05"):
        record = backups.backup()
    (problem,) = record.problems
    assert (problem.kind, problem.last_whole) == ("unreadable", made.archive)
    assert record.needed_backups == [made.archive]
    assert record.copied_bytes
    target = recover(backups.archive(), key_of(backups), tmp_path / "recovered")
    expected = fingerprint(backups.source)
    del expected["file05"]
    assert fingerprint(backups.in_target(target)) == expected


def test_where_an_older_version_would_come_back_in_its_place_the_run_is_a_full_one(
    backups: Generations, tmp_path: Path
) -> None:
    fill(backups, size=500)
    backups.backup()
    for name in ("file05", "file15"):
        (backups.source / name).write_bytes(noise(6, 500))
    backups.backup()
    assert backups.entry("file05").stale
    assert backups.entry("file05").stale != backups.entry("file15").stale
    assert backups.entry("file05").chunk == backups.entry("file15").chunk
    (backups.source / "file15").unlink()  # takes along the chunk that both lie in
    (backups.source / "file05").write_bytes(noise(35, 600))
    with refused(backups.source / "file05"):
        record = backups.backup()
    assert "should keep its last version" in backups.log()
    assert record.copied_bytes == 0
    target = recover(backups.archive(), key_of(backups), tmp_path / "recovered")
    assert "file05" not in fingerprint(backups.in_target(target))
    assert record.needed_backups


def test_with_a_key_the_last_version_is_fetched(
    backups: Generations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups.server_has_key = True
    fill(backups, size=500)
    backups.backup()
    before = fingerprint(backups.source)["file05"]
    (backups.source / "file05").write_bytes(noise(5, 600))
    (backups.source / "file04").unlink()  # takes along the chunk that both lie in
    monkeypatch.setattr(
        "tests.backup.test_incremental.untar",
        lambda archive, target: untar(archive, target, key=key_of(backups)),
    )
    _, found = vanishing(backups, "file05", tmp_path)
    assert found["file05"] == before


# Opening


@pytest.mark.parametrize("kind", KINDS)
def test_age_opens_ours_with_keys_of_every_kind_and_so_do_we(
    backups: Generations, tmp_path: Path, kind: str
) -> None:
    pair = make_key(tmp_path, kind, "this")
    other = make_key(tmp_path, "X25519", "other")
    backups.recipients, backups.key = (other.recipient, pair.recipient), pair.file
    fill(backups)
    backups.backup()
    (backups.source / "file03").unlink()
    backups.backup()
    assert backups.copied()
    for key in (pair.file, other.file):
        target = recover(backups.archive(), key, tmp_path / f"by-age-{key.name}")
        assert fingerprint(backups.in_target(target)) == fingerprint(backups.source)
    ours = restored(backups, -1, tmp_path / "ours")
    assert fingerprint(backups.in_target(ours)) == fingerprint(backups.source)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_key_is_told_with_whom_the_archive_was_made_for(
    backups: Generations, tmp_path: Path, kind: str
) -> None:
    pair = make_key(tmp_path, kind, "right")
    backups.recipients = (pair.recipient,)
    fill(backups)
    backups.backup()
    store = backups.open_store()
    (backup,) = find_backups(store, UTC)
    wrong = Keyring(make_key(tmp_path, name="wrong").file, recipients=[pair.recipient])
    for read in (
        lambda: run_verify(store, backup, SilentProgress(), None, wrong),
        lambda: list(list_entries(store, backup.stored, (), wrong)),
    ):
        with pytest.raises(IdentityError) as caught:
            read()
        told = str(caught.value)
        assert told.startswith(f"{backup.stored.name}: no key in ")
        assert f"it was encrypted for one {kind} key" in told
        assert "\n" not in told
    with pytest.raises(IdentityError, match="no key was named"):
        read_manifest(store, backup.stored)
    (details,) = read_details(store, [backup], wrong)
    assert (details.header, details.is_locked) == (None, True)


def test_what_only_has_the_name_of_an_encrypted_archive_is_told_apart(
    backups: Generations, tmp_path: Path
) -> None:
    fill(backups)
    backups.backup()
    content = backups.archive().read_bytes()
    store = backups.open_store()
    (backup,) = find_backups(store, UTC)
    for told, damaged in (
        ("no encrypted archive of this program", os.urandom(5000)),
        ("no encrypted archive of this program", b"\x1f\x8b" + bytes(5000)),
        ("cut off", content[:-1]),
        ("cut off", content[: len(content) // 2]),
    ):
        backups.archive().write_bytes(damaged)
        (backup,) = find_backups(store, UTC)
        with pytest.raises(ArchiveError, match=told):
            read_manifest(store, backup.stored, backups.keys)


def test_a_chunk_that_somebody_else_encrypted_for_us_is_found(
    backups: Generations, tmp_path: Path
) -> None:
    """Whoever knows the public key can make one that opens; its hash is not in the manifest."""
    (backups.source / "large").write_bytes(noise(3, 4 * CHUNK))
    backups.backup()
    chunk = backups.manifest().chunks[2]
    content, sealer = backups.archive().read_bytes(), Sealer(backups.recipients)
    genuine = content[chunk.offset : chunk.offset + chunk.length]
    gzip_member = open_encrypted(genuine, backups.keys)
    forged = next(
        made
        for made in (sealer.seal(gzip_member) for _ in range(1000))
        if len(made) == len(genuine)
    )
    assert open_encrypted(forged, backups.keys) == gzip_member
    backups.archive().write_bytes(content.replace(genuine, forged))
    store = backups.open_store()
    (backup,) = find_backups(store, UTC)
    report = run_verify(store, backup, SilentProgress(), None, backups.keys)
    assert report.faults[0].startswith("chunk 2 ")
    with pytest.raises(ArchiveError):
        backups.restore(tmp_path / "target")
    assert not [path for path in (tmp_path / "target").rglob("*") if path.is_file()]


def test_no_chunk_is_encrypted_for_one_recipient_less(backups: Generations, tmp_path: Path) -> None:
    """Whoever is a recipient can read all of it: also what was copied, the manifest and the end."""
    second = make_key(tmp_path, name="second")
    backups.recipients = (*backups.recipients, second.recipient)
    fill(backups)
    backups.backup()
    (backups.source / "file03").unlink()
    backups.backup()
    assert decrypt(backups.archive(), second.file) == decrypt(backups.archive(), key_of(backups))


def test_every_64_kib_cut_of_an_encrypted_archive_is_found(
    backups: Generations, tmp_path: Path
) -> None:
    (backups.source / "large").write_bytes(noise(3, 2**20))
    backups.backup()
    content = backups.archive().read_bytes()
    store = backups.open_store()
    for end in range(0, len(content), 2**16):
        backups.archive().write_bytes(content[:end])
        (backup,) = find_backups(store, UTC)
        report = run_verify(store, backup, SilentProgress(), None, backups.keys)
        assert report.is_damaged
        with pytest.raises(ArchiveError):
            backups.restore(tmp_path / "target")
        assert not list((tmp_path / "target").rglob("*"))
