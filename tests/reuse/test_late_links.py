"""Plain tar gives folders their times also where it makes links last of all."""

from __future__ import annotations

import os
import subprocess
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backup_tasks.common.paths import Paths
from backup_tasks.format.manifest import Entry
from backup_tasks.reuse.late_links import LateLinks, Surroundings, is_late_target
from tests.support.generations import TODAY, Generations, untar
from tests.support.histories import Twin, fingerprint, use_small_chunks
from tests.support.keys import make_key
from tests.support.source_trees import make_late_links

_LONG_AGO = time.time() - 300 * 24 * 3600


@pytest.fixture
def backups(tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Generations:
    """Files that take turns, and links in their midst: so a folder is left and entered again."""
    use_small_chunks(monkeypatch)
    (tmp_path / "source").mkdir()
    made = Generations(tmp_path / "source", tmp_path / "store", paths, now=TODAY)
    for number, name in enumerate("abc"):
        folder = made.source / name
        (folder / "sub").mkdir(parents=True)
        for kind in ("old", "young"):
            for count in range(8):
                (folder / f"{kind} {count}").write_bytes(os.urandom(1500))
                if kind == "old":
                    os.utime(folder / f"old {count}", (_LONG_AGO, _LONG_AGO))
        (folder / "m up").symlink_to("../x")
        (folder / "o absolute").symlink_to("/etc/hosts")
        (folder / "sub" / "absolute").symlink_to(f"/{name}")
        os.utime(folder / "m up", ns=(number, number), follow_symlinks=False)
        os.utime(folder / "o absolute", (_LONG_AGO, _LONG_AGO), follow_symlinks=False)
        os.link(folder / "m up", made.source / f"link to {name}", follow_symlinks=False)
    make_late_links(made.source / "late")
    set_times(made)
    return made


def set_times(backups: Generations) -> None:
    for number, (folder, _, _) in enumerate(os.walk(backups.source)):
        os.utime(folder, ns=(10**18 + number, 10**18 + number))


def write(backups: Generations, name: str) -> None:
    (backups.source / name).write_bytes(os.urandom(1500))
    set_times(backups)


def delete(backups: Generations, name: str) -> None:
    (backups.source / name).unlink()
    set_times(backups)


def relink(backups: Generations, name: str, target: str) -> None:
    (backups.source / name).unlink()
    (backups.source / name).symlink_to(target)
    set_times(backups)


# What happens between a backup and the next one.
CHANGES: dict[str, Callable[[Generations], None]] = {
    "nothing": lambda backups: None,
    "a file changes": lambda backups: write(backups, "a/old 3"),
    "a file comes": lambda backups: write(backups, "a/new"),
    "a link goes": lambda backups: delete(backups, "b/o absolute"),
    "the last link of a folder goes": lambda backups: delete(backups, "c/sub/absolute"),
    "a link says otherwise": lambda backups: relink(backups, "a/m up", "../y"),
    "a link is made late": lambda backups: relink(backups, "a/old 2", "/y"),
    "a link is made late no more": lambda backups: relink(backups, "a/o absolute", "y"),
    "a link of two names says otherwise": lambda backups: relink(backups, "late/up/above", "/z"),
}


def check(
    backups: Generations, target: Path, program: str = "tar", key: Path | None = None
) -> None:
    untarred = untar(backups.archive(), target, program, key)
    assert fingerprint(backups.in_target(untarred)) == fingerprint(backups.source)


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_tar_gives_the_times_of_folders_with_links_that_it_makes_late(
    backups: Generations, tmp_path: Path, program: str
) -> None:
    for number, change in enumerate(CHANGES.values()):
        change(backups)
        assert backups.backup().problems == []
        check(backups, tmp_path / f"{number}", program)
    assert backups.copied() > 0
    backups.backup(full=True)
    check(backups, tmp_path / "full", program)


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
@pytest.mark.parametrize("change", CHANGES)
def test_tar_gives_them_where_the_archive_before_had_such_links_among_the_files(
    backups: Generations,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    program: str,
) -> None:
    """As version 0.1.0 wrote them."""
    with monkeypatch.context() as patch:
        patch.setattr(LateLinks, "has", lambda links, entry: False)
        backups.backup()
    CHANGES[change](backups)
    assert backups.plan().dropped_chunks["links that tar must meet last"] > 0
    backups.backup()
    assert backups.copied() > 0
    check(backups, tmp_path / "target", program)


def test_tar_gives_them_from_an_encrypted_archive(backups: Generations, tmp_path: Path) -> None:
    pair = make_key(tmp_path)
    backups.key, backups.recipients = pair.file, (pair.recipient,)
    for number in range(2):
        backups.backup()
        check(backups, tmp_path / f"{number}", key=backups.key)


def test_an_unchanged_tree_keeps_all_but_folders_and_such_links(backups: Generations) -> None:
    backups.backup()
    before = backups.manifest()
    backups.backup()
    after = backups.manifest()
    last = min(entry.chunk for entry in before.entries() if entry.type in ("dir", "symlink"))
    assert len(after.chunks) == len(before.chunks) > last > 2
    assert backups.copied() == before.chunks[last].offset


def test_what_tar_makes_late_over_another_tree_has_its_times_too(
    backups: Generations, tmp_path: Path
) -> None:
    """What is there already, as in a restore in place, is written over."""
    backups.backup()
    untar(backups.archive(), tmp_path / "target")
    for folder, _, _ in os.walk(tmp_path / "target"):
        os.utime(folder)
    command = ["tar", "-xpf", backups.archive(), "-C", tmp_path / "target"]
    subprocess.run(command, check=True, capture_output=True)
    found = fingerprint(backups.in_target(tmp_path / "target"))
    assert found == fingerprint(backups.source)


def without_times(twins: dict[str, Twin], but: Callable[[str, Twin], bool]) -> dict[str, object]:
    return {
        name: (twin.mode, twin.owner, twin.content, twin.link, twin.names)
        + ((twin.mtime_ns,) if but(name, twin) else ())
        for name, twin in twins.items()
    }


def folders_of_links(twins: dict[str, Twin]) -> set[str]:
    """Folders in which busybox makes something at the very end: hardlinks and late links."""
    return {
        os.path.dirname(name) or "."
        for name, twin in twins.items()
        if len(twin.names) > 1 or is_late_target(twin.link)
    }


def test_busybox_gives_all_but_the_times_of_links_and_of_folders_that_it_makes_links_in(
    backups: Generations, tmp_path: Path
) -> None:
    """It sets no link's time, and makes hardlinks and such symlinks when all else is done."""
    original = fingerprint(backups.source)
    has_time = folders_of_links(original)

    def counts(name: str, twin: Twin) -> bool:
        return not twin.link and name not in has_time

    (backups.source / "plain").mkdir()
    (backups.source / "plain" / "file").write_text("x")
    set_times(backups)
    backups.backup()
    write(backups, "a/old 3")
    backups.backup()
    (tmp_path / "target").mkdir()
    command = ["busybox", "tar", "-xzpf", backups.archive(), "-C", tmp_path / "target"]
    subprocess.run(command, check=True, capture_output=True)
    found = fingerprint(backups.in_target(tmp_path / "target"))
    expected = {name: seconds(twin) for name, twin in fingerprint(backups.source).items()}
    found = {name: seconds(twin) for name, twin in found.items()}
    assert without_times(found, counts) == without_times(expected, counts)
    assert found["plain"].mtime_ns == expected["plain"].mtime_ns


def seconds(twin: Twin) -> Twin:
    """Busybox knows no more of a time."""
    return replace(twin, mtime_ns=twin.mtime_ns // 10**9)


def test_python_gives_the_times_of_such_folders(backups: Generations, tmp_path: Path) -> None:
    backups.backup()
    write(backups, "a/old 3")
    backups.backup()
    with tarfile.open(backups.archive()) as tar:
        # Debian 12's Python knows no filters yet, and has none to trust fully.
        tar.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        tar.extractall(tmp_path / "target")
    found = fingerprint(backups.in_target(tmp_path / "target"))
    expected = fingerprint(backups.source)
    for name in folders_of_links(expected):
        assert abs(found[name].mtime_ns - expected[name].mtime_ns) < 1000, name


@pytest.mark.parametrize(
    ("target", "is_late"),
    [
        *((target, True) for target in ("/", "/x", "..", "a/../b", "../a", "a/..")),
        *((target, False) for target in ("a", "...", "a/..b", "a../b", ".", "")),
    ],
)
def test_late_are_links_that_are_absolute_or_go_up(target: str, is_late: bool) -> None:
    assert is_late_target(target) is is_late


def test_a_hardlink_to_a_late_link_is_late() -> None:
    links = LateLinks()
    assert links.has(Entry(path="a", type="symlink", link="/x", nlink=2))
    assert not links.has(Entry(path="b", type="symlink", link="x", nlink=2))
    assert links.has(Entry(path="c", type="hardlink", link="a", nlink=2))
    assert not links.has(Entry(path="d", type="hardlink", link="b", nlink=2))
    assert not links.has(Entry(path="e", type="fifo"))


def test_each_folder_is_given_once_before_what_lies_in_it() -> None:
    around, given = Surroundings(), []
    for path in ("top", "a/", "a/1", "a/b/", "a/b/1", "a/b/2", "a/c/", "a/c!", "ab/", "ab/1", "z"):
        if path.endswith("/"):
            around.enter(Entry(path=path[:-1], type="dir"))
        elif folder := around.new_around(Entry(path=path, type="symlink")):
            given.append((folder.path, path))
    assert given == [("a", "a/1"), ("a/b", "a/b/1"), ("ab", "ab/1")]


def test_the_folders_around_a_deep_link_take_no_memory_by_the_square_of_their_depth() -> None:
    around, path = Surroundings(), "d"
    tracemalloc.start()
    try:
        for _ in range(3000):
            path += "/d"
            around.enter(Entry(path=path, type="dir"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * 2**20
    folder = around.new_around(Entry(path=path + "/link", type="symlink"))
    assert folder is not None
    assert folder.path == path
    upper = around.new_around(Entry(path=path[:-2] + "/link", type="symlink"))
    assert upper is not None
    assert upper.path == path[:-2]
