"""Which entries of an archive are wanted, and in which chunks they lie."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from backup_tasks.errors import UsageError
from backup_tasks.limits import CHUNK_RAW_LIMIT
from backup_tasks.manifest import (
    Entry,
    Manifest,
    PlacedEntry,
    decode_entries,
    decode_entry,
)
from backup_tasks.patterns import PathPatterns

# A place in a manifest of up to 256 GiB; an offset in a chunk takes the other 26 bits.
_PLACE_BITS = 64 - (CHUNK_RAW_LIMIT - 1).bit_length()
_PLACE_MASK = 2**_PLACE_BITS - 1
_NEAR_BYTES = 2**20


class WantedPaths:
    """The `--path` patterns of one command; none means everything."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [(text, PathPatterns([text])) for text in patterns]
        self._matched: set[str] = set()

    @property
    def are_all(self) -> bool:
        """Whether everything is wanted."""
        return not self._patterns

    def match(self, path: str, is_folder: bool) -> bool:
        """Whether this path is wanted; remembers which patterns met something."""
        if not self._patterns:
            return True
        found = [text for text, pattern in self._patterns if pattern.match(path, is_folder)]
        self._matched.update(found)
        return bool(found)

    def check_all_met(self, archive: str) -> None:
        """Raises UsageError that names the patterns which matched nothing."""
        unmet = [text for text, _ in self._patterns if text not in self._matched]
        if unmet:
            named = ", ".join(repr(text) for text in unmet)
            raise UsageError(
                f"--path {named} matches nothing in {archive}; `invoke files` lists what is in it"
            )


class WantedEntry(NamedTuple):
    """An entry to restore, perhaps under the path of a hardlink whose first link is unwanted."""

    entry: Entry
    restore_as: str


class Selection:
    """The wanted entries of a manifest, in the order in which they lie in the archive.

    Takes about 8 bytes an entry; the entries themselves stay in the manifest's file.

    Args:
        passing: gives the same entries; whoever wants to see them all need not read them again.

    Attributes:
        count, files, bytes: entries, regular files and their content bytes.
        extra_links: (path, path of the file it joins) of hardlinks whose first link is
            not wanted, beyond the one that takes its place; lost_links: those whose first link
            is not even in the archive.
        upper_folders: entries of the folders above wanted ones, not wanted themselves.
    """

    def __init__(
        self,
        manifest: Manifest,
        wanted: WantedPaths,
        passing: Callable[[Iterator[PlacedEntry]], Iterator[PlacedEntry]] = lambda them: them,
    ) -> None:
        self._manifest = manifest
        # Of each chunk in which wanted entries begin: where in it, and their lines' places in the
        # manifest, as one number that sorts by the former.
        self._begin_in: dict[int, array[int]] = {}
        self._starts = bytearray(len(manifest.chunks))
        self._restore_as: dict[str, str] = {}
        self.extra_links: list[tuple[str, str]] = []
        self.lost_links: list[tuple[str, str]] = []
        self.upper_folders: list[Entry] = []
        self.count = self.files = self.bytes = 0
        self._scan(wanted, passing(manifest.placed_entries()))
        if self._restore_as:
            self._add_stand_ins()

    def _scan(self, wanted: WantedPaths, entries: Iterator[PlacedEntry]) -> None:
        above: list[Entry] = []
        for entry, place, _ in entries:
            self._starts[entry.chunk] = 1
            name = entry.name
            while above and not name.startswith(above[-1].name + "/"):
                above.pop()
            is_folder = entry.type == "dir"
            if wanted.match(name, is_folder):
                self.upper_folders += above
                above.clear()
                self._take(entry, place, wanted)
            elif is_folder:
                above.append(entry)

    def _take(self, entry: Entry, place: int, wanted: WantedPaths) -> None:
        self.count += 1
        if entry.type == "hardlink" and not wanted.match(entry.link_name, False):
            stand_in = self._restore_as.setdefault(entry.link_name, entry.name)
            if stand_in != entry.name:
                self.extra_links.append((entry.name, stand_in))
            return
        self._append(entry, place)

    def _append(self, entry: Entry, place: int) -> None:
        begin = self._begin_in.get(entry.chunk)
        if begin is None:
            begin = self._begin_in[entry.chunk] = array("Q")
        begin.append(entry.offset << _PLACE_BITS | place)
        if entry.type == "file":
            self.files += 1
            self.bytes += entry.size

    def _add_stand_ins(self) -> None:
        found = set()
        for entry, place, _ in self._manifest.placed_entries():
            if entry.name in self._restore_as:
                self._append(entry, place)
                found.add(entry.name)
        missing = self._restore_as.keys() - found
        self.lost_links += sorted((self._restore_as[first], first) for first in missing)

    def entries_in(self, number: int) -> list[WantedEntry]:
        """The wanted entries that begin in this chunk, in the order of the archive."""
        if number not in self._begin_in:
            return []
        begin = sorted(self._begin_in[number])
        found = []
        for entry in self._entries_at([one & _PLACE_MASK for one in begin]):
            name = entry.name
            found.append(WantedEntry(entry, self._restore_as.get(name, name)))
        return found

    def _entries_at(self, places: list[int]) -> Sequence[Entry]:
        """The entries of these lines, which in most chunks lie close together, and where all is
        wanted without others in between."""
        first, last = min(places), max(places)
        if last - first > _NEAR_BYTES:
            return [decode_entry(self._manifest.line_at(place)) for place in places]
        lines = self._manifest.lines_between(first, last) + self._manifest.line_at(last)
        if lines.count(b"\n") == len(places):
            entries = dict(zip(sorted(places), decode_entries(lines), strict=True))
            return [entries[place] for place in places]
        starts = [place - first for place in places]
        return [decode_entry(lines[start : lines.index(b"\n", start)]) for start in starts]

    def chunk_numbers(self) -> list[int]:
        """The chunks to fetch, ascending."""
        return [number for first in sorted(self._begin_in) for number in self.group(first)]

    def group(self, first: int) -> range:
        """A chunk in which an entry begins, and those that follow, in which none does: they hold
        the rest of a large one."""
        following = self._starts.find(1, first + 1)
        return range(first, following if following >= 0 else len(self._starts))
