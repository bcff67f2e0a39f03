"""Promise 5 and 12: a restore works in folders that nobody else can enter, and leaves none."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backup_tasks.common.paths import PROJECT_ROOT
from backup_tasks.spools.inode_table import InodeTable
from backup_tasks.target import private_folder
from backup_tasks.target.labels import LABEL
from backup_tasks.target.private_folder import PREFIX, PrivateFolder, owner_of_new, sweep
from tests.support import attacks
from tests.support.attacks import Item, forge_ours
from tests.support.other_process import IS_ROOT, NOBODY, as_nobody, killed_after, public_folder

KINDS = [
    Item("fifo", "fifo", mode=0o640),
    Item("symlink", "symlink", link="nowhere"),
    Item("there", content=b"new"),
    Item("twin", "hardlink", link="there"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """An open folder, the target."""
    (tmp_path / "target").mkdir()
    descriptor = os.open(tmp_path / "target", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def private_in(folder: int) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(PREFIX)]


def test_a_private_folder_is_closed_to_others_and_gone_afterwards(folder: int) -> None:
    os.fchmod(folder, 0o2777)
    os.utime(folder, ns=(5, 5))
    private = PrivateFolder(folder)
    (name,) = private_in(folder)
    status = os.stat(name, dir_fd=folder)
    assert (stat.S_IMODE(status.st_mode) & 0o777, status.st_uid) == (0o700, os.geteuid())
    os.mkfifo("left", dir_fd=private.descriptor)
    private.remove()
    assert os.listdir(folder) == []
    assert os.fstat(folder).st_mtime_ns == 5


def test_nothing_has_a_name_while_it_is_asked_whose_new_files_are(
    folder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    real = os.fstat

    def look(descriptor: int) -> os.stat_result:
        seen.append(os.listdir(folder))
        return real(descriptor)

    monkeypatch.setattr(os, "fstat", look)
    assert owner_of_new(folder) == os.geteuid()
    assert seen == [[]]


def test_however_many_names_others_put_beside_it_they_take_no_memory(folder: int) -> None:
    for number in range(2_000):
        os.mknod(f"{number:0250}", dir_fd=folder)
    tracemalloc.start()
    try:
        PrivateFolder(folder).remove()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**18


def test_a_private_folder_inherits_no_acl(folder: int, tmp_path: Path) -> None:
    subprocess.run(["setfacl", "-d", "-m", f"u:{NOBODY}:rwx", tmp_path / "target"], check=True)
    private = PrivateFolder(folder)
    assert os.listxattr(private.descriptor) == []
    private.remove()


def test_a_private_folder_that_was_renamed_is_removed_under_its_new_name(folder: int) -> None:
    private = PrivateFolder(folder)
    (name,) = private_in(folder)
    os.rename(name, "elsewhere", src_dir_fd=folder, dst_dir_fd=folder)
    os.mkdir(name, dir_fd=folder)
    private.remove()
    assert os.listdir(folder) == [name]


def test_a_private_folder_cannot_be_removed_by_others_as_empty(folder: int) -> None:
    private = PrivateFolder(folder)
    (name,) = private_in(folder)
    with pytest.raises(OSError, match="not empty"):
        os.rmdir(name, dir_fd=folder)
    private.remove()


@pytest.mark.skipif(not IS_ROOT, reason="only root gives files away")
def test_a_folder_that_somebody_else_put_there_is_not_used(
    folder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.mkdir
    swapped: list[str] = []

    def make_and_swap(name: str, mode: int, *, dir_fd: int) -> None:
        real(name, mode, dir_fd=dir_fd)
        if len(swapped) < 3:
            swapped.append(name)
            os.rename(name, f"stolen{len(swapped)}", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
            if len(swapped) == 1:
                os.symlink("/", name, dir_fd=dir_fd)
            else:
                real(name, 0o700 if len(swapped) == 2 else 0o755, dir_fd=dir_fd)
                os.chown(name, NOBODY if len(swapped) == 2 else 0, 0, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", make_and_swap)
    private = PrivateFolder(folder)
    assert len(swapped) == 3
    status = os.fstat(private.descriptor)
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o700)
    private.remove()


def test_somebody_who_swaps_it_each_time_is_told_of(
    folder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_another(name: str, mode: int, *, dir_fd: int) -> None:
        os.symlink("/", name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", make_another)
    with pytest.raises(OSError, match="keeps replacing"):
        PrivateFolder(folder)


def kill_with_a_private_folder(target: str) -> None:
    folder = os.open(target, os.O_RDONLY)
    private = PrivateFolder(folder)
    os.mkfifo("left", dir_fd=private.descriptor)
    os.mkdir("left too", dir_fd=private.descriptor)


def test_what_a_killed_run_left_is_swept_and_nothing_else(folder: int, tmp_path: Path) -> None:
    live = PrivateFolder(folder)
    (name,) = private_in(folder)
    assert killed_after(
        3, ("mkfifo", "mkdir"), kill_with_a_private_folder, str(tmp_path / "target")
    )
    others = ["empty of another mode", "full", "link", "copy"]
    os.mkdir(PREFIX + others[0], 0o755, dir_fd=folder)
    for other in others[1::2]:
        # Others may rename what root has in their folders.
        os.mkdir(PREFIX + other, 0o700, dir_fd=folder)
    (tmp_path / "target" / (PREFIX + "full") / "mine").touch()
    (tmp_path / "target" / (PREFIX + "copy") / "owner").write_text(
        (tmp_path / "target" / name / "owner").read_text()
    )
    os.symlink("/", PREFIX + "link", dir_fd=folder)
    assert len(private_in(folder)) == 6
    sweep(folder)
    assert sorted(private_in(folder)) == sorted([name, *(PREFIX + other for other in others)])
    live.remove()


def restore_kinds(store: str, target: str) -> None:
    items = [*KINDS, Item("folder/file"), Item("folder", "dir", mode=0o755)]
    attacks.restore(Path(store), forge_ours(items), Path(target), overwrite="always")


@pytest.mark.parametrize("calls", range(1, 16, 2))
def test_a_restore_that_is_killed_anywhere_is_cleared_up_by_the_next(
    tmp_path: Path, calls: int
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "there").write_text("old")
    names = ("mkdir", "mkfifo", "mknod", "symlink", "link", "rename", "unlink", "rmdir", "write")
    assert killed_after(calls, names, restore_kinds, str(tmp_path / "store"), str(target))
    restore_kinds(str(tmp_path / "store"), str(target))
    assert sorted(os.listdir(target)) == ["fifo", "folder", "symlink", "there", "twin"]
    assert stat.S_IMODE((target / "folder").stat().st_mode) == 0o755


def test_what_a_killed_run_left_goes_also_if_the_next_one_needs_no_such_folder(
    tmp_path: Path,
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    assert killed_after(1, ("symlink",), restore_kinds, str(tmp_path / "store"), str(target))
    assert list(target.glob(PREFIX + "*"))
    attacks.restore(tmp_path / "store", forge_ours([Item("file")]), target, overwrite="never")
    assert not list(target.glob(PREFIX + "*"))


def test_a_private_folder_renamed_in_the_middle_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    real = os.symlink
    renamed: list[Path] = []

    def make_and_rename(to: str, name: str, *, dir_fd: int) -> None:
        real(to, name, dir_fd=dir_fd)
        for found in target.glob(PREFIX + "*"):
            renamed.append(found.rename(target / f"mine{len(renamed)}"))

    monkeypatch.setattr(os, "symlink", make_and_rename)
    links = [Item(f"link{number}", "symlink", link="x") for number in range(3)]
    report = attacks.restore(
        tmp_path / "store", forge_ours([*KINDS, *links]), target, overwrite="always"
    )
    assert len(renamed) == 1
    assert report.extracted.problems == []
    assert len(os.listdir(target)) == len(KINDS) + 3


# --- file systems that differ

_ACROSS = """
import os, sys
from pathlib import Path
from tests.support.attacks import Item, forge_ours, restore
here = Path(sys.argv[1])
items = []
for place in ("", "other/", "bind/", "bind/below/"):
    items += [
        Item(place + "fifo", "fifo"),
        Item(place + "symlink", "symlink", link="x"),
        Item(place + "there", content=b"new"),
        Item(place + "twin", "hardlink", link=place + "there"),
        Item(place + "new/file"),
        Item(place + "new", "dir", mode=0o755),
    ]
report = restore(here / "store", forge_ours(items), here / "target", overwrite="always")
print(report.extracted.problems)
left = [str(path) for path in here.rglob("*") if ".backup-tasks-" in path.name]
bind = here / "target" / "bind"
print(left, sorted(os.listdir(bind)), oct((bind / "new").stat().st_mode))
"""


@pytest.mark.parametrize("owner", [0, NOBODY] if IS_ROOT else [os.geteuid()])
def test_other_file_systems_and_bind_mounts_below_the_target_are_restored_into(
    tmp_path: Path, owner: int
) -> None:
    target = tmp_path / "target"
    (tmp_path / "bound" / "below").mkdir(parents=True)
    for name in ("other", "bind"):
        (target / name).mkdir(parents=True)
    for place in (target, tmp_path / "bound", tmp_path / "bound" / "below"):
        (place / "there").write_text("old")
        (place / "twin").write_text("old")
        os.chown(place, owner, owner)
    mount = (
        f"mount -t tmpfs -o size=4m small {target}/other && "
        f"mount --bind {tmp_path}/bound {target}/bind"
    )
    done = subprocess.run(
        [
            *("unshare", "-m" if IS_ROOT else "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh"),
            *(sys.executable, "-c", _ACROSS, tmp_path),
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=PROJECT_ROOT,
    )
    problems, left = done.stdout.splitlines()
    assert problems == "[]"
    names = "['below', 'fifo', 'new', 'symlink', 'there', 'twin']"
    assert left == f"[] {names} 0o40755"


def test_where_only_rename_says_that_it_is_another_place_it_is_done_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As between projects with quotas."""
    target = tmp_path / "target"
    (target / "project").mkdir(parents=True)
    (target / "project" / "there").write_text("old")
    real = {name: getattr(os, name) for name in ("rename", "link")}

    def is_inside(folder: int) -> bool:
        return os.path.realpath(f"/proc/self/fd/{folder}").startswith(f"{target}/project")

    def guarded(name: str) -> Callable[..., None]:
        def call(source: str, to: str, **options: Any) -> None:
            # Nameless files are made in the folder that they are for.
            is_nameless = bool(options.get("follow_symlinks"))
            from_inside = is_nameless or is_inside(options["src_dir_fd"])
            if source != "." and from_inside != is_inside(options["dst_dir_fd"]):
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            real[name](source, to, **options)

        return call

    for name in real:
        monkeypatch.setattr(os, name, guarded(name))
    items = [
        Item("project/fifo", "fifo"),
        Item("project/link", "symlink", link="x"),
        Item("project/there", content=b"new"),
        Item("project/folder/file"),
    ]
    report = attacks.restore(tmp_path / "store", forge_ours(items), target, overwrite="always")
    assert report.extracted.problems == []
    assert sorted(os.listdir(target / "project")) == ["fifo", "folder", "link", "there"]
    assert os.listdir(target) == ["project"]


@pytest.mark.skipif(not IS_ROOT, reason="only root sets labels")
def test_what_is_made_in_private_has_the_label_of_where_it_lies(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    os.chown(target, NOBODY, NOBODY)
    label = b"system_u:object_r:user_home_t:s0\0"
    os.setxattr(target, LABEL, label)
    # "there" is made in place, which is the kernel's work.
    items = [item for item in KINDS if item.kind in ("fifo", "symlink")]
    own = Item("own", "fifo", xattrs={LABEL: b"system_u:object_r:own_t:s0\0"})
    folder = Item("folder", "dir", mode=0o755)
    attacks.restore(
        tmp_path / "store",
        forge_ours([*items, own, folder]),
        target,
        overwrite="never",
        trusted=True,
    )
    for name in ("fifo", "symlink", "folder"):
        assert os.getxattr(target / name, LABEL, follow_symlinks=False) == label
    assert os.getxattr(target / "own", LABEL) == b"system_u:object_r:own_t:s0\0"


@pytest.mark.parametrize("way", ["no_proc", "no_nameless_files"])
def test_all_kinds_are_restored_without_proc_and_without_nameless_files(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    if IS_ROOT:
        os.chown(target, NOBODY, NOBODY)
    (target / "there").write_text("old")
    hide(way, monkeypatch)
    items = [
        *KINDS,
        Item("marked", "fifo", xattrs={"trusted.note": b"x"} if IS_ROOT else {}),
        Item("folder/file"),
        Item("folder/twin", "hardlink", link="folder/file"),
        Item("folder", "dir", mode=0o755),
    ]
    report = attacks.restore(
        tmp_path / "store", forge_ours(items), target, overwrite="always", trusted=True
    )
    assert report.extracted.problems == []
    assert (target / "there").read_bytes() == b"new"
    assert (target / "there").stat().st_ino == (target / "twin").stat().st_ino
    assert stat.S_IMODE((target / "fifo").stat().st_mode) == 0o640
    assert sorted(os.listdir(target)) == ["fifo", "folder", "marked", "symlink", "there", "twin"]
    if IS_ROOT and way == "no_proc":
        assert any("need /proc" in note for note in report.extracted.notes)


def hide(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away /proc, as in a rescue chroot, or O_TMPFILE, as on some network file systems."""
    real = {name: getattr(os, name) for name in ("open", "stat", "chown", "chmod", "setxattr")}

    def without_proc(name: str) -> object:
        def call(path: object, *arguments: object, **options: object) -> object:
            if str(path).startswith("/proc/"):
                raise FileNotFoundError(2, "No such file or directory")
            return real[name](path, *arguments, **options)

        return call

    def without_tmpfile(path: object, flags: int, *arguments: object, **options: object) -> object:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real["open"](path, flags, *arguments, **options)

    if way == "no_nameless_files":
        monkeypatch.setattr(os, "open", without_tmpfile)
        return
    for name in real:
        monkeypatch.setattr(os, name, without_proc(name))


@pytest.mark.skipif(not IS_ROOT, reason="it changes the user")
def test_an_ordinary_user_leaves_no_private_folder_either() -> None:
    with public_folder() as here:
        for name in ("store", "target"):
            (here / name).mkdir()
            os.chown(here / name, NOBODY, NOBODY)
        as_nobody(restore_kinds, str(here / "store"), str(here / "target"))
        names = ["fifo", "folder", "symlink", "there", "twin"]
        assert sorted(os.listdir(here / "target")) == names


def test_no_more_than_some_private_folders_are_open_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_folder, "_is_same_mount", lambda one, other: False)
    target = tmp_path / "target"
    items = [Item(f"f{number}/link", "symlink", link="x") for number in range(40)]
    report = attacks.restore(tmp_path / "store", forge_ours(items), target)
    assert report.extracted.problems == []
    assert list(target.rglob(PREFIX + "*")) == []


def test_a_table_of_inodes_knows_what_was_added_last_and_nothing_else() -> None:
    table = InodeTable()
    for number in range(20_000):
        table.add(f"path {number}", (1, number))
    table.add("path 7", (2, 7))
    assert all(table.has(f"path {number}", (1, number)) for number in range(8, 20_000))
    assert table.has("path 7", (2, 7))
    assert not table.has("path 7", (1, 7))
    assert not table.has("path", (1, 7))
    assert "path 19999" in table
    assert "path 20000" not in table
