"""A tree in which a user owns a folder, victims beside it, and the tricks that such a user has."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backup_tasks.restore.request import RestoreReport
from backup_tasks.spools.folder_stack import OPEN_FOLDER
from tests.support import attacks
from tests.support.attacks import Item
from tests.support.other_process import NOBODY

ACL = bytes.fromhex("0200000001000700ffffffff02000600feff000004000000ffffffff")
ACL += bytes.fromhex("10000600ffffffff20000000ffffffff")
# What these calls make or look at is what a user would like to replace just then.
CALLS = ("mkdir", "mknod", "symlink", "link", "rename", "open", "stat", "unlink", "rmdir")


def items_of_every_kind(count: int = 1) -> list[Item]:
    """Entries below home/, which is the user's, and links to them elsewhere."""
    found: list[Item] = []
    for number in range(count):
        home = f"home/{number:03}"
        theirs = {"uid": NOBODY, "gid": NOBODY}
        found += [
            Item(f"{home}file", mode=0o666),
            Item(f"{home}theirs", mode=0o666, **theirs),
            Item(f"{home}program", mode=0o6755),
            Item(f"{home}acl", xattrs={"system.posix_acl_access": ACL, "user.note": b"x"}),
            Item(f"{home}fifo", "fifo", mode=0o666, xattrs={"trusted.note": b"x"}),
            Item(f"{home}pipe", "fifo", mode=0o4777, **theirs),
            Item(f"{home}device", "char", mode=0o666, rdev=(1, 3), **theirs),
            Item(f"{home}symlink", "symlink", link="/no/such/thing", **theirs),
            Item(f"{home}open/inner", mode=0o666),
            Item(f"{home}open", "dir", mode=0o2777, xattrs={"user.note": b"x"}, **theirs),
            Item(f"{home}secret/secret inner", mode=0o644),
            Item(f"{home}secret", "dir", mode=0o700),
            Item(f"{home}twin", "hardlink", link=f"{home}file"),
            Item(f"{home}twin of a link", "hardlink", link=f"{home}symlink"),
            Item(f"etc/{number:03}twin", "hardlink", link=f"{home}file"),
            Item(f"etc/{number:03}pipe", "hardlink", link=f"{home}fifo"),
        ]
    return found


@dataclass
class Town:
    """Where it happens: `target` is root's, `target`/home the user's, `outside` is not theirs."""

    here: Path
    victims: list[Path] = field(default_factory=list)

    @property
    def target(self) -> Path:
        return self.here / "target"

    @property
    def home(self) -> Path:
        return self.target / "home"

    def build(self, victims: int) -> None:
        """Victims: root's files and, for every fourth, a root's folder."""
        for folder in (self.target, self.home, self.target / "etc", self.here / "outside"):
            folder.mkdir()
            folder.chmod(0o755)
        os.chown(self.home, NOBODY, NOBODY)
        for number in range(victims):
            victim = self.here / "outside" / f"victim{number}"
            if number % 4 == 3:
                victim.mkdir(mode=0o700)
                (victim / "kept").write_text("root's")
            else:
                victim.write_text("root's")
                victim.chmod(0o600)
            os.setxattr(victim, "user.root", b"root's")
            os.utime(victim, ns=(1, 1))
            self.victims.append(victim)

    def restore(self, items: Sequence[Item], **options: Any) -> RestoreReport:
        wanted = {"overwrite": "always", "trusted": True, **options}
        return attacks.restore(
            self.here / "store", attacks.forge_ours(items), self.target, **wanted
        )

    def look(self) -> list[tuple[Any, ...]]:
        """All of each victim but its ctime, which renaming a link of it changes."""
        return [look_at(victim) for victim in self.victims]

    def misfortunes(self) -> list[str]:
        """What a user could gain within the target: their file under root's name, what root's
        folder keeps from them, or a folder of theirs that is root's."""
        found = []
        for name in os.listdir(self.target / "etc"):
            status = (self.target / "etc" / name).lstat()
            is_whole = not name.endswith("twin") or status.st_size == len(b"attack")
            if status.st_uid != 0 or not is_whole:
                found.append(f"etc/{name} is something else")
        for folder, status, names in _folders_below(self.target):
            is_open = status.st_uid != 0 or status.st_mode & 0o077 != 0
            if is_open and "secret inner" in names:
                found.append(f"the secret lies open in {folder}: {status}")
            if "mine" in names and status.st_uid != NOBODY:
                found.append(f"a folder of the user's became root's: {folder}")
        return found


def _folders_below(top: Path) -> Iterator[tuple[Path, os.stat_result, list[str]]]:
    """By descriptor, as somebody may still be swapping names."""
    try:
        folder = os.open(top, OPEN_FOLDER)
    except OSError:
        return
    try:
        names = os.listdir(folder)
        yield top, os.fstat(folder), names
    finally:
        os.close(folder)
    for name in names:
        yield from _folders_below(top / name)


def look_at(path: Path) -> tuple[Any, ...]:
    status = path.lstat()
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return (
        *(path.name, status.st_mode, status.st_uid, status.st_gid, status.st_size),
        *(status.st_mtime_ns, status.st_nlink),
        *((name, os.getxattr(path, name)) for name in names),
        path.read_bytes() if stat.S_ISREG(status.st_mode) else sorted(os.listdir(path)),
    )


Trick = Callable[[int, str], None]


def lay_baits(town: Town) -> None:
    """Things of the user's own, and what root left in a folder of theirs."""
    for number, victim in enumerate(town.victims):
        bait = town.home / f"bait{number}"
        if number % 4 == 3 or number % 2 == 0:
            bait.symlink_to(victim)
            os.lchown(bait, NOBODY, NOBODY)
        else:
            os.link(victim, bait)  # which users can where fs.protected_hardlinks is 0


@contextmanager
def interfering(town: Town, choose: Callable[[], Callable[[str], None]]) -> Iterator[list[int]]:
    """Before and after each call of `os` that could be of use, somebody with the rights of the user
    replaces every name in their folder that is not a bait. Gives the number of swaps."""
    swaps = [0]
    real = {name: getattr(os, name) for name in CALLS}
    is_busy = False

    def interfere() -> None:
        nonlocal is_busy
        if is_busy:
            return
        is_busy = True
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            for name in os.listdir(town.home):
                if not name.startswith(("bait", "stolen")):
                    swaps[0] += _swap(real, town.home, name, swaps[0], choose())
        finally:
            os.seteuid(0)
            os.setegid(0)
            is_busy = False

    def surrounded(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            interfere()
            try:
                return real[name](*arguments, **options)
            finally:
                interfere()

        return call

    for name in CALLS:
        setattr(os, name, surrounded(name))
    try:
        yield swaps
    finally:
        for name in CALLS:
            setattr(os, name, real[name])


def _swap(
    real: dict[str, Any], home: Path, name: str, number: int, put: Callable[[str], None]
) -> bool:
    try:
        real["rename"](home / name, home / f"stolen{number}")
    except OSError:
        return False
    try:
        put(str(home / name))
    except OSError:
        return False
    return True
