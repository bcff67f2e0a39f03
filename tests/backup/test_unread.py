"""What cannot be read keeps its last version, with all below it, and is named with figures."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backup_tasks.common.paths import Paths
from backup_tasks.errors import SourceError
from backup_tasks.journal.run_record import RunRecord
from tests.backup.test_incremental import new_replay
from tests.support.backups import Backups, paths_in
from tests.support.generations import ANY, LATER, NARROW, Generations, fill, restored, untar
from tests.support.histories import (
    CHUNK,
    Change,
    RealTree,
    Twin,
    fingerprint,
    histories,
    noise,
    play,
    use_small_chunks,
)
from tests.support.keys import make_key, recover
from tests.support.other_process import IS_ROOT, NOBODY, as_nobody, public_folder
from tests.support.unreadable import WAYS, refused

NUMBERS = [
    errno.EACCES,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ELOOP,
]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_chunks(monkeypatch)


@pytest.fixture
def backups(tmp_path: Path, paths: Paths) -> Generations:
    (tmp_path / "source").mkdir()
    return Generations(tmp_path / "source", tmp_path / "store", paths, now=LATER)


def fill_folder(folder: Path) -> None:
    """A folder with a file of one chunk, one of several, links of all kinds and a folder."""
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "small").write_bytes(noise(1, 700))
    (folder / "inner" / "large").write_bytes(noise(2, 3 * CHUNK))
    os.link(folder / "inner" / "small", folder / "inner" / "twin")
    (folder / "to-small").symlink_to("inner/small")
    (folder / "late").symlink_to("/etc/hostname")
    os.mkfifo(folder / "pipe")
    os.setxattr(folder, "user.colour", b"blue")
    folder.chmod(0o750)
    os.utime(folder, (1_000_000_000, 1_000_000_000))


def found_by_both(backups: Generations, place: Path) -> dict[str, Twin]:
    """What tar and our own restore make of the newest backup, which is the same."""
    by_tar = fingerprint(backups.in_target(untar(backups.archive(), place.with_suffix(".tar"))))
    ours = fingerprint(backups.in_target(restored(backups, -1, place.with_suffix(".ours"))))
    assert by_tar == ours
    return ours


def below(found: dict[str, Twin], folder: str) -> dict[str, Twin]:
    return {name: twin for name, twin in found.items() if name.startswith(f"{folder}/")}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
def test_all_below_a_folder_that_cannot_be_read_keeps_its_last_version_night_after_night(
    backups: Generations, tmp_path: Path, number: int, way: str
) -> None:
    fill(backups, count=4)
    folder = backups.source / "m"
    fill_folder(folder)
    backups.backup()
    before = fingerprint(backups.source)
    (folder / "inner" / "small").write_bytes(b"never seen")
    with refused(folder, number=number, way=way):
        for night in range(3):
            (backups.source / "file00").write_bytes(noise(50 + night, 1000))
            record = backups.backup()
            found = found_by_both(backups, tmp_path / f"{night}")
            assert below(found, "m") == below(before, "m")
            assert replace(found["m"], xattrs=()) == replace(before["m"], xattrs=())
            (problem,) = record.problems
            assert problem.path == str(folder).lstrip("/")
            size = 700 + 3 * CHUNK
            assert (problem.kind, problem.files, problem.bytes) == ("carried", 3, size)
            assert problem.carried_from == "2100-01-01T02:00:00Z"
            assert f"{os.strerror(number)}; 3 files" in problem.reason
            assert "keep their last version, of 2100-01-01" in problem.reason
            assert (record.exit_code, record.carried, record.carried_bytes) == (3, 3, size)
            header = backups.manifest().header
            assert (header.carried, header.unreadable, header.needed_backups) == (3, 0, ())
            assert backups.entry("m/inner/large").carried == "2100-01-01T02:00:00Z"
    record = backups.backup()
    assert (record.problems, record.exit_code) == ([], 0)
    assert found_by_both(backups, tmp_path / "at last") == fingerprint(backups.source)
    assert backups.entry("m/inner/large").carried == ""


def test_encrypted_and_without_a_key_it_is_the_same(backups: Generations, tmp_path: Path) -> None:
    pair = make_key(tmp_path)
    backups.recipients, backups.key = (pair.recipient,), pair.file
    fill(backups, count=4)
    fill_folder(backups.source / "m")
    os.removexattr(backups.source / "m", "user.colour")
    backups.backup()
    before = fingerprint(backups.source)
    with refused(backups.source / "m"):
        for night in range(2):
            (backups.source / "file00").write_bytes(noise(50 + night, 1000))
            record = backups.backup()
            assert [problem.kind for problem in record.problems] == ["carried"]
            assert (record.carried, record.unreadable) == (3, 0)
    plain = recover(backups.archive(), pair.file, tmp_path / "by age")
    found = fingerprint(backups.in_target(plain))
    assert below(found, "m") == below(before, "m")
    assert found["m"].mode == before["m"].mode


def test_a_source_that_became_a_loop_of_links_keeps_its_last_version(
    backups: Generations, tmp_path: Path
) -> None:
    fill_folder(backups.source / "m")
    backups.backup()
    before = fingerprint(backups.source)
    backups.source.rename(tmp_path / "elsewhere")
    backups.source.symlink_to(backups.source)
    record = backups.backup()
    (problem,) = record.problems
    assert (problem.kind, problem.files, problem.is_source) == ("carried", 3, True)
    assert below(found_by_both(backups, tmp_path / "there"), "m") == below(before, "m")


def test_what_is_carried_is_not_sent_again(backups: Generations) -> None:
    fill(backups, count=4)
    fill_folder(backups.source / "m")
    backups.backup()
    with refused(backups.source / "m"):
        backups.backup()
        backups.backup()
        assert backups.sent() < 6000, "folders, late links and the manifest"


@pytest.mark.parametrize("limits", [ANY, NARROW], ids=["any parts", "narrow parts"])
def test_it_keeps_its_last_version_where_its_chunk_goes(
    backups: Generations, tmp_path: Path, limits: object
) -> None:
    backups.limits = limits  # type: ignore[assignment]
    (backups.source / "a").write_bytes(noise(5, 300))
    fill_folder(backups.source / "m")
    (backups.source / "z").write_bytes(noise(6, 300))
    backups.backup()
    before = fingerprint(backups.source)
    for name in ("a", "z"):  # takes their chunks along
        (backups.source / name).unlink()
    with refused(backups.source / "m"):
        assert [problem.kind for problem in backups.backup().problems] == ["carried"]
    assert below(found_by_both(backups, tmp_path / "there"), "m") == below(before, "m")


@pytest.mark.parametrize("way", WAYS)
def test_a_source_itself_that_cannot_be_read_keeps_its_last_version(
    backups: Generations, tmp_path: Path, way: str
) -> None:
    fill_folder(backups.source / "m")
    backups.backup()
    before = fingerprint(backups.source)
    with refused(backups.source, way=way):
        record = backups.backup()
    assert below(found_by_both(backups, tmp_path / "there"), "m") == below(before, "m")
    (problem,) = record.problems
    assert (problem.kind, problem.files, problem.is_source) == ("carried", 3, True)


@pytest.mark.parametrize("way", ["stat", "open"])
def test_a_folder_on_the_way_to_a_source_costs_no_source(
    backups: Generations, tmp_path: Path, way: str
) -> None:
    backups.source = tmp_path / "up" / "source"
    fill_folder(backups.source / "m")
    backups.backup()
    before = fingerprint(backups.source)
    with refused(tmp_path / "up", way=way):
        record = backups.backup()
    (problem,) = record.problems
    assert (problem.kind, problem.files, problem.is_source) == ("carried", 3, True)
    assert below(found_by_both(backups, tmp_path / "there"), "m") == below(before, "m")


@pytest.mark.parametrize("way", WAYS)
def test_a_source_that_could_never_be_read_is_an_error(backups: Generations, way: str) -> None:
    with refused(backups.source, way=way), pytest.raises(SourceError, match="Permission denied"):
        backups.backup()


def test_a_file_that_cannot_be_looked_at_keeps_its_last_version(
    backups: Generations, tmp_path: Path
) -> None:
    fill(backups, count=4)
    backups.backup()
    before = fingerprint(backups.source)
    with refused(backups.source / "file02", number=errno.EIO, way="stat"):
        record = backups.backup()
    (problem,) = record.problems
    assert (problem.kind, problem.files, problem.bytes) == ("carried", 1, 1000)
    assert problem.reason == "Input/output error; the version of 2100-01-01 was kept"
    assert found_by_both(backups, tmp_path / "there")["file02"] == before["file02"]


def test_what_is_gone_is_gone(backups: Generations, tmp_path: Path) -> None:
    backups.extra = 'shrink_limit = "100%"'
    fill_folder(backups.source / "m")
    fill(backups, count=2)
    backups.backup()
    shutil.rmtree(backups.source / "m")
    record = backups.backup()
    assert (record.problems, record.exit_code) == ([], 0)
    assert below(found_by_both(backups, tmp_path / "there"), "m") == {}


def test_what_the_profile_leaves_out_by_now_is_not_carried(
    backups: Generations, tmp_path: Path
) -> None:
    fill_folder(backups.source / "m")
    (backups.source / "m" / "other").write_bytes(noise(4, 900))
    backups.backup()
    backups.extra = 'exclude = ["inner", "pipe"]'
    with refused(backups.source / "m"):
        record = backups.backup()
    (problem,) = record.problems
    assert (problem.files, problem.bytes) == (1, 900)
    found = below(found_by_both(backups, tmp_path / "there"), "m")
    assert sorted(found) == ["m/late", "m/other", "m/to-small"]


def test_a_folder_that_is_excluded_and_cannot_be_looked_at_is_no_problem(
    backups: Generations,
) -> None:
    fill(backups, count=2)
    (backups.source / "m").mkdir()
    backups.extra = 'exclude = ["m/"]'
    with refused(backups.source / "m", way="stat"):
        assert backups.backup().problems == []


# Files with several names, on both sides of the border


def test_a_hardlink_to_a_file_outside_stays_one_as_long_as_that_is_the_file(
    backups: Generations, tmp_path: Path
) -> None:
    (backups.source / "first").write_bytes(noise(1, 500))
    (backups.source / "m").mkdir()
    os.link(backups.source / "first", backups.source / "m" / "second")
    backups.backup()
    (backups.source / "first").write_bytes(noise(2, 600))
    with refused(backups.source / "m"):
        assert [problem.kind for problem in backups.backup().problems] == ["carried"]
    assert found_by_both(backups, tmp_path / "there") == fingerprint(backups.source)


def test_a_hardlink_whose_file_was_replaced_outside_is_named_with_the_backup_that_has_it(
    backups: Generations, tmp_path: Path
) -> None:
    (backups.source / "first").write_bytes(noise(1, 500))
    (backups.source / "m").mkdir()
    os.link(backups.source / "first", backups.source / "m" / "second")
    (backups.source / "m" / "third").write_bytes(noise(3, 500))
    before = fingerprint(backups.source)
    made = backups.backup()
    (backups.source / "new").write_bytes(noise(2, 600))
    (backups.source / "new").rename(backups.source / "first")
    with refused(backups.source / "m"):
        for night in range(2):
            record = backups.backup()
            assert record.needed_backups == [made.archive]
            assert list(backups.manifest().header.needed_backups) == [made.archive]
            found = found_by_both(backups, tmp_path / f"{night}")
            assert "m/second" not in found
            assert found["m/third"] == before["m/third"]
            assert record.exit_code == 3


def test_a_name_outside_of_a_file_inside_has_the_content_of_today(
    backups: Generations, tmp_path: Path
) -> None:
    (backups.source / "m").mkdir()
    (backups.source / "m" / "first").write_bytes(noise(1, 500))
    os.link(backups.source / "m" / "first", backups.source / "z")
    backups.backup()
    (backups.source / "z").write_bytes(noise(2, 600))
    with refused(backups.source / "m"):
        backups.backup()
    found = found_by_both(backups, tmp_path / "there")
    assert found["m/first"].content == noise(1, 500)
    assert found["z"].content == noise(2, 600)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=histories(5), after=histories(2), data=st.data())
def test_whatever_happened_the_rest_is_of_today_and_what_is_below_of_the_last_night(
    history: list[list[Change]], after: list[list[Change]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as place:
        replay = new_replay(Path(place), LATER, data.draw(st.sampled_from([ANY, NARROW])))
        for _ in replay.play(history):
            pass
        top, before = replay.backups.source, replay.trees[-1]
        folders = sorted(n for n in before if n != "." and (top / n).is_dir())
        for change in after[1]:
            play(RealTree(top), change)
        folders = [n for n in folders if (top / n).is_dir() and not (top / n).is_symlink()]
        if not folders:
            return
        folder = data.draw(st.sampled_from(folders))
        now = fingerprint(top)
        with refused(top / folder):
            record = replay.backups.backup()
        found = found_by_both(replay.backups, Path(place) / "there")
        lost = sum(p.files for p in record.problems if p.kind == "unreadable")
        expected = {n: t for n, t in now.items() if not n.startswith(f"{folder}/")}
        expected |= below(before, folder)
        expected[folder] = before[folder]
        missing = set(expected) - set(found)
        assert set(found) <= set(expected)
        assert len(missing) == (lost if below(before, folder) else 0)
        for name in found:
            assert replace(found[name], names=()) == replace(expected[name], names=()), name


# Full runs


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_a_full_run_carries_over_from_the_archive_before(
    backups: Generations, tmp_path: Path, *, encrypted: bool
) -> None:
    if encrypted:
        pair = make_key(tmp_path)
        backups.recipients, backups.key, backups.server_has_key = (pair.recipient,), pair.file, True
    fill(backups, count=4)
    fill_folder(backups.source / "m")
    backups.backup()
    before = fingerprint(backups.source)
    with refused(backups.source / "m"):
        record = backups.backup(full=True)
    (problem,) = record.problems
    assert (problem.kind, problem.files, record.needed_backups) == ("carried", 3, [])
    found = fingerprint(backups.in_target(restored(backups, -1, tmp_path / "ours")))
    assert found == before
    assert record.copied_bytes == 0
    assert backups.manifest().header.full_at == "2100-01-02T02:00:00Z"


def named_until_whole(backups: Generations, first: str) -> None:
    """Runs that cannot read folder `m` name the backup that has it, until it is read again."""
    with refused(backups.source / "m"):
        for _ in range(3):
            record = backups.backup()
            assert record.needed_backups == [first]
            assert list(backups.manifest().header.needed_backups) == [first]
            assert record.unreadable
            assert record.problems[0].kind == "unreadable"
    record = backups.backup()
    assert (record.problems, record.needed_backups) == ([], [])
    assert backups.manifest().header.needed_backups == ()


def test_for_new_recipients_nothing_can_be_carried_and_the_backup_that_has_it_is_named(
    backups: Generations, tmp_path: Path
) -> None:
    fill(backups, count=4)
    fill_folder(backups.source / "m")
    first = backups.backup().archive
    pair = make_key(tmp_path)
    backups.recipients, backups.key = (pair.recipient,), pair.file
    named_until_whole(backups, first)


def test_without_the_state_directory_the_backup_that_may_have_it_is_named(
    backups: Generations, paths: Paths
) -> None:
    fill(backups, count=4)
    fill_folder(backups.source / "m")
    first = backups.backup().archive
    shutil.rmtree(paths.state)
    paths.state.mkdir(mode=0o700)
    named_until_whole(backups, first)


def test_a_missing_source_is_named_with_the_backup_that_has_it(
    backups: Generations, tmp_path: Path
) -> None:
    fill_folder(backups.source / "m")
    other = tmp_path / "other"
    other.mkdir()
    backups.extra = ""
    profile = backups.write_profile()

    def run() -> RunRecord:
        text = profile.read_text().replace(
            f'["{backups.source}"]', f'["{backups.source}", "{other}"]'
        )
        backups.write_profile = lambda: profile.write_text(text) and profile  # type: ignore
        return backups.backup()

    first = run().archive
    shutil.rmtree(other)
    for _ in range(3):
        record = run()
        assert [p.kind for p in record.problems] == ["missing"]
        assert record.needed_backups == [first]


def test_a_dry_run_tells_the_same(backups: Generations) -> None:
    fill_folder(backups.source / "m")
    fill(backups, count=2)
    backups.backup()
    with refused(backups.source / "m"):
        planned = backups.plan().problems
        assert planned == backups.backup().problems
    assert planned[0].files == 3


# As the system itself refuses it


@contextlib.contextmanager
def fuse_mount(folder: Path, owner: int) -> Iterator[None]:
    """A FUSE file system of this user, whose program never answers, as the kernel mounts it.

    Root is refused (EACCES) unless it is root's own. When the program ends, nobody gets anything
    of it (ENOTCONN).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    node = folder.with_name("fuse-device")
    os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(10, 229))
    device = os.open(node, os.O_RDWR)
    node.unlink()
    options = f"fd={device},rootmode=40000,user_id={owner},group_id={owner}"
    try:
        done = libc.mount(b"test", bytes(folder), b"fuse", 0, options.encode())
        assert done == 0, os.strerror(ctypes.get_errno())
        try:
            if owner == 0:
                os.close(device)
            yield
        finally:
            libc.umount2(bytes(folder), 2)
    finally:
        if owner:
            os.close(device)


@pytest.mark.skipif(not IS_ROOT, reason="only root mounts for others")
def test_a_fuse_mount_that_refuses_root_is_named_and_costs_nothing(
    backups: Generations, tmp_path: Path
) -> None:
    fill(backups, count=2)
    cloud = backups.source / "home" / "cloud"
    cloud.mkdir(parents=True)
    for _ in range(3):
        with fuse_mount(cloud, 65534):
            record = backups.backup()
            assert (record.result, record.exit_code, record.problems) == ("success", 0, [])
            (warning,) = [text for text in record.warnings if "FUSE" in text]
            assert warning.startswith(f"{cloud} is a FUSE mount that refuses root")
        backups.plan()
    backups.backup()
    with fuse_mount(cloud, 65534):
        assert backups.backup().exit_code == 0, "it was an empty folder, and is one still"
    assert "home/cloud" in found_by_both(backups, tmp_path / "there")


@pytest.mark.skipif(not IS_ROOT, reason="only root mounts for others")
def test_nobody_hides_files_by_mounting_over_them(backups: Generations, tmp_path: Path) -> None:
    fill_folder(backups.source / "m")
    backups.backup()
    before = fingerprint(backups.source)
    with fuse_mount(backups.source / "m", 65534):
        for _ in range(2):
            record = backups.backup()
            assert (record.exit_code, record.carried) == (3, 3)
        record = backups.backup(full=True)
        assert (record.exit_code, record.carried) == (3, 3)
    found = found_by_both(backups, tmp_path / "there")
    assert below(found, "m") == below(before, "m")


@pytest.mark.skipif(not IS_ROOT, reason="only root mounts for others")
def test_nobody_hides_files_by_mounting_over_them_where_nothing_is_known(
    backups: Generations, tmp_path: Path
) -> None:
    backups.recipients = (make_key(tmp_path).recipient,)
    fill_folder(backups.source / "m")
    first = backups.backup().archive
    shutil.rmtree(backups.paths.state / "manifests")
    with fuse_mount(backups.source / "m", 65534):
        record = backups.backup()
    (problem,) = record.problems
    assert record.exit_code == 3
    assert problem.reason == f"Permission denied; {first} may still have what is in it"
    assert record.needed_backups == [first]


@pytest.mark.skipif(not IS_ROOT, reason="only root mounts for others")
def test_a_source_that_is_a_fuse_mount_which_refuses_root_is_a_problem(
    backups: Generations, tmp_path: Path
) -> None:
    cloud = tmp_path / "cloud"
    cloud.mkdir()
    profile = backups.write_profile()
    text = profile.read_text().replace('source"]', f'source", "{cloud}"]')
    backups.write_profile = lambda: profile.write_text(text) and profile  # type: ignore
    with fuse_mount(cloud, 65534):
        record = backups.backup()
    (problem,) = record.problems
    assert (record.exit_code, problem.kind, problem.is_source) == (3, "unreadable", True)


@pytest.mark.skipif(not IS_ROOT, reason="only root mounts without help")
def test_a_mount_whose_program_or_server_has_gone_keeps_its_last_version(
    backups: Generations, tmp_path: Path
) -> None:
    fill_folder(backups.source / "m")
    backups.backup()
    before = fingerprint(backups.source)
    with fuse_mount(backups.source / "m", 0):
        record = backups.backup()
    (problem,) = record.problems
    assert "Transport endpoint is not connected; 3 files" in problem.reason
    assert below(found_by_both(backups, tmp_path / "there"), "m") == below(before, "m")


def give_all(folder: Path, owner: int) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, owner, owner, follow_symlinks=False)


def back_up_a_day(backups: Backups) -> datetime:
    """Back up; returns when the next backup is due."""
    backups.backup()
    return backups.now


def back_up_with_a_closed_folder(backups: Backups) -> RunRecord:
    (backups.source / "m").chmod(0)
    try:
        return backups.backup()
    finally:
        (backups.source / "m").chmod(0o750)


@pytest.mark.skipif(not IS_ROOT, reason="only root gives files away")
def test_so_it_is_for_a_user_who_may_not_look(tmp_path: Path) -> None:
    with public_folder() as place:
        (place / "store").mkdir()
        backups = Backups(place / "source", place / "store", paths_in(place))
        fill_folder(backups.source / "m")
        give_all(place, NOBODY)
        backups.now = as_nobody(back_up_a_day, backups)
        before = fingerprint(backups.source)
        record = as_nobody(back_up_with_a_closed_folder, backups)
        assert [problem.kind for problem in record.problems] == ["carried"]
        give_all(place, 0)
        backups.restore(tmp_path / "ours")
        found = fingerprint(backups.in_target(tmp_path / "ours"))
        assert below(found, "m") == below(before, "m")
