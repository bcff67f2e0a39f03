"""Promise 12: whoever owns folders that root restores into decides nothing that root does."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from backup_tasks.errors import ArchiveError, RestoreError
from backup_tasks.read import open_archive
from backup_tasks.restore.policy import Overwrite
from backup_tasks.target.making_folders import MARKS
from tests.support import attacks
from tests.support.attacks import Item
from tests.support.other_process import IS_ROOT, NOBODY, killed_after, public_folder
from tests.support.user_in_the_way import ACL, Town, interfering, items_of_every_kind, lay_baits

pytestmark = pytest.mark.skipif(not IS_ROOT, reason="only root restores among folders of others")

UMASK = os.umask(0o022)
os.umask(UMASK)
PROTECTED = Path("/proc/sys/fs/protected_hardlinks")


@pytest.fixture
def town() -> Iterator[Town]:
    with public_folder() as here:
        made = Town(here)
        made.build(victims=40)
        yield made


# --- a user who acts at the worst moment, each time


def putting(town: Town, kind: str) -> Callable[[], Callable[[str], None]]:
    """What to put in the place of a name."""
    files = [victim for victim in town.victims if victim.is_file()]
    folders = [victim for victim in town.victims if victim.is_dir()]
    count = iter(range(10**9))
    turn = cycle(files if "file" in kind else folders)
    hardlinks = cycle(sorted(town.home.glob("bait*")))

    def move_hardlink(name: str) -> None:
        for _ in range(len(town.victims)):
            bait = next(hardlinks)
            if bait.exists() and not bait.is_symlink():
                bait.rename(name)
                return

    def move_stolen(name: str) -> None:
        """What root made a moment ago, under another name."""
        stolen = sorted(town.home.glob("stolen*"))
        stolen[next(count) % len(stolen)].rename(name)

    def make_folder(name: str) -> None:
        Path(name).mkdir()
        (Path(name) / "mine").touch()
        Path(name).chmod(0o1700)

    return {
        "link to a file": lambda: lambda name: os.symlink(next(turn), name),
        "link to a folder": lambda: lambda name: os.symlink(next(turn), name),
        "hardlink": lambda: move_hardlink,
        "what root made before": lambda: move_stolen,
        "folder": lambda: make_folder,
        "nothing": lambda: lambda name: None,
    }[kind]


@pytest.mark.parametrize("rule", ["never", "always"])
@pytest.mark.parametrize(
    "kind",
    [
        "link to a file",
        "link to a folder",
        "hardlink",
        "what root made before",
        "folder",
        "nothing",
    ],
)
def test_a_user_who_swaps_every_name_at_the_worst_moment_gains_nothing(
    town: Town, kind: str, rule: str
) -> None:
    lay_baits(town)
    before = town.look()
    with interfering(town, putting(town, kind)) as swaps:
        town.restore(items_of_every_kind(), overwrite=rule)
    assert swaps[0] > 5
    assert not more_than(before, town)
    assert town.misfortunes() == []


def more_than(before: list[tuple[object, ...]], town: Town) -> list[tuple[object, ...]]:
    """The victims that changed; fewer links to one are no harm, as users remove their own."""
    changed = []
    for was, now in zip(before, town.look(), strict=True):
        links = int(str(now[6])) <= int(str(was[6]))
        if (*was[:6], *was[7:]) != (*now[:6], *now[7:]) or not links:
            changed.append(now)
    return changed


# --- a user's process that swaps names all the time


@pytest.fixture(scope="session")
def swapper() -> Iterator[Path]:
    with public_folder() as here:
        source = Path(__file__).parents[1] / "support/swapper.c"
        subprocess.run(["gcc", "-O2", "-Wall", "-o", here / "swapper", source], check=True)
        yield here / "swapper"


@contextmanager
def swapping(swapper: Path, town: Town) -> Iterator[list[int]]:
    """Run it as the user; gives the number of swaps afterwards."""
    baits = sorted(bait.name for bait in town.home.glob("bait*"))
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    process = subprocess.Popen(
        [*command, swapper, town.home, *baits], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    swaps: list[int] = []
    try:
        yield swaps
    finally:
        process.send_signal(signal.SIGTERM)
        swaps.append(int(process.communicate()[0]))


@contextmanager
def unprotected_hardlinks() -> Iterator[None]:
    """Let users link files that they may not write, as systems do that do not set this."""
    before = PROTECTED.read_text()
    try:
        PROTECTED.write_text("0")
    except OSError:
        pytest.skip("fs.protected_hardlinks cannot be set here")
    try:
        yield
    finally:
        PROTECTED.write_text(before)


@pytest.mark.parametrize("hardlinks", ["as they are", "unprotected"])
def test_a_process_that_swaps_names_all_the_time_gains_nothing(
    town: Town, swapper: Path, hardlinks: str
) -> None:
    lay_baits(town)
    before = town.look()
    setting = unprotected_hardlinks() if hardlinks == "unprotected" else nullcontext()
    with setting, swapping(swapper, town) as swaps:
        town.restore(items_of_every_kind(20), overwrite="always")
        assert town.misfortunes() == []
        town.restore(items_of_every_kind(20), overwrite="never")
    assert swaps[0] > 0
    assert not more_than(before, town)


# --- what stays closed, joined or followed


def make_theirs(place: Path, mode: int = 0o755) -> Path:
    place.mkdir()
    os.chown(place, NOBODY, NOBODY)
    place.chmod(mode)
    return place


def test_a_folder_of_others_is_not_given_an_owner_unless_it_stays_theirs(town: Town) -> None:
    """Who owns the folder above could have moved any of theirs there, or of others."""
    (town.home / "root's").mkdir(mode=0o700)
    make_theirs(town.home / "theirs", 0o700)
    make_theirs(town.home / "to root", 0o700)
    folders = [
        Item("home/root's", "dir", mode=0o755, uid=NOBODY, gid=NOBODY),
        Item("home/theirs", "dir", mode=0o755, uid=NOBODY, gid=NOBODY),
        Item("home/to root", "dir", mode=0o2755),
        Item("etc", "dir", mode=0o700, uid=NOBODY, gid=NOBODY),
    ]
    report = town.restore(folders)
    found = {folder.path: os.stat(town.target / folder.path).st_mode & 0o7777 for folder in folders}
    kept = {"home/root's": 0o700, "home/to root": 0o700}
    assert found == {"home/theirs": 0o755, "etc": 0o700} | kept
    assert {path for path, _ in report.extracted.problems} == set(kept)
    assert all("left alone" in reason for _, reason in report.extracted.problems)


def test_in_a_sticky_folder_only_what_its_owner_could_move_is_theirs(town: Town) -> None:
    (town.target / "tmp").mkdir()
    (town.target / "tmp").chmod(0o1777)
    make_theirs(town.target / "tmp" / "theirs", 0o700)
    make_theirs(town.target / "tmp" / "to root", 0o700)
    (town.target / "tmp" / "root's").mkdir(mode=0o700)
    folders = [
        Item("tmp/root's", "dir", mode=0o755, uid=NOBODY, gid=NOBODY),
        Item("tmp/theirs", "dir", mode=0o755, uid=NOBODY, gid=NOBODY),
        Item("tmp/to root", "dir", mode=0o755),
    ]
    report = town.restore(folders)
    assert [path for path, _ in report.extracted.problems] == ["tmp/to root"]
    assert (town.target / "tmp" / "root's").stat().st_uid == NOBODY


def test_a_folder_that_is_as_the_archive_says_is_no_problem(town: Town) -> None:
    town.home.chmod(0o777)
    (town.home / "root's").mkdir()
    (town.home / "root's").chmod(0o755)
    report = town.restore([Item("home/root's", "dir", mode=0o755)])
    assert report.extracted.problems == []


def test_what_an_owner_gives_a_folder_until_it_is_anothers_is_not_kept(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_theirs(town.target / "theirs", 0o700)
    fchown = os.fchown

    def give_away_with_acl(folder: int, uid: int, gid: int) -> None:
        os.setxattr(folder, "system.posix_acl_access", ACL)
        os.setxattr(folder, "user.note", b"theirs")
        fchown(folder, uid, gid)

    monkeypatch.setattr(os, "fchown", give_away_with_acl)
    report = town.restore([Item("theirs", "dir", mode=0o750)])
    assert report.extracted.problems == []
    status = (town.target / "theirs").stat()
    assert (status.st_uid, status.st_mode & 0o7777) == (0, 0o750)
    assert os.listxattr(town.target / "theirs") == []


def test_a_folder_with_the_mode_of_an_unfinished_one_is_not_taken_for_one(town: Town) -> None:
    make_theirs(town.home / "theirs", 0o1700)
    (town.home / "moved").mkdir()
    (town.home / "moved").chmod(0o1700)
    make_theirs(town.target / "etc" / "planted", 0o1700)
    folders = [
        Item(name, "dir", mode=0o755, uid=NOBODY if name == "home/moved" else 0)
        for name in ("home/theirs", "home/moved", "etc/planted")
    ]
    town.restore(folders, overwrite="never")
    for folder in folders:
        status = (town.target / folder.path).stat()
        owner = 0 if folder.path == "home/moved" else NOBODY
        assert (status.st_uid, status.st_mode & 0o7777) == (owner, 0o1700)


@pytest.mark.parametrize("overwrite", ["never", "older"])
def test_a_folder_that_a_user_made_in_the_place_of_anothers_is_named(
    town: Town, overwrite: Overwrite
) -> None:
    """Its mode is all that keeps what is restored into it from others."""
    make_theirs(town.home / "secret", 0o755)
    make_theirs(town.home / "own", 0o700)
    items = [
        Item("home/secret/key", content=b"k", mode=0o644),
        Item("home/secret", "dir", mode=0o700),
        Item("home/own", "dir", mode=0o755, uid=NOBODY, gid=NOBODY),
    ]
    problems = dict(town.restore(items, overwrite=overwrite).extracted.problems)
    assert list(problems) == ["home/secret"]
    assert "belongs to another user" in problems["home/secret"]


def test_a_user_cannot_make_their_folder_one_that_counts_as_untouched(town: Town) -> None:
    """They may change the mode of one that a failed restore marked, and what is in it."""
    items = [Item("home/open", "dir", mode=0o755, uid=NOBODY, gid=NOBODY), Item("home/open/file")]
    bad = Item("home/zz", claim=lambda entry: setattr(entry, "sha256", "0" * 64))
    with pytest.raises(ArchiveError):
        town.restore([*items, bad], overwrite="never")
    assert os.listxattr(town.home / "open") == [MARKS[0]]
    (town.home / "open").chmod(0o1700)
    (town.home / "open" / "file").unlink()
    (town.home / "open" / "file").write_bytes(b"theirs")
    os.chown(town.home / "open" / "file", NOBODY, NOBODY)
    os.utime(town.home / "open" / "file", ns=(attacks.MTIME, attacks.MTIME))
    link = Item("etc/passwd", "hardlink", link="home/open/file")
    town.restore([*items, link], overwrite="never")
    assert not (town.target / "etc" / "passwd").exists()


def test_folders_are_set_before_those_that_they_lie_in_whether_asked_for_or_not(
    town: Town,
) -> None:
    order: list[str] = []
    real = os.fchmod

    def note(folder: int, mode: int) -> None:
        order.append(os.readlink(f"/proc/self/fd/{folder}").removeprefix(f"{town.target}/"))
        real(folder, mode)

    items = [Item("a/b/c/file"), *(Item(name, "dir", mode=0o755) for name in ("a", "a/b/c"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fchmod", note)
        town.restore(items)
    assert order == ["a/b/c", "a/b", "a"]
    assert (town.target / "a" / "b").stat().st_mode & 0o7777 == 0o777 & ~UMASK


@pytest.mark.parametrize("moved", [False, True])
def test_folders_of_a_killed_run_are_finished_where_they_were_made_and_nowhere_else(
    town: Town, moved: bool
) -> None:
    items = [
        Item("home/secret/file", mode=0o644),
        Item("home/secret", "dir", mode=0o700),
        Item("home/open/file", mode=0o644),
        Item("home/open", "dir", mode=0o755, uid=NOBODY, gid=NOBODY),
    ]
    archive = attacks.forge_ours(items)
    arguments = str(town.here / "store"), str(town.target), archive
    assert killed_after(2, ("link",), restore_archive, *arguments)
    for name in ("secret", "open"):
        assert (town.home / name / "file").exists()
    if moved:
        (town.home / "secret").rename(town.home / "x")
        (town.home / "open").rename(town.home / "secret")
        (town.home / "x").rename(town.home / "open")
    report = town.restore(items, overwrite="never")
    modes = {name: (town.home / name).stat().st_mode & 0o7777 for name in ("secret", "open")}
    if not moved:
        assert report.extracted.problems == []
        assert modes == {"secret": 0o700, "open": 0o755}
        assert os.listxattr(town.home / "open") == os.listxattr(town.home / "secret") == []
    else:
        assert all(mode & 0o077 == 0 for mode in modes.values())
        assert any("another folder" in reason for _, reason in report.extracted.problems)


@pytest.mark.parametrize("calls", [("link",), ("fchown",)], ids=" ".join)
@pytest.mark.parametrize("forge", [attacks.forge_ours, attacks.forge_plain])
def test_what_a_killed_run_left_closed_is_opened_whatever_the_archive_says_of_it(
    town: Town, forge: attacks.Forge, calls: tuple[str, ...]
) -> None:
    """Many an archive names no folders; and of one that it does name the owner is set first."""
    named = Item("theirs", "dir", mode=0o755, uid=NOBODY, gid=NOBODY)
    archive = forge([Item("theirs/file"), named, Item("unnamed/inner/file")])
    arguments = str(town.here / "store"), str(town.target), archive
    assert killed_after(2 if calls == ("link",) else 1, calls, restore_archive, *arguments)
    restore_archive(*arguments)
    for name in ("theirs", "unnamed", "unnamed/inner"):
        assert (town.target / name).stat().st_mode & 0o7777 == 0o777 & ~UMASK, name


def test_a_folder_after_whose_making_a_signal_came_at_once_is_finished_by_the_next_run(
    town: Town,
) -> None:
    real = os.mkdir

    def make_and_stop(name: str, mode: int = 0o777, **options: Any) -> None:
        real(name, mode, **options)
        if name == "inner":
            raise KeyboardInterrupt

    folders = [Item(f"home/{name}", "dir", mode=0o755) for name in ("outer/inner", "outer")]
    items = [Item("home/outer/inner/file"), *folders]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "mkdir", make_and_stop)
        with pytest.raises(KeyboardInterrupt):
            town.restore(items, overwrite="never")
    assert town.restore(items, overwrite="never").extracted.problems == []
    assert (town.home / "outer" / "inner").stat().st_mode & 0o7777 == 0o755


def restore_archive(store: str, target: str, archive: bytes) -> None:
    attacks.restore(Path(store), archive, Path(target), overwrite="never", trusted=True)


@pytest.mark.parametrize("what", ["theirs", "root's", "kept and like it", "nothing"])
def test_a_hardlink_joins_only_what_was_restored_under_that_name(town: Town, what: str) -> None:
    """Else whoever owns the folder puts an inode of theirs into root's."""
    shadow = town.here / "outside" / "shadow"
    shadow.write_text("root's")
    if what == "kept and like it":
        (town.home / "file").write_bytes(b"theirs")
        os.chown(town.home / "file", NOBODY, NOBODY)
        os.utime(town.home / "file", ns=(attacks.MTIME, attacks.MTIME))
    items = [Item("home/file", content=b"attack"), Item("etc/passwd", "hardlink", link="home/file")]
    real = os.open

    def swap_then_open(path: str, flags: int, *arguments: int, **options: int) -> int:
        if path == "file" and flags & os.O_PATH and what in ("theirs", "root's"):
            (town.home / "file").unlink()
            if what == "theirs":
                (town.home / "file").write_bytes(b"attack")
                os.chown(town.home / "file", NOBODY, NOBODY)
            else:
                os.link(shadow, town.home / "file")
        return real(path, flags, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", swap_then_open)
        report = town.restore(items, overwrite="never")
    assert shadow.stat().st_nlink == 1 + (what == "root's")
    if what == "nothing":
        assert (town.target / "etc" / "passwd").read_bytes() == b"attack"
        return
    assert not (town.target / "etc" / "passwd").exists()
    assert "etc/passwd" in dict(report.extracted.problems)


def test_a_hardlink_to_what_an_earlier_run_restored_is_made(town: Town) -> None:
    items = [Item("home/file"), Item("home/twin", "hardlink", link="home/file")]
    town.restore(items[:1], overwrite="never")
    report = town.restore(items, overwrite="never")
    assert report.extracted.problems == []
    assert (town.home / "twin").stat().st_nlink == 2


@pytest.mark.parametrize(
    "item",
    [
        Item("home/x", "symlink", link="/right", uid=NOBODY, gid=NOBODY),
        Item("home/x", "char", rdev=(1, 3)),
    ],
    ids=lambda item: item.kind,
)
@pytest.mark.parametrize("forge", [attacks.forge_ours, attacks.forge_plain])
def test_a_hardlink_joins_no_link_or_device_of_its_users_choice(
    town: Town, item: Item, forge: attacks.Forge
) -> None:
    """One that was there before, and is kept, is the archive's only if it leads to the same."""
    if item.kind == "symlink":
        (town.home / "x").symlink_to("/wrong")
        os.lchown(town.home / "x", NOBODY, NOBODY)
    else:
        os.mknod(town.home / "x", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    archive = forge([item, Item("etc/x", "hardlink", link="home/x")])
    report = attacks.restore(
        town.here / "store", archive, town.target, overwrite="never", trusted=True
    )
    assert [path for path, _ in report.extracted.problems] == ["etc/x"]
    assert os.listdir(town.target / "etc") == []


@pytest.mark.parametrize("rule", ["never", "always"])
@pytest.mark.parametrize("folder", ["home", "etc"])
def test_a_hardlink_to_a_symlink_joins_it_also_after_an_earlier_run(
    town: Town, folder: str, rule: str
) -> None:
    link = Item(f"{folder}/link", "symlink", link="/nowhere", uid=NOBODY, gid=NOBODY)
    town.restore([link], overwrite="never")
    report = town.restore([link, Item("home/twin", "hardlink", link=link.path)], overwrite=rule)
    assert report.extracted.problems == []
    assert (town.target / link.path).lstat().st_nlink == 2


def test_a_symlink_of_another_user_on_the_way_to_the_target_is_not_followed(town: Town) -> None:
    for name, to in {"link": str(town.target / "etc"), "way": str(town.target)}.items():
        (town.home / name).symlink_to(to)
        os.lchown(town.home / name, NOBODY, NOBODY)
    for target in (town.home / "link", town.home / "way" / "etc", town.home / "way" / "new"):
        with pytest.raises(RestoreError, match=r"symlink of another user's.*give --to the folder"):
            attacks.restore(town.here / "store", attacks.forge_ours([Item("file")]), target)
    assert os.listdir(town.target / "etc") == []
    assert sorted(os.listdir(town.target)) == ["etc", "home"]


@pytest.mark.parametrize("place", ["home", "tmp"])
def test_a_symlink_of_roots_that_users_could_have_moved_there_is_not_followed(
    town: Town, place: str
) -> None:
    """Whoever may write to a folder may rename what is root's in it, and move it to others."""
    (town.target / "tmp").mkdir()
    (town.target / "tmp").chmod(0o1777)
    (town.home / "link").symlink_to(town.target / "etc")
    moved = town.target / place / "new"
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    subprocess.run([*command, "mv", "-T", town.home / "link", moved], check=True)
    with pytest.raises(RestoreError, match=r"another user may have put there.*give --to the fol"):
        attacks.restore(town.here / "store", attacks.forge_ours([Item("file")]), moved)
    assert os.listdir(town.target / "etc") == []


def test_a_symlink_of_roots_in_a_folder_of_roots_is_followed_also_below_a_sticky_one(
    town: Town,
) -> None:
    (town.here / "link").symlink_to(town.target / "etc")
    attacks.restore(town.here / "store", attacks.forge_ours([Item("file")]), town.here / "link")
    assert os.listdir(town.target / "etc") == ["file"]


def test_a_target_that_is_swapped_for_a_link_after_it_was_opened_stays_the_target(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = town.home / "new"
    real = open_archive.read_manifest

    def swap_then_read(*arguments: Any) -> Any:
        new.rename(town.home / "moved")
        new.symlink_to(town.target / "etc")
        return real(*arguments)

    monkeypatch.setattr(open_archive, "read_manifest", swap_then_read)
    attacks.restore(town.here / "store", attacks.forge_ours([Item("file")]), new)
    assert os.listdir(town.target / "etc") == []
    assert os.listdir(town.home / "moved") == ["file"]


def test_a_target_that_is_made_and_replaced_at_once_is_refused(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.mkdir

    def make_and_swap(name: str, mode: int, *, dir_fd: int | None = None) -> None:
        real(name, mode, dir_fd=dir_fd)
        if dir_fd is not None:
            os.chown(name, NOBODY, NOBODY, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", make_and_swap)
    with pytest.raises(RestoreError, match="somebody replaced the folder"):
        attacks.restore(town.here / "store", attacks.forge_ours([Item("file")]), town.home / "new")
    assert os.listdir(town.home / "new") == []
