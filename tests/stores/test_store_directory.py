"""Directories beyond the contract: full disks, missing disks, file systems that can less."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backup_tasks.errors import ObjectExists, ObjectMissing, StoreError
from backup_tasks.stores.base import StoredObject
from backup_tasks.stores.directory import DirectoryStore
from tests.support.lock_wait import waiting_for_lock

MIB = 2**20
NAME = "2025-06-12_0200-backup.tar.gz"
OTHER = "2025-06-13_0200-backup.tar.gz"


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "backups", makeable_in=tmp_path)


def put(store: DirectoryStore, name: str, *parts: bytes) -> StoredObject:
    writer = store.write(name, in_flight_bytes=MIB)
    for part in parts:
        writer.send(part)
    return writer.commit()


def failing(code: int) -> Callable[..., Any]:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_the_folder_and_its_files_are_for_the_owner_alone(store: DirectoryStore) -> None:
    writer = store.write(NAME, in_flight_bytes=MIB)
    (partial,) = store.folder.iterdir()
    assert partial.name == f".{NAME}.{writer.upload_id}.partial"
    assert partial.stat().st_mode & 0o777 == 0o600
    writer.commit()
    assert (store.folder / NAME).stat().st_mode & 0o777 == 0o600
    assert store.folder.stat().st_mode & 0o777 == 0o700


def assert_refused_and_not_made(store: DirectoryStore, missing: Path) -> None:
    told = f"{re.escape(str(missing))} does not exist; is the disk mounted\\?.*mkdir -p -m 700 /"
    for call in (
        lambda: store.write(NAME, in_flight_bytes=MIB),
        store.list_objects,
        store.list_unfinished,
        store.names_in_the_way,
    ):
        with pytest.raises(StoreError, match=told):
            call()
    assert not os.path.lexists(missing)


def test_a_folder_outside_the_project_is_never_made_as_its_disk_may_not_be_mounted(
    tmp_path: Path,
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    nas = tmp_path / "nas"
    for folder in (nas, nas / "web1", tmp_path / "project-nas"):
        missing = nas if folder.parent == nas else folder
        assert_refused_and_not_made(DirectoryStore(folder, makeable_in=project), missing)


def test_a_link_in_the_project_does_not_make_what_lies_outside(tmp_path: Path) -> None:
    project, nas = tmp_path / "project", tmp_path / "nas"
    for folder in (project, nas):
        folder.mkdir()
    (project / "nas").symlink_to(nas)
    store = DirectoryStore(project / "nas" / "web1", makeable_in=project)
    assert_refused_and_not_made(store, project / "nas" / "web1")
    dangling = project / "backups"
    dangling.symlink_to(nas / "web1")
    with pytest.raises(StoreError):
        DirectoryStore(dangling, makeable_in=project).write(NAME, in_flight_bytes=MIB)
    assert list(nas.iterdir()) == []


def test_a_missing_parent_is_not_made_even_in_the_project(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "mnt" / "backups", makeable_in=tmp_path)
    assert_refused_and_not_made(store, tmp_path / "mnt")


def test_the_command_that_makes_the_folder_makes_it(tmp_path: Path) -> None:
    folder = tmp_path / "it's a nas" / "web 1"
    with pytest.raises(StoreError) as error:
        DirectoryStore(folder).list_objects()
    command = str(error.value).partition("make the folder once: ")[2]
    subprocess.run(["/bin/sh", "-c", command], check=True)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert DirectoryStore(folder).list_objects() == []


def test_a_store_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "backups").write_text("not a folder")
    store = DirectoryStore(tmp_path / "backups", makeable_in=tmp_path)
    with pytest.raises(StoreError, match=r"check store\.url"):
        store.write(NAME, in_flight_bytes=MIB)
    with pytest.raises(StoreError, match="this is not a folder"):
        store.list_objects()


def test_dot_files_folders_and_links_are_never_listed(store: DirectoryStore) -> None:
    put(store, NAME, b"hello")
    (store.folder / ".hidden").write_text("x")
    (store.folder / ".hidden.0123456789abcdef.partial").mkdir()
    (store.folder / "folder").mkdir()
    (store.folder / "link").symlink_to(NAME)
    assert [one.name for one in store.list_objects()] == [NAME]
    assert store.list_unfinished() == []


def test_what_is_no_file_is_no_object_and_names_that_no_backup_can_get_are_told(
    store: DirectoryStore,
) -> None:
    put(store, "file", b"hello")
    os.mkfifo(store.folder / NAME)
    (store.folder / OTHER).symlink_to("file")
    (store.folder / "folder").mkdir()
    assert store.names_in_the_way() == {NAME, OTHER}
    for name in (NAME, OTHER, "folder"):
        with pytest.raises(ObjectMissing):
            store.stat(name)


def test_a_pipe_or_a_link_put_in_the_place_of_an_object_is_neither_waited_for_nor_followed(
    store: DirectoryStore,
) -> None:
    found = put(store, NAME, b"hello")
    os.rename(store.folder / NAME, store.folder / "moved")
    os.mkfifo(store.folder / NAME)
    with pytest.raises(StoreError, match="was replaced"):
        store.read_range(found, 0, 1)
    os.unlink(store.folder / NAME)
    os.symlink("moved", store.folder / NAME)
    with pytest.raises(StoreError):
        store.read_range(found, 0, 1)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_ends_the_backup_and_is_given_its_space_back(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    put(store, NAME, b"the backup before")
    writer = store.write(OTHER, in_flight_bytes=MIB)
    writer.send(b"x" * MIB)
    monkeypatch.setattr(os, call, failing(code))
    with pytest.raises(StoreError, match="free some space"):
        writer.commit() if call == "fsync" else writer.send(b"y")
    monkeypatch.undo()
    assert [one.name for one in store.folder.iterdir()] == [NAME]
    with pytest.raises(StoreError):
        writer.commit()
    writer.abort()
    assert (store.folder / NAME).read_bytes() == b"the backup before"


def test_a_file_that_may_not_grow_is_told_and_removed(tmp_path: Path) -> None:
    # The kernel's own refusal: a limit on the size of files, as on FAT.
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from backup_tasks.stores.directory import DirectoryStore\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n"
        "writer = DirectoryStore(Path(sys.argv[1])).write('a', in_flight_bytes=1)\n"
        "writer.send(bytes(2**21))\n"
    )
    root = Path(__file__).parents[2]
    (tmp_path / "backups").mkdir()
    command = [sys.executable, "-c", script, str(tmp_path / "backups")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert "the file system does not take files as large as this" in done.stderr
    assert list((tmp_path / "backups").iterdir()) == []


def test_where_links_are_unknown_a_rename_names_the_archive(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    put(store, NAME, b"hello")
    assert (store.folder / NAME).read_bytes() == b"hello"
    late = store.write(OTHER, in_flight_bytes=MIB)
    late.send(b"late")
    put(store, OTHER, b"first")
    with pytest.raises(ObjectExists):
        late.commit()
    late.abort()
    assert (store.folder / OTHER).read_bytes() == b"first"
    assert len(list(store.folder.iterdir())) == 2


def test_a_link_whose_answer_was_lost_is_recognised_as_our_own(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_link = os.link

    def link_and_forget(*arguments: Any, **options: Any) -> None:
        real_link(*arguments, **options)
        raise FileExistsError(errno.EEXIST, "as NFS answers when it is asked again")

    monkeypatch.setattr(os, "link", link_and_forget)
    put(store, NAME, b"hello")
    assert [one.name for one in store.folder.iterdir()] == [NAME]


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_the_kernel_cannot_copy_ranges_they_are_read_and_written(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    body = os.urandom(3 * MIB)
    put(store, NAME, body)
    monkeypatch.setattr(os, "copy_file_range", failing(code))
    writer = store.write(OTHER, in_flight_bytes=MIB)
    writer.copy(store.stat(NAME), 17, 2 * MIB)
    writer.commit()
    assert (store.folder / OTHER).read_bytes() == body[17 : 17 + 2 * MIB]


def test_a_copy_beyond_the_end_is_an_error_and_leaves_nothing(store: DirectoryStore) -> None:
    put(store, NAME, b"hello")
    writer = store.write(OTHER, in_flight_bytes=MIB)
    with pytest.raises(StoreError, match="beyond the archive's end"):
        writer.copy(store.stat(NAME), 2, 10)
    assert [one.name for one in store.folder.iterdir()] == [NAME]


def test_a_crash_between_link_and_unlink_leaves_the_archive_whole(store: DirectoryStore) -> None:
    writer = store.write(NAME, in_flight_bytes=MIB)
    writer.send(b"hello")
    partial = store.folder / f".{NAME}.{writer.upload_id}.partial"
    os.link(partial, store.folder / NAME)
    (left,) = store.list_unfinished()
    store.end_unfinished(left)
    assert store.read_range(store.stat(NAME), 0, 5) == b"hello"
    assert [one.name for one in store.folder.iterdir()] == [NAME]


def test_bytes_are_on_disk_before_the_name_is(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "link", "unlink")}

    def noted(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            steps.append(name)
            return real[name](*arguments, **options)

        return call

    writer = store.write(NAME, in_flight_bytes=MIB)
    for name in real:
        monkeypatch.setattr(os, name, noted(name))
    writer.commit()
    assert steps == ["fsync", "link", "unlink", "fsync"]


def test_what_the_kernel_takes_bit_by_bit_arrives_whole(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = os.urandom(1000)
    really_write, really_read = os.write, os.pread
    monkeypatch.setattr(os, "write", lambda file, view: really_write(file, view[:7]))
    found = put(store, NAME, body[:600], body[600:])
    assert (store.folder / NAME).read_bytes() == body
    monkeypatch.setattr(
        os, "pread", lambda file, length, start: really_read(file, min(length, 7), start)
    )
    assert store.read_range(found, 100, 500) == body[100:600]


@pytest.mark.parametrize("end", ["refuses", "gives nothing"])
def test_a_copy_that_the_kernel_leaves_half_done_is_gone_on_with_where_it_ended(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    body = os.urandom(MIB)
    put(store, NAME, body)
    really_copy = os.copy_file_range
    lengths = [1000, 10]

    def copy(origin: int, target: int, count: int, offset_src: int) -> int:
        if not lengths and end == "refuses":
            raise OSError(errno.EXDEV, "no more of it")
        return really_copy(origin, target, lengths.pop(), offset_src) if lengths else 0

    monkeypatch.setattr(os, "copy_file_range", copy)
    writer = store.write(OTHER, in_flight_bytes=MIB)
    writer.copy(store.stat(NAME), 17, MIB - 100)
    writer.commit()
    assert not lengths
    assert (store.folder / OTHER).read_bytes() == body[17 : MIB - 83]


def test_trouble_of_the_disk_while_it_copies_is_not_taken_for_a_kernel_that_cannot(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, NAME, b"hello")
    monkeypatch.setattr(os, "copy_file_range", failing(errno.EIO))
    writer = store.write(OTHER, in_flight_bytes=MIB)
    with pytest.raises(StoreError, match="the disk reports an error"):
        writer.copy(store.stat(NAME), 0, 5)
    assert [one.name for one in store.folder.iterdir()] == [NAME]


def test_trouble_while_a_link_is_made_is_not_taken_for_a_disk_without_links(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = store.write(NAME, in_flight_bytes=MIB)
    monkeypatch.setattr(os, "link", failing(errno.EIO))
    with pytest.raises(StoreError, match="the disk reports an error"):
        writer.commit()
    assert list(store.folder.iterdir()) == []


def test_where_links_are_unknown_two_that_finish_at_once_do_not_take_one_name(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = store.write(NAME, in_flight_bytes=MIB)
    writer.send(b"the second")
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    with waiting_for_lock(store.folder, writer.commit) as coming:
        (store.folder / NAME).write_bytes(b"the first")
    with pytest.raises(ObjectExists):
        coming.result()
    assert (store.folder / NAME).read_bytes() == b"the first"


def test_what_is_replaced_by_something_of_its_size_in_the_same_moment_is_noticed(
    store: DirectoryStore,
) -> None:
    found = put(store, NAME, b"hello")
    os.rename(store.folder / NAME, store.folder / "before")
    (store.folder / NAME).write_bytes(b"other")
    status = (store.folder / "before").stat()
    os.utime(store.folder / NAME, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(StoreError, match="was replaced"):
        store.read_range(found, 0, 5)


def test_a_withdrawn_copy_leaves_not_a_byte(store: DirectoryStore) -> None:
    put(store, NAME, b"0123456789")
    writer = store.write(OTHER, in_flight_bytes=MIB)
    writer.copy(store.stat(NAME), 0, 4)
    writer.copy(store.stat(NAME), 4, 6)
    writer.withdraw(4)
    writer.send(b"x")
    writer.commit()
    assert (store.folder / OTHER).read_bytes() == b"0123x"
