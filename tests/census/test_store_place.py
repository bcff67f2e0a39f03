"""A store whose disk is not mounted: never taken for an empty one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup_tasks.filesystem.mountinfo import parse_mounts
from backup_tasks.filesystem.standing import (
    Standing,
    find_standing,
    is_at_or_below,
    mount_points_of,
    own_mount,
)
from tests.support.cli import Cli, Done, assert_refused, cli
from tests.support.mount_box import MountBox, open_mount_box

__all__ = ["cli"]

BACKUP = ("backup", "--profile", "test")


@pytest.fixture
def box() -> Iterator[MountBox]:
    with open_mount_box() as opened:
        yield opened


@pytest.fixture
def disk(cli: Cli, box: MountBox) -> Path:
    """What is mounted on the store's folder, or on the one above it: another file system."""
    folder = cli.here / "disk"
    folder.mkdir()
    box.run("mount", "-t", "tmpfs", "-o", "mode=0700", "nas", folder)
    return folder


def note_of(cli: Cli) -> list[Path]:
    """The note that the store's folder, or what lies below it, is a mount point."""
    notes = (cli.state / "mounts").glob("*.json")
    return [note for note in notes if f'"{cli.store}' in note.read_text()]


def assert_done(done: Done) -> None:
    assert (done.code, done.err) == (0, ""), done


@pytest.mark.parametrize("below", ["", "web1"], ids=["the mount point itself", "a folder below"])
def test_an_unmounted_disk_is_an_error_for_every_command_and_nothing_is_made_on_the_other(
    cli: Cli, box: MountBox, disk: Path, below: str
) -> None:
    store = cli.store / below
    box.run("mkdir", "-p", disk / below)
    store.mkdir(exist_ok=True)  # on the root's disk, as a wrong run once made it
    cli.write_profile(f'url = "file://{store}/"', more="[retention]\nkeep_last = 1\n")
    box.run("mount", "--bind", disk, cli.store)
    assert_done(box.invoke(cli, *BACKUP))
    box.run("umount", cli.store)
    named = f"nothing is mounted on {cli.store} now"
    for task in ("backup", "list", "files", "restore", "verify", "drill", "prune"):
        told = assert_refused(cli, box.invoke(cli, task, "--profile", "test"), 1, named, "mount it")
        assert "(nas, tmpfs)" in told
    assert box.invoke(cli, *BACKUP, "--dry-run").code == 1
    assert list(store.iterdir()) == []
    box.run("mount", "--bind", disk, cli.store)
    assert_done(box.invoke(cli, *BACKUP))


def back_up_on(disk: Path, cli: Cli, box: MountBox) -> None:
    """A backup to the store while the disk is mounted there."""
    cli.write_profile()
    box.run("mount", "--bind", disk, cli.store)
    assert_done(box.invoke(cli, *BACKUP))


def test_a_folder_that_vanished_with_its_mount_is_an_error(
    cli: Cli, box: MountBox, disk: Path
) -> None:
    box.run("mkdir", disk / "web1")
    cli.write_profile(f'url = "file://{cli.store}/web1/"')
    box.run("mount", "--bind", disk, cli.store)
    assert_done(box.invoke(cli, *BACKUP))
    box.run("umount", cli.store)
    assert_refused(cli, box.invoke(cli, *BACKUP), 1, f"nothing is mounted on {cli.store} now")
    assert list(cli.store.iterdir()) == []


def test_a_disk_that_is_mounted_below_its_place_is_missed_too(
    cli: Cli, box: MountBox, disk: Path
) -> None:
    """The folder above is a mount still, but no longer the one that holds the backups."""
    box.run("mkdir", disk / "web1")
    box.run("mount", "--bind", disk, cli.store)
    (cli.here / "more").mkdir()
    box.run("mount", "-t", "tmpfs", "more", cli.here / "more")
    box.run("mount", "--bind", cli.here / "more", cli.store / "web1")
    cli.write_profile(f'url = "file://{cli.store}/web1/"')
    assert_done(box.invoke(cli, *BACKUP))
    box.run("umount", cli.store / "web1")
    assert_refused(cli, box.invoke(cli, *BACKUP), 1, f"nothing is mounted on {cli.store}/web1 now")


def test_the_command_of_the_error_lets_the_store_lie_on_the_other_disk(
    cli: Cli, box: MountBox, disk: Path
) -> None:
    back_up_on(disk, cli, box)
    box.run("umount", cli.store)
    told = box.invoke(cli, *BACKUP).err
    subprocess.run(["/bin/sh", "-c", told.partition("run: ")[2]], check=True)
    done = box.invoke(cli, *BACKUP)
    assert done.code == 0
    assert len(cli.archives()) == 1
    assert note_of(cli) == []


def test_a_store_that_was_moved_with_its_backups_goes_on_without_help(
    cli: Cli, box: MountBox, disk: Path
) -> None:
    back_up_on(disk, cli, box)
    box.run("umount", cli.store)
    box.run("cp", "-a", f"{disk}/.", cli.store)
    assert_done(box.invoke(cli, "list", "--profile", "test"))
    assert_done(box.invoke(cli, *BACKUP))
    assert note_of(cli) == []
    assert len(cli.archives()) == 2


def test_a_renamed_profile_knows_the_place_of_its_store(
    cli: Cli, box: MountBox, disk: Path
) -> None:
    back_up_on(disk, cli, box)
    box.run("umount", cli.store)
    cli.write_profile(name="renamed")
    done = box.invoke(cli, "backup", "--profile", "renamed")
    assert_refused(cli, done, 1, "nothing is mounted")


def test_a_mount_that_shows_what_is_there_anyway_is_not_missed(cli: Cli, box: MountBox) -> None:
    """As systemd makes for ReadWritePaths=, in the namespace of the service alone."""
    cli.write_profile()
    box.run("mount", "--bind", cli.store, cli.store)
    assert_done(box.invoke(cli, *BACKUP))
    assert note_of(cli) == []


def test_where_the_state_was_lost_fstab_tells_that_the_disk_is_not_mounted(
    cli: Cli, box: MountBox, disk: Path
) -> None:
    back_up_on(disk, cli, box)
    box.run("umount", cli.store)
    shutil.rmtree(cli.state)
    fstab = cli.here / "fstab"
    fstab.write_text(f"# disks\nUUID=1 / ext4 defaults 0 1\nnas:/b {cli.store} nfs4 noauto 0 0\n")
    box.run("mount", "--bind", fstab, "/etc/fstab")
    told = assert_refused(cli, box.invoke(cli, *BACKUP), 1, "which /etc/fstab names", "run: mount ")
    assert f"nothing is mounted on {cli.store}," in told
    assert list(cli.store.iterdir()) == []
    box.run("mount", "--bind", disk, cli.store)
    assert_done(box.invoke(cli, *BACKUP, "--take-over"))


def test_an_fstab_that_is_out_of_date_stops_no_store_that_has_backups(
    cli: Cli, box: MountBox
) -> None:
    """As of a machine that was moved onto one disk."""
    cli.write_profile()
    cli.back_up()
    fstab = cli.here / "fstab"
    fstab.write_text(f"UUID=2 {cli.here} ext4 defaults 0 2\n")
    box.run("mount", "--bind", fstab, "/etc/fstab")
    shutil.rmtree(cli.state)
    assert_done(box.invoke(cli, *BACKUP, "--take-over"))


def test_a_broken_note_stops_nothing(cli: Cli, box: MountBox, disk: Path) -> None:
    back_up_on(disk, cli, box)
    [note] = note_of(cli)
    for content in (b"", b"[]", b'{"mount_point": 7, "kind": "", "source": ""}', b"{}", b"\xff"):
        note.write_bytes(content)
        assert_done(box.invoke(cli, "list", "--profile", "test"))
    assert_done(box.invoke(cli, *BACKUP))
    assert note_of(cli) == [note]


# What the kernel tells

MOUNTINFO = rb"""
20 1 254:0 / / rw - ext4 /dev/vda rw
21 20 0:40 / /mnt/nas rw shared:7 - nfs4 nas:/export rw
22 20 0:41 / /mnt/auto rw - autofs systemd-1 rw
23 22 0:42 / /mnt/auto rw master:3 - cifs //nas/share rw
24 20 0:43 / /mnt/waits rw - autofs systemd-1 rw
25 20 254:0 /srv/box /srv/box rw - ext4 /dev/vda rw
26 21 0:40 /web1 /mnt/nas/web1 rw - nfs4 nas:/export rw
27 20 254:0 /data /srv/bound rw - ext4 /dev/vda rw
28 20 0:44 /@backups /srv/sub\040volume rw - btrfs /dev/vdb rw
29 99 0:45 / /orphan rw - tmpfs tmpfs rw
not a line
"""
MOUNTS = {mount.number: mount for mount in parse_mounts(MOUNTINFO)}


@pytest.mark.parametrize(
    ("number", "folder", "point"),
    [
        (20, "/srv/backups", ""),
        (21, "/mnt/nas", "/mnt/nas"),
        (21, "/mnt/nas/web1", "/mnt/nas"),
        (23, "/mnt/auto/web1", "/mnt/auto"),
        (24, "/mnt/waits", ""),
        (25, "/srv/box/deep", ""),
        (26, "/mnt/nas/web1/deep", "/mnt/nas"),
        (27, "/srv/bound", "/srv/bound"),
        (28, "/srv/sub volume/x", "/srv/sub volume"),
        (29, "/orphan/x", "/orphan"),
        (77, "/elsewhere", ""),
    ],
)
def test_the_mount_that_decides_what_is_in_a_folder(number: int, folder: str, point: str) -> None:
    mount = own_mount(MOUNTS, number, folder)
    assert (mount.point if mount else "") == point


def test_a_line_of_mountinfo_is_read_with_its_escapes() -> None:
    assert len(MOUNTS) == 10
    found = MOUNTS[28]
    assert (found.number, found.parent, found.device) == (28, 20, os.makedev(0, 44))
    assert (found.root, found.point) == ("/@backups", "/srv/sub volume")
    assert (found.kind, found.source) == ("btrfs", "/dev/vdb")
    assert MOUNTS[21].source == "nas:/export"


def test_the_mount_points_of_fstab_are_read() -> None:
    text = (
        b"# /dev/x /comment ext4\n\nUUID=1 / ext4 defaults 0 1\n"
        b"nas:/b  /mnt/my\\040nas/ nfs4 noauto 0 0\n/swap none swap sw 0 0\n/dev/y /short\n"
        b"x /srv//web ext4\n"
    )
    assert list(mount_points_of(text)) == ["/mnt/my nas", "/srv/web"]


def test_the_deepest_folder_that_holds_another_is_found() -> None:
    points = ["/mnt", "/mnt/nas", "/mnt/nas2"]
    assert is_at_or_below("/mnt/nas/web1", points) == "/mnt/nas"
    assert is_at_or_below("/mnt/nas", points) == "/mnt/nas"
    assert is_at_or_below("/mnt/na", points) == "/mnt"
    assert is_at_or_below("/srv", points) == ""


def test_a_folder_that_is_not_there_lies_where_it_would_be_made(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    standing = find_standing(link / "a" / "b")
    assert standing.folder == Path(os.path.realpath(tmp_path))
    assert standing.has_mount_on("/")
    assert not Standing(tmp_path, None).is_on("/")
