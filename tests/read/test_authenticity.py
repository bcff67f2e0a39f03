"""Whose archive is it: what others made, changed, swapped or hid is told, and not restored."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC
from pathlib import Path

import pytest
from msgspec import structs

from backup_tasks.census.catalog import Backup
from backup_tasks.census.newest_seen import NewestSeen
from backup_tasks.census.reading import Reading
from backup_tasks.claim.machine_key import key_file, open_own_key, private_files, read_own_key
from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.errors import ArchiveError, BackupError, UnprovenError
from backup_tasks.format.encrypted_footer import decode_encrypted_footer, encode_encrypted_footer
from backup_tasks.format.footer import FOOTER_BYTES
from backup_tasks.format.signature_member import MEMBER_BYTES, encode_signature
from backup_tasks.journal.run_record import RunRecord
from backup_tasks.keys.signing import make_signing_key, render_public_key
from backup_tasks.read.authenticity import Trust
from backup_tasks.read.listing import list_entries
from backup_tasks.read.manifest_reader import footer_length, read_footer, read_manifest
from backup_tasks.restore.request import RestoreRequest, RestoreWish
from backup_tasks.restore.run_restore import run_restore, run_restore_job
from backup_tasks.stores.base import Store
from backup_tasks.verify.run_drill import run_drill
from backup_tasks.verify.run_verify import VerifyWish, run_verify, run_verify_job
from backup_tasks.verify.verify_report import VerifyReport, render_verify, verify_to_json
from tests.support.attacks import falsify, forge_plain, rewrite
from tests.support.backups import NEW_KEY
from tests.support.details import find_backups, read_details
from tests.support.generations import LATER, Generations, fill
from tests.support.histories import use_small_chunks
from tests.support.keys import make_key

ATTACKER = make_signing_key()
ATTACKER_KEY = render_public_key(ATTACKER.public_key)
CONTENT, OTHER = b"pay to account 1111\n", b"pay to account 6666\n"


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_chunks(monkeypatch)


@pytest.fixture
def backups(tmp_path: Path, paths: Paths) -> Generations:
    """Two backups; the profile names no key."""
    (tmp_path / "source").mkdir()
    made = Generations(tmp_path / "source", tmp_path / "store", paths, now=LATER)
    fill(made)
    (made.source / "bill").write_bytes(b"pay to account 0000\n")
    made.backup()
    (made.source / "bill").write_bytes(CONTENT)
    made.backup()
    return made


@pytest.fixture
def encrypted(tmp_path: Path, paths: Paths) -> Generations:
    """The same, encrypted."""
    (tmp_path / "source").mkdir()
    pair = make_key(tmp_path)
    made = Generations(tmp_path / "source", tmp_path / "store", paths, now=LATER)
    made.recipients, made.key = (pair.recipient,), pair.file
    fill(made)
    made.backup()
    made.backup()
    return made


def newest(backups: Generations) -> tuple[Store, Backup]:
    store = backups.open_store()
    return store, find_backups(store, UTC)[-1]


def verify(backups: Generations) -> VerifyReport:
    store, backup = newest(backups)
    signers = backups.profile().signing.public_key
    return run_verify(store, backup, SilentProgress(), None, backups.keys, signers)


def restore(backups: Generations, target: Path, *, unproven: bool = False) -> Path:
    store, backup = newest(backups)
    request = RestoreRequest(
        (), target, trust=Trust(backups.profile().signing.public_key, unproven)
    )
    run_restore(store, backup, request, SilentProgress(), backups.keys)
    return backups.in_target(target)


def refusals(backups: Generations, folder: Path) -> set[str]:
    """What restore, files and drill say; each of them must refuse, and nothing be written."""
    store, backup = newest(backups)
    profile = backups.profile()
    told = set()
    with pytest.raises(UnprovenError) as caught:
        restore(backups, folder / "refused")
    told.add(str(caught.value))
    assert list((folder / "refused").iterdir()) == []
    trust = Trust(profile.signing.public_key)
    with pytest.raises(UnprovenError) as caught:
        next(list_entries(store, backup.stored, (), backups.keys, trust))
    told.add(str(caught.value))
    with pytest.raises(UnprovenError) as caught:
        run_drill(profile, store, backup, SilentProgress(), backups.keys, against_sources=False)
    told.add(str(caught.value))
    return told


def keep_signature(archive: bytes, forged: bytes) -> bytes:
    """The forged and unsigned archive with the true one's signature put into it."""
    member = archive[-FOOTER_BYTES - MEMBER_BYTES : -FOOTER_BYTES]
    return forged[:-FOOTER_BYTES] + member + forged[-FOOTER_BYTES:]


def replay_older(backups: Generations) -> bytes:
    return min(backups.store_folder.iterdir()).read_bytes()


Forge = Callable[[bytes], bytes]
FORGERIES: dict[str, tuple[Forge, str]] = {
    "manifest, unsigned": (lambda a: rewrite(a, host="other"), "it is unsigned, where [signing]"),
    "manifest, signed by another": (
        lambda a: rewrite(a, ATTACKER, host="other"),
        f"it is signed by {ATTACKER_KEY}, where [signing] public_key asks for ed25519:",
    ),
    "manifest, signature kept": (
        lambda a: keep_signature(a, rewrite(a, host="other")),
        "its signature is wrong: it is not by ed25519:",
    ),
    "content, unsigned": (lambda a: falsify(a, CONTENT, OTHER), "it is unsigned, where"),
    "content, signed by another": (
        lambda a: falsify(a, CONTENT, OTHER, ATTACKER),
        f"it is signed by {ATTACKER_KEY}, where",
    ),
    "content, signature kept": (
        lambda a: keep_signature(a, falsify(a, CONTENT, OTHER)),
        "its signature is wrong",
    ),
    "an ordinary .tar.gz": (lambda _: forge_plain([]), "it is unsigned, where"),
    "signature taken out": (
        lambda a: a[: -FOOTER_BYTES - MEMBER_BYTES] + a[-FOOTER_BYTES:],
        "it is unsigned, where",
    ),
}


# The profile names the machine's key


def test_an_own_archive_is_trusted_and_restored(backups: Generations, tmp_path: Path) -> None:
    key = backups.trust_own_key()
    report = verify(backups)
    assert not report.is_damaged
    (told,) = render_verify([report])
    assert told.endswith(f"; signed by {key}")
    assert verify_to_json(report)["signature"] == {
        "state": "trusted",
        "public_key": key,
        "doubts": [],
    }
    assert (restore(backups, tmp_path / "restored") / "bill").read_bytes() == CONTENT


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_archive_is_refused_and_told(
    backups: Generations, tmp_path: Path, name: str
) -> None:
    forge, reason = FORGERIES[name]
    key = backups.trust_own_key()
    backups.archive().write_bytes(forge(backups.archive().read_bytes()))
    report = verify(backups)
    assert [fault for fault in report.faults if fault.startswith(reason)]
    (told,) = render_verify([report])
    assert told.startswith(f"{backups.archive().name} is not to be believed: {reason}")
    (refusal,) = refusals(backups, tmp_path)
    assert refusal.startswith(f"{backups.archive().name} is refused: {reason}")
    assert key in refusal
    assert "--unproven" in refusal
    assert "\n" not in refusal


@pytest.mark.parametrize("name", sorted(set(FORGERIES) - {"an ordinary .tar.gz"}))
def test_who_knows_better_restores_it_all_the_same(
    backups: Generations, tmp_path: Path, name: str
) -> None:
    backups.trust_own_key()
    backups.archive().write_bytes(FORGERIES[name][0](backups.archive().read_bytes()))
    found = restore(backups, tmp_path / "restored", unproven=True) / "bill"
    assert found.read_bytes() == (OTHER if name.startswith("content") else CONTENT)


def test_any_of_several_keys_may_have_signed(backups: Generations) -> None:
    key = backups.trust_own_key()
    backups.signers = (ATTACKER_KEY, key)
    assert not verify(backups).is_damaged
    backups.signers = (ATTACKER_KEY,)
    (fault,) = verify(backups).faults
    assert fault == f"it is signed by {key}, where [signing] public_key asks for {ATTACKER_KEY}"


def test_every_flipped_byte_from_the_end_mark_on_is_found_and_nothing_is_restored(
    backups: Generations, tmp_path: Path
) -> None:
    backups.trust_own_key()
    content = backups.archive().read_bytes()
    for place in range(len(content) - FOOTER_BYTES - MEMBER_BYTES, len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        backups.archive().write_bytes(flipped)
        assert verify(backups).is_damaged, place
        with pytest.raises(ArchiveError):
            restore(backups, tmp_path / "restored")
        assert list((tmp_path / "restored").iterdir()) == []
    backups.archive().write_bytes(content)
    assert not verify(backups).is_damaged


# The profile names no key


def test_without_a_key_it_is_said_that_nobody_compared(backups: Generations) -> None:
    key, _ = open_own_key(backups.paths.state)
    (told,) = render_verify([verify(backups)])
    public_key = render_public_key(key.public_key)
    assert told.endswith(
        f"; signed by {public_key} (not compared: [signing] public_key is not set)"
    )


@pytest.mark.parametrize(
    ("name", "state", "words"),
    [
        ("content, unsigned", "unsigned", "; unsigned"),
        ("content, signed by another", "not compared", f"; signed by {ATTACKER_KEY} (not "),
    ],
    ids=["unsigned", "signed by another"],
)
def test_without_a_key_a_forgery_that_is_sound_in_itself_passes(
    backups: Generations, tmp_path: Path, name: str, state: str, words: str
) -> None:
    backups.archive().write_bytes(FORGERIES[name][0](backups.archive().read_bytes()))
    report = verify(backups)
    assert (report.is_damaged, report.proof.state) == (False, state)
    (told,) = render_verify([report])
    assert words in told
    assert (restore(backups, tmp_path / "restored") / "bill").read_bytes() == OTHER


@pytest.mark.parametrize("name", ["manifest, signature kept", "content, signature kept"])
def test_without_a_key_a_wrong_signature_is_damage_all_the_same(
    backups: Generations, tmp_path: Path, name: str
) -> None:
    backups.archive().write_bytes(FORGERIES[name][0](backups.archive().read_bytes()))
    assert [f for f in verify(backups).faults if f.startswith("its signature is wrong")]
    (refusal,) = refusals(backups, tmp_path)
    assert "its signature is wrong" in refusal


def test_without_a_key_every_flipped_byte_of_the_signature_is_found_all_the_same(
    backups: Generations,
) -> None:
    content = backups.archive().read_bytes()
    for place in range(len(content) - FOOTER_BYTES - MEMBER_BYTES, len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        backups.archive().write_bytes(flipped)
        assert verify(backups).is_damaged, place


# Another backup's bytes


@pytest.mark.parametrize("trusting", [True, False])
def test_an_old_backup_under_a_new_name_is_named(
    backups: Generations, tmp_path: Path, trusting: bool
) -> None:
    if trusting:
        backups.trust_own_key()
    older = min(backups.store_folder.iterdir())
    backups.archive().write_bytes(older.read_bytes())
    told = f"it holds another backup's bytes: those of {older.name}"
    assert verify(backups).faults == [told]
    (refusal,) = refusals(backups, tmp_path)
    assert told in refusal
    found = restore(backups, tmp_path / "restored", unproven=True) / "bill"
    assert found.read_bytes() == b"pay to account 0000\n"


def test_an_unsigned_archive_has_a_name_too(backups: Generations, tmp_path: Path) -> None:
    archive = backups.archive()
    archive.write_bytes(rewrite(archive.read_bytes(), name="2025-01-01_0000-backup.tar.gz"))
    (refusal,) = refusals(backups, tmp_path)
    assert "those of 2025-01-01_0000-backup.tar.gz" in refusal


def test_of_an_archive_from_before_there_were_names_nothing_is_said(
    backups: Generations, tmp_path: Path
) -> None:
    backups.archive().write_bytes(rewrite(backups.archive().read_bytes(), name=""))
    report = verify(backups)
    assert (report.is_damaged, report.proof.doubts) == (False, ())
    assert (restore(backups, tmp_path / "restored") / "bill").read_bytes() == CONTENT


def test_a_name_that_would_mislead_a_terminal_is_shown_harmless(backups: Generations) -> None:
    name = "\x1b[31mred\n2025-01-01_0000-backup.tar.gz"
    backups.archive().write_bytes(rewrite(backups.archive().read_bytes(), name=name))
    (fault,) = verify(backups).faults
    assert fault.isprintable()


# Encrypted archives


def test_an_encrypted_archive_is_signed_as_well(encrypted: Generations, tmp_path: Path) -> None:
    encrypted.trust_own_key()
    report = verify(encrypted)
    assert (report.is_damaged, report.proof.state) == (False, "trusted")
    assert (restore(encrypted, tmp_path / "restored") / "file03").exists()
    encrypted.signers = (ATTACKER_KEY,)
    (refusal,) = refusals(encrypted, tmp_path)
    assert "it is signed by ed25519:" in refusal


@pytest.mark.parametrize("signed_by", ["nobody", "another", "the wrong key"])
def test_another_signature_in_an_encrypted_archive_is_refused(
    encrypted: Generations, tmp_path: Path, signed_by: str
) -> None:
    encrypted.trust_own_key()
    _, backup = newest(encrypted)
    content = encrypted.archive().read_bytes()
    size = footer_length(backup.stored)
    footer = decode_encrypted_footer(content[-size:])
    assert footer
    forged = {
        "nobody": None,
        "another": ATTACKER.sign(footer.statement),
        "the wrong key": footer.signature
        and structs.replace(
            ATTACKER.sign(footer.statement), public_key=footer.signature.public_key
        ),
    }[signed_by]
    end = encode_encrypted_footer(structs.replace(footer, signature=forged))
    encrypted.archive().write_bytes(content[:-size] + end)
    state = {"nobody": "unsigned", "another": "another key", "the wrong key": "wrong"}[signed_by]
    assert verify(encrypted).proof.state == state
    refusals(encrypted, tmp_path)


def test_every_flipped_byte_of_an_encrypted_archives_footer_is_found(
    encrypted: Generations, tmp_path: Path
) -> None:
    encrypted.trust_own_key()
    _, backup = newest(encrypted)
    content = encrypted.archive().read_bytes()
    for place in range(len(content) - footer_length(backup.stored), len(content), 3):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        encrypted.archive().write_bytes(flipped)
        assert verify(encrypted).is_damaged, place
        with pytest.raises(ArchiveError):
            restore(encrypted, tmp_path / "restored")
    assert list((tmp_path / "restored").iterdir()) == []


def test_an_old_encrypted_backup_under_a_new_name_is_named(
    encrypted: Generations, tmp_path: Path
) -> None:
    encrypted.archive().write_bytes(replay_older(encrypted))
    (refusal,) = refusals(encrypted, tmp_path)
    assert "it holds another backup's bytes" in refusal


# No forgery is built on


def forget_manifest(backups: Generations) -> None:
    (kept,) = (backups.paths.state / "manifests").glob("*/*")
    kept.unlink()


def test_an_own_archive_is_built_on_also_without_the_kept_manifest(backups: Generations) -> None:
    forget_manifest(backups)
    assert backups.backup().copied_bytes
    assert backups.log() == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("content, unsigned", "it is unsigned"),
        (
            "content, signed by another",
            f"it is signed by {ATTACKER_KEY}, which is not accepted here",
        ),
        ("content, signature kept", "its signature is wrong"),
    ],
    ids=["unsigned", "signed by another", "signature kept"],
)
def test_a_forged_newest_archive_is_not_built_on(
    backups: Generations, tmp_path: Path, name: str, reason: str
) -> None:
    min(backups.store_folder.iterdir()).unlink()
    archive = backups.archive()
    archive.write_bytes(FORGERIES[name][0](archive.read_bytes()))
    record = backups.backup()
    assert record.copied_bytes == 0
    assert f"everything is read and sent: nothing of {archive.name} can be reused: {reason}" in (
        backups.log()
    )
    backups.trust_own_key()
    assert (restore(backups, tmp_path / "restored") / "bill").read_bytes() == CONTENT


def test_an_older_own_archive_is_built_on_instead(backups: Generations, tmp_path: Path) -> None:
    archive = backups.archive()
    archive.write_bytes(FORGERIES["content, unsigned"][0](archive.read_bytes()))
    assert backups.backup().copied_bytes
    assert f"nothing of {archive.name} can be reused: it is unsigned" in backups.log()
    backups.trust_own_key()
    assert (restore(backups, tmp_path / "restored") / "bill").read_bytes() == CONTENT


def test_after_the_key_is_lost_nothing_is_built_on_what_it_signed(backups: Generations) -> None:
    forget_manifest(backups)
    key_file(backups.paths.state).unlink()
    assert backups.backup().copied_bytes == 0
    assert "which is not accepted here" in backups.log()


def test_an_archive_from_before_there_were_signatures_is_built_on_if_its_manifest_is_kept(
    tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backup_tasks.archive import builder as archive

    (tmp_path / "source").mkdir()
    made = Generations(tmp_path / "source", tmp_path / "store", paths, now=LATER)
    fill(made)
    with monkeypatch.context() as patch:
        patch.setattr(archive, "encode_signature", lambda _: b"")
        patch.setattr(
            "backup_tasks.backup.after_commit.read_back", lambda *_: None
        )  # as it was then
        made.backup()
    assert verify(made).proof.state == "unsigned"
    assert made.backup().copied_bytes
    assert verify(made).proof.state == "not compared"


# Newer ones that vanish


def job_record(backups: Generations, task: str) -> RunRecord:
    return RunRecord(task, backups.name, backups.host, "", backups.now)


def run_jobs(backups: Generations, folder: Path) -> dict[str, list[str]]:
    """The warnings of a verify and of a restore of the newest."""
    profile, store, state = backups.profile(), backups.open_store(), backups.paths.state
    records = {task: job_record(backups, task) for task in ("verify", "restore")}
    progress = SilentProgress()
    readings = {
        task: Reading(profile, store, state, record, backups.keys)
        for task, record in records.items()
    }
    run_verify_job(readings["verify"], VerifyWish(), backups.now, progress)
    wish = RestoreWish(to=str(folder))
    run_restore_job(readings["restore"], wish, folder.parent, progress)
    return {task: record.warnings for task, record in records.items()}


def test_when_the_newest_backup_vanishes_everybody_who_looks_is_told(
    backups: Generations, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_jobs(backups, tmp_path / "one") == {"verify": [], "restore": []}
    gone = backups.archive()
    gone.unlink()
    warnings = run_jobs(backups, tmp_path / "two")
    for told in warnings.values():
        (warning,) = told
        assert warning.startswith(
            f"{gone.name} of 2100-01-02 02:00 UTC was seen in the store, but "
        )
        assert "the newest is 2100-01-01_0200: newer backups have vanished" in warning
    assert capsys.readouterr().err.count("WARNING: ") == 2


def test_the_next_backup_tells_it_too_and_then_it_is_over(
    backups: Generations, tmp_path: Path
) -> None:
    gone = backups.archive()
    gone.unlink()
    (warning,) = backups.backup().warnings
    assert warning.startswith(gone.name)
    assert run_jobs(backups, tmp_path / "one") == {"verify": [], "restore": []}
    assert backups.backup().warnings == []


def test_a_store_in_which_nothing_is_left_is_told(backups: Generations) -> None:
    for file in backups.store_folder.iterdir():
        file.unlink()
    (warning,) = backups.backup().warnings
    assert "but now no backup is left" in warning


def test_a_restore_of_an_older_one_by_name_says_nothing(
    backups: Generations, tmp_path: Path
) -> None:
    backups.archive().unlink()
    record = job_record(backups, "restore")
    wish = RestoreWish(name="2100-01-01_0200", to=str(tmp_path / "restored"))
    reading = Reading(backups.profile(), backups.open_store(), backups.paths.state, record)
    run_restore_job(reading, wish, tmp_path, SilentProgress())
    assert record.warnings == []


def test_pruning_is_no_loss(backups: Generations, tmp_path: Path) -> None:
    for _ in range(3):
        backups.backup()
    file = backups.write_profile()
    file.write_text(file.read_text() + "[retention]\nkeep_last = 1\n")
    from backup_tasks.profile.load import load_profile

    profile = load_profile(str(file), backups.paths)
    backups.prune(profile)
    assert len(list(backups.store_folder.iterdir())) == 1
    assert run_jobs(backups, tmp_path / "one") == {"verify": [], "restore": []}
    assert backups.backup().warnings == []


def note_file(backups: Generations) -> Path:
    (file,) = (backups.paths.state / "newest").iterdir()
    return file


def test_a_restore_elsewhere_remembers_what_it_saw_if_it_is_surely_ours(
    backups: Generations, tmp_path: Path
) -> None:
    note_file(backups).unlink()
    run_jobs(backups, tmp_path / "one")
    assert list((backups.paths.state / "newest").iterdir()) == []
    backups.trust_own_key()
    run_jobs(backups, tmp_path / "two")
    assert json.loads(note_file(backups).read_text())["name"] == backups.archive().name
    assert stat.S_IMODE(note_file(backups).stat().st_mode) == 0o600


def test_what_was_seen_is_never_forgotten_for_something_older(backups: Generations) -> None:
    backups.trust_own_key()
    before = note_file(backups).read_bytes()
    profile, store = backups.profile(), backups.open_store()
    record = job_record(backups, "verify")
    wish = VerifyWish(name="2100-01-01_0200")
    reading = Reading(profile, store, backups.paths.state, record)
    run_verify_job(reading, wish, backups.now, SilentProgress())
    assert note_file(backups).read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'{"name": 1, "started_at": 2}',
        b'{"name": "x", "started_at": "2025-06-12T02:00:00Z"}',
        b'{"name": "2100-01-02_0200-backup.tar.gz", "started_at": "soon"}',
        b'{"name": "2100-01-02_0200-backup.tar.gz", "started_at": "2100-01-02T02:00:00"}',
        b"\xff",
    ],
)
def test_a_broken_note_is_told_and_written_anew(
    backups: Generations, tmp_path: Path, content: bytes
) -> None:
    note_file(backups).write_bytes(content)
    (warning,) = run_jobs(backups, tmp_path / "one")["verify"]
    assert warning.startswith(f"{note_file(backups)} cannot be read")
    backups.backup()
    assert run_jobs(backups, tmp_path / "two") == {"verify": [], "restore": []}


def test_a_note_that_cannot_be_written_fails_nothing(backups: Generations) -> None:
    folder = note_file(backups).parent
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    record = backups.backup()
    assert record.result == "success"


def test_what_was_noted_of_one_store_says_nothing_of_another(
    backups: Generations, tmp_path: Path
) -> None:
    other = replace(backups, store_folder=tmp_path / "other")
    seen = NewestSeen(backups.paths.state, other.profile(), other.open_store())
    assert seen.what_vanished(None, backups.now) == ""


# The machine's key


def test_a_new_key_is_told_in_the_log_once(backups: Generations) -> None:
    log = (backups.paths.logs / "backup.log").read_text()
    key = backups.trust_own_key()
    assert log.count(NEW_KEY) == 1
    assert f'[signing] public_key = "{key}"' in log


def test_a_backup_by_a_key_that_the_profile_does_not_name_is_made_and_warned_of(
    backups: Generations,
) -> None:
    key = backups.trust_own_key()
    assert backups.backup().warnings == []
    backups.signers = (ATTACKER_KEY,)
    record = backups.backup()
    assert (record.result, record.exit_code) == ("success", 0)
    (warning,) = record.warnings
    assert warning.startswith(f"signed by this machine's key {key}, which [signing] public_key ")


def test_a_broken_key_ends_the_run_before_anything_is_sent(backups: Generations) -> None:
    key_file(backups.paths.state).write_bytes(b"no key")
    before = os.listdir(backups.store_folder)
    with pytest.raises(BackupError, match="is no signing key"):
        backups.backup()
    assert os.listdir(backups.store_folder) == before


def test_a_dry_run_makes_no_key(tmp_path: Path, paths: Paths) -> None:
    (tmp_path / "source").mkdir()
    made = Generations(tmp_path / "source", tmp_path / "store", paths, now=LATER)
    made.plan()
    assert read_own_key(paths.state) is None


def test_the_private_key_gets_into_no_archive(tmp_path: Path, paths: Paths) -> None:
    made = Generations(tmp_path, tmp_path / "store", paths, now=LATER)
    (tmp_path / "other").write_text("other")
    link = tmp_path / "link-to-state"
    link.symlink_to(paths.state)
    made.paths = structs.replace(paths, state=link)
    made.backup()
    (paths.state / "signing.key.new").write_text("what a crash left")
    made.backup()
    store, backup = newest(made)
    names = {os.path.basename(entry.name) for entry in list_entries(store, backup.stored, ())}
    assert "other" in names
    assert names.isdisjoint({"signing.key", "signing.key.new"})
    manifest = read_manifest(store, backup.stored)
    assert manifest
    manifest.close()
    report = run_drill(
        made.profile(),
        store,
        backup,
        SilentProgress(),
        against_sources=True,
        private=private_files(paths.state),
    )
    assert report.sources
    assert not [f for f in report.sources.wrong.render() if "signing.key" in f]
    assert not [f for f in report.sources.changed.render() if "signing.key" in f]


def test_a_list_shows_whose_bytes_an_archive_holds(
    backups: Generations, capsys: pytest.CaptureFixture[str]
) -> None:
    from backup_tasks.command.print_listing import print_backups

    older = min(backups.store_folder.iterdir())
    backups.archive().write_bytes(older.read_bytes())
    store = backups.open_store()
    print_backups(read_details(store, find_backups(store, UTC)), backups.now, as_json=False)
    assert f"another backup's bytes: those of {older.name}" in capsys.readouterr().out


def test_the_end_that_is_kept_is_the_end_as_sent(backups: Generations) -> None:
    (kept,) = (backups.paths.state / "manifests").glob("*/*")
    store, backup = newest(backups)
    footer = read_footer(store, backup.stored)
    assert footer
    assert footer.signature
    end = kept.read_bytes()
    assert encode_signature(footer.signature) in end
    assert backups.archive().read_bytes().endswith(end)
