"""Check that a restore's target is fit and has room; report a full disk in one clear line."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from backup_tasks.common.units import render_bytes
from backup_tasks.errors import RestoreError
from backup_tasks.restore.extract import Extractor
from backup_tasks.restore.policy import ExtractPolicy
from backup_tasks.spools.folder_stack import OPEN_FOLDER
from backup_tasks.target.private_folder import sweep
from backup_tasks.target.target_path import walk_to


def open_target(target: Path, *, may_hold_files: bool) -> int:
    """Open the folder to restore into; make it if it is not there.

    The descriptor stays this very folder, whatever becomes of its name. The caller closes it.

    Raises:
        RestoreError: the folder is not empty, but must be; another user decides where it lies; or
            it cannot be opened or made.
    """
    try:
        found = walk_to(target)
        try:
            root = os.open(".", OPEN_FOLDER, dir_fd=found)
        finally:
            os.close(found)
    except OSError as error:
        raise RestoreError(f"{target}: {error.strerror}; choose another --to") from error
    with os.scandir(root) as inside:
        is_empty = next(inside, None) is None
    if not is_empty and not may_hold_files:
        os.close(root)
        raise RestoreError(
            f"{target} is not empty; choose another --to, or say what to do with files that are "
            "there: --overwrite never, older or always"
        )
    return root


def check_room(target: Path, root: int, needed_bytes: int) -> None:
    """Refuse a restore that cannot fit, before anything is written.

    Only for an empty target: nobody knows what a restore over existing files will take.

    Raises:
        RestoreError: the target's file system has less than `needed_bytes` free.
    """
    disk = os.fstatvfs(root)
    free = disk.f_frsize * (disk.f_bfree if os.geteuid() == 0 else disk.f_bavail)
    if needed_bytes > free:
        raise RestoreError(
            f"{target}: {render_bytes(needed_bytes)} are to be restored, but the disk has only "
            f"{render_bytes(free)} free; choose another --to, or restore less with --path"
        )


class OpenTarget:
    """The extractor of an open target folder.

    Args:
        target: its path, for messages; root: its descriptor, which the caller closes.
        extractor: the class of the extractor.

    Raises:
        RestoreError: an OSError that concerns the whole target ended the block.
    """

    def __init__(
        self,
        target: Path,
        root: int,
        policy: ExtractPolicy,
        extractor: type[Extractor] = Extractor,
    ) -> None:
        self._target = target
        self._root = root
        self._policy = policy
        self._kind = extractor

    def __enter__(self) -> Extractor:
        with suppress(OSError):
            sweep(self._root)
        self._extractor = self._kind(self._root, self._policy)
        return self._extractor

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is not None:
                self._extractor.abandon()
        finally:
            self._extractor.close()
        if isinstance(error, OSError):
            free_up = "free some space and " if error.errno == errno.ENOSPC else ""
            raise RestoreError(
                f"{self._target}: {error.strerror}; {free_up}run the same command again "
                "with --overwrite never, which keeps what is already restored"
            ) from error
