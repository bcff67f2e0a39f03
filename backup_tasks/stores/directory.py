"""A store in a directory, on a local disk or on a mounted one."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from backup_tasks.common.paths import sync_folder
from backup_tasks.common.printable import printable
from backup_tasks.common.units import moment_of
from backup_tasks.errors import (
    ObjectMissing,
    StoreError,
)
from backup_tasks.format.archive_names import CLAIM_NAME, is_backup_name
from backup_tasks.stores.base import (
    ArchiveWriter,
    PartLimits,
    StoredObject,
    Unfinished,
    folder_place,
    taken,
)
from backup_tasks.stores.directory_files import (
    OPEN_FILE,
    explained,
    open_pinned,
    partial_path,
    stored_object,
)
from backup_tasks.stores.directory_small import put_small, read_small
from backup_tasks.stores.directory_writer import DirectoryWriter, give_name

LIMITS = PartLimits(smallest=1, largest=2**62, count=2**31)
_PARTIAL = re.compile(r"\.(?P<name>.+)\.(?P<upload_id>[0-9a-f]{16})\.partial", re.DOTALL)


class DirectoryStore:
    """Files of one folder; see `base.Store` for the contract.

    Files whose names begin with a dot are never listed. An archive under way is a file
    `.NAME.ID.partial`, mode 0600, in the same folder.

    Args:
        makeable_in: a missing store folder is made only below this folder. Anywhere else, a missing
            one means a disk that is not mounted, and is an error for every command.
        check_place: called before the folder is listed or written to; raises StoreError if it is
            not the folder that is meant.
    """

    limits = LIMITS
    can_copy = True
    can_rename = True
    salvage_is_sure = False
    copies_are_sure = True

    def __init__(
        self,
        folder: Path,
        url: str = "",
        *,
        makeable_in: Path | None = None,
        check_place: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.url = url or f"file://{folder}/"
        self._makeable_in = makeable_in
        self._check_place = check_place

    @property
    def place(self) -> str:
        return folder_place(self.folder)

    def after_fork(self) -> None:
        """Do nothing: no descriptor stays open between calls."""

    def list_objects(self) -> list[StoredObject]:
        found = [
            stored_object(name, status)
            for name, status in self._files()
            if name[0] != "." and name != CLAIM_NAME
        ]
        return sorted(found, key=lambda one: one.name)

    def names_in_the_way(self) -> set[str]:
        return {
            name
            for name, status in self._statuses()
            if is_backup_name(name) and not stat.S_ISREG(status.st_mode)
        }

    def store_time(self) -> None:
        """None: a folder has no clock; times of files are this machine's, or of unknown origin."""

    def stat(self, name: str) -> StoredObject:
        with explained(self.url, f"look at {name}", name):
            status = os.lstat(self.folder / name)
        if not stat.S_ISREG(status.st_mode):
            raise ObjectMissing(f"{self.url}: {name} is no file")
        return stored_object(name, status)

    def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
        with explained(self.url, f"read {source.name}", source.name):
            descriptor = open_pinned(self.folder, source, self.url)
            try:
                content = os.pread(descriptor, length, start)
                while 0 < len(content) < length:
                    more = os.pread(descriptor, length - len(content), start + len(content))
                    if not more:
                        break
                    content += more
            finally:
                os.close(descriptor)
        if len(content) != length:
            raise StoreError(
                f"{self.url}: {source.name} ends after {start + len(content):,} bytes where "
                f"{start + length:,} were expected"
            )
        return content

    def write(self, name: str, *, in_flight_bytes: int) -> ArchiveWriter:
        del in_flight_bytes  # `send` hands each part to the kernel at once
        self._make_folder()
        if os.path.lexists(self.folder / name):
            raise taken(self.url, name)
        return DirectoryWriter(self.folder, name, secrets.token_hex(8), self.url)

    def read_small(self, name: str, most_bytes: int) -> tuple[bytes, StoredObject]:
        with explained(self.url, f"read {name}", name):
            return read_small(self.folder, name, most_bytes, self.url)

    def put_small(self, name: str, body: bytes, *, replaces: StoredObject | None) -> StoredObject:
        self._make_folder()
        with explained(self.url, f"write {name}"):
            return put_small(self.folder, name, body, replaces, self.url)

    def delete(self, name: str) -> None:
        with explained(self.url, f"delete {name}"):
            (self.folder / name).unlink(missing_ok=True)

    def list_unfinished(self) -> list[Unfinished]:
        """`started_at` is the time of the last write: no file system tells that of the first."""
        return [
            Unfinished(match["name"], match["upload_id"], moment_of(status.st_mtime))
            for name, status in self._files()
            if (match := _PARTIAL.fullmatch(name))
        ]

    def end_unfinished(self, upload: Unfinished) -> None:
        with explained(self.url, f"remove what is left of {upload.name}"):
            partial_path(self.folder, upload.name, upload.upload_id).unlink(missing_ok=True)

    def salvage(self, upload: Unfinished) -> StoredObject | None:
        partial = partial_path(self.folder, upload.name, upload.upload_id)
        with explained(self.url, f"keep what there is of {upload.name}"):
            try:
                descriptor = os.open(partial, OPEN_FILE)
            except FileNotFoundError:
                return None
            try:
                if not os.fstat(descriptor).st_size:
                    partial.unlink(missing_ok=True)
                    return None
                status = give_name(descriptor, partial, self.folder / upload.name, self.url)
            finally:
                os.close(descriptor)
        return stored_object(upload.name, status)

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        """The regular files of the folder."""
        return (one for one in self._statuses() if stat.S_ISREG(one[1].st_mode))

    def _statuses(self) -> Iterator[tuple[str, os.stat_result]]:
        """Everything in the folder; nothing if the folder is yet to be made."""
        self._check_place()
        with explained(self.url, "list the backups"):
            try:
                entries = os.scandir(self.folder)
            except FileNotFoundError:
                self._require_makeable()
                return
            with entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # deleted in this moment
                        yield entry.name, entry.stat(follow_symlinks=False)

    def _make_folder(self) -> None:
        self._check_place()
        if os.path.isdir(self.folder):
            return
        if not os.path.lexists(self.folder):
            self._require_makeable()
        with explained(self.url, f"make the folder {self.folder}"):
            os.mkdir(self.folder, mode=0o700)
            sync_folder(self.folder.parent)

    def _require_makeable(self) -> None:
        """Refuse to make the folder outside of `makeable_in`: a run would fill the wrong disk.

        Raises:
            StoreError: the folder is missing there; perhaps its disk is not mounted.
        """
        parent, project = self.folder.parent, self._makeable_in
        with explained(self.url, f"look into {parent}"):
            is_there = parent.is_dir()
            # The real path counts: a link in the project may lead to a disk that is not mounted.
            if is_there and project and parent.resolve().is_relative_to(project.resolve()):
                return
        missing = printable(str(self.folder if is_there else parent))
        command = f"mkdir -p -m 700 {printable(shlex.quote(str(self.folder)))}"
        raise StoreError(
            f"{self.url}: the folder {missing} does not exist; is the disk mounted? If it is, and "
            f"this is the first backup there, make the folder once: {command}"
        )
