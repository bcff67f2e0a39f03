"""Directories beyond the contract: full disks, missing disks, file systems that can less."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backup_tasks.errors import ObjectExists, ObjectMissing, StoreError
from backup_tasks.stores.base import StoredObject
from backup_tasks.stores.directory import DirectoryStore

MIB = 2**20
NAME = "2025-06-12_0200-backup.tar.gz"
OTHER = "2025-06-13_0200-backup.tar.gz"


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "backups")


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


def test_a_missing_parent_is_not_made_as_the_disk_may_not_be_mounted(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "mnt" / "backups")
    for call in (
        lambda: store.write(NAME, in_flight_bytes=MIB),
        store.list_objects,
        store.list_unfinished,
    ):
        with pytest.raises(StoreError, match=r"mnt does not exist; is the disk mounted\?"):
            call()
    assert not (tmp_path / "mnt").exists()


def test_a_store_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "backups").write_text("not a folder")
    store = DirectoryStore(tmp_path / "backups")
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
    root = Path(__file__).parent.parent
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
