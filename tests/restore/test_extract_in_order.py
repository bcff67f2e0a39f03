"""Other people's archives, in which a path may stand more than once, come back as by GNU tar."""

from __future__ import annotations

import gzip
import io
import os
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_tasks.restore.request import RestoreReport
from tests.support.attacks import restore

KINDS = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE,
}
PATHS = ("a", "b", "d", "d/a", "d/b", "d/e", "d/e/a")


class Item(NamedTuple):
    """One entry; `number` tells it from others: it is its content, its time and its mode."""

    kind: str
    path: str
    link: str = ""
    number: int = 0


def tar_of(items: list[Item]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for item in items:
            info = tarfile.TarInfo(item.path)
            info.type, info.linkname = KINDS[item.kind], item.link
            info.mtime, info.mode = 1_000_000_000 + item.number, 0o600 + item.number % 64
            content = b"%d" % item.number if item.kind == "file" else b""
            info.mode |= 0o100 if item.kind == "dir" else 0
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def tree(top: Path) -> dict[str, tuple[object, ...]]:
    """Path -> what stands there. Of folders the time is left out: tar knows it only if all that
    lies in one follows it at once."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[int, list[str]] = {}
    for path in top.rglob("*"):
        name, status = str(path.relative_to(top)), path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        content = b"" if kind != stat.S_IFREG else path.read_bytes()
        link = os.readlink(path) if kind == stat.S_IFLNK else ""
        time = 0 if kind == stat.S_IFDIR else status.st_mtime_ns
        found[name] = (status.st_mode, status.st_uid, time, content, link)
        if kind != stat.S_IFDIR:
            inodes.setdefault(status.st_ino, []).append(name)
    for names in inodes.values():
        for name in names:
            found[name] += tuple(sorted(names))
    return found


def by_tar(raw: bytes, target: Path, program: str = "tar") -> dict[str, tuple[object, ...]]:
    target.mkdir(exist_ok=True)
    subprocess.run([program, "-xpf", "-", "-C", target], input=raw, capture_output=True)
    return tree(target)


def by_us(raw: bytes, folder: Path, **options: object) -> tuple[RestoreReport, dict[str, object]]:
    report = restore(folder / "store", gzip.compress(raw), folder / "ours", **options)
    return report, dict(tree(folder / "ours"))


class Tar:
    """Which kind of thing stands where, while tar goes through an archive."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}

    def takes(self, item: Item) -> bool:
        """Whether we do the same as tar with this entry; and if so, go on."""
        for path in (item.path, item.link) if item.kind == "hardlink" else (item.path,):
            above = path.rpartition("/")[0]
            while above:
                if self.kinds.get(above) == "symlink":
                    return False  # tar goes through it; we never do
                above = above.rpartition("/")[0]
        if item.kind == "hardlink" and self.kinds.get(item.link, "dir") == "dir":
            return False  # tar fails, and has removed what was there; we wait for its file
        self._go_on(item)
        return True

    def _go_on(self, item: Item) -> None:
        path, kinds = item.path, self.kinds
        above = path.rpartition("/")[0]
        while above:
            if kinds.setdefault(above, "dir") != "dir":
                return
            above = above.rpartition("/")[0]
        is_full = any(other.startswith(path + "/") for other in kinds)
        if item.kind == "dir" or not is_full:
            kinds[path] = kinds[item.link] if item.kind == "hardlink" else item.kind


def items_of(draws: list[tuple[str, str, str]]) -> list[Item]:
    tar = Tar()
    items = [
        Item(kind, path, link if kind.endswith("link") else "", number)
        for number, (kind, path, link) in enumerate(draws)
    ]
    return [item for item in items if tar.takes(item)]


entries = st.lists(
    st.tuples(st.sampled_from(list(KINDS)), st.sampled_from(PATHS), st.sampled_from(PATHS)),
    min_size=2,
    max_size=12,
).map(items_of)


@settings(max_examples=60, deadline=None)
@given(entries, st.sampled_from(("never", "older", "always")))
def test_an_archive_with_repeated_paths_comes_back_as_by_gnu_tar(
    items: list[Item], overwrite: str
) -> None:
    raw = tar_of(items)
    with tempfile.TemporaryDirectory() as folder:
        _, ours = by_us(raw, Path(folder), overwrite=overwrite)
        assert ours == by_tar(raw, Path(folder) / "tar")


def file(path: str, number: int = 0) -> Item:
    return Item("file", path, number=number)


def link(path: str, target: str, number: int = 0) -> Item:
    return Item("hardlink", path, target, number)


def symlink(path: str, target: str, number: int = 0) -> Item:
    return Item("symlink", path, target, number)


def folder(path: str, number: int = 0) -> Item:
    return Item("dir", path, number=number)


# As GNU tar 1.34, GNU tar 1.35 and bsdtar restore them, but where a name says otherwise.
REPEATED = {
    "a file": [file("a"), file("m"), file("a", 1)],
    "a file in a folder": [file("d/a"), file("m"), file("d/a", 1), folder("d")],
    "an older file": [file("a", 1), file("a", 0)],
    "a file with a hardlink": [file("a"), link("h", "a"), file("a", 1)],
    "a file and its hardlink": [file("a"), link("h", "a"), file("a", 1), link("h", "a")],
    "a hardlink, as a file": [file("a"), link("h", "a"), file("h", 1)],
    "a file, as a hardlink": [file("h"), file("a", 1), link("h", "a")],
    "a file, as a hardlink to itself": [file("a"), link("a", "a")],
    "a file, as a symlink": [file("a"), symlink("a", "m", 1)],
    "a symlink": [symlink("a", "m"), symlink("a", "n", 1)],
    "a symlink, as a file": [symlink("a", "m"), file("m", 1), file("a", 2)],
    "a file, as a folder": [file("a"), folder("a", 1), file("a/x", 2)],
    "a folder, as a file": [folder("a"), file("a", 1)],
    "a folder, as a symlink": [folder("a"), symlink("a", "m", 1)],
    "a folder, as a file, as a folder": [folder("a"), file("a", 1), folder("a", 9)],
    "a folder with something in it, as a file": [folder("a"), file("a/x"), file("a", 1)],
    "a folder (GNU tar)": [folder("a"), file("a/x"), folder("a", 9)],
    "a fifo, as a file": [Item("fifo", "a"), file("a", 1)],
    "a file, as a fifo": [file("a"), Item("fifo", "a", number=1)],
    "a file, below which another one is to lie": [file("a"), file("a/x", 1)],
}


@pytest.mark.parametrize("overwrite", ["never", "always"])
@pytest.mark.parametrize("what", REPEATED)
def test_the_last_entry_of_a_path_counts(tmp_path: Path, what: str, overwrite: str) -> None:
    raw = tar_of(REPEATED[what])
    _, ours = by_us(raw, tmp_path, overwrite=overwrite)
    assert ours == by_tar(raw, tmp_path / "tar")
    if "GNU tar" not in what:
        assert ours == by_tar(raw, tmp_path / "bsdtar", "bsdtar")


@pytest.mark.parametrize("options", [["-r"], ["-r", "--format=gnu"], ["-u"]], ids=" ".join)
def test_what_was_appended_to_an_archive_counts(tmp_path: Path, options: list[str]) -> None:
    source, archive = tmp_path / "source", tmp_path / "a.tar"
    (source / "d").mkdir(parents=True)
    for name in ("d/a", "d/b"):
        (source / name).write_text("old")
        os.utime(source / name, (10**9, 10**9))
    os.link(source / "d" / "b", source / "d" / "link")
    subprocess.run(["tar", "-cf", archive, *options[1:], "-C", source, "d"], check=True)
    for name in ("d/a", "d/b"):
        (source / name).write_text("new")
    subprocess.run(["tar", *options, "-f", archive, "-C", source, "d"], check=True)
    report, ours = by_us(archive.read_bytes(), tmp_path)
    assert report.extracted.problems == []
    assert (tmp_path / "ours" / "d" / "a").read_text() == "new"
    assert ours == by_tar(archive.read_bytes(), tmp_path / "tar")


@pytest.mark.parametrize("what", REPEATED)
def test_what_was_there_before_the_run_is_kept_if_nothing_may_be_overwritten(
    tmp_path: Path, what: str
) -> None:
    (tmp_path / "ours").mkdir()
    for name in ("a", "h"):
        (tmp_path / "ours" / name).write_text("before")
    before = tree(tmp_path / "ours")
    _, ours = by_us(tar_of(REPEATED[what]), tmp_path, overwrite="never")
    assert {name: ours[name] for name in before} == before


def test_of_a_path_that_was_there_and_comes_twice_it_is_said_which_version_it_may_be(
    tmp_path: Path,
) -> None:
    """As after a restore that was killed between the two."""
    by_us(tar_of([file("a")]), tmp_path)
    raw = tar_of([file("a"), file("b"), file("a", 1)])
    report, _ = by_us(raw, tmp_path, overwrite="never")
    assert any("stand more than once" in note for note in report.extracted.notes)
    report, ours = by_us(raw, tmp_path, overwrite="older")
    assert report.extracted.notes == set()
    assert ours == by_tar(raw, tmp_path / "tar")


def test_nothing_goes_through_a_link_of_the_archive_also_where_all_may_be_overwritten(
    tmp_path: Path,
) -> None:
    raw = tar_of([folder("d"), symlink("l", "d", 1), file("l/x", 2), link("h", "l/x", 3)])
    report, ours = by_us(raw, tmp_path, overwrite="always")
    assert sorted(ours) == ["d", "l"]
    assert os.readlink(tmp_path / "ours" / "l") == "d"
    assert {path for path, _ in report.extracted.problems} == {"l/x", "h"}


def test_of_an_absolute_link_that_comes_twice_the_last_counts_as_by_bsdtar(tmp_path: Path) -> None:
    """GNU tar, which makes such links late, gives the first."""
    raw = tar_of([symlink("a", "/m"), symlink("a", "/n", 1)])
    assert by_us(raw, tmp_path)[1] == by_tar(raw, tmp_path / "bsdtar", "bsdtar")


def test_a_hardlink_that_comes_before_its_file_is_made_all_the_same(tmp_path: Path) -> None:
    report, ours = by_us(tar_of([link("h", "a"), file("a", 1)]), tmp_path)
    assert report.extracted.problems == []
    assert ours["h"] == ours["a"]


def test_an_entry_after_a_hardlink_that_was_put_off_counts(tmp_path: Path) -> None:
    report, _ = by_us(tar_of([link("h", "a"), file("h", 7), file("a", 1)]), tmp_path)
    assert report.extracted.problems == []
    assert (tmp_path / "ours" / "h").read_text() == "7"
