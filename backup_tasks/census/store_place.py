"""Remember on which mount a store's folder lay, and refuse to use the folder without that mount.

Below a mount point with nothing mounted lies another folder, mostly an empty one. A backup made
there fills the wrong disk, and is hidden once the right disk is mounted.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from backup_tasks.census.newest_seen import NewestSeen
from backup_tasks.common.paths import Paths
from backup_tasks.common.printable import printable
from backup_tasks.common.state_files import read_note, state_key, write_note
from backup_tasks.errors import StoreError
from backup_tasks.format.archive_names import is_backup_name
from backup_tasks.stores.base import Store
from backup_tasks.stores.registry import open_store

if TYPE_CHECKING:
    from backup_tasks.filesystem.standing import Standing
    from backup_tasks.profile.model import Profile

FSTAB = Path("/etc/fstab")


class _Noted(Struct, frozen=True):
    """The note's content: where something was mounted, and what."""

    mount_point: str
    kind: str
    source: str


class StorePlace(Struct, frozen=True):
    """Remember, in the state directory, on which mount a store's folder lay.

    Attributes:
        state: the state directory.
        folder: the store's.
        url: the store's; all profiles that back up to it share the note.
        newest: gives the name of the newest backup seen in the store, "" if none was.
        fstab: the file that names mount points, for a store without a note.
    """

    state: Path
    folder: Path
    url: str
    newest: Callable[[], str]
    fstab: Path = FSTAB

    def check(self) -> None:
        """Refuse the folder if its disk should be mounted, and is not.

        Only the right folder holds the newest backup that was seen. If that is there, the store was
        moved to this disk with all its content, and the folder is accepted. fstab may be out of
        date, so it is believed only for a folder without backups.

        Raises:
            StoreError: the disk or share on which the folder should lie is not mounted.
        """
        from backup_tasks.filesystem.standing import find_standing

        noted, points = self._read(), self._points_of_fstab()
        if noted is None and not points:
            return
        try:
            standing = find_standing(self.folder)
            reason = self._why_lost(standing, noted) or self._why_unplanned(standing, points)
        except OSError:  # the store reports this itself, and better
            return
        if reason:
            raise StoreError(f"{self.url}: {reason}")

    def note(self) -> None:
        """Remember where the folder lies, after a backup was made there. Failing is no error."""
        from backup_tasks.filesystem.standing import find_standing

        with contextlib.suppress(StoreError, OSError):
            self.check()
            mount = find_standing(self.folder).mount
            noted = _Noted(mount.point, mount.kind, mount.source) if mount else None
            if noted is None:
                self._path.unlink(missing_ok=True)
            elif noted != self._read():
                write_note(
                    self._path,
                    {"mount_point": noted.mount_point, "kind": noted.kind, "source": noted.source},
                )

    def _why_lost(self, standing: Standing, noted: _Noted | None) -> str:
        from backup_tasks.filesystem.standing import is_at_or_below

        lost = is_at_or_below(standing.folder, [noted.mount_point] if noted else [])
        if not noted or not lost or standing.is_on(lost):
            return ""
        newest = self.newest()
        if newest and os.path.isfile(self.folder / newest):
            return ""
        what = printable(f"{noted.source}, {noted.kind}")
        return (
            f"nothing is mounted on {printable(lost)} now, where the last backup was made "
            f"({what}); mount it; or, if backups are to lie on this disk from now on, run: "
            f"rm {printable(shlex.quote(str(self._path)))}"
        )

    def _why_unplanned(self, standing: Standing, points: Iterable[str]) -> str:
        from backup_tasks.filesystem.standing import is_at_or_below

        planned = is_at_or_below(standing.folder, points)
        if not planned or standing.has_mount_on(planned) or standing.is_on(planned):
            return ""
        if self.folder.is_dir() and any(map(is_backup_name, os.listdir(self.folder))):
            return ""
        return (
            f"nothing is mounted on {printable(planned)}, which {self.fstab} names as a mount "
            f"point; run: mount {printable(shlex.quote(planned))}; or take it out of that file"
        )

    @property
    def _path(self) -> Path:
        return self.state / "mounts" / f"{state_key('', self.url)}.json"

    def _read(self) -> _Noted | None:
        try:
            noted = read_note(self._path)
            found = _Noted(noted["mount_point"], noted["kind"], noted["source"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        is_text = all(
            isinstance(part, str) for part in (found.mount_point, found.kind, found.source)
        )
        return found if is_text and found.mount_point.startswith("/") else None

    def _points_of_fstab(self) -> list[str]:
        from backup_tasks.filesystem.standing import mount_points_of

        try:
            return list(mount_points_of(self.fstab.read_bytes()))
        except OSError:
            return []


def open_profile_store(profile: Profile, paths: Paths) -> Store:
    """Open a profile's store; it refuses to work while its disk is not mounted."""
    folder = profile.store.folder

    def check_place() -> None:
        if folder is not None:
            _place(profile, paths, store, folder).check()

    store: Store = open_store(profile.store, root=paths.root, check_place=check_place)
    return store


def note_place(profile: Profile, paths: Paths, store: Store) -> None:
    """Remember where the store's folder lies, after a backup was made there."""
    if (folder := profile.store.folder) is not None:
        _place(profile, paths, store, folder).note()


def _place(profile: Profile, paths: Paths, store: Store, folder: Path) -> StorePlace:
    def newest() -> str:
        return NewestSeen(paths.state, profile, store).newest_name

    return StorePlace(paths.state, folder, store.url, newest)
