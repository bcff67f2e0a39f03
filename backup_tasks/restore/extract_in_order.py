"""Write entries as tar does, one after the other: where a path comes twice, the last one counts.

Other people's archives may hold a path more than once, as `tar r` makes them, and hardlinks to an
entry that a later one replaces. Ours never do. Folders still get their own modes and times last.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from functools import partial

from backup_tasks.format.tar_headers import Member
from backup_tasks.restore.extract import Extractor, UnsafePathError, check_path
from backup_tasks.restore.policy import ExtractPolicy, ExtractReport
from backup_tasks.spools.folder_stack import split_path
from backup_tasks.spools.inode_table import InodeTable

_KEPT_TWICE = (
    "some paths stand more than once in the archive and were there already; if they are from a "
    "restore that broke off, they may not be the last versions: --overwrite older brings these"
)


class InOrderExtractor(Extractor):
    """An extractor in which an entry replaces an earlier one of the same path and run.

    The policy decides about everything that was there before the run. As with tar, a hardlink
    joins the file that its target names at that moment, and a folder makes way only if it is
    empty. Unlike with tar, nothing is written through a symlink, and a hardlink that comes before
    its file is made last.

    Takes up to 48 bytes of memory for each path that is written, and 24 for each that is kept.
    """

    _are_symlinks_last = False

    def __init__(self, root: int, policy: ExtractPolicy) -> None:
        super().__init__(root, policy)
        self._ours = self._here = InodeTable()
        self._finished = InodeTable()
        self._kept = InodeTable()
        self._is_finishing = False
        self._may_replace = policy.overwrite == "always"
        self._finisher.is_due = self._is_due
        self._folders.on_made = self._note_made

    def add(
        self,
        member: Member,
        pieces: Iterable[memoryview],
        sha256: str = "",
        sparse_sha256: str = "",
    ) -> None:
        if member.kind not in ("hardlink", "symlink", "dir"):
            super().add(member, pieces, sha256, sparse_sha256)
            return
        path = os.fsdecode(member.path)
        try:
            check_path(path)
            if member.kind == "hardlink":
                check_path(os.fsdecode(member.link))
                self._each(member, partial(self._link, later=self._hardlinks.append))
            elif member.kind == "symlink":
                self._each(member, self._symlink)
            else:
                self._each(member, self._add_folder)
        except UnsafePathError as error:
            self.report.add_problem(path, str(error))

    def finish(self) -> ExtractReport:
        self._is_finishing = True
        return super().finish()

    def _try(self, path: str, make: Callable[[], None]) -> None:
        super()._try(path, partial(self._make, path, make))

    def _make(self, path: str, make: Callable[[], None]) -> None:
        self._check_above(path)
        make()

    def _add_file(
        self,
        member: Member,
        path: str,
        pieces: Iterable[memoryview],
        sha256: str,
        sparse_sha256: str,
    ) -> None:
        self._note(path, partial(super()._add_file, member, path, pieces, sha256, sparse_sha256))

    def _may_write(self, folder: int, member: Member, path: str, mtime_ns: int) -> bool:
        may_write = super()._may_write(folder, member, path, mtime_ns)
        if not may_write:
            if path in self._kept:
                self.report.notes.add(_KEPT_TWICE)
            self._kept.add(path, None)
        return may_write

    def _add_node(self, member: Member, path: str) -> None:
        report = self.report
        before = report.kept, report.lost
        super()._add_node(member, path)
        if before == (report.kept, report.lost):
            self._made_leaf(path)

    def _symlink(self, member: Member, path: str) -> None:
        self._note(path, partial(super()._symlink, member, path))

    def _link(
        self, member: Member, path: str, later: Callable[[Member], None] | None = None
    ) -> None:
        if self._is_finishing and path in self._ours:
            return  # a later entry of this path stands there
        self._check_above(os.fsdecode(member.link))
        self._note(path, partial(super()._link, member, path, later))

    def _note(self, path: str, make: Callable[[], None]) -> None:
        """Make a file or a link; note the path if it was made, not if it was kept or put off."""
        before = self.report.files + self.report.links
        make()
        if self.report.files + self.report.links > before:
            self._made_leaf(path)

    def _made_leaf(self, path: str) -> None:
        self._here.add(path, None)
        if path in self._unlike:
            self._unlike.add(path, False)

    def _add_folder(self, member: Member, path: str) -> None:
        parent, name = split_path(path)
        folder = self._folders.enter(parent)
        if path in self._ours and not self._is_folder(path):
            os.unlink(name, dir_fd=folder)
        self._folders.enter(path)
        self._finisher.wanted.append(member)

    def _note_made(self, path: str) -> None:
        self._here.add(path, None)

    def _is_due(self, path: str) -> bool:
        """Whether to set this folder: its last entry comes first here, and only that one counts."""
        if path in self._finished or not self._is_folder(path):
            return False
        self._finished.add(path, None)
        return True

    def _check_above(self, path: str) -> None:
        """Refuse a path that would replace an entry of this run by a folder on the way.

        Raises:
            OSError: an entry of this run on the way is no folder.
        """
        end = path.find("/") if self._may_replace else -1
        while end >= 0:
            above = path[:end]
            if above in self._ours and not self._is_folder(above):
                reason = f"{above!r} on the way to it is no folder; kept as it is"
                raise OSError(errno.ENOTDIR, reason)
            end = path.find("/", end + 1)

    def _is_folder(self, path: str) -> bool:
        """Whether a folder stands there still; it may have made way for a later entry."""
        parent, name = split_path(path)
        folder = self._folders.enter(parent)
        try:
            return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False
