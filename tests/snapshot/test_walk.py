"""The walk: everything below the sources, once, in the order of the manifest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backup_tasks.common.gitignore import PathPatterns
from backup_tasks.common.paths import PROJECT_ROOT
from backup_tasks.errors import SourceError
from backup_tasks.format.manifest import Entry
from backup_tasks.snapshot import walk as snapshot
from backup_tasks.snapshot.source_tree import plan_sources
from backup_tasks.snapshot.walk import Walk, WalkRules
from backup_tasks.spools import folder_names
from tests.format.test_manifest import NAMES
from tests.support.other_process import IS_ROOT
from tests.support.source_trees import make_links, make_names, make_socket

CACHE_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# made by hand\n"


def walk(
    *sources: Path,
    exclude: tuple[str, ...] = (),
    problems: list[str] | None = None,
    **rules: object,
) -> list[Entry]:
    tree, missing = plan_sources(tuple(map(str, sources)))
    told = problems if problems is not None else []
    told += missing
    found = Walk(
        tree,
        WalkRules(excludes=PathPatterns(exclude), **rules),  # type: ignore[arg-type]
        lambda path, reason: told.append(f"{path}: {reason}"),
    )
    return list(found.entries())


def names(found: list[Entry], below: Path) -> list[str]:
    """The paths below this folder, relative to it, in the order of the walk."""
    front = str(below).lstrip("/") + "/"
    return [entry.name.removeprefix(front) for entry in found if entry.name.startswith(front)]


TREES = st.recursive(
    st.none(), lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)


def make_tree(folder: bytes, tree: dict[bytes, object] | None) -> None:
    for name, below in (tree or {}).items():
        if name in (b".", b".."):
            continue
        path = folder + b"/" + name
        if below is None:
            open(path, "wb").close()
        else:
            os.mkdir(path)
            make_tree(path, below)  # type: ignore[arg-type]


@given(st.dictionaries(NAMES, TREES, max_size=5))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_order_of_the_walk_is_the_order_of_its_keys(tree: dict[bytes, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_tree(folder.encode(), tree)
        found = walk(Path(folder))
        keys = [entry.walk_key for entry in found]
        assert keys == sorted(set(keys))
        expected = {
            os.path.join(root, name).lstrip(b"/")
            for root, folders, files in os.walk(folder.encode())
            for name in folders + files
        }
        below = {os.fsencode(e.name) for e in found if e.name.startswith(folder[1:] + "/")}
        assert below == expected


def test_folders_above_a_source_are_entries_but_nothing_else_beside_it(tmp_path: Path) -> None:
    for name in ("a/wanted/inner", "a/beside"):
        (tmp_path / name).mkdir(parents=True)
    found = walk(tmp_path / "a" / "wanted")
    assert names(found, tmp_path) == ["a", "a/wanted", "a/wanted/inner"]
    upper = [entry.name for entry in found if str(tmp_path).lstrip("/").startswith(entry.name)]
    assert upper == ["/".join(tmp_path.parts[1:end]) for end in range(2, len(tmp_path.parts) + 1)]


def test_sources_within_each_other_are_walked_once(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    found = walk(tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a")
    assert names(found, tmp_path) == ["a", "a/b", "a/b/c"]


def test_a_source_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").write_text("x")
    assert names(walk(tmp_path / "file"), tmp_path) == ["file"]


def test_a_source_behind_a_symlink_is_followed_and_the_link_is_kept(tmp_path: Path) -> None:
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    found = walk(tmp_path / "link" / "inner")
    assert names(found, tmp_path) == ["link", "real", "real/inner"]
    assert [entry.link for entry in found if entry.type == "symlink"] == ["real"]


def test_symlinks_inside_are_never_followed(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_text("x")
    (tmp_path / "source" / "link").symlink_to("../elsewhere")
    assert names(walk(tmp_path / "source"), tmp_path) == ["source", "source/link"]


def test_a_missing_source_is_named_and_the_others_are_walked(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    problems: list[str] = []
    found = walk(tmp_path / "there", tmp_path / "missing", problems=problems)
    assert names(found, tmp_path) == ["there"]
    assert problems == [str(tmp_path / "missing")]


def test_no_source_at_all_is_an_error_that_names_them(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none of the sources can be read: .*missing .*No such"):
        walk(tmp_path / "missing", tmp_path / "missing too")


def test_excluded_folders_are_not_even_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "node_modules" / "deep").mkdir(parents=True)
    (tmp_path / "keep" / "a.tmp").write_text("x")
    looked: list[int] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda place: (looked.append(place), real(place))[1])
    found = walk(tmp_path, exclude=("node_modules/", "*.tmp"))
    assert names(found, tmp_path) == ["keep"]
    assert len(looked) == 2  # the source, and keep


def test_what_lies_inside_a_pattern_can_be_excluded_with_the_folder_kept(tmp_path: Path) -> None:
    (tmp_path / "cache" / "x").mkdir(parents=True)
    assert names(walk(tmp_path, exclude=(f"{tmp_path}/cache/**",)), tmp_path) == ["cache"]


def test_a_source_named_in_full_is_walked_whatever_the_excludes_say_of_folders_above(
    tmp_path: Path,
) -> None:
    (tmp_path / "tmp" / "wanted").mkdir(parents=True)
    found = walk(tmp_path / "tmp" / "wanted", exclude=("tmp/",))
    assert "tmp/wanted" in names(found, tmp_path)


def test_of_a_cache_only_the_tag_is_kept(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "CACHEDIR.TAG").write_text(CACHE_TAG)
    (tmp_path / "cache" / "content").write_text("x")
    (tmp_path / "cache" / "folder").mkdir()
    (tmp_path / "no cache").mkdir()
    (tmp_path / "no cache" / "CACHEDIR.TAG").write_text("something else")
    (tmp_path / "no cache" / "content").write_text("x")
    kept = ["cache", "cache/CACHEDIR.TAG"]
    others = ["no cache", "no cache/CACHEDIR.TAG", "no cache/content"]
    assert names(walk(tmp_path, exclude_caches=True), tmp_path) == kept + others
    assert "cache/content" in names(walk(tmp_path), tmp_path)


def test_a_tag_that_is_a_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "CACHEDIR.TAG")
    (tmp_path / "content").write_text("x")
    assert "content" in names(walk(tmp_path, exclude_caches=True), tmp_path)


def test_a_marker_excludes_the_folder_that_holds_it(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / ".nobackup").touch()
    (tmp_path / "a" / "content").touch()
    (tmp_path / "z").touch()
    found = walk(tmp_path, exclude_if_present=(".never", ".nobackup"))
    assert names(found, tmp_path) == ["a", "a/.nobackup", "z"]


@pytest.mark.parametrize("marker", [".nobackup", "CACHEDIR.TAG"])
@pytest.mark.parametrize("kind", ["plain", "behind a link", "below another source"])
def test_a_marker_in_a_sources_own_folder_is_not_obeyed(
    tmp_path: Path, marker: str, kind: str
) -> None:
    source = tmp_path / "upper" / "source"
    (source / "inner").mkdir(parents=True)
    for folder in (source, source / "inner"):
        (folder / marker).write_text(CACHE_TAG)
        (folder / "content").touch()
    link = tmp_path / "link"
    link.symlink_to("upper")
    sources = {
        "plain": (source,),
        "behind a link": (link / "source",),
        "below another source": (tmp_path / "upper", source),
    }[kind]
    tree, _ = plan_sources(tuple(map(str, sources)))
    rules = WalkRules(PathPatterns(()), exclude_caches=True, exclude_if_present=(".nobackup",))
    walk = Walk(tree, rules, lambda path, reason: None)
    found = {entry.name for entry in walk.entries()}
    inside = str(source).lstrip("/")
    assert f"{inside}/content" in found
    assert f"{inside}/inner/content" not in found
    assert walk.ignored_markers == [f"{inside}/{marker}"]
    assert (walk.marked, walk.marked_first) == (1, [f"{inside}/inner"])


@pytest.mark.skipif(not IS_ROOT, reason="gives files away")
@pytest.mark.parametrize("marker", [".nobackup", "CACHEDIR.TAG"])
def test_in_a_folder_of_all_nobody_leaves_out_what_is_not_his(tmp_path: Path, marker: str) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    os.chown(shared, 4712, -1)
    (shared / "of another user").touch()
    (shared / marker).write_text(CACHE_TAG)
    for owner, is_obeyed in ((4711, False), (0, True), (4712, True)):
        os.chown(shared / marker, owner, -1)
        found = names(
            walk(tmp_path, exclude_caches=True, exclude_if_present=(".nobackup",)), tmp_path
        )
        assert ("shared/of another user" not in found) is is_obeyed


def test_a_tag_that_is_no_regular_file_marks_nothing(tmp_path: Path) -> None:
    for name, make in {
        "fifo": os.mkfifo,
        "folder": os.mkdir,
        "link": lambda tag: os.symlink(tmp_path / "tag", tag),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").touch()
        make(tmp_path / name / "CACHEDIR.TAG")
    (tmp_path / "tag").write_text(CACHE_TAG)
    found = names(walk(tmp_path, exclude_caches=True), tmp_path)
    assert {"fifo/content", "folder/content", "link/content"} <= set(found)


def test_links_to_one_file_are_hardlinks_to_the_first_of_them(tmp_path: Path) -> None:
    make_links(tmp_path / "links")
    found = {e.name.rpartition("links/")[2]: e for e in walk(tmp_path)}
    assert found["folder/first"].type == "file"
    front = str(tmp_path / "links" / "folder" / "first").lstrip("/")
    for name in ("folder/second", "zz last"):
        assert (found[name].type, found[name].link_name, found[name].size) == ("hardlink", front, 0)
    assert found["folder/dangling too"].type == "hardlink"
    assert found["folder/fifo too"].type == "hardlink"


@pytest.mark.skipif(not IS_ROOT, reason="gives a file away")
def test_an_inode_that_is_another_owners_file_by_now_makes_no_hardlink(tmp_path: Path) -> None:
    """A user's file goes away during the walk, and its number becomes that of somebody's file."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "of a user").write_text("x")
    os.link(tmp_path / "a" / "of a user", tmp_path / "b" / "of root")
    tree, _ = plan_sources((str(tmp_path),))
    types = {}
    for entry in Walk(tree, WalkRules(excludes=PathPatterns(())), print).entries():
        types[entry.name.rpartition("/")[2]] = entry.type
        if entry.name.endswith("of a user"):
            os.chown(tmp_path / "b" / "of root", 4711, -1)
    assert types["of root"] == types["of a user"] == "file"


def test_memory_does_not_grow_with_the_paths_of_files_that_have_several_names(
    tmp_path: Path,
) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(16):
        os.mkdir("d" * 220, dir_fd=folder)
        below = os.open("d" * 220, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    for number in range(4000):
        os.close(os.open(f"{number:04}a", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
        os.link(f"{number:04}a", f"{number:04}b", src_dir_fd=folder, dst_dir_fd=folder)
    os.close(folder)
    tree, _ = plan_sources((str(tmp_path),))
    links, first = 0, ""
    tracemalloc.start()
    try:
        for entry in Walk(tree, WalkRules(excludes=PathPatterns(())), print).entries():
            if entry.type == "hardlink":
                assert entry.link_name == first
                links += 1
            first = entry.name
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert links == 4000
    assert peak < 10 * 2**20


def test_links_outside_the_sources_make_no_hardlink(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "outside").write_text("x")
    os.link(tmp_path / "outside", tmp_path / "source" / "z")
    assert [entry.type for entry in walk(tmp_path / "source")][-1] == "file"


def test_an_excluded_first_link_leaves_the_file_to_the_second(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    os.link(tmp_path / "a", tmp_path / "b")
    found = walk(tmp_path, exclude=("/" + str(tmp_path / "a").lstrip("/"),))
    assert names(found, tmp_path) == ["b"]
    assert found[-1].type == "file"


def test_sockets_are_counted(tmp_path: Path) -> None:
    make_socket(tmp_path / "socket")
    tree, _ = plan_sources((str(tmp_path),))
    found = Walk(tree, WalkRules(PathPatterns(())), lambda path, reason: None)
    assert names(list(found.entries()), tmp_path) == []
    assert found.sockets == 1


def test_any_name_is_an_entry(tmp_path: Path) -> None:
    make_names(tmp_path / "names")
    found = names(walk(tmp_path), tmp_path)
    expected = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    assert sorted(found) == sorted(expected)


_ON_TWO_DISKS = """
import json, sys
from pathlib import Path
from tests.snapshot.test_walk import names, walk
top = Path(sys.argv[1])
(top / "disk" / "inside").mkdir()
(top / "disk" / "file").touch()
print(json.dumps([
    names(walk(top), top),
    names(walk(top, one_file_system=True), top),
    names(walk(top, top / "disk", one_file_system=True), top),
    names(walk(top, top / "disk" / "inside", one_file_system=True), top),
]))
"""


def test_one_file_system_keeps_the_mount_point_but_not_what_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "z").touch()
    mount = 'mount -t tmpfs other "$0" && exec "$@"'
    done = subprocess.run(
        [
            *("unshare", "-m" if IS_ROOT else "-rm", "sh", "-c", mount, tmp_path / "disk"),
            *(sys.executable, "-c", _ON_TWO_DISKS, tmp_path),
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=PROJECT_ROOT,
    )
    everything, one, both, deeper = json.loads(done.stdout)
    assert everything == ["disk", "disk/file", "disk/inside", "z"]
    assert one == ["disk", "z"]
    assert both == everything
    assert deeper == ["disk", "disk/inside", "z"]


def test_a_deep_tree_needs_no_recursion(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=folder)
        below = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    found = walk(tmp_path)
    assert len(names(found, tmp_path)) == 1100
    subprocess.run(["find", tmp_path / "d", "-depth", "-delete"], check=True)


def test_a_large_folder_is_walked_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its names are not all held in memory, nor what `stat` says of them."""
    for number in range(40):
        (tmp_path / f"file{number}").touch()
        (tmp_path / f"folder{number % 4}").mkdir(exist_ok=True)
        (tmp_path / f"folder{number % 4}" / f"\udcff{number}").touch()
    marked = tmp_path / "folder0"
    (marked / ".nobackup").touch()
    forced = tmp_path / "folder1" / "\udcff1"
    rules = {"exclude_if_present": (".nobackup",), "exclude_caches": True}
    expected = walk(tmp_path, forced, **rules)
    monkeypatch.setattr(snapshot, "_LOOKED_AT", 3)
    monkeypatch.setattr(folder_names, "RUN_NAMES", 4)
    found = walk(tmp_path, forced, **rules)
    assert names(found, tmp_path) == names(expected, tmp_path)
    assert found[-1] == expected[-1]
    assert names(expected, marked) == [".nobackup"]
    assert len(expected) > 70


@pytest.mark.parametrize("how", ["first", "later"])
def test_a_name_that_is_gone_meanwhile_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(snapshot, "_LOOKED_AT", 1 if how == "later" else 4)
    for name in "abc":
        (tmp_path / name).touch()
    tree, _ = plan_sources((str(tmp_path),))
    told: list[str] = []
    rules = WalkRules(excludes=PathPatterns(()))
    found = Walk(tree, rules, lambda path, reason: told.append(path)).entries()
    seen = []
    for entry in found:
        seen.append(entry.name)
        if entry.name.endswith("/a") and how == "later":
            (tmp_path / "c").unlink()
    assert seen[-1].endswith("/b" if told else "/c")
    assert told == ([f"{tmp_path}/c".lstrip("/")] if seen[-1].endswith("/b") else [])


def test_memory_does_not_grow_with_the_files_of_a_folder(tmp_path: Path) -> None:
    for number in range(15_000):
        os.close(os.open(tmp_path / f"{number}", os.O_CREAT | os.O_WRONLY))
    script = (
        "import resource, sys\n"
        "from tests.snapshot.test_walk import Path, Walk, WalkRules, PathPatterns, plan_sources\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "tree, _ = plan_sources((sys.argv[1],))\n"
        "before = peak()\n"
        "rules = WalkRules(excludes=PathPatterns(()))\n"
        "count = sum(1 for _ in Walk(tree, rules, print).entries())\n"
        "print(count, (peak() - before) * 1024 // count)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    count, bytes_each = map(int, done.stdout.split())
    assert count > 15_000
    assert bytes_each < 250
