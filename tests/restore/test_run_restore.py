"""Promise 5: what is asked for comes back, checked, whole, and nothing else is touched."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from backup_tasks.common.paths import Paths
from backup_tasks.common.progress import SilentProgress
from backup_tasks.common.time_zones import find_zone
from backup_tasks.errors import ArchiveError, RestoreError, UsageError
from backup_tasks.read.listing import list_entries
from backup_tasks.read.manifest_reader import read_manifest
from backup_tasks.restore.request import RestoreReport, RestoreRequest
from backup_tasks.restore.run_restore import run_restore
from backup_tasks.stores.base import Store, StoredObject
from tests.support import attacks
from tests.support.attacks import Forge, Item, forge_ours, forge_plain
from tests.support.backups import Backups
from tests.support.details import find_backups
from tests.support.other_process import killed_after
from tests.support.source_trees import (
    assert_same_tree,
    make_attributes,
    make_files,
    make_links,
    make_special,
    make_times,
    run,
)

UTC = find_zone("UTC")
MIB = 2**20


@pytest.fixture
def backups(tmp_path: Path, paths: Paths) -> Backups:
    found = Backups(tmp_path / "source", tmp_path / "store", paths)
    found.source.mkdir()
    return found


@pytest.fixture(params=[forge_ours, forge_plain], ids=["ours", "plain"])
def forge(request: pytest.FixtureRequest) -> Forge:
    return request.param  # type: ignore[no-any-return]


def restore(
    backups: Backups, target: Path, *patterns: str, store: Store | None = None, **options: Any
) -> RestoreReport:
    store = store or backups.open_store()
    request = RestoreRequest(paths=patterns, target=target)
    newest = find_backups(store, UTC)[-1]
    return run_restore(store, newest, replace(request, **options), SilentProgress())


@dataclass
class CountingStore:
    """A store that remembers which ranges were read."""

    inner: Store
    ranges: list[tuple[int, int]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
        self.ranges.append((start, length))
        return self.inner.read_range(source, start, length)

    @property
    def bytes(self) -> int:
        return sum(length for _, length in self.ranges)


# Choosing.


def test_restoring_one_path_fetches_only_its_chunks(backups: Backups, tmp_path: Path) -> None:
    for number in range(30):
        (backups.source / f"{number:02}").write_bytes(os.urandom(MIB))
    backups.backup()
    store = CountingStore(backups.open_store())
    report = restore(backups, tmp_path / "target", "17", store=store)  # type: ignore[arg-type]
    twin = backups.in_target(tmp_path / "target")
    assert os.listdir(twin) == ["17"]
    assert (twin / "17").read_bytes() == (backups.source / "17").read_bytes()
    assert MIB < report.fetched_bytes < MIB + 10_000
    assert store.bytes < 1.2 * MIB
    assert len(store.ranges) < 6


def test_a_small_file_among_large_ones_costs_one_chunk(backups: Backups, tmp_path: Path) -> None:
    (backups.source / "a large").write_bytes(os.urandom(9 * MIB))
    (backups.source / "b small").write_text("small")
    (backups.source / "c large").write_bytes(os.urandom(9 * MIB))
    backups.backup()
    store = CountingStore(backups.open_store())
    restore(backups, tmp_path / "target", "b small", store=store)  # type: ignore[arg-type]
    assert (backups.in_target(tmp_path / "target") / "b small").read_text() == "small"
    assert store.bytes < 50_000


def test_listing_fetches_the_manifest_alone(backups: Backups) -> None:
    for number in range(5):
        (backups.source / f"{number}").write_bytes(os.urandom(3 * MIB))
    backups.backup()
    store = CountingStore(backups.open_store())
    found = find_backups(store, UTC)[-1]  # type: ignore[arg-type]
    names = [entry.name for entry in list_entries(store, found.stored, ())]  # type: ignore[arg-type]
    assert str(backups.source / "3").lstrip("/") in names
    assert store.bytes < 20_000


def test_a_folder_brings_all_below_it_and_its_parents_have_their_own_modes(
    backups: Backups, tmp_path: Path
) -> None:
    inner = backups.source / "etc" / "nginx" / "sites"
    inner.mkdir(parents=True)
    (inner / "default").write_text("server {}")
    (backups.source / "etc" / "passwd").write_text("root")
    for folder, mode in ((inner, 0o711), (inner.parent, 0o751), (inner.parent.parent, 0o755)):
        folder.chmod(mode)
        os.utime(folder, ns=(1, 123_456_789))
    backups.backup()
    restore(backups, tmp_path / "target", f"{backups.source}/etc/nginx/")
    twin = backups.in_target(tmp_path / "target")
    assert os.listdir(twin / "etc") == ["nginx"]
    assert_same_tree(backups.source / "etc" / "nginx", twin / "etc" / "nginx")
    assert (twin / "etc").stat().st_mode & 0o7777 == 0o755
    assert (twin / "etc").stat().st_mtime_ns == 123_456_789


@pytest.mark.parametrize("pattern", ["*.conf", "/a/**", "a/one.conf", "b/"])
def test_patterns_mean_what_gitignore_means_by_them(tmp_path: Path, pattern: str) -> None:
    items = [
        Item("a/one.conf"),
        Item("a/two.txt"),
        Item("b/one.conf"),
        Item("b/c/three.txt"),
    ]
    expected = {
        "*.conf": {"a/one.conf", "b/one.conf"},
        "/a/**": {"a/one.conf", "a/two.txt"},
        "a/one.conf": {"a/one.conf"},
        "b/": {"b/one.conf", "b/c/three.txt"},
    }
    for number, forge in enumerate((forge_ours, forge_plain)):
        target = tmp_path / f"target {number}"
        attacks.restore(tmp_path / "store", forge(items), target, paths=(pattern,))
        assert files_of(target) == expected[pattern]


def files_of(folder: Path) -> set[str]:
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if not f.is_dir()}


def test_a_pattern_that_matches_nothing_is_an_error_and_writes_nothing(
    tmp_path: Path, forge: Forge
) -> None:
    target = tmp_path / "target"
    with pytest.raises(UsageError, match=r"'no/such'.* matches nothing in 2025.*invoke files"):
        attacks.restore(tmp_path / "store", forge([Item("other")]), target, paths=("no/such",))
    assert files_of(target) == set()


def test_a_dry_run_writes_nothing_and_tells_how_much_it_would(tmp_path: Path, forge: Forge) -> None:
    archive = forge([Item("a", content=b"12345"), Item("b", content=b"123")])
    report = attacks.restore(tmp_path / "store", archive, tmp_path / "target", dry_run=True)
    assert not (tmp_path / "target").exists()
    assert (report.entries, report.extracted.files, report.extracted.bytes) == (2, 2, 8)
    assert report.fetched_bytes > 0


# The target.


def test_a_target_that_is_not_empty_is_refused_unless_told_what_to_do(
    tmp_path: Path, forge: Forge
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "there").write_text("mine")
    with pytest.raises(RestoreError, match=r"is not empty.*--overwrite never, older or always"):
        attacks.restore(tmp_path / "store", forge([Item("new")]), target)
    assert os.listdir(target) == ["there"]
    attacks.restore(tmp_path / "store", forge([Item("new")]), target, overwrite="never")
    assert sorted(os.listdir(target)) == ["new", "there"]


def test_a_restore_that_fails_leaves_no_thread_behind(tmp_path: Path, forge: Forge) -> None:
    """Else its threads would be waited for when the error is forgotten, wherever that happens."""
    noise = random.Random(1).randbytes(2**19)
    archive = bytearray(forge([Item(f"f{number}", content=noise) for number in range(8)]))
    archive[len(archive) // 3] ^= 1
    before = set(threading.enumerate())
    with pytest.raises(ArchiveError) as kept:
        attacks.restore(tmp_path / "store", bytes(archive), tmp_path / "target")
    assert set(threading.enumerate()) <= before, kept
    assert os.listdir(tmp_path / "target")


def test_a_restore_that_is_broken_off_leaves_no_thread_behind(tmp_path: Path, forge: Forge) -> None:
    class BreaksOff(SilentProgress):
        def advance(self, bytes_done: int = 0, files_done: int = 0) -> None:
            raise RuntimeError

    store, backup = attacks.put(tmp_path / "store", forge([Item("a"), Item("b")]))
    before = set(threading.enumerate())
    with pytest.raises(RuntimeError) as kept:
        run_restore(store, backup, RestoreRequest((), tmp_path / "target"), BreaksOff())
    assert set(threading.enumerate()) <= before, kept


def test_a_target_that_is_a_file_is_one_clear_line(tmp_path: Path, forge: Forge) -> None:
    (tmp_path / "target").write_text("a file")
    with pytest.raises(RestoreError, match="choose another --to"):
        attacks.restore(tmp_path / "store", forge([Item("new")]), tmp_path / "target")


def test_the_target_itself_may_be_a_symlink(tmp_path: Path, forge: Forge) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "target").symlink_to("real")
    attacks.restore(tmp_path / "store", forge([Item("new")]), tmp_path / "target")
    assert os.listdir(tmp_path / "real") == ["new"]


OLD, NEW = attacks.MTIME - 10**9, attacks.MTIME + 10**9


def put_there(place: Path, kind: str, mtime_ns: int) -> None:
    """Something that is in the way."""
    if kind == "file":
        place.write_text("mine")
    elif kind == "symlink":
        place.symlink_to("elsewhere")
    elif kind == "empty folder":
        place.mkdir()
    elif kind == "full folder":
        place.mkdir()
        (place / "mine").write_text("mine")
    else:
        os.mkfifo(place)
    os.utime(place, ns=(mtime_ns, mtime_ns), follow_symlinks=False)


def look(place: Path) -> str:
    if place.is_symlink():
        return f"symlink to {os.readlink(place)}"
    if place.is_dir():
        return f"folder of {sorted(os.listdir(place))}"
    if place.is_fifo():
        return "fifo"
    return place.read_text()


ARRIVALS = {
    "file": ([Item("x", content=b"new")], "new"),
    "symlink": ([Item("x", "symlink", link="new")], "symlink to new"),
    "hardlink": ([Item("a", content=b"new"), Item("x", "hardlink", link="a")], "new"),
    "fifo": ([Item("x", "fifo")], "fifo"),
}
THERE = ["file", "symlink", "empty folder", "full folder", "fifo"]


@pytest.mark.parametrize("arriving", ARRIVALS)
@pytest.mark.parametrize("there", THERE)
def test_overwrite_never_keeps_whatever_is_there(
    tmp_path: Path, forge: Forge, there: str, arriving: str
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    put_there(target / "x", there, OLD)
    before = look(target / "x")
    report = attacks.restore(
        tmp_path / "store", forge(ARRIVALS[arriving][0]), target, overwrite="never"
    )
    assert look(target / "x") == before
    assert report.extracted.kept == 1


@pytest.mark.parametrize("arriving", ARRIVALS)
@pytest.mark.parametrize("there", THERE)
@pytest.mark.parametrize(("rule", "mtime_ns"), [("always", NEW), ("older", OLD)])
def test_overwrite_replaces_whatever_is_there_but_a_folder_that_holds_something(
    tmp_path: Path, forge: Forge, there: str, arriving: str, rule: str, mtime_ns: int
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    put_there(target / "x", there, mtime_ns)
    before = look(target / "x")
    items, after = ARRIVALS[arriving]
    report = attacks.restore(tmp_path / "store", forge(items), target, overwrite=rule)
    if there == "full folder":
        assert look(target / "x") == before
        assert report.extracted.problems == [("x", "Directory not empty")]
    else:
        assert look(target / "x") == after
        assert report.extracted.problems == []
    assert not list(target.glob(".backup-tasks-*"))


@pytest.mark.parametrize("arriving", ARRIVALS)
@pytest.mark.parametrize("there", THERE)
def test_overwrite_older_keeps_what_is_newer(
    tmp_path: Path, forge: Forge, there: str, arriving: str
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    put_there(target / "x", there, NEW)
    before = look(target / "x")
    attacks.restore(tmp_path / "store", forge(ARRIVALS[arriving][0]), target, overwrite="older")
    assert look(target / "x") == before


FOLDER = [Item("x/inner", content=b"new"), Item("x", "dir", mode=0o750)]


@pytest.mark.parametrize("there", ["file", "symlink", "fifo"])
@pytest.mark.parametrize("rule", ["never", "older"])
def test_a_folder_takes_the_place_of_nothing_else_unless_told_to(
    tmp_path: Path, forge: Forge, there: str, rule: str
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    put_there(target / "x", there, OLD)
    before = look(target / "x")
    report = attacks.restore(tmp_path / "store", forge(FOLDER), target, overwrite=rule)
    assert look(target / "x") == before
    assert {path for path, _ in report.extracted.problems} == {"x", "x/inner"}


@pytest.mark.parametrize("there", ["file", "symlink", "fifo"])
def test_a_folder_takes_the_place_of_something_else_with_always(
    tmp_path: Path, forge: Forge, there: str
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    put_there(target / "x", there, NEW)
    attacks.restore(tmp_path / "store", forge(FOLDER), target, overwrite="always")
    assert look(target / "x") == "folder of ['inner']"
    assert (target / "x").stat().st_mode & 0o7777 == 0o750


@pytest.mark.parametrize(("rule", "mode"), [("never", 0o700), ("older", 0o700), ("always", 0o750)])
def test_a_folder_that_was_there_keeps_its_own_mode_unless_told_to(
    tmp_path: Path, forge: Forge, rule: str, mode: int
) -> None:
    target = tmp_path / "target"
    (target / "x").mkdir(parents=True, mode=0o700)
    (target / "x" / "mine").write_text("mine")
    os.setxattr(target / "x", "user.mine", b"1")
    attacks.restore(tmp_path / "store", forge(FOLDER), target, overwrite=rule)
    assert (target / "x").stat().st_mode & 0o7777 == mode
    assert look(target / "x") == "folder of ['inner', 'mine']"
    assert os.listxattr(target / "x") == ([] if rule == "always" else ["user.mine"])


def test_no_link_joins_a_file_that_was_kept_with_other_content(
    tmp_path: Path, forge: Forge
) -> None:
    """It would have a name from the archive, and a content that is not."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "a").write_text("changed since")
    items = [Item("a", content=b"old"), Item("b", "hardlink", link="a")]
    report = attacks.restore(tmp_path / "store", forge(items), target, overwrite="never")
    assert os.listdir(target) == ["a"]
    assert [path for path, _ in report.extracted.problems] == ["b"]


@pytest.mark.parametrize("paths", [(), ("b", "c")])
def test_links_to_a_file_that_is_not_in_the_archive_are_named(
    tmp_path: Path, forge: Forge, paths: tuple[str, ...]
) -> None:
    items = [Item("b", "hardlink", link="a"), Item("c", "hardlink", link="a"), Item("d")]
    report = attacks.restore(tmp_path / "store", forge(items), tmp_path / "target", paths=paths)
    assert {path for path, _ in report.extracted.problems} == {"b", "c"}


def test_a_folder_that_the_archive_says_nothing_of_is_like_any_new_folder(
    tmp_path: Path, forge: Forge
) -> None:
    old = os.umask(0o027)
    try:
        attacks.restore(tmp_path / "store", forge([Item("a/b/c")]), tmp_path / "target")
    finally:
        os.umask(old)
    for folder in ("a", "a/b"):
        assert (tmp_path / "target" / folder).stat().st_mode & 0o7777 == 0o750


# Damage.


def chunks_of(backups: Backups) -> list[Any]:
    store = backups.open_store()
    manifest = read_manifest(store, find_backups(store, UTC)[-1].stored)
    assert manifest is not None
    return manifest.chunks


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 0x10
    file.write_bytes(content)


@pytest.fixture
def three_files(backups: Backups) -> Backups:
    for name in ("a", "b", "c"):
        (backups.source / name).write_bytes(os.urandom(MIB + 1000))
    backups.backup()
    return backups


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_flipped_byte_in_a_chunk_is_an_error_and_its_file_gets_no_name(
    three_files: Backups, tmp_path: Path, share: float
) -> None:
    # Each file has a chunk for its headers and two for its bytes.
    chunk = chunks_of(three_files)[4]
    flip(three_files.archive(), chunk.offset + int(chunk.length * share))
    with pytest.raises(ArchiveError, match=r"is damaged: .*--skip-damaged"):
        restore(three_files, tmp_path / "target")
    twin = three_files.in_target(tmp_path / "target")
    assert os.listdir(twin) == ["a"]


def test_skip_damaged_brings_back_all_others(three_files: Backups, tmp_path: Path) -> None:
    flip(three_files.archive(), chunks_of(three_files)[4].offset + 1000)
    report = restore(three_files, tmp_path / "target", skip_damaged=True)
    twin = three_files.in_target(tmp_path / "target")
    assert sorted(os.listdir(twin)) == ["a", "c"]
    assert (twin / "c").read_bytes() == (three_files.source / "c").read_bytes()
    ((path, reason),) = report.extracted.problems
    assert path.endswith("/b")
    assert "chunk 4 is damaged" in reason


def test_skip_damaged_goes_on_where_a_refused_restore_stopped(
    three_files: Backups, tmp_path: Path
) -> None:
    flip(three_files.archive(), chunks_of(three_files)[4].offset + 1000)
    with pytest.raises(ArchiveError):
        restore(three_files, tmp_path / "target")
    restore(three_files, tmp_path / "target", skip_damaged=True, overwrite="never")
    twin = three_files.in_target(tmp_path / "target")
    assert sorted(os.listdir(twin)) == ["a", "c"]
    assert twin.stat().st_mode == three_files.source.stat().st_mode
    assert twin.stat().st_mtime_ns == three_files.source.stat().st_mtime_ns


def test_no_link_joins_a_file_that_damage_cost(backups: Backups, tmp_path: Path) -> None:
    (backups.source / "a").write_bytes(os.urandom(2 * MIB))
    os.link(backups.source / "a", backups.source / "b")
    backups.backup()
    flip(backups.archive(), chunks_of(backups)[1].offset + 1000)
    twin = backups.in_target(tmp_path / "target")
    twin.mkdir(parents=True)
    (twin / "a").write_text("something else")
    report = restore(backups, tmp_path / "target", skip_damaged=True, overwrite="always")
    assert os.listdir(twin) == ["a"]
    assert {path.rpartition("/")[2] for path, _ in report.extracted.problems} == {"a", "b"}


@pytest.mark.parametrize("place", [-1, -40, -300], ids=["footer", "footer's hash", "manifest"])
def test_a_flipped_byte_in_manifest_or_footer_is_an_error(
    three_files: Backups, tmp_path: Path, place: int
) -> None:
    content = bytearray(three_files.archive().read_bytes())
    content[place] ^= 1
    three_files.archive().write_bytes(content)
    with pytest.raises(ArchiveError):
        restore(three_files, tmp_path / "target")
    assert not three_files.in_target(tmp_path / "target").exists()


# Killed.

CALLS = ("link", "rename", "mkdir", "symlink", "mknod", "fchmod", "chmod", "utime", "pwrite")


def restore_trusted(backups: Backups, target: Path) -> None:
    restore(backups, target, trusted=True)


def test_a_killed_restore_can_be_run_again_and_leaves_no_trace(
    backups: Backups, tmp_path: Path
) -> None:
    (backups.source / "large").write_bytes(os.urandom(2 * MIB))
    make_links(backups.source / "links")
    make_attributes(backups.source / "attributes")
    make_special(backups.source / "special")
    make_times(backups.source)
    backups.backup()
    expected = {
        path.relative_to(backups.source): path.read_bytes()
        for path in backups.source.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    at_call, kills = 1, 0
    while True:
        target = tmp_path / f"target {at_call}"
        if not killed_after(at_call, CALLS, restore_trusted, backups, target):
            break
        twin = backups.in_target(target)
        for path, content in expected.items():
            if (twin / path).is_file() and not (twin / path).is_symlink():
                assert (twin / path).read_bytes() == content
        report = restore(backups, target, trusted=True, overwrite="never")
        assert report.extracted.problems == []
        assert_same_tree(backups.source, twin)
        run("find", target, "-depth", "-delete")
        kills += 1
        at_call += 1 + at_call // 3
    assert kills > 12


@pytest.fixture
def no_nameless_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems, which cannot make a file without a name."""
    real = os.open

    def without_tmpfile(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", without_tmpfile)


@pytest.fixture
def no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a chroot in which /proc is not mounted, where nothing can give such a file a name."""
    real_open, real_link = os.open, os.link

    def open_elsewhere(path: Any, *args: Any, **options: Any) -> int:
        if str(path).startswith("/proc/"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return real_open(path, *args, **options)

    def link_elsewhere(source: Any, *args: Any, **options: Any) -> None:
        assert not str(source).startswith("/proc/")
        real_link(source, *args, **options)

    monkeypatch.setattr(os, "open", open_elsewhere)
    monkeypatch.setattr(os, "link", link_elsewhere)


@pytest.mark.parametrize(
    ("rule", "content"),
    [("never", b"first"), ("older", b"first, but newer"), ("always", b"last")],
)
@pytest.mark.parametrize("way", ["nameless", "no_nameless_files", "no_proc"])
def test_two_entries_of_one_name_in_a_new_folder_follow_the_rule_too(
    rule: str, content: bytes, way: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """As a file system that knows no capital letters makes of two names."""
    if way != "nameless":
        request.getfixturevalue(way)
    items = [
        Item("new/file", content=b"first"),
        Item("new/file", content=b"first, but newer", mtime_ns=attacks.MTIME + 1),
        Item("new/file", content=b"last"),
    ]
    report = attacks.restore(tmp_path / "store", forge_ours(items), tmp_path / "x", overwrite=rule)
    assert os.listdir(tmp_path / "x" / "new") == ["file"]
    assert (tmp_path / "x" / "new" / "file").read_bytes() == content
    assert report.extracted.problems == []
    assert report.extracted.kept == {"never": 2, "older": 1, "always": 0}[rule]


# Archives of others.


@pytest.fixture
def plain(backups: Backups) -> Callable[..., None]:
    """Makes an archive with GNU tar, under a name as ours."""
    make_files(backups.source / "files")
    make_links(backups.source / "links")
    (backups.source / "links" / "folder" / "fifo too").unlink()  # which GNU tar stores as two
    make_times(backups.source)
    backups.write_profile()

    def make(*arguments: str | Path) -> None:
        name = backups.store_folder / "2025-06-12_0200-backup.tar.gz"
        subprocess.run(["tar", "-czf", name, *arguments], check=True, stderr=subprocess.DEVNULL)

    return make


@pytest.mark.parametrize("form", ["posix", "gnu"])
def test_a_plain_tar_gz_is_listed_and_restored(
    backups: Backups, plain: Callable[..., None], tmp_path: Path, form: str
) -> None:
    if form == "gnu":  # which knows whole seconds only
        shutil.rmtree(backups.source / "times")
        run("find", backups.source, "-exec", "touch", "-h", "-d", "2025-01-01", "{}", "+")
    plain(f"--format={form}", "-C", backups.source, ".")
    store = backups.open_store()
    found = find_backups(store, UTC)[-1]
    names = {entry.name for entry in list_entries(store, found.stored, ())}
    assert {str(p.relative_to(backups.source)) for p in backups.source.rglob("*")} == names
    report = restore(backups, tmp_path / "target")
    assert report.extracted.problems == []
    os.utime(tmp_path / "target", ns=(backups.source.stat().st_mtime_ns,) * 2)
    (tmp_path / "target").chmod(backups.source.stat().st_mode & 0o7777)
    assert_same_tree(backups.source, tmp_path / "target")


def test_a_part_of_a_plain_tar_gz_is_restored_with_the_folders_above(
    backups: Backups, plain: Callable[..., None], tmp_path: Path
) -> None:
    (backups.source / "links").chmod(0o751)
    plain("--format=posix", "-C", backups.source, ".")
    restore(backups, tmp_path / "target", "links/folder/")
    assert os.listdir(tmp_path / "target") == ["links"]
    assert os.listdir(tmp_path / "target" / "links") == ["folder"]
    assert (tmp_path / "target" / "links").stat().st_mode & 0o7777 == 0o751


def test_a_link_of_a_plain_tar_gz_whose_file_was_not_asked_for_is_named(
    backups: Backups, plain: Callable[..., None], tmp_path: Path
) -> None:
    plain("--format=posix", "-C", backups.source, ".")
    store = backups.open_store()
    links = {
        entry.name: entry.link_name
        for entry in list_entries(store, find_backups(store, UTC)[-1].stored, ())
        if entry.type == "hardlink" and entry.link_name.endswith(("first", "second", "last"))
    }
    name, target = sorted(links.items())[0]
    report = restore(backups, tmp_path / "target", f"/{name}")
    assert report.extracted.problems == [(name, f"{target!r}, which it is a link to, is not there")]


def test_a_plain_tar_gz_with_a_flipped_byte_is_an_error(
    backups: Backups, plain: Callable[..., None], tmp_path: Path
) -> None:
    plain("-C", backups.source, ".")
    size = backups.archive().stat().st_size
    for share in (0.1, 0.5, 0.9):
        flip(backups.archive(), int(size * share))
        with pytest.raises(ArchiveError):
            restore(backups, tmp_path / f"target {share}")
        flip(backups.archive(), int(size * share))
    flip(backups.archive(), size - 6)  # gzip's own checksum, behind tar's end mark
    with pytest.raises(ArchiveError):
        restore(backups, tmp_path / "target")


@pytest.mark.parametrize("missing", [1, 1000, 100_000])
def test_a_plain_tar_gz_that_is_cut_off_is_an_error(
    backups: Backups, plain: Callable[..., None], tmp_path: Path, missing: int
) -> None:
    plain("-C", backups.source, ".")
    content = backups.archive().read_bytes()
    backups.archive().write_bytes(content[:-missing])
    with pytest.raises(ArchiveError):
        restore(backups, tmp_path / "target")


class Steps(SilentProgress):
    """Adds up what it is told."""

    def __init__(self) -> None:
        self.totals: tuple[int, int] = (0, 0)
        self.done = [0, 0]

    def start(self, label: str, total_bytes: int, total_files: int) -> None:
        self.totals = total_bytes, total_files

    def advance(self, bytes_done: int = 0, files_done: int = 0) -> None:
        self.done[0] += bytes_done
        self.done[1] += files_done


@pytest.mark.parametrize("patterns", [(), ("/**/[bl]*",)])
def test_progress_ends_where_it_was_said_to(
    backups: Backups, tmp_path: Path, patterns: tuple[str, ...]
) -> None:
    (backups.source / "large").write_bytes(random.Random(1).randbytes(5 * MIB + 1))
    for name in ("a", "b/c", "b/d"):
        (backups.source / name).parent.mkdir(exist_ok=True)
        (backups.source / name).write_text(name)
    (backups.source / "empty").touch()
    (backups.source / "b" / "link").symlink_to("c")
    backups.backup()
    store, steps = backups.open_store(), Steps()
    backup = find_backups(store, UTC)[-1]
    run_restore(store, backup, RestoreRequest(patterns, tmp_path / "target"), steps)
    assert tuple(steps.done) == steps.totals
    assert steps.totals[0] > 5 * MIB
