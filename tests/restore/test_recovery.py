"""docs/recovery.md keeps its word: its commands, run as they stand there.

The paths in them are put in place of those of the test, and `aws` is the stand-in of
shell_blocks.py, so that the tests need no AWS command.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_tasks.backup.context import BackupRun
from backup_tasks.backup.run_backup import run_backup
from backup_tasks.claim.machine_key import open_own_key
from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.format.manifest import Entry
from backup_tasks.journal.run_record import RunRecord
from backup_tasks.keys.identities import NO_KEYS, Keyring
from backup_tasks.keys.signing import make_signing_key, render_public_key
from backup_tasks.profile.load import load_profile
from backup_tasks.read.manifest_reader import read_manifest
from backup_tasks.stores.registry import open_store
from tests.conftest import S3Bucket
from tests.support.attacks import rewrite
from tests.support.cli import s3_store
from tests.support.keys import make_key
from tests.support.shell_blocks import read_blocks, write_aws
from tests.support.trees import Comparison, TreeRules, compare_trees

NAME = "2025-06-12_0200-backup.tar.gz"
TAKEN_AT = datetime(2025, 6, 12, 2, 0, tzinfo=UTC)
BLOCKS = [block for block in read_blocks("docs/recovery.md") if block.language == "sh"]
HARD_NAMES = (
    b"with space",
    b"quotes'\"`x`$HOME",
    b"line\nbreak",
    b"line break at the end\n",
    b"return\r",
    b"back\\slash and \\n",
    b"-dash*?[",
    b"not\xffUTF-8",
    b"not\xffUTF-8\n",
)


@dataclass(frozen=True)
class Recovery:
    """A server's files, their backup in a bucket, and a folder to recover in."""

    source: Path
    here: Path
    paths: Paths
    profile_file: Path
    bucket: S3Bucket
    environ: dict[str, str]

    def back_up(self, taken_at: datetime) -> RunRecord:
        """Make a backup as of then."""
        profile = load_profile(str(self.profile_file), self.paths)
        record = RunRecord("backup", profile.name, "web1", profile.store.url, taken_at)
        store = open_store(profile.store)
        clock = lambda: taken_at + timedelta(seconds=35)  # noqa: E731
        run_backup(BackupRun(profile, store, self.paths, taken_at, clock, SilentProgress()), record)
        assert not record.problems
        return record

    def run(self, heading: str, number: int = 0) -> str:
        """Run a block of the document; returns what it printed, errors included."""
        text = [block.text for block in BLOCKS if block.heading == heading][number]
        inner = str(self.source).lstrip("/")
        for there, here in (
            ("s3://my-bucket/", f"s3://{self.bucket.bucket}/"),
            ("/mnt/nas/backups/", f"{self.here}/nas/"),
            ("etc/nginx", f"{inner}/etc/nginx"),
            ("3LsnjXcYqBOZbHBS0ZSLfnyy2u3FJPTY2xEnvDsGT5k=", self.public_key()),
        ):
            text = text.replace(there, here)
        done = subprocess.run(
            ["bash", "-e", "-c", text],
            cwd=self.here,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
            check=False,
        )
        return done.stdout.decode(errors="replace")

    def public_key(self) -> str:
        """The base64 of the public key that signed the backups."""
        key, _ = open_own_key(self.paths.state)
        return render_public_key(key.public_key).removeprefix("ed25519:")

    def check(self) -> str:
        """All that the document does to check a restored tree."""
        return "".join(self.run("Check what was restored", number) for number in range(1, 7))

    def twin(self, folder: str) -> Path:
        """Where the restored twin of the source lies."""
        return self.here / folder / str(self.source).lstrip("/")

    def assert_equal(self, folder: str) -> None:
        """The restored tree is the source, and nothing else."""
        found = Comparison()
        compare_trees(self.source, self.here / folder, TreeRules(), found)
        assert found.differences == []
        assert found.files > len(HARD_NAMES)


@pytest.fixture
def recovery(tmp_path: Path, paths: Paths, s3_bucket: S3Bucket) -> Recovery:
    """Two backups, the second of which copied most of the first."""
    here = tmp_path / "here"
    here.mkdir()
    write_aws(tmp_path)
    profile_file = tmp_path / "web1.toml"
    source = tmp_path / "server"
    url = f"s3://{s3_bucket.bucket}/web1/"
    profile_file.write_text(
        f'[backup]\nsources = ["{source}"]\ntimezone = "UTC"\n'
        f"[store]\n{s3_store(s3_bucket, url=url)}\n"
    )
    profile_file.chmod(0o600)
    environ = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "AWS_ENDPOINT_URL": s3_bucket.endpoint,
        "AWS_ACCESS_KEY_ID": s3_bucket.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_bucket.secret_key,
        "AWS_DEFAULT_REGION": s3_bucket.region,
    }
    recovery = Recovery(source, here, paths, profile_file, s3_bucket, environ)
    _make_files(source)
    recovery.back_up(TAKEN_AT - timedelta(days=1))
    (source / "etc" / "nginx" / "nginx.conf").write_text("worker_processes 8;\n")
    (source / "gone").unlink()
    second = recovery.back_up(TAKEN_AT)
    assert second.archive == NAME
    assert second.copied_bytes > second.sent_bytes
    return recovery


def _make_files(source: Path) -> None:
    (source / "etc" / "nginx").mkdir(parents=True)
    (source / "etc" / "nginx" / "nginx.conf").write_text("worker_processes 1;\n")
    (source / "etc" / "nginx" / "mime.conf").write_text("types {}\n")
    (source / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    (source / "gone").write_text("deleted before the second backup\n")
    (source / "large").write_bytes(os.urandom(9 * 2**20 + 77))
    for number in range(20):
        (source / f"part-{number:02}").write_bytes(os.urandom(200_000))
    for name in HARD_NAMES:
        path = os.fsencode(source) + b"/" + name
        with open(path, "wb") as file:
            file.write(name)
    (source / "link").symlink_to("etc/hosts")
    os.link(source / "etc" / "hosts", source / "hardlink")
    with open(source / "sparse", "wb") as file:
        file.seek(5 * 2**20)
        file.write(b"end")


def test_every_command_of_the_document_is_run_here() -> None:
    assert {block.heading for block in BLOCKS} == {
        "Find the newest",
        "Look inside",
        "Restore everything",
        "Restore one file or folder",
        "From a directory store",
        "An encrypted backup",
        "Check what was restored",
        "Check who made it",
        "A damaged archive",
    }


def test_the_newest_is_found_and_can_be_looked_into(recovery: Recovery) -> None:
    recovery.bucket.client.put_object(Bucket=recovery.bucket.bucket, Key="web1/zzz", Body=b"")
    assert recovery.run("Find the newest").endswith(f" {NAME}\n")
    listing = recovery.run("Look inside")
    inner = str(recovery.source).lstrip("/")
    assert f" {inner}/etc/hosts\n" in listing
    assert "gone" not in listing


def test_everything_comes_back_and_the_checks_have_nothing_to_say(recovery: Recovery) -> None:
    assert recovery.run("Restore everything") == ""
    recovery.assert_equal("restored")
    assert '"host": "web1"' in recovery.run("Check what was restored", 0)
    assert recovery.check() == ""


def test_the_checks_tell_which_files_of_many_holes_they_pass_over_and_hash_them_too(
    recovery: Recovery,
) -> None:
    huge = recovery.source / "huge"
    with huge.open("wb") as file:
        file.truncate(3 * 2**40 + 5)
        for offset in (0, 2**20 + 3, 2**41, 3 * 2**40):
            file.seek(offset)
            file.write(os.urandom(5))
        file.seek(2**30)
        file.write(bytes(2**16))
    named = f'"{str(huge).lstrip("/")}"\n'
    recovery.bucket.client.delete_object(Bucket=recovery.bucket.bucket, Key=f"web1/{NAME}")
    recovery.back_up(TAKEN_AT)
    assert recovery.run("Restore everything") == ""
    assert recovery.check() == named
    with (recovery.twin("restored") / "huge").open("r+b") as file:
        file.seek(2**40)
        file.write(b"x")
    assert recovery.check() == f"{named}{os.fsencode(huge).lstrip(b'/')!r} FAILED\n"


def test_extended_attributes_and_acls_come_back(recovery: Recovery) -> None:
    hosts = recovery.source / "etc" / "hosts"
    subprocess.run(["setfacl", "-m", "u:nobody:r", hosts], check=True)
    subprocess.run(["setfattr", "-n", "user.color", "-v", "blue", hosts], check=True)
    recovery.bucket.client.delete_object(Bucket=recovery.bucket.bucket, Key=f"web1/{NAME}")
    recovery.back_up(TAKEN_AT)
    assert recovery.run("Restore everything", 1) == ""
    recovery.assert_equal("complete")
    twin = recovery.twin("complete") / "etc" / "hosts"
    for tool in ("getfacl", "getfattr"):
        options = ["--omit-header"] if tool == "getfacl" else ["--dump"]
        said = [
            subprocess.run(
                [tool, *options, path.name], cwd=path.parent, capture_output=True, check=True
            ).stdout
            for path in (hosts, twin)
        ]
        assert said[0] == said[1] != b""


def test_one_file_or_some_come_back_alone(recovery: Recovery) -> None:
    for number, names in ((0, {"nginx.conf"}), (1, {"nginx.conf", "mime.conf"})):
        assert recovery.run("Restore one file or folder", number) == ""
        restored = {path.name for path in recovery.here.rglob("*") if path.is_file()}
        assert restored == names
    twin = recovery.twin(".") / "etc" / "nginx" / "nginx.conf"
    assert twin.read_text() == "worker_processes 8;\n", "the last entry of a path wins"


def test_an_archive_in_a_folder_comes_back(recovery: Recovery) -> None:
    (recovery.here / "nas").mkdir()
    text = recovery.profile_file.read_text().partition("[store]")[0]
    recovery.profile_file.write_text(f'{text}[store]\nurl = "file://{recovery.here}/nas/"\n')
    recovery.back_up(TAKEN_AT)
    assert recovery.run("From a directory store") == ""
    recovery.assert_equal("from-folder")


# An encrypted backup

ENCRYPTED = f"{NAME}.age.tar"
ONE_LINE = (
    f"aws s3 cp s3://my-bucket/web1/{ENCRYPTED} - | tar x --to-command='age -d -i key.txt' | tar xz"
)


@pytest.fixture
def encrypted(recovery: Recovery) -> Recovery:
    """The same two backups once more, encrypted, with the key where one recovers."""
    recovery.bucket.client.delete_object(Bucket=recovery.bucket.bucket, Key=f"web1/{NAME}")
    pair = make_key(recovery.here)
    pair.file.rename(recovery.here / "key.txt")
    text = recovery.profile_file.read_text()
    recovery.profile_file.write_text(f'{text}[encryption]\nrecipients = ["{pair.recipient}"]\n')
    recovery.back_up(TAKEN_AT - timedelta(hours=1))
    (recovery.source / "etc" / "hosts").write_text("127.0.0.1 localhost web1\n")
    second = recovery.back_up(TAKEN_AT)
    assert second.archive == ENCRYPTED
    assert second.copied_bytes > second.sent_bytes
    return recovery


def test_one_line_of_tar_and_age_brings_back_an_encrypted_backup(encrypted: Recovery) -> None:
    blocks = [block.text for block in BLOCKS if block.heading == "An encrypted backup"]
    assert ONE_LINE in blocks[0]
    assert encrypted.run("An encrypted backup", 0) == ""
    encrypted.assert_equal("decrypted")
    assert encrypted.run("Find the newest").endswith(f" {ENCRYPTED}\n")
    (encrypted.here / "decrypted").rename(encrypted.here / "restored")
    assert encrypted.check() == ""


def test_the_one_line_fails_under_pipefail_with_a_wrong_key_and_only_then(
    encrypted: Recovery,
) -> None:
    line = ONE_LINE.replace("my-bucket", encrypted.bucket.bucket) + " -C here"
    (encrypted.here / "here").mkdir()
    codes = []
    for _ in range(2):
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=encrypted.here,
            env=encrypted.environ,
            capture_output=True,
            check=False,
        )
        codes.append(done.returncode)
        (encrypted.here / "key.txt").unlink(missing_ok=True)
        make_key(encrypted.here, name="key")
    assert codes[0] == 0
    assert codes[1] != 0


def test_an_encrypted_archive_in_a_folder_comes_back(encrypted: Recovery) -> None:
    (encrypted.here / "nas").mkdir()
    before, _, after = encrypted.profile_file.read_text().partition("[store]")
    keys = after.partition("[encryption]")[2]
    encrypted.profile_file.write_text(
        f'{before}[store]\nurl = "file://{encrypted.here}/nas/"\n[encryption]{keys}'
    )
    encrypted.back_up(TAKEN_AT)
    assert encrypted.run("An encrypted backup", 1) == ""
    encrypted.assert_equal("decrypted-from-folder")


def test_what_is_whole_in_a_damaged_encrypted_archive_comes_back(encrypted: Recovery) -> None:
    keys = Keyring(encrypted.here / "key.txt")
    entries, middles = _entries(encrypted, ENCRYPTED, keys)
    packed, large = entries["part-07"].chunk, entries["large"].chunk
    _damage(encrypted, [middles[packed], middles[large + 4]], ENCRYPTED)
    assert encrypted.run("An encrypted backup", 2) == ""
    said = encrypted.run("An encrypted backup", 3)
    assert said.count("is damaged") == 2
    assert said.count("\n") == 2
    twin = encrypted.twin("rescued-from-encrypted")
    lost = {name for name, entry in entries.items() if entry.chunk == packed}
    assert {name for name in lost if (twin / name).exists()} == set()
    assert (twin / "part-19").read_bytes() == (encrypted.source / "part-19").read_bytes()
    original, rescued = (encrypted.source / "large").read_bytes(), (twin / "large").read_bytes()
    assert rescued[3 * 2**20 : 4 * 2**20] == bytes(2**20)
    assert rescued[4 * 2**20 :] == original[4 * 2**20 :]


def test_the_checks_name_every_file_that_is_not_what_it_was(recovery: Recovery) -> None:
    recovery.run("Restore everything")
    for name in HARD_NAMES:
        with open(os.fsencode(recovery.twin("restored")) + b"/" + name, "ab") as file:
            file.write(b"!")
    (recovery.twin("restored") / "part-03").unlink()
    (recovery.twin("restored") / "more").touch()
    said = recovery.check()
    assert said.count(": FAILED\n") == len(HARD_NAMES)
    assert "part-03: FAILED open or read" in said
    last = recovery.run("Check what was restored", 3)
    inner = str(recovery.source).lstrip("/")
    assert last.splitlines() == [f"\t{inner}/more", f"{inner}/part-03"]


def _damage(recovery: Recovery, offsets: list[int], name: str = NAME) -> None:
    """Flip a byte at each offset of the object."""
    where = {"Bucket": recovery.bucket.bucket, "Key": f"web1/{name}"}
    with recovery.bucket.client.get_object(**where)["Body"] as body:
        content = bytearray(body.read())
    for offset in offsets:
        content[offset] ^= 0xFF
    recovery.bucket.client.put_object(**where, Body=bytes(content))


def _entries(
    recovery: Recovery, name: str = NAME, keys: Keyring = NO_KEYS
) -> tuple[dict[str, Entry], list[int]]:
    """The manifest's entries by their last name, and the middle of each chunk."""
    store = open_store(load_profile(str(recovery.profile_file), recovery.paths).store)
    manifest = read_manifest(store, store.stat(name), keys)
    assert manifest is not None
    entries = {entry.name.rpartition("/")[2]: entry for entry in manifest.entries()}
    middles = [chunk.offset + chunk.length // 2 for chunk in manifest.chunks]
    manifest.close()
    return entries, middles


def test_what_is_whole_in_a_damaged_archive_comes_back_and_the_rest_is_named(
    recovery: Recovery,
) -> None:
    entries, middles = _entries(recovery)
    packed, large = entries["part-07"].chunk, entries["large"].chunk
    _damage(recovery, [middles[packed], middles[large + 4]])
    assert recovery.run("A damaged archive", 0) == ""
    said = recovery.run("A damaged archive", 1)
    assert said.count("is damaged") == 2
    lost = {name for name, entry in entries.items() if entry.chunk == packed}
    assert entries["part-19"].chunk > packed, "something lies behind the damage"
    rescued = recovery.twin("rescued")
    assert {name for name in lost if (rescued / name).exists()} == set()

    (recovery.here / "rescued").rename(recovery.here / "restored")
    (recovery.here / "restored" / ".backup").mkdir(exist_ok=True)
    (recovery.here / "manifest.jsonl").rename(
        recovery.here / "restored" / ".backup" / "manifest.jsonl"
    )
    named = recovery.run("Check what was restored", 1)
    assert named.count(": FAILED\n") == 1
    assert "large: FAILED\n" in named
    assert named.count(": FAILED open or read\n") == len(lost)
    for name in lost:
        assert f"{name}: FAILED open or read" in named
    original, twin = (recovery.source / "large").read_bytes(), recovery.twin("restored") / "large"
    rescued_bytes = twin.read_bytes()
    assert rescued_bytes[: 3 * 2**20] == original[: 3 * 2**20]
    assert rescued_bytes[3 * 2**20 : 4 * 2**20] == bytes(2**20)
    assert rescued_bytes[4 * 2**20 :] == original[4 * 2**20 :]


PROVEN = "Signature Verified Successfully\n"


def _object(recovery: Recovery, name: str) -> bytes:
    where = {"Bucket": recovery.bucket.bucket, "Key": f"web1/{name}"}
    with recovery.bucket.client.get_object(**where)["Body"] as body:
        return bytes(body.read())


def test_a_signature_is_checked_by_hand_and_leads_to_the_list(recovery: Recovery) -> None:
    heading = "Check who made it"
    assert recovery.run(heading, 0) == ""
    assert recovery.run(heading, 2) == PROVEN
    one, other, name = recovery.run(heading, 3).splitlines()
    assert one == f"{other}  -"
    assert name == NAME
    recovery.run("Restore everything")
    restored = recovery.here / "restored" / ".backup" / "manifest.jsonl"
    assert (recovery.here / "manifest.jsonl").read_bytes() == restored.read_bytes()


def test_a_signature_of_an_encrypted_archive_is_checked_by_hand(encrypted: Recovery) -> None:
    heading = "Check who made it"
    assert encrypted.run(heading, 1) == ""
    assert encrypted.run(heading, 2) == PROVEN
    one, other, name = encrypted.run(heading, 4).splitlines()
    assert one == f"{other}  -"
    assert name == ENCRYPTED


def test_a_forged_list_is_found_by_hand(recovery: Recovery) -> None:
    heading = "Check who made it"
    true = _object(recovery, NAME)
    member = slice(-76 - 123, -76)
    unsigned = rewrite(true, host="elsewhere")
    for forged in (
        rewrite(true, make_signing_key(), host="elsewhere"),
        unsigned[:-76] + true[member] + unsigned[-76:],
    ):
        recovery.bucket.client.put_object(
            Bucket=recovery.bucket.bucket, Key=f"web1/{NAME}", Body=forged
        )
        recovery.run(heading, 0)
        assert recovery.run(heading, 2) == "Signature Verification Failure\n"
    # The true end with another list in front of it.
    begin = len(true) - 2000
    recovery.bucket.client.put_object(
        Bucket=recovery.bucket.bucket,
        Key=f"web1/{NAME}",
        Body=true[:begin] + bytes([true[begin] ^ 1]) + true[begin + 1 :],
    )
    recovery.run(heading, 0)
    assert recovery.run(heading, 2) == PROVEN
    one, other = recovery.run(heading, 3).splitlines()[:2]
    assert one != f"{other}  -"
