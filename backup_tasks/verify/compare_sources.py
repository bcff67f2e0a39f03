"""Compare today's sources with a manifest: tell real differences from changes made since."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from backup_tasks.backup.scan import walk_rules
from backup_tasks.common.progress import Progress
from backup_tasks.format.manifest import Entry
from backup_tasks.profile.model import Profile
from backup_tasks.read.findings import Findings
from backup_tasks.read.not_whole import explain_entry
from backup_tasks.snapshot.private_content import Private
from backup_tasks.snapshot.source_file import SourceFile
from backup_tasks.snapshot.source_tree import plan_sources
from backup_tasks.snapshot.walk import Walk
from backup_tasks.spools.folder_stack import OPEN_FOLDER, FolderStack, split_path
from backup_tasks.verify.compare_tree import hash_file, join


@dataclass(slots=True)
class SourceComparison:
    """How the sources compare with a backup of them.

    Attributes:
        entries: number of entries that are in the sources just as they are in the backup.
        wrong: entries that differ, or are missing on one side, without a sign of any change.
        changed: entries that changed, came or went since the backup began.
    """

    entries: int = 0
    wrong: Findings = field(default_factory=Findings)
    changed: Findings = field(default_factory=Findings)


class SourceComparer:
    """Compares the sources of a profile with a backup.

    Args:
        since_ns: when the backup began; entries with a later mtime or ctime may differ.
        without: a path to leave out with all below it, relative to /.
        private: content that no backup holds.
        progress: counts bytes and files.
    """

    def __init__(
        self,
        profile: Profile,
        since_ns: int,
        without: str,
        private: Private,
        progress: Progress,
    ) -> None:
        self._profile = profile
        self._private = private
        self._since_ns = since_ns
        self._without = without
        self._progress = progress
        self._new_folder = ""
        self.result = SourceComparison()

    def compare(self, entries: Iterator[Entry]) -> SourceComparison:
        """Compare with these entries, which come in the order of a manifest.

        Raises:
            SourceError: none of the sources is there.
        """
        tree, missing = plan_sources(self._profile.backup.sources)
        for path, reason in missing.items():
            self.result.wrong.add(path.lstrip("/"), reason)
        walk = Walk(tree, walk_rules(self._profile, self._private), self.result.wrong.add)
        root = os.open("/", OPEN_FOLDER)
        try:
            with FolderStack(root, os.O_PATH | OPEN_FOLDER) as folders:
                for entry, source in join(entries, walk.entries(), lambda one: one.name):
                    self._compare(entry, source, folders)
                    self._progress.advance(0, 1)
        finally:
            os.close(root)
        return self.result

    def _compare(self, entry: Entry | None, source: Entry | None, folders: FolderStack) -> None:
        if entry is not None and source is not None:
            self._compare_both(entry, source, folders)
        elif entry is not None:
            self._explain_missing(entry)
        elif source is not None and not self._is_private(source, folders):
            self._explain_new(source)

    def _compare_both(self, entry: Entry, source: Entry, folders: FolderStack) -> None:
        pairs = {
            "type": (entry.type, source.type),
            "size": (entry.size, source.size),
            "mode": (entry.mode, source.mode),
            "owner": ((entry.uid, entry.gid), (source.uid, source.gid)),
            "time": (entry.mtime_ns, source.mtime_ns),
            "link": (entry.link_name, source.link_name),
            "device": (entry.rdev, source.rdev),
        }
        wrong = [name for name, (stored, now) in pairs.items() if stored != now]
        if not wrong and entry.type == "file":
            parent, name = split_path(entry.name)
            try:
                folder, is_sparse = folders.enter(parent), entry.is_hashed_sparse
                digest = hash_file(folder, name, self._progress, is_sparse=is_sparse)
                wrong += ["content"] * (digest != entry.content_hash)
            except OSError as error:
                self.result.wrong.add(entry.name, f"cannot be read: {error.strerror}")
                return
        if not wrong:
            self.result.entries += 1
        elif entry.carried or entry.torn:
            self.result.changed.add(entry.name, f"not stored whole: {explain_entry(entry)}")
        elif self._is_later(source.name):
            self.result.changed.add(entry.name, f"changed since, in {', '.join(wrong)}")
        else:
            self.result.wrong.add(entry.name, f"differs in {', '.join(wrong)}")

    def _explain_missing(self, entry: Entry) -> None:
        """Explain an entry of the backup that the walk through the sources did not meet."""
        path = entry.name
        if entry.carried:
            self.result.changed.add(path, f"cannot be looked at; {explain_entry(entry)}")
            return
        if os.path.lexists(f"/{path}"):
            self.result.changed.add(path, "the profile leaves it out now")
            return
        upper = path
        while upper and not os.path.lexists(f"/{upper}"):
            upper = split_path(upper)[0]
        if self._is_later(upper):
            self.result.changed.add(path, "removed since")
        else:
            self.result.wrong.add(path, "is missing in the sources")

    def _is_private(self, source: Entry, folders: FolderStack) -> bool:
        """Whether every backup leaves this file out because of its content."""
        if source.type not in ("file", "hardlink"):
            return False
        parent, name = split_path(source.name)
        try:
            file = SourceFile(name, folders.enter(parent))
        except OSError:
            return False
        try:
            content = bytearray(
                file.stored_bytes if file.stored_bytes in self._private.sizes else 0
            )
            file.fill(memoryview(content))
            return self._private.holds(source.name, content)
        finally:
            file.close()

    def _explain_new(self, source: Entry) -> None:
        """Explain an entry of the sources that is not in the backup."""
        path = source.name
        if _is_below(path, self._without):
            return
        # Moved entries keep their times, and so do the entries in a moved folder.
        is_moved = bool(self._new_folder) and _is_below(path, self._new_folder)
        if is_moved or self._is_later(path):
            self.result.changed.add(path, "new since")
            if source.type == "dir" and not is_moved:
                self._new_folder = path
        else:
            self.result.wrong.add(path, "is not in the backup")

    def _is_later(self, path: str) -> bool:
        """Whether this path, as it is now, changed after the backup began."""
        try:
            status = os.lstat(f"/{path}")
        except OSError:
            return True  # gone in this moment
        return max(status.st_mtime_ns, status.st_ctime_ns) >= self._since_ns


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
