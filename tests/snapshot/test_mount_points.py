"""Promises about mounts: a disk or share that is not mounted any more is noticed, and no other."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_tasks.common.paths import PROJECT_ROOT
from backup_tasks.filesystem.mountinfo import Mounts, parse_mounts
from backup_tasks.snapshot.mount_points import (
    at_or_below,
    automounts,
    data_mounts,
    mount_path,
    mount_text,
)
from tests.support.cli import Cli, cli

__all__ = ["cli"]

MOUNTINFO = rb"""21 98 0:19 / /sys rw,nosuid shared:2 - sysfs sysfs rw
22 98 0:20 / /proc rw shared:3 - proc proc rw
98 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
99 98 0:30 / / rw,relatime - overlay overlay rw
100 98 8:2 / /srv/a\040b rw shared:4 - xfs /dev/mapper/vg-srv rw
101 98 0:41 / /mnt/nas rw shared:5 - nfs4 nas:/export rw,vers=4.2
102 98 0:42 / /run rw - tmpfs tmpfs rw
103 98 7:1 / /snap/core/1 ro - squashfs /dev/loop1 ro
104 98 0:43 / /home/anna/remote rw - fuse.sshfs anna@far:/ rw,user_id=1000,group_id=1000
105 98 0:44 / /srv/far rw - fuse.sshfs far:/ rw,user_id=0,group_id=0
106 98 0:45 / /auto rw - autofs systemd-1 rw,fd=30
107 98 0:46 / /mnt/tank rw - zfs tank/data rw
108 98 8:3 / /covered rw - ext4 /dev/sda3 rw
109 108 0:47 / /covered rw - tmpfs tmpfs rw
110 98 0:48 / /lxcfs rw - fuse.lxcfs lxcfs rw,user_id=0
111 98 8:4 / /usb\134x rw
torn
"""


def test_mounts_with_data_of_their_own_are_told_from_others() -> None:
    assert data_mounts(parse_mounts(MOUNTINFO)) == {"srv/a b", "mnt/nas", "srv/far", "mnt/tank"}
    assert automounts(parse_mounts(MOUNTINFO)) == {"auto"}


@given(text=st.binary(max_size=300))
def test_any_bytes_in_place_of_it_raise_nothing(text: bytes) -> None:
    data_mounts(parse_mounts(text))
    automounts(parse_mounts(text))


@given(
    name=st.binary(min_size=1, max_size=40).filter(
        lambda raw: b"\0" not in raw and not raw.startswith(b"/") and not raw.endswith(b"/")
    )
)
def test_every_path_comes_back_from_its_text(name: bytes) -> None:
    path = os.fsdecode(name)
    text = mount_text(path)
    assert json.loads(json.dumps(text)) == text
    assert text.isprintable() or any(character > "~" for character in text)
    assert " " not in text
    assert mount_path(text) == path


def test_what_lies_at_or_below_a_source() -> None:
    paths = {"", "srv", "srv/disk", "srv-old", "home"}
    assert at_or_below(paths, ["srv"]) == {"srv", "srv/disk"}
    assert at_or_below(paths, [""]) == paths
    assert at_or_below(paths, []) == set()


def test_this_machine_tells_its_mounts() -> None:
    assert "proc" in {mount.path for mount in Mounts().all}


def run_alone(cli: Cli, script: str) -> None:
    """Run a script in a mount namespace of its own; `BACKUP` in it makes a backup."""
    backup = shlex.join(cli.command("backup", "--profile", "test"))
    text = f'set -eu; cd {shlex.quote(str(cli.here))}; BACKUP() {{ {backup} "$@" || true; }}\n'
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", text + script],
        env=cli.environ | {"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done


def reasons(cli: Cli) -> list[list[str]]:
    """Of each run that was recorded, why nothing was deleted."""
    return [record["unpruned"] for record in cli.records()]


IS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts disks")
DISK = "truncate -s 8M disk.img; mkfs.ext4 -q disk.img; mkdir -p source/disk\n"
RETENTION = "[retention]\nkeep_last = 1\n"


def fill(folder: Path, files: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        (folder / f"file{number}").write_text("x" * 100)


@IS_ROOT
def test_a_disk_below_a_source_that_is_not_mounted_any_more_holds(cli: Cli) -> None:
    # The disk is a small part of the source: its loss is told by the mount alone.
    fill(cli.source / "much", 60)
    cli.write_profile(more=RETENTION)
    run_alone(
        cli,
        DISK + "mount -o loop disk.img source/disk; echo data > source/disk/data; BACKUP\n"
        "umount source/disk; BACKUP; BACKUP\n"
        "mount -o loop disk.img source/disk; BACKUP\n",
    )
    good, lost, still, whole = reasons(cli)
    assert (good, whole) == ([], [])
    disk = cli.source / "disk"
    for [told] in (lost, still):
        assert f"{disk} is not mounted any more" in told
        assert "shrank" not in told
    # While it stood the backup that has the disk was there; then it was pruned.
    assert [record["pruned"] for record in cli.records()[:3]] == [[], [], []]
    assert len(cli.records()[3]["pruned"]) == 3


@IS_ROOT
def test_a_source_that_is_a_mount_point_and_loses_its_share_holds(cli: Cli) -> None:
    # FUSE stands for a network share; as its folder is empty, the source shrinks as well.
    fill(cli.here / "share", 20)
    cli.write_profile(sources=[cli.source, cli.here / "mnt"], more=RETENTION)
    run_alone(
        cli,
        "mkdir mnt; bindfs share mnt; BACKUP; umount mnt; BACKUP; bindfs share mnt; BACKUP\n"
        "umount mnt\n",
    )
    good, [told], whole = reasons(cli)
    assert (good, whole) == ([], [])
    assert f"{cli.here}/mnt is not mounted any more; {cli.here}/mnt shrank from 21" in told


@IS_ROOT
def test_what_the_walk_did_not_enter_may_be_unmounted(cli: Cli) -> None:
    fill(cli.source / "much", 60)
    cli.write_profile(more=RETENTION, backup='exclude = ["tmp/"]\none_file_system = true')
    run_alone(
        cli,
        DISK + "mkdir source/tmp; mount -o loop disk.img source/disk; mount -t tmpfs x source/tmp\n"
        "BACKUP; umount source/disk source/tmp; BACKUP\n",
    )
    assert reasons(cli) == [[], []]


@IS_ROOT
def test_a_mount_whose_folder_was_removed_too_is_gone_on_purpose(cli: Cli) -> None:
    fill(cli.source / "much", 60)
    cli.write_profile(more=RETENTION)
    run_alone(
        cli,
        DISK + "mount -o loop disk.img source/disk; BACKUP\n"
        "umount source/disk; rmdir source/disk; BACKUP\n",
    )
    assert reasons(cli) == [[], []]


@IS_ROOT
def test_a_share_that_failed_one_night_and_is_not_mounted_the_next_holds(cli: Cli) -> None:
    fill(cli.source / "much", 60)
    fill(cli.here / "share", 20)
    cli.write_profile(more=RETENTION)
    run_alone(
        cli,
        "mkdir source/disk; bindfs -f share source/disk & server=$!\n"
        "until mountpoint -q source/disk; do sleep 0.05; done; BACKUP\n"
        "kill -9 $server; wait $server || true; BACKUP; umount source/disk; BACKUP\n",
    )
    good, failed, [told] = reasons(cli)
    assert (good, failed) == ([], [])
    assert [record["exit_code"] for record in cli.records()] == [0, 3, 3]
    assert f"{cli.source}/disk is not mounted any more" in told


@IS_ROOT
@pytest.mark.parametrize("source", [".", "disk/www"])
def test_a_disk_that_is_meant_to_be_gone_is_missed_no_more(cli: Cli, source: str) -> None:
    fill(cli.source / "disk" / "www", 60)
    cli.write_profile(sources=[(cli.source / source).resolve()], more=RETENTION)
    run_alone(
        cli,
        DISK + "mount -o loop disk.img source/disk; mkdir source/disk/www; BACKUP\n"
        "umount source/disk; BACKUP; BACKUP --accept-shrink; BACKUP\n",
    )
    good, [told], accepted, later = reasons(cli)
    assert (good, accepted, later) == ([], [], [])
    assert f"{cli.source}/disk is not mounted any more" in told


@IS_ROOT
def test_whoever_removes_the_folder_of_a_missing_disk_ends_no_hold(cli: Cli) -> None:
    # Its owner may do that, but nobody else's data is meant to be gone by it.
    fill(cli.source / "much", 60)
    cli.write_profile(more=RETENTION)
    run_alone(
        cli,
        DISK + "mount -o loop disk.img source/disk; BACKUP; umount source/disk; BACKUP\n"
        "rmdir source/disk; BACKUP\n"
        "mkdir source/disk; mount -o loop disk.img source/disk; BACKUP\n",
    )
    good, lost, still, whole = reasons(cli)
    assert (good, whole) == ([], [])
    for [told] in (lost, still):
        assert f"{cli.source}/disk is not mounted any more" in told


@IS_ROOT
def test_a_disk_that_is_missing_is_noticed_without_the_state_directory(cli: Cli) -> None:
    fill(cli.source / "much", 60)
    cli.write_profile(more=RETENTION)
    run_alone(cli, DISK + "mount -o loop disk.img source/disk; touch source/disk/data; BACKUP")
    for place in cli.state.iterdir():
        if place.is_dir():
            shutil.rmtree(place)
    cli.run("backup", "--profile", "test")
    [told] = cli.records()[-1]["unpruned"]
    assert f"{cli.source}/disk is not mounted any more" in told


@IS_ROOT
@pytest.mark.parametrize("there", ["stale", ""])
def test_a_disk_above_a_source_that_is_not_mounted_any_more_holds(cli: Cli, there: str) -> None:
    # What was copied to the disk once may still lie where it is mounted, and looks whole.
    fill(cli.source / "disk" / "www", 60)
    cli.write_profile(sources=[cli.source / "disk" / "www"], more=RETENTION)
    stale = "" if there else "rm -r source/disk/www; mkdir source/disk/www\n"
    run_alone(
        cli,
        DISK + "mount -o loop disk.img source/disk; mkdir source/disk/www\n"
        "for one in $(seq 60); do echo $one > source/disk/www/$one; done; BACKUP\n"
        f"umount source/disk; {stale} BACKUP; BACKUP; mount -o loop disk.img source/disk; BACKUP\n",
    )
    good, lost, still, whole = reasons(cli)
    assert (good, whole) == ([], [])
    for [told] in (lost, still):
        assert f"{cli.source}/disk is not mounted any more" in told


# A backup that does what it is told when it looks into source/z; it went by what sorts before that.
MEANWHILE = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from invoke.main import program
from backup_tasks.snapshot.walk import Walk
real = Walk._open_level
def meanwhile(walk, descriptor, path, *rest, **named):
    if path.endswith("source/z"):
        subprocess.run(sys.argv[2], shell=True, check=True)
    return real(walk, descriptor, path, *rest, **named)
Walk._open_level = meanwhile
program.run(["invoke", "-r", sys.argv[1], "backup", "--profile", "test"])
"""


def backup_meanwhile(command: str) -> str:
    """The line of a script that makes a backup, and runs a command when most was looked at."""
    line = shlex.join([sys.executable, "-c", MEANWHILE, str(PROJECT_ROOT), command])
    return f"{line} || true\n"


@IS_ROOT
def test_a_disk_that_is_mounted_when_the_walk_has_gone_by_was_not_there(cli: Cli) -> None:
    fill(cli.source / "much", 60)
    fill(cli.source / "z", 1)
    cli.write_profile(more=RETENTION)
    run_alone(
        cli,
        DISK + "mount -o loop disk.img source/disk; echo data > source/disk/data; BACKUP\n"
        "umount source/disk\n"
        + backup_meanwhile("mount -o loop disk.img source/disk")
        + "BACKUP\n",
    )
    good, [told], whole = reasons(cli)
    assert (good, whole) == ([], [])
    assert f"{cli.source}/disk is not mounted any more" in told


@IS_ROOT
def test_a_disk_that_the_walk_saw_may_go_while_it_looks_elsewhere(cli: Cli) -> None:
    # autofs does so, with what nobody has looked at for a while.
    fill(cli.source / "much", 60)
    fill(cli.source / "z", 1)
    cli.write_profile(more=RETENTION)
    run_alone(
        cli,
        DISK
        + "mount -o loop disk.img source/disk; BACKUP\n"
        + backup_meanwhile("umount source/disk"),
    )
    assert reasons(cli) == [[], []]


@IS_ROOT
def test_a_mount_that_changes_nothing_may_come_and_go(cli: Cli) -> None:
    # systemd makes one for a service with ReadOnlyPaths=; other mounts without data cover a source.
    fill(cli.source / "disk" / "www", 60)
    cli.write_profile(sources=[cli.source / "disk" / "www"], more=RETENTION)
    run_alone(
        cli,
        DISK + "mount -o loop disk.img source/disk; mkdir source/disk/www; echo data > data\n"
        "cp data source/disk/www; mount --bind source/disk/www source/disk/www; BACKUP\n"
        "umount source/disk/www; BACKUP; mount -t tmpfs x source/disk/www\n"
        "cp data source/disk/www; BACKUP\n",
    )
    assert reasons(cli) == [[], [], []]


# /mnt is a folder that a user reaches, and that is theirs; /dev/fuse and fusermount are for all.
USERS_FOLDER = (
    "chown 65534:65534 home; mount --bind home /mnt; mknod -m 666 fuse c 10 229\n"
    "mount --bind fuse /dev/fuse; echo user_allow_other > conf\n"
    "mount --bind conf /etc/fuse.conf\n"
)
AS_USER = "setpriv --reuid 65534 --regid 65534 --clear-groups"


@IS_ROOT
def test_a_source_that_a_user_hides_from_root_holds(cli: Cli) -> None:
    # FUSE without allow_other refuses even root. Nobody can say what is in it now.
    fill(cli.source / "much", 20)
    fill(cli.here / "home", 20)
    cli.write_profile(sources=[cli.source, "/mnt"], more=RETENTION)
    run_alone(
        cli,
        f"{USERS_FOLDER} BACKUP; cd /mnt; {AS_USER} bindfs . .; cd /; BACKUP; umount /mnt; BACKUP",
    )
    good, hidden, whole = reasons(cli)
    assert (good, whole) == ([], [])
    assert hidden[0].startswith("held since ")
    assert "/mnt " in hidden[0]


@IS_ROOT
def test_no_user_raises_a_hold_by_ending_a_mount_of_their_own(cli: Cli) -> None:
    fill(cli.here / "home" / "much", 60)
    fill(cli.here / "home" / "remote", 0)
    os.chown(cli.here / "home" / "remote", 65534, 65534)
    cli.write_profile(sources=["/mnt"], more=RETENTION)
    mount = f"cd /mnt/remote; {AS_USER} bindfs -o allow_other /usr/share/doc/bash .; cd /\n"
    run_alone(
        cli,
        f"{USERS_FOLDER} {mount} ls /mnt/remote | grep -q .; BACKUP; umount /mnt/remote; BACKUP",
    )
    assert reasons(cli) == [[], []]
    assert cli.records()[0]["files"] > cli.records()[1]["files"]
