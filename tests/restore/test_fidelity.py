"""Every file comes back as it was, in the eyes of other people's tools."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.common.time_zones import find_zone
from backup_tasks.format.limits import TOO_MANY_HOLES
from backup_tasks.read.manifest_reader import read_manifest
from backup_tasks.restore.request import RestoreReport, RestoreRequest
from backup_tasks.restore.run_restore import run_restore
from backup_tasks.snapshot import data_segments
from tests.support.attacks import Forge, Item, forge_ours, forge_plain
from tests.support.attacks import restore as restore_forged
from tests.support.backups import Backups, paths_in
from tests.support.details import find_backups
from tests.support.other_process import IS_ROOT, NOBODY, as_nobody
from tests.support.source_trees import (
    assert_same_tree,
    attributes_of,
    make_attributes,
    make_links,
    make_long_path,
    make_modes,
    make_socket,
    make_sparse,
    make_whole_tree,
    rsync_differences,
    run,
)

UTC = find_zone("UTC")
MIB = 2**20
AS_GNU_TAR_NEEDS = ("--xattrs", "--xattrs-include=*", "--acls")


@pytest.fixture
def backups(tmp_path: Path, paths: Paths) -> Backups:
    return Backups(tmp_path / "source", tmp_path / "store", paths)


def restore(backups: Backups, target: Path, *patterns: str, **options: Any) -> RestoreReport:
    """Restore the newest backup as root would in place, but elsewhere."""
    store = backups.open_store()
    request = RestoreRequest(paths=patterns, target=target, trusted=True)
    newest = find_backups(store, UTC)[-1]
    return run_restore(store, newest, replace(request, **options), SilentProgress())


def test_a_tree_with_everything_comes_back_as_it_was(backups: Backups, tmp_path: Path) -> None:
    make_whole_tree(backups.source)
    assert backups.backup().problems == []
    report = restore(backups, tmp_path / "target")
    assert (report.extracted.problems, report.extracted.notes) == ([], set())
    assert_same_tree(backups.source, backups.in_target(tmp_path / "target"))


def test_the_oracle_sees_each_thing_that_this_file_speaks_of(tmp_path: Path) -> None:
    """Or else the test before this one would show nothing."""
    make_whole_tree(tmp_path / "one")
    subprocess.run(["cp", "-a", tmp_path / "one", tmp_path / "two"], check=True)
    assert_same_tree(tmp_path / "one", tmp_path / "two")
    two = tmp_path / "two"
    spoilers = [
        lambda: os.utime(two / "times" / "zero", ns=(0, 1)),
        lambda: os.utime(two / "times" / "zero folder", ns=(0, 1)),
        lambda: (two / "modes" / "folder 755").chmod(0o754),
        lambda: os.setxattr(two / "attributes" / "file", "user.empty", b"!"),
        lambda: run("setfacl", "-x", str(NOBODY), two / "attributes" / "acl"),
        lambda: run("setfacl", "-k", two / "attributes" / "acl folder"),
        lambda: shutil.copy2(two / "links" / "zz last", two / "x").replace(two / "links/zz last"),
        lambda: (two / "names" / "link plain").unlink(),
    ]
    for spoil in spoilers:
        subprocess.run(["rsync", "-aHAX", "--delete", f"{tmp_path}/one/", two], check=True)
        spoil()
        with pytest.raises(AssertionError):
            assert_same_tree(tmp_path / "one", two)


def test_gnu_tar_gives_the_same(backups: Backups, tmp_path: Path) -> None:
    make_whole_tree(backups.source)
    backups.backup()
    (tmp_path / "target").mkdir()
    run("tar", "-xzpf", backups.archive(), *AS_GNU_TAR_NEEDS, "-C", tmp_path / "target")
    assert_same_tree(backups.source, backups.in_target(tmp_path / "target"))


def test_plain_archives_of_gnu_tar_come_back_with_links_xattrs_and_acls(
    backups: Backups, tmp_path: Path
) -> None:
    backups.source.mkdir()
    make_links(backups.source / "links")
    (backups.source / "links" / "folder" / "fifo too").unlink()  # which GNU tar stores as two
    make_attributes(backups.source / "attributes")
    make_sparse(backups.source / "sparse")
    backups.write_profile()
    name = backups.store_folder / "2025-06-12_0200-backup.tar.gz"
    options = ("--format=posix", "--sparse", *AS_GNU_TAR_NEEDS)
    run("tar", "-czf", name, *options, "-C", "/", str(backups.source).lstrip("/"))
    report = restore(backups, tmp_path / "target")
    assert (report.extracted.problems, report.extracted.notes) == ([], set())
    assert_same_tree(backups.source, backups.in_target(tmp_path / "target"))


def test_paths_beyond_4096_bytes_are_stored_and_restored(backups: Backups, tmp_path: Path) -> None:
    backups.source.mkdir()
    make_long_path(backups.source / "long", 5000)
    assert backups.backup().problems == []
    report = restore(backups, tmp_path / "target")
    assert report.extracted.problems == []
    for path in (backups.source, backups.in_target(tmp_path / "target")):
        assert _deepest(path / "long") == (26, "at the end of a long path", "leaf", True)
    # Hand the folders back short enough for other programs to remove.
    for path in (backups.source, tmp_path / "target"):
        run("find", path, "-depth", "-delete")


def _deepest(folder: Path) -> tuple[int, str, str, bool]:
    """How deep it goes, and the file, the link and the second name that lie at the end."""
    descriptor = os.open(folder, os.O_RDONLY)
    depth = 0
    while True:
        below = [name for name in os.listdir(descriptor) if name[0].isdigit()]
        if not below:
            break
        following = os.open(below[0], os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = following
        depth += 1
    with open(os.open("leaf", os.O_RDONLY, dir_fd=descriptor)) as leaf:
        text = leaf.read()
    link = os.readlink("link", dir_fd=descriptor)
    inodes = {os.stat(name, dir_fd=descriptor).st_ino for name in ("leaf", "twin")}
    os.close(descriptor)
    return depth, text, link, len(inodes) == 1


def test_a_file_beyond_8_gib_costs_what_it_holds_and_its_holes_are_holes_again(
    backups: Backups, tmp_path: Path
) -> None:
    backups.source.mkdir()
    huge = backups.source / "huge"
    with huge.open("wb") as file:
        file.seek(5 * 2**30)
        file.write(b"in the middle of nowhere")
        file.truncate(8 * 2**30 + 5)
    os.utime(huge, ns=(1, 1))
    record = backups.backup()
    assert record.raw_bytes == 8 * 2**30 + 5
    assert record.archive_bytes < 20_000
    report = restore(backups, tmp_path / "target")
    twin = backups.in_target(tmp_path / "target") / "huge"
    assert report.fetched_bytes < 20_000
    assert (twin.stat().st_size, twin.stat().st_mtime_ns) == (8 * 2**30 + 5, 1)
    assert twin.stat().st_blocks * 512 <= 8192
    with twin.open("rb") as file:
        file.seek(5 * 2**30)
        assert file.read(24) == b"in the middle of nowhere"


def test_a_file_with_more_holes_than_can_be_hashed_is_told_of_and_keeps_nobody_waiting(
    backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_segments, "HOLES_LIMIT", MIB)
    backups.source.mkdir()
    for name, size in (("enough", MIB), ("too many", MIB + 4096)):
        with (backups.source / name).open("wb") as file:
            file.truncate(size + 4096)
            file.seek(size)
            file.write(bytes(4096))
    record = backups.backup()
    [problem] = record.problems
    assert problem.path.endswith("/too many")
    assert problem.reason == f"{TOO_MANY_HOLES}; exclude it"
    assert record.files == 1


def test_holes_are_neither_stored_nor_filled(backups: Backups, tmp_path: Path) -> None:
    backups.source.mkdir()
    make_sparse(backups.source / "sparse")
    record = backups.backup()
    data = sum(file.stat().st_blocks * 512 for file in (backups.source / "sparse").iterdir())
    assert record.archive_bytes < data + 30_000
    restore(backups, tmp_path / "target")
    twin = backups.in_target(tmp_path / "target") / "sparse"
    for file in (backups.source / "sparse").iterdir():
        assert (twin / file.name).stat().st_blocks <= file.stat().st_blocks, file.name
    told = [run("du", "-sk", folder).split()[0] for folder in (backups.source / "sparse", twin)]
    assert int(told[1]) <= int(told[0])


def test_only_one_of_several_links_may_lie_inside_the_sources(
    backups: Backups, tmp_path: Path
) -> None:
    backups.source.mkdir()
    (tmp_path / "outside").write_text("shared with the outside")
    os.link(tmp_path / "outside", backups.source / "inside")
    assert backups.backup().problems == []
    restore(backups, tmp_path / "target")
    twin = backups.in_target(tmp_path / "target") / "inside"
    assert (twin.read_text(), twin.stat().st_nlink) == ("shared with the outside", 1)


@pytest.mark.parametrize("kept", ["a first", "b second", "c third"])
def test_one_of_several_links_can_be_restored_alone(
    backups: Backups, tmp_path: Path, kept: str
) -> None:
    backups.source.mkdir()
    (backups.source / "a first").write_text("one file, three names")
    for name in ("b second", "c third"):
        os.link(backups.source / "a first", backups.source / name)
    backups.backup()
    report = restore(backups, tmp_path / "target", f"{str(backups.source).lstrip('/')}/{kept}")
    twin = backups.in_target(tmp_path / "target")
    assert os.listdir(twin) == [kept]
    assert (twin / kept).read_text() == "one file, three names"
    assert (twin / kept).stat().st_mtime_ns == (backups.source / kept).stat().st_mtime_ns
    assert report.extracted.problems == []


def test_links_whose_first_is_not_wanted_still_share_one_file(
    backups: Backups, tmp_path: Path
) -> None:
    backups.source.mkdir()
    (backups.source / "a first").write_text("one file, three names")
    for name in ("b second", "c third"):
        os.link(backups.source / "a first", backups.source / name)
    backups.backup()
    restore(backups, tmp_path / "target", "b second", "c third")
    twin = backups.in_target(tmp_path / "target")
    assert (twin / "b second").stat().st_nlink == 2
    assert (twin / "c third").samefile(twin / "b second")


def test_sockets_are_counted_but_not_stored(backups: Backups, tmp_path: Path) -> None:
    backups.source.mkdir()
    (backups.source / "file").write_text("x")
    make_socket(backups.source / "socket")
    record = backups.backup()
    assert record.problems == []
    restore(backups, tmp_path / "target")
    assert os.listdir(backups.in_target(tmp_path / "target")) == ["file"]


def test_the_manifest_says_of_each_entry_what_stat_says(backups: Backups) -> None:
    make_whole_tree(backups.source)
    backups.backup()
    store = backups.open_store()
    manifest = read_manifest(store, find_backups(store, UTC)[-1].stored)
    assert manifest is not None
    count = 0
    for entry in manifest.entries():
        found = os.lstat(b"/" + os.fsencode(entry.name))
        said = (entry.mode, entry.uid, entry.gid, entry.inode, entry.device)
        assert said == (
            stat.S_IMODE(found.st_mode),
            found.st_uid,
            found.st_gid,
            found.st_ino,
            found.st_dev,
        )
        if entry.name.startswith(str(backups.source).lstrip("/")):
            assert entry.mtime_ns == found.st_mtime_ns
            assert entry.ctime_ns == found.st_ctime_ns
            count += 1
    assert count > 200


def test_a_default_acl_of_the_target_does_not_stick_to_what_is_restored(
    backups: Backups, tmp_path: Path
) -> None:
    backups.source.mkdir()
    (backups.source / "folder").mkdir()
    (backups.source / "folder" / "file").write_text("x")
    os.mkfifo(backups.source / "fifo")
    backups.backup()
    (tmp_path / "target").mkdir()
    run("setfacl", "-m", "d:u:1:rwx,d:g:1:rwx,d:o::rwx", tmp_path / "target")
    restore(backups, tmp_path / "target")
    assert_same_tree(backups.source, backups.in_target(tmp_path / "target"))


@pytest.mark.parametrize("forge", [forge_ours, forge_plain], ids=["ours", "plain"])
@pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o777])
def test_modes_are_those_of_the_archive_whatever_the_umask(
    tmp_path: Path, mask: int, forge: Forge
) -> None:
    modes = [0o644, 0o600, 0o777, 0o000, 0o1644, 0o6755]
    items = [Item(f"folder/{mode:o}", mode=mode) for mode in modes]
    old = os.umask(mask)
    try:
        restore_forged(tmp_path / "store", forge(items), tmp_path / "target", trusted=True)
    finally:
        os.umask(old)
    for mode in modes:
        found = (tmp_path / "target" / "folder" / f"{mode:o}").stat().st_mode
        assert f"{stat.S_IMODE(found):o}" == f"{mode:o}"


@pytest.mark.parametrize("forge", [forge_ours, forge_plain], ids=["ours", "plain"])
@pytest.mark.skipif(not IS_ROOT, reason="only root gives files away")
def test_owners_are_those_of_the_archive_also_below_a_setgid_folder(
    tmp_path: Path, forge: Forge
) -> None:
    """There a new file gets the folder's group."""
    (tmp_path / "target").mkdir()
    os.chown(tmp_path / "target", -1, 1234)
    (tmp_path / "target").chmod(0o2755)
    owners = [(0, 0), (0, 1234), (1234, 0), (1, 2)]
    items = [Item(f"folder/{uid}-{gid}", uid=uid, gid=gid) for uid, gid in owners]
    restore_forged(tmp_path / "store", forge(items), tmp_path / "target")
    for uid, gid in owners:
        found = (tmp_path / "target" / "folder" / f"{uid}-{gid}").stat()
        assert (found.st_uid, found.st_gid) == (uid, gid)


@pytest.mark.skipif(not IS_ROOT, reason="only root gives files away")
def test_what_is_put_in_the_place_of_a_new_folder_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder = os.mkdir

    def make_and_swap(name: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        make_folder(name, mode, dir_fd=dir_fd)
        if name == "folder":
            os.chown(name, 1234, 1234, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", make_and_swap)
    item = Item("folder/file", uid=1234, gid=1234)
    restore_forged(tmp_path / "store", forge_ours([item]), tmp_path / "target")
    found = (tmp_path / "target" / "folder" / "file").stat()
    assert (found.st_uid, found.st_gid) == (1234, 1234)


def test_attributes_that_do_not_fit_are_said_and_the_file_is_kept(tmp_path: Path) -> None:
    """ext4 has one block for the attributes of a file; others take up to 64 KiB each."""
    item = Item("file", xattrs={f"user.{n}": bytes(60_000) for n in range(3)})
    for number, forge in enumerate((forge_ours, forge_plain)):
        target = tmp_path / f"target {number}"
        report = restore_forged(tmp_path / "store", forge([item, Item("other")]), target)
        assert sorted(os.listdir(target)) == ["file", "other"]
        kept = len(os.listxattr(target / "file"))
        assert kept == 3 or any("no room" in note for note in report.extracted.notes)


# As an ordinary user. The fixtures that follow make what such a user may see.


@dataclass
class UserScene:
    """A place that belongs to an ordinary user, with a source in it."""

    here: Path
    backups: Backups

    def back_up_and_restore(self) -> tuple[list[Any], RestoreReport]:
        problems = self.backups.backup().problems
        return problems, self.restore()

    def restore(self) -> RestoreReport:
        return restore(self.backups, self.here / "target")


@pytest.fixture
def user_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UserScene]:
    # Folders of pytest are closed to others.
    run_folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    run_folder.chmod(0o755)
    here = run_folder / "here"
    here.mkdir()
    (here / "store").mkdir()
    yield UserScene(here, Backups(here / "source", here / "store", paths_in(here)))
    run("find", run_folder, "-depth", "-delete")


def give_away(folder: Path) -> None:
    """Everything in the folder to the ordinary user, if that is somebody else."""
    if IS_ROOT:
        run("chown", "-R", "-h", f"{NOBODY}:{NOBODY}", folder)


def make_own_tree(source: Path) -> None:
    """What needs no root."""
    source.mkdir()
    make_links(source / "links")
    (source / "modes").mkdir()
    for mode in (0o400, 0o644, 0o4755, 0o2711, 0o1600):
        (source / "modes" / f"{mode:o}").write_text("x")
        (source / "modes" / f"{mode:o}").chmod(mode)
    (source / "modes" / "folder").mkdir(0o500)
    os.setxattr(source / "modes" / "644", "user.note", b"mine")
    run("setfacl", "-m", "u:1:r", source / "modes" / "644")


def test_as_an_ordinary_user_ones_own_tree_comes_back_as_it_was(user_scene: UserScene) -> None:
    source = user_scene.backups.source
    give_away(user_scene.here)

    as_nobody(make_own_tree, source)
    problems, report = as_nobody(UserScene.back_up_and_restore, user_scene)
    assert problems == []
    assert report.extracted.problems == []
    # The folders above the source are root's.
    assert all("owners" in note for note in report.extracted.notes)
    twin = user_scene.backups.in_target(user_scene.here / "target")
    assert_same_tree(source, twin)


@pytest.mark.skipif(not IS_ROOT, reason="only root can make what belongs to others")
def test_as_an_ordinary_user_all_is_set_that_may_be_and_the_rest_is_said_once(
    user_scene: UserScene,
) -> None:
    source = user_scene.backups.source
    source.mkdir()
    make_modes(source / "modes")
    (source / "capable").write_text("x")
    run("setcap", "cap_chown+ep", source / "capable")
    os.mknod(source / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    user_scene.backups.backup()
    before = attributes_of(source)["stat"]
    run("chmod", "-R", "a+rX", user_scene.backups.store_folder)
    for name in ("profiles", "logs", "state"):
        give_away(user_scene.here / name)
    (user_scene.here / "target").mkdir()
    give_away(user_scene.here / "target")

    report = as_nobody(UserScene.restore, user_scene)
    twin = user_scene.backups.in_target(user_scene.here / "target")
    device = str(source / "device").lstrip("/")
    assert report.extracted.problems == [(device, "Operation not permitted")]
    notes = " ".join(report.extracted.notes)
    assert len(report.extracted.notes) == 3
    assert "owners could not all be set" in notes
    assert "setuid and setgid bits were left out where the owner" in notes
    assert "extended attributes could not all be set" in notes
    assert before == attributes_of(source)["stat"]
    # What rsync would change: owners, groups, the modes of setuid files; but no time, no content.
    for line in rsync_differences(source, twin):
        change, _, name = line.partition(" ")
        assert change[0] in ".cS" or name == "device", line
        assert set(change[2:]) <= set(".pogax") or "device" in name, line


def restore_forged_trusted(store_folder: Path, archive: bytes, target: Path) -> None:
    restore_forged(store_folder, archive, target, trusted=True)


@pytest.mark.skipif(not IS_ROOT, reason="only root can make what belongs to others")
def test_a_setuid_bit_is_not_set_on_a_file_that_could_not_be_given_to_its_owner(
    user_scene: UserScene,
) -> None:
    """It would make anybody who runs it the user who restored."""
    archive = forge_ours(
        [Item("of root", mode=0o6755, uid=0), Item("own", mode=0o6755, uid=NOBODY)]
    )
    give_away(user_scene.here)
    target = user_scene.here / "target"

    as_nobody(restore_forged_trusted, user_scene.here / "store", archive, target)
    assert stat.S_IMODE((target / "of root").stat().st_mode) == 0o755
    assert (target / "of root").stat().st_uid == NOBODY
    # Its group is root's, so that only one of its two bits may stay.
    assert stat.S_IMODE((target / "own").stat().st_mode) == 0o4755


@pytest.mark.skipif(not IS_ROOT, reason="root may read everything")
def test_as_an_ordinary_user_what_cannot_be_read_is_named_and_costs_only_itself(
    user_scene: UserScene,
) -> None:
    source = user_scene.backups.source
    source.mkdir()
    (source / "readable").write_text("x")
    (source / "secret").write_text("x")
    (source / "closed").mkdir()
    (source / "closed" / "file").write_text("x")
    give_away(user_scene.here)
    for name in ("secret", "closed"):
        os.chown(source / name, 0, 0)
        (source / name).chmod(0o700)
    problems, _ = as_nobody(UserScene.back_up_and_restore, user_scene)
    named = {problem.path.rpartition("/")[2]: problem.reason for problem in problems}
    assert named == {"secret": "Permission denied", "closed": "Permission denied"}
    twin = user_scene.backups.in_target(user_scene.here / "target")
    assert sorted(os.listdir(twin)) == ["closed", "readable"]
