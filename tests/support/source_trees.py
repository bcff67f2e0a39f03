"""Trees with all that Linux keeps, and other people's tools that tell whether two are equal."""

from __future__ import annotations

import difflib
import os
import socket
import stat
import subprocess
from pathlib import Path

from tests.support.other_process import IS_ROOT, NOBODY

NAMES = {
    "plain": "plain",
    "newline": "line\nbreak\r",
    "controls": "\x01\x1b[31mred\x7f\t",
    "right-to-left": "\u202etxt.exe",
    "composed": "é e\u0301",
    "latin-1": os.fsdecode(b"caf\xe9"),
    "bytes": os.fsdecode(bytes(range(0x80, 0x100))),
    "dash": "-rf",
    "dashes": "--help",
    "spaces": "  trailing  ",
    "dots": "...",
    "quotes": "'\"`$(id)\\n*?[",
    "long": "n" * 101,
    "longest": "m" * 255,
    "longest-utf-8": "å" * 127,
    "percent": "%41=%3D",
}


def make_whole_tree(root: Path) -> None:
    """Files of every kind below `root`; what only root can make is left out for others."""
    root.mkdir()
    make_files(root / "files")
    make_names(root / "names")
    make_links(root / "links")
    make_modes(root / "modes")
    make_attributes(root / "attributes")
    make_sparse(root / "sparse")
    make_special(root / "special")
    make_times(root)


def make_files(root: Path) -> None:
    (root / "empty folder").mkdir(parents=True)
    (root / "empty").touch()
    for size in (1, 511, 512, 513, 2**20 - 1536, 2**20 - 512, 2**20, 2**20 + 1, 3 * 2**20 + 77):
        (root / f"{size}").write_bytes(os.urandom(size))
    deep = root / "/".join(f"level {n}" for n in range(30))
    deep.mkdir(parents=True)
    (deep / "leaf").write_text("deep down")


def make_names(root: Path) -> None:
    for kind, name in NAMES.items():
        (root / f"below {kind}").mkdir(parents=True)
        (root / f"below {kind}" / name).write_text(kind)
        (root / f"above {kind}" / name).mkdir(parents=True)
        (root / f"above {kind}" / name / "leaf").write_text(kind)
        (root / f"link {kind}").symlink_to(name)


def make_long_path(root: Path, length: int) -> None:
    """A file whose path below `root` is longer than any system call takes."""
    root.mkdir()
    folder = os.open(root, os.O_RDONLY)
    for number in range(length // 200 + 1):
        name = f"{number:03}".ljust(200, "x")
        os.mkdir(name, dir_fd=folder)
        below = os.open(name, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    with open(os.open("leaf", os.O_WRONLY | os.O_CREAT, dir_fd=folder), "w") as leaf:
        leaf.write("at the end of a long path")
    os.symlink("leaf", "link", dir_fd=folder)
    os.link("leaf", "twin", src_dir_fd=folder, dst_dir_fd=folder)
    os.close(folder)


def make_links(root: Path) -> None:
    (root / "folder").mkdir(parents=True)
    (root / "folder" / "first").write_text("one file, three names")
    os.link(root / "folder" / "first", root / "folder" / "second")
    os.link(root / "folder" / "first", root / "zz last")
    for name, target in {
        "absolute": "/no/such/thing",
        "dangling": "no/such/thing",
        "to folder": "folder",
        "up": "../..",
        "itself": "itself",
        "long": "l" * 101,
        "longer": "l/" * 2000,
    }.items():
        (root / name).symlink_to(target)
    for name in ("dangling", "absolute"):
        os.link(root / name, root / "folder" / f"{name} too", follow_symlinks=False)
    make_late_links(root / "late")
    os.mkfifo(root / "fifo")
    os.link(root / "fifo", root / "folder" / "fifo too")


def make_late_links(root: Path) -> None:
    """Links that GNU tar makes last of all, among files, in folders that nobody may change."""
    deep = root / "up" / "and" / "down"
    deep.mkdir(parents=True)
    (root / "folder").mkdir()
    (root / "only links").mkdir()
    for folder in (root, root / "folder", root / "only links", root / "up", deep):
        (folder / "above").symlink_to("../x")
        (folder / "zz absolute").symlink_to("/etc/hosts")
        if folder.name != "only links":
            (folder / "file").write_text("x")
    os.link(root / "up" / "above", root / "folder" / "a hardlink", follow_symlinks=False)
    os.link(root / "up" / "above", root / "only links" / "a hardlink", follow_symlinks=False)
    for number, folder in enumerate(sorted(p for p in [root, *root.rglob("*")] if p.is_dir())):
        folder.chmod(0o555)
        os.utime(folder, ns=(10**18 + number, 10**18 + number))


def make_modes(root: Path) -> None:
    root.mkdir()
    for mode in (0o000, 0o200, 0o400, 0o644, 0o777, 0o4755, 0o2755, 0o6711, 0o1644, 0o4000):
        (root / f"file {mode:o}").write_text("x")
        (root / f"file {mode:o}").chmod(mode)
    for mode in (0o700, 0o755, 0o555, 0o1777, 0o2775, 0o3770, 0o500):
        (root / f"folder {mode:o}").mkdir()
        (root / f"folder {mode:o}" / "leaf").write_text("x")
        (root / f"folder {mode:o}").chmod(mode)
    if IS_ROOT:
        for uid, gid in ((1, 1), (NOBODY, NOBODY), (54321, 12345), (2**31, 2**31)):
            (root / f"owner {uid}").write_text("x")
            os.chown(root / f"owner {uid}", uid, gid)
            (root / f"owner {uid}").chmod(0o4750)
            (root / f"link of {uid}").symlink_to("x")
            os.lchown(root / f"link of {uid}", uid, gid)
            (root / f"folder of {uid}").mkdir()
            os.chown(root / f"folder of {uid}", uid, gid)


def make_attributes(root: Path) -> None:
    (root / "folder").mkdir(parents=True)
    (root / "file").write_text("x")
    for place in (root / "file", root / "folder"):
        os.setxattr(place, "user.text", b"value")
        os.setxattr(place, "user.binary", bytes(range(256)))
        os.setxattr(place, "user.empty", b"")
        os.setxattr(place, "user.a=b%3Dc d", b"odd name")
        os.setxattr(place, "user.lines", b"12 x=y\n13 path=z\n")
    if IS_ROOT:
        os.setxattr(root / "file", "trusted.secret", b"for root")
        (root / "symlink").symlink_to("file")
        os.setxattr(root / "symlink", "trusted.link", b"of a link", follow_symlinks=False)
        (root / "capable").write_text("x")
        (root / "capable").chmod(0o755)
        run("setcap", "cap_net_bind_service,cap_net_raw+ep", root / "capable")
        (root / "owned and capable").write_text("x")
        os.chown(root / "owned and capable", NOBODY, NOBODY)
        run("setcap", "cap_chown=ei", root / "owned and capable")
    (root / "acl").write_text("x")
    run("setfacl", "-m", f"u:{NOBODY}:rw,g:1:r,m::rwx", root / "acl")
    (root / "acl masked").write_text("x")
    run("setfacl", "-m", f"u:{NOBODY}:rwx,m::r", root / "acl masked")
    (root / "acl folder").mkdir()
    (root / "acl folder" / "made before").write_text("x")
    run("setfacl", "-m", f"d:u:{NOBODY}:rwx,d:g::r,d:o::-,u:1:rwx", root / "acl folder")
    (root / "acl folder" / "inherited").write_text("x")
    (root / "acl folder" / "inheriting folder").mkdir()


def make_sparse(root: Path) -> None:
    root.mkdir()
    holes = {
        "at the end": ([(0, 4096)], 2**20),
        "at the front": ([(2**20, 4096)], 2**20 + 4096),
        "in the middle": ([(0, 4096), (2**20, 10_000)], 2**20 + 10_000),
        "everywhere": ([(n * 65_536, 4096) for n in range(1, 60)], 61 * 65_536),
        "large": ([(n * 2**20, 2**19) for n in range(1, 6)], 10 * 2**20),
        "odd end": ([(0, 4096)], 2**20 + 123),
        "nothing else": ([], 2**20),
    }
    for name, (runs, size) in holes.items():
        with open(root / name, "wb") as file:
            for offset, length in runs:
                file.seek(offset)
                file.write(os.urandom(length))
            file.truncate(size)


def make_special(root: Path) -> None:
    root.mkdir()
    os.mkfifo(root / "fifo", 0o620)
    if IS_ROOT:
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(root / "large numbers", stat.S_IFCHR | 0o600, os.makedev(4095, 1_048_575))
        os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(7, 99))


def make_socket(place: Path) -> None:
    """A socket that nobody listens on."""
    # A path of sun_path is at most 107 bytes long.
    folder = os.open(place.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{folder}/{place.name}")
    os.close(folder)


def make_times(root: Path) -> None:
    """Times before 1970, after 2038, beyond ustar's, and to the nanosecond; folders last."""
    moments = {
        "negative": -86_400 * 10**9,
        "negative by a half": -500_000_000,
        "negative nanosecond": -1,
        "zero": 0,
        "nanosecond": 1,
        "now and some": 1_700_000_000_123_456_789,
        "after 2038": 2**31 * 10**9 + 1,
        "late": 10**10 * 10**9 + 999_999_999,
    }
    (root / "times").mkdir()
    for name, moment in moments.items():
        (root / "times" / name).write_text("x")
        (root / "times" / f"{name} folder").mkdir()
        (root / "times" / f"{name} link").symlink_to("x")
        for kind in ("", " folder", " link"):
            place = root / "times" / f"{name}{kind}"
            os.utime(place, ns=(moment, moment), follow_symlinks=False)
    os.utime(root / "times", ns=(1_234_567_890_987_654_321,) * 2)
    os.utime(root, ns=(1_000_000_000_000_000_001,) * 2)


def run(*command: str | Path, cwd: Path | None = None, ok: bool = True) -> str:
    """Run a program; returns what it printed, bytes that are not UTF-8 included."""
    done = subprocess.run(
        [os.fspath(word) for word in command],
        capture_output=True,
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        text=True,
        errors="surrogateescape",
    )
    if ok and done.returncode:
        raise AssertionError(f"{command[0]}: exit {done.returncode}: {done.stderr}")
    return done.stdout


def rsync_differences(original: Path, restored: Path) -> list[str]:
    """What rsync would change in the restored tree to make it the original; hardlinks, ACLs,
    xattrs and content included."""
    told = run(
        *("rsync", "-aHAXn", "--numeric-ids", "--delete", "--checksum", "--itemize-changes"),
        *("--no-specials", "--specials", f"{original}/", f"{restored}/"),
    )
    return told.splitlines()


def attributes_of(root: Path) -> dict[str, str]:
    """What getfattr, getfacl, getcap and stat say of the tree, in an order of its own: that of a
    folder is as the file system likes."""
    stat_format = "%n|%F|%a|%u:%g|%h|%s|%t,%T|%y"
    commands = {
        "getfattr": ("getfattr", "-R", "-P", "-h", "-d", "-m", "-", "-e", "hex", "."),
        "getfacl": ("getfacl", "-R", "-P", "-n", "-p", "."),
        "getcap": ("getcap", "-r", "."),
        "stat": ("find", ".", "-exec", "stat", "-c", stat_format, "{}", "+"),
    }
    told = {tool: run(*command, cwd=root) for tool, command in commands.items()}
    ends = {"getfattr": "\n\n", "getfacl": "\n\n"}
    return {
        tool: "\n".join(sorted(text.split(ends.get(tool, "\n")))) for tool, text in told.items()
    }


def disk_usage(root: Path) -> dict[str, int]:
    """What each file takes on the disk, in KiB, as du says."""
    lines = run("du", "-0", "-a", "--apparent-size", "-k", ".", cwd=root).split("\0")
    return {name: int(size) for size, _, name in (line.partition("\t") for line in lines if line)}


def assert_same_tree(original: Path, restored: Path) -> None:
    """Nobody's tool finds a difference."""
    differences = rsync_differences(original, restored)
    assert not differences, differences
    expected, found = attributes_of(original), attributes_of(restored)
    for tool, told in expected.items():
        differences = [
            *difflib.unified_diff(told.splitlines(), found[tool].splitlines(), lineterm="", n=0)
        ]
        assert not differences, (tool, differences)
