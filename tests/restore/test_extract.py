"""Promise 5: whatever an archive holds, nothing outside the target changes."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from backup_tasks.command.print_reading import unrestored
from backup_tasks.common.paths import PROJECT_ROOT
from backup_tasks.errors import ArchiveError, BackupError, RestoreError
from backup_tasks.format.limits import TOO_MANY_HOLES
from backup_tasks.format.manifest import Chunk, Entry
from backup_tasks.format.tar_headers import Member
from backup_tasks.read import plain_tar_gz
from backup_tasks.restore.policy import PROBLEMS_BYTES, ExtractPolicy
from backup_tasks.restore.target_check import OpenTarget
from tests.support import attacks
from tests.support.attacks import Forge, Item, fingerprint, forge_ours, forge_plain

MIB = 2**20
RULES = ["never", "older", "always"]
IS_ROOT = os.geteuid() == 0
UMASK = os.umask(0o022)
os.umask(UMASK)


@pytest.fixture(params=[forge_ours, forge_plain], ids=["ours", "plain"])
def forge(request: pytest.FixtureRequest) -> Forge:
    return request.param  # type: ignore[no-any-return]


@dataclass
class Scene:
    """A target, and beside it what must not change."""

    here: Path
    reports: list[Any] = field(default_factory=list)

    @property
    def target(self) -> Path:
        return self.here / "target"

    @property
    def outside(self) -> Path:
        return self.here / "outside"

    def attack(self, archive: bytes, **options: Any) -> None:
        """Restore it; whatever happens, it must be one of our errors or none at all."""
        before = fingerprint(self.outside)
        try:
            self.reports.append(
                attacks.restore(self.here / "store", archive, self.target, **options)
            )
        except BackupError as error:
            self.reports.append(error)
        assert fingerprint(self.outside) == before

    def left_out(self) -> dict[str, str]:
        """What the last report says could not be restored."""
        return (
            dict(self.reports[-1].problems)
            if hasattr(self.reports[-1], "problems")
            else dict(self.reports[-1].extracted.problems)
        )


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    found = Scene(tmp_path)
    (found.outside / "folder").mkdir(parents=True)
    found.outside.chmod(0o750)
    (found.outside / "secret").write_text("root:x:0:0")
    (found.outside / "folder" / "inner").write_text("inner")
    found.target.mkdir()
    return found


def deep_link_chain(outside: Path) -> list[Item]:
    """The shape of CVE-2025-4517, 4330 and 4138: a chain of links whose resolved path is longer
    than PATH_MAX, so that `realpath` stops looking in the middle."""
    items = []
    path = ""
    for step in "abcdefghijklmnop":
        items.append(Item(f"{path}{'d' * 247}", "dir"))
        items.append(Item(f"{path}{step}", "symlink", link="d" * 247))
        path += f"{'d' * 247}/"
    long = "/".join("abcdefghijklmnop") + "/" + "l" * 254
    items.append(Item(long, "symlink", link="../" * 16))
    items.append(Item("escape", "symlink", link=f"{long}/../outside"))
    items.append(Item("joined", "hardlink", link="escape/secret"))
    items.append(Item("joined", content=b"overwritten"))
    items.append(Item("escape/new", content=b"new"))
    return items


def hostile(outside: Path) -> dict[str, list[Item]]:
    """Name -> entries. All of them aim at `outside`, which lies beside the target."""
    return {
        "dotdot": [Item("../outside/new"), Item("a/../../outside/new"), Item("..")],
        "dotdot-dir": [Item("../outside", "dir", mode=0o777)],
        "absolute": [Item(f"{outside}/new"), Item(f"{outside}/secret")],
        "double-slash": [Item(f"/{outside}/new"), Item("a//../../outside/new")],
        "symlink-then-file": [Item("x", "symlink", link=str(outside)), Item("x/new")],
        "symlink-relative": [Item("x", "symlink", link="../outside"), Item("x/secret")],
        "symlink-to-file": [
            Item("x", "symlink", link="../outside/secret"),
            Item("x", content=b"overwritten"),
        ],
        "symlink-twice": [
            Item("a", "symlink", link="."),
            Item("a/b", "symlink", link=".."),
            Item("a/b/outside/new"),
            Item("b/outside/secret"),
        ],
        "symlink-after-file": [Item("x/new"), Item("x", "symlink", link="../outside"), Item("x/y")],
        "symlink-as-dir": [
            Item("x", "symlink", link="../outside"),
            Item("x", "dir", mode=0o777, mtime_ns=0),
        ],
        "symlink-fifo-through": [Item("x", "symlink", link="../outside"), Item("x/f", "fifo")],
        "symlink-link-through": [
            Item("x", "symlink", link="../outside"),
            Item("x/l", "symlink", link="y"),
        ],
        "hardlink-dotdot": [
            Item("h", "hardlink", link="../outside/secret"),
            Item("h", content=b"overwritten"),
        ],
        "hardlink-absolute": [
            Item("h", "hardlink", link=f"{outside}/secret"),
            Item("h", content=b"overwritten"),
        ],
        "hardlink-through-symlink": [
            Item("x", "symlink", link="../outside"),
            Item("h", "hardlink", link="x/secret"),
            Item("h", content=b"overwritten"),
        ],
        "hardlink-to-symlink": [
            Item("a/b/c", "symlink", link="../../../outside/secret"),
            Item("h", "hardlink", link="a/b/c"),
            Item("h", content=b"overwritten", mode=0o666),
        ],
        # CVE-2026-11940: relative links mean something else a level higher.
        "hardlink-to-deeper-symlink": [
            Item("a/b", "symlink", link="../x"),
            Item("h", "hardlink", link="a/b"),
            Item("x", "symlink", link="../outside"),
            Item("h/new"),
            Item("h/secret", content=b"overwritten"),
        ],
        "deep-link-chain": deep_link_chain(outside),
        # CVE-2024-12718: mode and times of what a link leads to.
        "metadata-through-symlink": [
            Item("x", "symlink", link="../outside/secret"),
            Item("x", "symlink", link="../outside/secret", mode=0o777, mtime_ns=0),
            Item("y", "symlink", link="../outside"),
            Item("y/.", "dir", mode=0o777, mtime_ns=0),
            Item("y/folder", "dir", mode=0o777, mtime_ns=0),
        ],
        "nul": [Item("a\0/../../outside/new"), Item("\0")],
    }


SHAPES = sorted(hostile(Path("/")))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_hostile_entry_gets_out_of_the_target(
    scene: Scene, forge: Forge, shape: str, rule: str
) -> None:
    archive = forge(hostile(scene.outside)[shape])
    # Twice: the first run may plant what the second one would step on.
    scene.attack(archive, overwrite=rule, trusted=True)
    scene.attack(archive, overwrite=rule, trusted=True)


def test_all_hostile_entries_in_one_archive_leave_its_honest_files_intact(
    scene: Scene, forge: Forge
) -> None:
    shapes = hostile(scene.outside)
    items = [item for name in SHAPES if name != "nul" for item in shapes[name]]
    honest = Item("honest/file", content=b"honest")
    scene.attack(forge([*items, honest]), overwrite="always")
    assert (scene.target / "honest" / "file").read_bytes() == b"honest"


@pytest.mark.parametrize("way", ["../outside/new", "a/../../outside/new"])
def test_no_folder_above_a_wanted_entry_is_made_outside_of_the_target(
    scene: Scene, forge: Forge, way: str
) -> None:
    """With --path, folders that are not wanted themselves come by another way than all else."""
    folders = [Item(path, "dir", mode=0o777) for path in (way, f"{way}/inner")]
    archive = forge([*folders, Item(f"{way}/inner/wanted"), Item("wanted")])
    scene.attack(archive, paths=("wanted",))
    assert list(scene.left_out()) == [f"{way}/inner/wanted"]
    assert os.listdir(scene.target) == ["wanted"]


@pytest.mark.parametrize("rule", RULES)
def test_links_in_the_target_are_not_followed(scene: Scene, forge: Forge, rule: str) -> None:
    (scene.target / "folder").symlink_to(scene.outside)
    (scene.target / "file").symlink_to(scene.outside / "secret")
    items = [
        Item("folder/new"),
        Item("folder/secret", content=b"overwritten"),
        Item("folder/folder", "dir", mode=0o777),
        Item("folder", "dir", mode=0o777),
        Item("file", content=b"overwritten"),
    ]
    scene.attack(forge(items), overwrite=rule)


def test_two_archives_one_after_the_other_cannot_do_together_what_one_cannot(
    scene: Scene, forge: Forge
) -> None:
    """CVE-2025-45582: the first archive leaves a link, the second writes through it."""
    scene.attack(forge([Item("x", "symlink", link="../outside")]))
    assert (scene.target / "x").is_symlink()
    for rule in RULES:
        scene.attack(forge([Item("x/secret", content=b"overwritten")]), overwrite=rule)


@pytest.mark.parametrize("rule", ["older", "always"])
def test_a_hardlink_that_leads_outside_is_not_written_through(
    scene: Scene, forge: Forge, rule: str
) -> None:
    secret = scene.outside / "secret"
    os.utime(secret, (1, 1))
    os.link(secret, scene.target / "file")
    before = secret.stat()
    report = attacks.restore(
        scene.here / "store",
        forge([Item("file", content=b"new", mode=0o777)]),
        scene.target,
        overwrite=rule,
    )
    after = secret.stat()
    assert secret.read_text() == "root:x:0:0"
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert (scene.target / "file").read_bytes() == b"new"
    assert report.extracted.files == 1


def test_what_could_lead_out_is_named_and_its_neighbours_are_restored(
    scene: Scene, forge: Forge
) -> None:
    items = [Item("before"), Item("../outside/new"), Item("h", "hardlink", link="../x"), Item("z")]
    scene.attack(forge(items))
    assert sorted(os.listdir(scene.target)) == ["before", "z"]
    assert set(scene.left_out()) == {"../outside/new", "h"}
    assert all("lead out" in reason for reason in scene.left_out().values())


def test_problems_beyond_what_memory_is_for_are_counted(scene: Scene, forge: Forge) -> None:
    scene.attack(forge([Item("../outside/new")]))
    found = scene.reports[-1]
    path = "x" * 2**20
    for _ in range(999):
        found.extracted.add_problem(path, "too many")
    kept = found.extracted.problems
    assert kept[0][0] == "../outside/new"
    assert sum(len(path) for path, _ in kept) < PROBLEMS_BYTES
    assert str(unrestored(found)).startswith("1,000 of ")
    assert str(unrestored(found)).endswith(" and 980 more")


def test_honest_symlinks_to_anywhere_are_restored(scene: Scene, forge: Forge) -> None:
    links = {"absolute": "/no/such/thing", "dangling": "nowhere", "up": "../../x", "self": "self"}
    scene.attack(forge([Item(name, "symlink", link=link) for name, link in links.items()]))
    assert {name: os.readlink(scene.target / name) for name in links} == links
    assert scene.left_out() == {}


SPECIAL = [
    Item("program", mode=0o6755),
    Item("capable", xattrs={"security.capability": bytes.fromhex("0100000202000000") + bytes(12)}),
    Item("marked", xattrs={"user.note": b"kept", "trusted.overlay.opaque": b"y"}),
    Item("null", "char", mode=0o666, rdev=(1, 3)),
    Item("disk", "block", mode=0o666, rdev=(8, 0)),
]


def test_untrusted_archives_get_no_setuid_bits_capabilities_or_devices(
    scene: Scene, forge: Forge
) -> None:
    scene.attack(forge(SPECIAL))
    assert sorted(os.listdir(scene.target)) == ["capable", "marked", "program"]
    assert stat.S_IMODE((scene.target / "program").stat().st_mode) == 0o755
    assert os.listxattr(scene.target / "capable") == []
    assert os.listxattr(scene.target / "marked") == ["user.note"]
    assert set(scene.left_out()) == {"null", "disk"}
    notes = scene.reports[-1].extracted.notes
    assert any("setuid" in note for note in notes)
    assert any("capabilities" in note for note in notes)


def test_trusted_archives_get_them(scene: Scene, forge: Forge) -> None:
    scene.attack(forge(SPECIAL), trusted=True)
    assert stat.S_IMODE((scene.target / "program").stat().st_mode) == 0o6755
    if IS_ROOT:
        assert os.listxattr(scene.target / "capable") == ["security.capability"]
        assert stat.S_ISCHR((scene.target / "null").stat().st_mode)
        assert (scene.target / "null").stat().st_rdev == os.makedev(1, 3)
        assert stat.S_ISBLK((scene.target / "disk").stat().st_mode)


IMPOSSIBLE = {
    "time": Item("bad", mtime_ns=10**28),
    "time-before": Item("bad", mtime_ns=-(10**28)),
    "owner": Item("bad", uid=2**63),
    "xattr-name": Item("bad", xattrs={"user.\0": b""}),
    "xattr-space": Item("bad", xattrs={"nowhere.x": b""}),
    "xattr-size": Item("bad", xattrs={"user.large": bytes(2**18)}),
    "link-to-nothing": Item("bad", "symlink", link=""),
    "long-name": Item("b" * 256),
    "long-link": Item("bad", "symlink", link="b" * 5000),
    "no-such-target": Item("bad", "hardlink", link="missing"),
    "link-to-folder": Item("bad", "hardlink", link="folder"),
    "link-to-itself": Item("bad", "hardlink", link="bad"),
    "huge-hole": Item("bad", content=b"", sparse=[], size=2**62),
    "hole-beyond-any-file": Item("bad", content=b"", sparse=[], size=2**64),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_what_no_system_takes_costs_only_its_own_entry(
    scene: Scene, forge: Forge, what: str
) -> None:
    items = [Item("a", content=b"first"), IMPOSSIBLE[what], Item("folder", "dir", mode=0o755)]
    scene.attack(forge([*items, Item("z", content=b"last")]), trusted=True)
    assert (scene.target / "a").read_bytes() == b"first"
    assert (scene.target / "z").read_bytes() == b"last"
    assert (scene.target / "folder").is_dir()
    report = scene.reports[-1].extracted
    assert len(report.problems) + len(report.notes) >= 1


def test_holes_that_would_be_hashed_for_years_are_left_out(scene: Scene, forge: Forge) -> None:
    """Not every file system refuses such a size."""
    scene.attack(forge([IMPOSSIBLE["huge-hole"]]))
    assert scene.left_out() == {"bad": TOO_MANY_HOLES}


def written_bytes(folder: Path) -> int:
    return sum(file.lstat().st_blocks * 512 for file in folder.rglob("*"))


def test_a_plain_archive_that_unpacks_to_hundreds_of_times_its_size_is_stopped(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_tar_gz, "BOMB_BYTES", 4 * MIB)
    bomb = forge_plain([Item("zeros", content=bytes(32 * MIB))])
    scene.attack(bomb)
    assert isinstance(scene.reports[-1], ArchiveError)
    assert "--trusted" in str(scene.reports[-1])
    assert os.listdir(scene.target) == []
    scene.attack(bomb, trusted=True)
    assert (scene.target / "zeros").stat().st_size == 32 * MIB


def test_listing_a_bomb_is_stopped_too(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    from backup_tasks.read.listing import list_entries

    monkeypatch.setattr(plain_tar_gz, "BOMB_BYTES", 4 * MIB)
    store, backup = attacks.put(
        scene.here / "store", forge_plain([Item("zeros", content=bytes(32 * MIB))])
    )
    with pytest.raises(ArchiveError, match="fill disks"):
        list(list_entries(store, backup.stored, ()))


def test_zeros_of_ordinary_size_are_no_bomb(scene: Scene) -> None:
    scene.attack(forge_plain([Item("zeros", content=bytes(8 * MIB))]))
    assert (scene.target / "zeros").stat().st_size == 8 * MIB


# Restores into a file system of 16 MiB that only this process sees.
_IN_A_SMALL_DISK = """
import os, sys
from pathlib import Path
from backup_tasks.errors import RestoreError
from tests.support.attacks import restore
folder, overwrite = Path(sys.argv[1]), sys.argv[2] or None
target = folder / "small"
try:
    restore(folder / "store", (folder / "archive").read_bytes(), target, overwrite=overwrite)
except RestoreError as error:
    disk = os.statvfs(target)
    print(disk.f_bfree * 100 // disk.f_blocks, len(os.listdir(target)), error)
"""


def restore_into_small_disk(folder: Path, archive: bytes, overwrite: str = "") -> tuple[int, str]:
    """Returns what per cent of it stayed free, and the error."""
    (folder / "small").mkdir()
    (folder / "archive").write_bytes(archive)
    mount = f"mount -t tmpfs -o size=16m small {folder}/small"
    done = subprocess.run(
        [
            *("unshare", "-m" if IS_ROOT else "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh"),
            *(sys.executable, "-c", _IN_A_SMALL_DISK, folder, overwrite),
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=PROJECT_ROOT,
    )
    free, _, error = done.stdout.partition(" ")
    return int(free), error


def test_a_restore_that_cannot_fit_is_refused_before_it_writes(tmp_path: Path) -> None:
    archive = forge_ours([Item(f"f{n}", content=os.urandom(MIB)) for n in range(20)])
    free, error = restore_into_small_disk(tmp_path, archive)
    assert free == 100
    assert "0 " in error[:2]
    assert "only 17MB free" in error


@pytest.mark.parametrize("overwrite", ["", "never"])
def test_a_disk_is_not_filled_to_the_brim(tmp_path: Path, overwrite: str) -> None:
    archive = forge_plain([Item(f"f{n:04}", content=os.urandom(2**16)) for n in range(350)])
    free, error = restore_into_small_disk(tmp_path, archive, overwrite)
    assert 1 <= free < 50
    assert "nearly full" in error or "No space" in error
    assert "run the same command again with --overwrite never" in error


def entries_of(items: Sequence[Item], **changes: Any) -> bytes:
    """Our own format, with the first entry's line in the manifest changed."""

    def claim(entry: Entry) -> None:
        for key, value in changes.items():
            setattr(entry, key, value)

    items[0].claim = claim
    return forge_ours(items)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 5},
        {"size": 7},
        {"size": 2**70 - 2**70 + 10**15},
        {"type": "symlink"},
        {"path": "other"},
        {"sha256": "0" * 64},
        {"chunk": 1},
        {"chunk": 2},
        {"chunk": -1},
        {"offset": 512},
        {"offset": 2**40},
        {"offset": -512},
        {"path": "", "path_b64": "!"},
        {"path": "", "path_b64": ""},
        {"path": "../x"},
    ],
    ids=str,
)
def test_an_entry_that_is_not_what_the_manifest_says_is_not_restored(
    scene: Scene, changes: dict[str, Any]
) -> None:
    scene.attack(entries_of([Item("file"), Item("z")], **changes))
    assert isinstance(scene.reports[-1], ArchiveError)
    assert not {"file", "x", "other"} & set(os.listdir(scene.target))


def test_a_chunk_that_unpacks_to_more_than_the_manifest_says_is_damage(scene: Scene) -> None:
    from backup_tasks.chunks.compress import compress_chunk

    raw = Item("zeros", content=bytes(4 * MIB)).blocks()
    stored = compress_chunk(raw, 1)
    chunk = Chunk(0, len(stored.stored), stored.sha256, 1024)
    entry = Entry(path="zeros", type="file", size=4 * MIB, chunk=0)
    end = attacks.forge_end(len(stored.stored), [chunk], [entry])
    scene.attack(stored.stored + end)
    assert isinstance(scene.reports[-1], ArchiveError)
    assert os.listdir(scene.target) == []


def test_a_chunk_with_another_hash_is_damage_though_it_unpacks_well(scene: Scene) -> None:
    """What a symlink says, or who owns a folder, has no other hash to protect it."""
    from backup_tasks.chunks.compress import compress_chunk

    stored = compress_chunk(Item("link", "symlink", link="elsewhere").blocks(), 1)
    chunk = Chunk(0, len(stored.stored), "0" * 64, stored.raw)
    end = attacks.forge_end(
        len(stored.stored), [chunk], [Entry(path="link", type="symlink", link="true", chunk=0)]
    )
    scene.attack(stored.stored + end)
    assert "its hash is wrong" in str(scene.reports[-1])
    assert os.listdir(scene.target) == []


def test_a_chunk_that_would_fill_the_memory_is_refused(scene: Scene) -> None:
    end = attacks.forge_end(1000, [Chunk(0, 1000, "0" * 64, 2**40)], [])
    scene.attack(bytes(1000) + end)
    assert "unpacks to" in str(scene.reports[-1])


def test_a_manifest_that_would_fill_the_disk_is_refused(scene: Scene) -> None:
    from backup_tasks.chunks.compress import compress_chunk
    from backup_tasks.format.manifest import MANIFEST_PATH
    from backup_tasks.format.tar_headers import Member, encode_headers

    size = 10**12
    member = Member(MANIFEST_PATH.encode(), "file", size=size, stored=size)
    packed = compress_chunk(encode_headers(member) + bytes(10 * MIB), 1).stored
    scene.attack(attacks.seal(0, packed))
    assert "would unpack to" in str(scene.reports[-1])


def test_a_restore_error_of_the_whole_target_is_one_line(scene: Scene) -> None:
    (scene.target / "there").write_text("x")
    with pytest.raises(RestoreError, match="is not empty; choose another --to"):
        attacks.restore(scene.here / "store", forge_plain([Item("a")]), scene.target)


def test_folders_that_the_archive_does_not_name_are_opened_beside_those_it_does(
    scene: Scene, forge: Forge
) -> None:
    """As many or few as there are of either."""
    for named in (0, 1, 3):
        items = [Item(f"{name}/{number}/file") for name in "ab" for number in range(2)]
        items += [Item(name, "dir", mode=0o700) for name in ("a", "b", "a/0")[:named]]
        target = scene.target / str(named)
        attacks.restore(scene.here / "store", forge(items), target)
        modes = {
            str(path.relative_to(target)): stat.S_IMODE(path.stat().st_mode)
            for path in target.rglob("*")
            if path.is_dir()
        }
        own = dict.fromkeys(("a", "b", "a/0")[:named], 0o700)
        usual = dict.fromkeys(("a", "b", "a/0", "a/1", "b/0", "b/1"), 0o777 & ~UMASK)
        assert modes == usual | own


@pytest.mark.parametrize("sparse", [None, [(0, 3), (5, 3)]])
@pytest.mark.parametrize(
    ("pieces", "complaint"),
    [
        ([b"abc", b"def", b"g"], "more bytes came than the header says"),
        ([b"abc", b"defg"], "more bytes came than the header says"),
        ([b"abc", b"de"], "fewer bytes came than the header says"),
        ([], "fewer bytes came than the header says"),
        ([b"abc", b"def"], ""),
    ],
)
def test_content_of_another_length_than_the_header_says_is_no_file(
    scene: Scene, sparse: list[tuple[int, int]] | None, pieces: list[bytes], complaint: str
) -> None:
    member = Member(b"file", "file", size=8 if sparse else 6, stored=6, sparse=sparse)
    root = os.open(scene.target, os.O_RDONLY)
    with OpenTarget(scene.target, root, ExtractPolicy()) as extractor:
        expected = pytest.raises(ArchiveError, match=complaint) if complaint else nullcontext()
        with expected:
            extractor.add(member, map(memoryview, pieces))
        extractor.finish()
    os.close(root)
    found = {path.name: path.read_bytes() for path in scene.target.iterdir()}
    assert found == ({} if complaint else {"file": b"abc\0\0def" if sparse else b"abcdef"})


# --- a restore that ends in the middle


def modes_below(target: Path) -> dict[str, int]:
    return {
        str(path.relative_to(target)): stat.S_IMODE(path.stat().st_mode)
        for path in target.rglob("*")
        if path.is_dir()
    }


def extract(
    target: Path, members: Sequence[tuple[Member, list[bytes]]], last: Iterator[memoryview]
) -> None:
    """Add these, and at the end a file of one byte with this content."""
    root = os.open(target, os.O_RDONLY)
    try:
        with OpenTarget(target, root, ExtractPolicy()) as extractor:
            for member, pieces in members:
                extractor.add(member, map(memoryview, pieces))
            extractor.add(Member(b"last", "file", size=1, stored=1), last)
    finally:
        os.close(root)


IN_FOLDERS = [
    Item("named", "dir", mode=0o751),
    Item("named/below", "dir", mode=0o750),
    Item("named/below/first"),
    Item("unnamed/second"),
]


@pytest.mark.parametrize("why", ["a file too long", "a full disk", "a signal"])
def test_after_a_failure_in_the_middle_no_folder_stays_closed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    error: BaseException = ArchiveError("damaged")
    if why == "a full disk":
        error = OSError(errno.ENOSPC, "No space left on device")
    elif why == "a signal":
        error = KeyboardInterrupt()

    def fail() -> Iterator[memoryview]:
        raise error
        yield memoryview(b"")

    with pytest.raises((BackupError, KeyboardInterrupt)):
        extract(scene.target, [(item.member(), [item.content]) for item in IN_FOLDERS], fail())
    assert modes_below(scene.target) == {
        "named": 0o751,
        "named/below": 0o750,
        "unnamed": 0o777 & ~UMASK,
    }
    assert (scene.target / "named" / "below").stat().st_mtime_ns == attacks.MTIME
    assert not (scene.target / "last").exists()


@pytest.mark.skipif(not IS_ROOT, reason="users' attributes of their own say nothing")
@pytest.mark.parametrize("owner", [0, 1234])
def test_what_a_failed_restore_opened_is_finished_by_the_next_run(scene: Scene, owner: int) -> None:
    for item in (good := [*IN_FOLDERS, Item("named/below/zz")]):
        item.uid = owner
    os.chown(scene.target, owner, owner)
    bad = [
        *good[:-1],
        Item("named/below/zz", claim=lambda entry: setattr(entry, "sha256", "0" * 64)),
    ]
    scene.attack(forge_ours(bad))
    assert isinstance(scene.reports[-1], ArchiveError)
    assert modes_below(scene.target)["named/below"] == 0o750
    scene.attack(forge_ours(good), overwrite="never")
    assert scene.left_out() == {}
    below = scene.target / "named" / "below"
    assert sorted(os.listdir(below)) == ["first", "zz"]
    assert (below.stat().st_mtime_ns, below.stat().st_uid) == (attacks.MTIME, owner)
    assert os.listxattr(below) == os.listxattr(below.parent) == []


def test_nothing_more_is_made_after_a_failure(scene: Scene) -> None:
    with pytest.raises(ArchiveError):
        extract(scene.target, [(Item("empty", "dir").member(), [])], iter(()))
    assert os.listdir(scene.target) == []
