"""Which entries of an archive are wanted, and in which chunks they lie."""

from __future__ import annotations

import operator
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from backup_tasks.common.gitignore import PathPatterns
from backup_tasks.errors import ArchiveError, UsageError
from backup_tasks.format.limits import CHUNKS_LIMIT
from backup_tasks.format.manifest import (
    Entry,
    PlacedEntry,
    decode_entries,
    decode_entry,
    most_entries,
)
from backup_tasks.format.manifest_lines import Manifest
from backup_tasks.spools.inode_table import NumberTable
from backup_tasks.spools.numbers import NumberSpool

# Bits for a place in a manifest, of up to 1 TiB; the chunk's number takes the other 24 bits.
_PLACE_BITS = 64 - (CHUNKS_LIMIT - 1).bit_length()
_NO_MORE = 2**64
_NEAR_BYTES = 2**20
# Bytes that an entry's line may take beyond the entry's own in its chunk.
_LINE_BYTES = 2**10
# Limit of an entry's line, as a multiple of the entry's bytes in its chunk: JSON writes each
# control character of a path with six.
_LINE_RATIO = 8


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
        """Whether this path is wanted; remembers the patterns that matched."""
        if not self._patterns:
            return True
        found = [text for text, pattern in self._patterns if pattern.match(path, is_folder)]
        self._matched.update(found)
        return bool(found)

    def check_all_met(self, archive: str) -> None:
        """Refuse patterns that matched nothing.

        Raises:
            UsageError: some patterns matched nothing; names them.
        """
        unmet = [text for text, _ in self._patterns if text not in self._matched]
        if unmet:
            named = ", ".join(repr(text) for text in unmet)
            raise UsageError(
                f"--path {named} matches nothing in {archive}; `invoke files` lists what is in it"
            )


class WantedEntry(NamedTuple):
    """An entry to restore, under its own path or that of a wanted hardlink to it."""

    entry: Entry
    restore_as: str


class Selection:
    """The wanted entries of a manifest, in the order in which they lie in the archive.

    Memory: some bytes for each chunk; a few megabytes for any number of entries, as these stay in
    the manifest's file; and 24 bytes for each file of which a link is wanted, but not the first.

    Args:
        passing: passes the entries on, so that the caller can look at all of them in one reading.

    Attributes:
        count, files, bytes: entries, regular files and their content bytes.

    Raises:
        ArchiveError: the manifest lists more entries in a chunk than it can hold.
    """

    def __init__(
        self,
        manifest: Manifest,
        wanted: WantedPaths,
        passing: Callable[[Iterator[PlacedEntry]], Iterator[PlacedEntry]] = lambda them: them,
    ) -> None:
        self._manifest = manifest
        # For each wanted entry, one number: the chunk in which it begins, and its line's place in
        # the manifest.
        self._begin = NumberSpool()
        self._upper = NumberSpool()
        # For each chunk, whether an entry begins there.
        self._starts = bytearray(len(manifest.chunks))
        # Unwanted first link -> the line of the hardlink that takes its place.
        self._stand_ins = NumberTable()
        # The lines of further hardlinks to such a file, and of hardlinks to a missing file.
        self._extra = NumberSpool()
        self._lost = NumberSpool()
        self._walk: Iterator[int] = iter(())
        self._next = _NO_MORE
        self._asked = len(manifest.chunks)
        self.count = self.files = self.bytes = 0
        self._scan(wanted, passing(manifest.placed_entries()))
        if self._stand_ins:
            self._add_stand_ins()

    def _scan(self, wanted: WantedPaths, entries: Iterator[PlacedEntry]) -> None:
        # The folders above the entry: length of path, and place of line, of each. `top` is the
        # path of the lowest folder.
        above: list[tuple[int, int]] = []
        top = ""
        are_all = wanted.are_all
        counts = array("I", bytes(4 * len(self._starts)))
        for entry, place, _ in entries:
            counts[entry.chunk] += 1
            if are_all:
                self.count += 1
                self._append(entry, place)
                continue
            name = entry.name
            while above and not name.startswith(top):
                above.pop()
                top = top[: above[-1][0]] if above else ""
            is_folder = entry.type == "dir"
            if wanted.match(name, is_folder):
                for _, upper in above:
                    self._upper.add(upper)
                above.clear()
                top = ""
                self._take(entry, place, wanted)
            elif is_folder:
                top = name + "/"
                above.append((len(top), place))
        _check_counts(counts, self._manifest.raw_lengths)
        self._starts = bytearray(map(bool, counts))

    def _take(self, entry: Entry, place: int, wanted: WantedPaths) -> None:
        self.count += 1
        if entry.type == "hardlink" and not wanted.match(entry.link_name, False):
            if entry.link_name in self._stand_ins:
                self._extra.add(place)
            else:
                self._stand_ins.set(entry.link_name, place)
                self._lost.add(place)
            return
        self._append(entry, place)

    def _append(self, entry: Entry, place: int) -> None:
        self._begin.add(entry.chunk << _PLACE_BITS | place)
        if entry.type == "file":
            self.files += 1
            self.bytes += entry.size

    def _add_stand_ins(self) -> None:
        found = NumberSpool()
        for entry, place, _ in self._manifest.placed_entries():
            stand_in = self._stand_ins.get(entry.name)
            if stand_in is not None and self._entry_at(stand_in).link_name == entry.name:
                self._append(entry, place)
                found.add(stand_in)
        lost, self._lost = self._lost, NumberSpool()
        found_places = iter(found)
        last = next(found_places, _NO_MORE)
        for place in lost:
            while last < place:
                last = next(found_places, _NO_MORE)
            if last != place:
                self._lost.add(place)
        found.close()
        lost.close()

    def _entry_at(self, place: int) -> Entry:
        return decode_entry(self._manifest.line_at(place))

    def _stand_in_of(self, first: str) -> str:
        """The path of the hardlink that takes a first link's place; `first` if none does."""
        place = self._stand_ins.get(first)
        if place is None:
            return first
        entry = self._entry_at(place)
        return entry.name if entry.link_name == first else first

    @property
    def extra_links(self) -> Iterator[tuple[str, str]]:
        """(path, path of the file to join) of each further hardlink to an unwanted first link.

        The hardlink that takes the first link's place is not among them.
        """
        for place in self._extra:
            entry = self._entry_at(place)
            yield entry.name, self._stand_in_of(entry.link_name)

    @property
    def lost_links(self) -> Iterator[tuple[str, str]]:
        """(path, path of the first link) of one hardlink for each first link that the archive
        lacks."""
        for place in self._lost:
            entry = self._entry_at(place)
            yield entry.name, entry.link_name

    @property
    def upper_folders(self) -> Iterator[Entry]:
        """Entries of unwanted folders above wanted entries."""
        for place in self._upper:
            yield self._entry_at(place)

    def entries_in(self, number: int) -> list[WantedEntry]:
        """The wanted entries that begin in this chunk, in the order of the archive.

        Ask for chunks in ascending order; any other is slow.

        Raises:
            ArchiveError: the chunk has no room for all of these entries.
        """
        entries = self._entries_at(self._places_in(number), number)
        if not self._stand_ins:
            return [WantedEntry(entry, entry.name) for entry in entries]
        return [WantedEntry(entry, self._stand_in_of(entry.name)) for entry in entries]

    def _places_in(self, number: int) -> list[int]:
        """Places of the lines of wanted entries that begin in this chunk, ascending."""
        if number <= self._asked:
            self._walk = iter(self._begin)
            self._next = next(self._walk, _NO_MORE)
        self._asked = number
        first, end = number << _PLACE_BITS, number + 1 << _PLACE_BITS
        places = []
        while self._next < end:
            if self._next >= first:
                places.append(self._next - first)
            self._next = next(self._walk, _NO_MORE)
        return places

    def _entries_at(self, places: list[int], number: int) -> Sequence[Entry]:
        """Decode the entries of these lines, in the order in which they lie in the chunk.

        For most chunks the lines are close together; if everything is wanted, no others lie
        in between.
        """
        if not places:
            return ()
        first, last = places[0], places[-1]
        usual = self._manifest.raw_lengths[number] + _LINE_BYTES * len(places)
        if last - first > _NEAR_BYTES:
            entries, length = self._decoded_one_by_one(places, number)
        else:
            lines = self._manifest.lines_between(first, last) + self._manifest.line_at(last)
            length = len(lines)
            if lines.count(b"\n") == len(places):
                entries = decode_entries(lines)
            else:
                starts = [place - first for place in places]
                entries = [
                    decode_entry(lines[start : lines.index(b"\n", start)]) for start in starts
                ]
        if length > usual and sum(map(_text_length, entries)) > usual:
            raise _too_much(number)
        entries.sort(key=_offset)
        return entries

    def _decoded_one_by_one(self, places: list[int], number: int) -> tuple[list[Entry], int]:
        """The entries, and the length of their lines together."""
        most = _LINE_RATIO * self._manifest.raw_lengths[number] + _NEAR_BYTES
        entries, length = [], 0
        for place in places:
            line = self._manifest.line_at(place)
            length += len(line)
            if length > most:
                raise _too_much(number)
            entries.append(decode_entry(line))
        return entries, length

    def chunk_numbers(self) -> Sequence[int]:
        """The chunks to fetch, ascending."""
        numbers, last = array("I"), -1
        for key in self._begin:
            if (number := key >> _PLACE_BITS) != last:
                numbers.extend(self.group(number))
                last = number
        return numbers

    def group(self, first: int) -> range:
        """A chunk in which an entry begins, and the chunks after it that hold only its rest."""
        following = self._starts.find(1, first + 1)
        return range(first, following if following >= 0 else len(self._starts))

    def close(self) -> None:
        """Free the files."""
        for spool in (self._begin, self._upper, self._extra, self._lost):
            spool.close()


def _check_counts(counts: array[int], raw_lengths: array[int]) -> None:
    """Refuse a manifest in which too many entries begin in a chunk.

    Raises:
        ArchiveError: more entries begin in a chunk than it has room for.
    """
    for number, (count, raw) in enumerate(zip(counts, raw_lengths, strict=True)):
        if count > 1 and count > (most := most_entries(raw)):
            raise ArchiveError(
                f"the manifest lets {count:,} entries begin in chunk {number}, whose {raw:,} bytes "
                f"have room for {most:,}"
            )


def _too_much(number: int) -> ArchiveError:
    return ArchiveError(f"the manifest says more of chunk {number} than can be in it")


def _text_length(entry: Entry) -> int:
    """Characters that the entry keeps in memory."""
    return sum(len(value) for value in msgspec.structs.astuple(entry) if isinstance(value, str))


_offset = operator.attrgetter("offset")
