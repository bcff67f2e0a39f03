"""Reading a file only to know whether it still equals its version in the previous backup."""

from __future__ import annotations

import os

from backup_tasks.chunks.compress import CHUNK_BYTES
from backup_tasks.common.progress import Progress
from backup_tasks.format.manifest import Entry
from backup_tasks.format.tar_headers import hash_xattrs
from backup_tasks.snapshot.source_file import SourceFile
from backup_tasks.snapshot.xattrs import Xattrs, read_xattrs
from backup_tasks.spools.folder_stack import FolderStack, allow_deep_folders, split_path

_FOLDER_TO_READ = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ContentCheck:
    """Compares files with their entries in the previous manifest.

    Args:
        root: descriptor of the folder that the entries' paths are relative to.

    Attributes:
        read_bytes: content bytes read so far.
    """

    def __init__(self, root: int, progress: Progress) -> None:
        self._folders = FolderStack(root, _FOLDER_TO_READ)
        self._progress = progress
        # The walk keeps as many folders open at the same time.
        self._most_levels = allow_deep_folders() // 2
        self._buffer = memoryview(bytearray(CHUNK_BYTES))
        self.read_bytes = 0

    def is_same(self, entry: Entry, old: Entry) -> bool:
        """Whether the file still has the old entry's content and extended attributes.

        False for a file that cannot be read, or that moves: the run meets its trouble again
        when it writes the file.
        """
        parent, name = split_path(entry.name)
        if parent.count("/") >= self._most_levels:
            return False
        try:
            folder = self._folders.enter(parent)
            if entry.type == "file":
                return self._is_same_file(name, folder, old)
            return _are_same(read_xattrs(f"/proc/self/fd/{folder}/{name}"), old)
        except OSError:
            return False

    def _is_same_file(self, name: str, folder: int, old: Entry) -> bool:
        source = SourceFile(name, folder)
        try:
            left = source.stored_bytes
            if not _are_same(source.xattrs(), old) or source.status.st_size != old.size:
                return False
            while left:
                piece = self._buffer[: min(left, CHUNK_BYTES)]
                source.fill(piece)
                left -= len(piece)
                self._progress.advance(len(piece))
            self.read_bytes += source.read_bytes
            return not source.what_changed() and source.content_hashes() == (
                old.sha256,
                old.sparse_sha256,
            )
        finally:
            source.close()

    def close(self) -> None:
        """Close the folders."""
        self._folders.forget()


def _are_same(found: Xattrs, old: Entry) -> bool:
    """Whether the attributes are the old entry's. False if some could not be read: the entry
    is then written again, and the missing attributes are reported again."""
    return not found.trouble and hash_xattrs(found.values) == old.xattrs
