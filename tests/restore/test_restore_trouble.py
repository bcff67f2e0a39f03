"""A restore meets trouble in the middle: of a file, of the whole disk, of somebody in the way."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backup_tasks.errors import ArchiveError, RestoreError
from backup_tasks.format.manifest import Entry
from backup_tasks.format.tar_headers import Member
from backup_tasks.restore.extract import Extractor
from backup_tasks.restore.extract_in_order import InOrderExtractor
from backup_tasks.restore.policy import ExtractPolicy
from backup_tasks.restore.target_check import OpenTarget
from backup_tasks.target.metadata import MetadataSetter, owner_of
from backup_tasks.target.new_files import LinkTargetChanged, make_link, open_own_descriptors
from backup_tasks.target.private_folder import PrivateFolders
from tests.support import attacks
from tests.support.attacks import Forge, Item, forge_ours, forge_plain

TIME = 1_700_000_000 * 10**9
THEN = TIME - 10**9
LATER = TIME + 10**9


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def restore(target: Path, *items: Item, rule: str = "never", forge: Forge = forge_ours) -> Any:
    """Restore these items; returns what the extractor reports."""
    store = target.parent / "store"
    return attacks.restore(store, forge(items), target, overwrite=rule).extracted


def put(place: Path, content: bytes, mtime_ns: int) -> None:
    place.write_bytes(content)
    os.utime(place, ns=(mtime_ns, mtime_ns))


# What is there


@pytest.mark.parametrize("forge", [forge_ours, forge_plain])
@pytest.mark.parametrize(
    "arriving",
    [
        Item("x", content=b"new", mtime_ns=TIME),
        Item("x", "symlink", link="new", mtime_ns=TIME),
        Item("x", "fifo", mtime_ns=TIME),
    ],
)
def test_what_has_the_time_of_the_backup_is_not_older_and_stays(
    target: Path, forge: Forge, arriving: Item
) -> None:
    put(target / "x", b"edited since, and its time set back", TIME)
    report = restore(target, arriving, rule="older", forge=forge)
    assert (target / "x").read_bytes() == b"edited since, and its time set back"
    assert report.kept == 1


@pytest.mark.parametrize("forge", [forge_ours, forge_plain])
@pytest.mark.parametrize(("mtime_ns", "is_kept"), [(THEN, False), (TIME, False), (LATER, True)])
def test_older_asks_of_a_hardlink_whether_its_file_is_as_old_as_what_is_there(
    target: Path, forge: Forge, mtime_ns: int, is_kept: bool
) -> None:
    """A link cannot be as old as its file without being it: so a copy makes way for the link."""
    put(target / "link", b"a copy", mtime_ns)
    items = Item("a", content=b"new", mtime_ns=TIME), Item("link", "hardlink", link="a")
    report = restore(target, *items, rule="older", forge=forge)
    assert (target / "link").read_bytes() == (b"a copy" if is_kept else b"new")
    assert (target / "a").stat().st_nlink == (1 if is_kept else 2)
    assert report.kept == is_kept


def appearing(place: Path, content: bytes) -> Iterator[memoryview]:
    """A file's content; while it is written, somebody puts something under its name."""
    yield memoryview(content[:1])
    place.write_bytes(b"somebody's")
    yield memoryview(content[1:])


@pytest.mark.parametrize("kind", [Extractor, InOrderExtractor])
def test_what_appears_while_a_file_is_written_is_not_overwritten(
    target: Path, kind: type[Extractor]
) -> None:
    root = os.open(target, os.O_RDONLY)
    member = Member(b"x", "file", size=3, stored=3, mode=0o600, uid=os.getuid(), gid=os.getgid())
    with OpenTarget(target, root, ExtractPolicy("never"), kind) as extractor:
        extractor.add(member, appearing(target / "x", b"new"))
        report = extractor.finish()
    os.close(root)
    assert (target / "x").read_bytes() == b"somebody's"
    assert [path for path, _ in report.problems] == ["x"]
    assert os.listdir(target) == ["x"]


# The disk


def failing(code: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["pwrite", "link"])
def test_trouble_of_the_whole_disk_ends_a_restore_at_once_and_says_how_to_go_on(
    target: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    """Else each of a million files is tried and named, on a disk that takes none."""
    (target / "there").touch()  # in a new target there is no need for a private folder
    monkeypatch.setattr(os, call, failing(code))
    with pytest.raises(RestoreError) as caught:
        restore(target, Item("a"), Item("b"))
    told = str(caught.value)
    assert os.strerror(code) in told
    assert "--overwrite never, which keeps what is already restored" in told
    assert ("free some space" in told) == (code == errno.ENOSPC)
    assert os.listdir(target) == ["there"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENAMETOOLONG, errno.ELOOP])
def test_trouble_of_one_file_costs_that_file(
    target: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    really_write = os.pwrite

    def write(descriptor: int, view: memoryview, offset: int) -> int:
        if bytes(view[:3]) == b"bad":
            raise OSError(code, os.strerror(code))
        return really_write(descriptor, view, offset)

    monkeypatch.setattr(os, "pwrite", write)
    report = restore(target, Item("a", content=b"bad"), Item("b", content=b"good"))
    assert report.problems == [("a", os.strerror(code))]
    assert os.listdir(target) == ["b"]


@pytest.mark.parametrize(
    "item",
    [
        Item("x", content=bytes(range(256)) * 40),
        Item("x", content=b"holes", sparse=[(8192, 2), (20_000, 3)], size=30_000),
    ],
    ids=["plain", "sparse"],
)
@pytest.mark.parametrize("forge", [forge_ours, forge_plain])
def test_what_the_kernel_takes_bit_by_bit_is_restored_whole(
    target: Path, monkeypatch: pytest.MonkeyPatch, item: Item, forge: Forge
) -> None:
    whole = target.parent / "whole"
    restore(whole, item, forge=forge)
    really_write = os.pwrite
    steps = []

    def write(descriptor: int, view: memoryview, offset: int) -> int:
        steps.append(offset)
        return really_write(descriptor, view[: max(1, len(view) // 3)], offset)

    monkeypatch.setattr(os, "pwrite", write)
    restore(target, item, forge=forge)
    assert (target / "x").read_bytes() == (whole / "x").read_bytes()
    assert len(steps) > 2


# Metadata


def member_with(**fields: Any) -> Member:
    said = {"mode": 0o640, "uid": os.getuid(), "gid": os.getgid(), "xattrs": {"user.a": b"1"}}
    return Member(b"x", "file", **{**said, **fields})


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_an_owner_that_cannot_be_set_for_a_reason_nobody_expects_is_told(
    target: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A note that root is needed would hide that the disk is failing."""
    member = member_with(uid=12345)
    with open(target / "x", "wb") as file:
        monkeypatch.setattr(os, "fchown", failing(code))
        setter = MetadataSetter(trusted=True)
        with pytest.raises(OSError, match=os.strerror(code)):
            setter.set_file(file.fileno(), member)
    assert setter.notes == set()


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS, errno.EDQUOT, errno.EFAULT])
def test_an_attribute_that_cannot_be_set_for_a_reason_nobody_expects_is_told(
    target: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    with open(target / "x", "wb") as file:
        monkeypatch.setattr(os, "setxattr", failing(code))
        setter = MetadataSetter(trusted=True)
        with pytest.raises(OSError, match=os.strerror(code)):
            setter.set_file(file.fileno(), member_with())
    assert setter.notes == set()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.EPERM, "run as root"),
        (errno.EOPNOTSUPP, "does not keep all"),
        (errno.E2BIG, "has no room for some"),
        (errno.ENOENT, "need /proc"),
    ],
)
def test_an_attribute_that_this_disk_or_user_cannot_have_is_a_note(
    target: Path, monkeypatch: pytest.MonkeyPatch, code: int, told: str
) -> None:
    with open(target / "x", "wb") as file:
        monkeypatch.setattr(os, "setxattr", failing(code))
        setter = MetadataSetter(trusted=True)
        setter.set_file(file.fileno(), member_with(mtime_ns=TIME))
        assert os.fstat(file.fileno()).st_mtime_ns == TIME
    (note,) = setter.notes
    assert told in note


def test_a_name_counts_for_more_than_the_number_of_its_owner_there() -> None:
    assert owner_of(member_with(uid=4711, gid=4712, user=b"root", group=b"root")) == (0, 0)
    assert owner_of(member_with(uid=4711, gid=4712, user=b"no-such-user")) == (4711, 4712)


@pytest.mark.parametrize("bit", [stat.S_ISUID, stat.S_ISGID])
def test_no_file_that_could_not_be_given_to_its_owner_runs_as_somebody_else(
    target: Path, monkeypatch: pytest.MonkeyPatch, bit: int
) -> None:
    member = member_with(uid=12345, gid=12345, mode=0o755 | bit)
    with open(target / "x", "wb") as file:
        monkeypatch.setattr(os, "fchown", failing(errno.EPERM))
        setter = MetadataSetter(trusted=True)
        setter.set_file(file.fileno(), member)
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o755
    assert "setuid and setgid bits were left out where the owner could not be set" in setter.notes


# Hardlinks


def test_a_link_to_what_it_is_already_leaves_no_other_name_of_it(target: Path) -> None:
    """rename(2) does nothing when both names are one file: its temporary name would stay."""
    (target / "a").write_bytes(b"one")
    os.link(target / "a", target / "b")
    folder, found = os.open(target, os.O_RDONLY), os.open(target / "a", os.O_PATH)
    own = open_own_descriptors()
    private = PrivateFolders(lambda: [folder])
    make_link(private, folder, "b", found, own, (folder, "a"))
    assert os.fstat(found).st_nlink == 2
    private.close()
    for descriptor in (folder, found, own):
        if descriptor is not None:
            os.close(descriptor)
    assert sorted(os.listdir(target)) == ["a", "b"]


def test_without_proc_no_link_joins_what_was_put_in_the_place_of_its_file(target: Path) -> None:
    (target / "a").write_bytes(b"restored")
    folder, found = os.open(target, os.O_RDONLY), os.open(target / "a", os.O_PATH)
    os.rename(target / "a", target / "moved")
    (target / "a").write_bytes(b"somebody's")
    private = PrivateFolders(lambda: [folder])
    with pytest.raises(LinkTargetChanged):
        make_link(private, folder, "b", found, None, (folder, "a"))
    private.close()
    for descriptor in (folder, found):
        os.close(descriptor)
    assert sorted(os.listdir(target)) == ["a", "moved"]


@pytest.mark.parametrize("sparse", [None, [(4096, 2)]])
def test_a_content_with_another_hash_than_the_manifest_says_gets_no_name(
    target: Path, sparse: list[tuple[int, int]] | None
) -> None:
    def claim(entry: Entry) -> None:
        entry.sha256 = "0" * 64

    size = 5000 if sparse else None
    item = Item("x", content=b"no", sparse=sparse, size=size, claim=claim)
    with pytest.raises(ArchiveError, match="hash is not the manifest's"):
        restore(target, item)
    assert os.listdir(target) == []
