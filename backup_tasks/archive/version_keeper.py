"""Puts earlier versions into the archive in place of entries that cannot be stored anew."""

from __future__ import annotations

from collections.abc import Callable, Container

from backup_tasks.archive.builder import ArchiveBuilder
from backup_tasks.archive.carry_over import Earlier
from backup_tasks.archive.entry_headers import member_of, set_place
from backup_tasks.common.printable import one_line, printable
from backup_tasks.errors import BackupError
from backup_tasks.format.manifest import STRIPPED, Entry, carry_entry
from backup_tasks.format.tar_headers import encode_headers
from backup_tasks.journal.problems import Problem
from backup_tasks.reuse.plan import Reuse, is_large

_BARE = "stored without extended attributes, which could not be carried over"
_REPLACED = "the file that it is a hardlink to was replaced"


class VersionKeeper:
    """Stores entries as the previous archive has them.

    Args:
        builder: takes the tar bytes.
        report: called for each version that is kept, and for each that cannot be kept.
        reuse: the chunks that are reused of the previous backup.
        earlier: where earlier versions lie; None if there are none, or if they cannot be read.
        holder: name of the previous archive, for reports of versions that cannot be kept.
        broken: first links that did not become what the walk saw, by the hash of their path.

    Attributes:
        kept: kept files that have several names, by the hash of their path.
    """

    def __init__(
        self,
        builder: ArchiveBuilder,
        report: Callable[[Problem], None],
        reuse: Reuse,
        earlier: Earlier | None,
        holder: str,
        broken: Container[int],
    ) -> None:
        self._builder = builder
        self._report = report
        self._reuse = reuse
        self._earlier = earlier
        self._holder = holder
        self._broken = broken
        self.kept: set[int] = set()

    @property
    def has_any(self) -> bool:
        """Whether earlier versions are available at all."""
        return self._earlier is not None

    def mark(self, entry: Entry) -> None:
        """Mark an entry as carried over from the previous archive."""
        if self._earlier is not None:
            carry_entry(entry, self._earlier.started_at)

    def keep(
        self,
        old: Entry,
        stale: tuple[int, ...],
        why: str = "",
        *,
        is_gone: bool = False,
        is_begun: bool = False,
    ) -> Entry | None:
        """Store an entry as the previous archive has it.

        Args:
            stale: the reused chunks that hold an entry of this path. If there are any, the errors
                in `Earlier.may_lack` are raised too: without this version, tar would restore an
                older one.
            why: the reason to report; "" if it was reported already.
            is_gone: the file does not exist any more.
            is_begun: the archive has part of this path already, which must not count.

        Returns:
            The stored entry; None if it cannot be stored, which is then reported.

        Raises:
            StoreError: the store fails.
            ArchiveError: the chunk of the version is damaged.
            IdentityError: the version is encrypted and cannot be opened here.
        """
        self.mark(old)
        kept: Entry | None
        if not is_large(old) and not is_begun and self._reuse.keeps(old):
            kept = self._reuse.move(old)
        else:
            kept = self.carry_over(old, may_lack=not stale, why=why, is_gone=is_gone)
            if kept is None:
                return None
            kept.stale = stale
        if kept.nlink > 1:
            self.kept.add(hash(kept.name))
        if why:
            told, day = f"{why}; the version of {kept.carried[:10]} was kept", kept.carried
            path = printable(kept.name)
            self._report(Problem(path, told, "carried", bytes=kept.size, carried_from=day))
        return kept

    def carry_over(
        self, old: Entry, *, may_lack: bool = True, why: str = "", is_gone: bool = False
    ) -> Entry | None:
        """Append an entry as the previous archive has it.

        Args:
            may_lack: the archive may do without the entry, as it holds nothing of this path.
            why, is_gone: as in `keep`.

        Returns:
            The appended entry; None if it cannot be stored, which is then reported.

        Raises:
            StoreError: the store fails.
            ArchiveError: the chunk of the version is damaged.
            IdentityError: the version is encrypted and cannot be opened here.
        """
        old.stale = ()
        if old.type == "hardlink":
            first = hash(old.link_name)
            if first not in self._broken or first in self.kept:
                return self._add_bare(old)
            self.tell_lost(old, _REPLACED)
            return None
        if old.type != "file" and not old.xattrs:
            return self._add_bare(old)
        earlier = self._earlier
        assert earlier is not None
        lacks: tuple[type[BackupError], ...] = earlier.may_lack if may_lack else ()
        try:
            old.chunk, old.offset = earlier.carry_over(self._builder, old)
        except lacks as error:
            told = one_line(str(error))
            if old.type == "dir":
                self._report(Problem(printable(old.name), f"{_BARE}: {told}", "torn"))
                old.xattrs, old.torn = "", STRIPPED
                return self._add_bare(old)
            if is_gone:
                self._report(Problem(printable(old.name), why, "vanished"))
            else:
                self.tell_lost(old, why or told)
            return None
        return old

    def _add_bare(self, old: Entry) -> Entry:
        """Append the headers of an entry without content and extended attributes."""
        headers = encode_headers(member_of(old, {}))
        set_place(old, self._builder.add_headers(headers), len(headers))
        return old

    def tell_lost(self, entry: Entry, why: str, *, is_held: bool = True) -> None:
        """Report an entry that is not in the archive at all.

        Args:
            is_held: whether the previous archive has it, or may have it.
        """
        holder = self._holder if is_held else ""
        then = f"; {holder} still has its last version" if holder else ""
        path = printable(entry.name)
        self._report(Problem(path, why + then, bytes=entry.size, last_whole=holder))
