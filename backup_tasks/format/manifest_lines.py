"""Read back a manifest by any author: the header in memory, all else in a file.

A stranger's manifest cannot cost unbounded memory or time: numbers are checked against the file's
size and the format's limits before anything that they count is kept.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import IO

from backup_tasks.errors import ArchiveError
from backup_tasks.format.footer import Footer
from backup_tasks.format.limits import (
    CHUNK_LINE_BYTES,
    CHUNK_RAW_LIMIT,
    CHUNKS_LIMIT,
    HEADER_LINE_BYTES,
    LINE_BYTES,
)
from backup_tasks.format.manifest import (
    Chunk,
    Entry,
    PlacedEntry,
    decode_chunk,
    decode_chunks,
    decode_entries,
    decode_header,
)
from backup_tasks.spools.line_table import BLOCK_LINES, LineFile, LineTable

# No line is shorter: `{"offset":0,"length":1,"sha256":"…64…","raw":1}` and `{"type":"dir"}`.
_LEAST_CHUNK_LINE, _LEAST_ENTRY_LINE = 111, 15
# A stored chunk may exceed its raw bytes by a 64th, and by this for headers of gzip, age and tar.
_STORED_MORE_BYTES = 2**20
# A table of up to this many chunks lies in memory, decoded: some 20 MB.
_TABLE_IN_MEMORY = 2**16
_BLOCK_BYTES = 2**18


def _unsound(number: int) -> ArchiveError:
    return ArchiveError(f"the manifest's entry {number} names a chunk that is not there")


class Manifest:
    """A manifest as read back: everything but the header stays in its file until asked for.

    Args:
        lines: a file that holds the manifest, decompressed; it is read by position.
        footer: of the archive that the manifest was read from.

    Attributes:
        chunks: the table of chunks; the lines of a long table are decoded on demand.
        raw_lengths: the raw length of each chunk.

    Raises:
        ArchiveError: the lines do not fit the header's totals or each other.
    """

    def __init__(self, lines: IO[bytes], footer: Footer) -> None:
        lines.seek(0)
        self.footer = footer
        self._file = lines
        self._lines = LineFile(lines, LINE_BYTES)
        self.header = decode_header(lines.readline(HEADER_LINE_BYTES))
        self._check_numbers()
        self.raw_lengths = array("I")
        self.chunks = self._read_chunks(lines)
        self._entries_start = lines.tell()

    def _check_numbers(self) -> None:
        header, size = self.header, self._lines.size
        if header.chunks > CHUNKS_LIMIT:
            raise ArchiveError(
                f"the manifest lists {header.chunks:,} chunks; no archive has more than "
                f"{CHUNKS_LIMIT:,}"
            )
        least = header.chunks * _LEAST_CHUNK_LINE + header.entries * _LEAST_ENTRY_LINE
        if header.chunks < 0 or header.entries < 0 or least > size:
            raise ArchiveError(
                f"the manifest's header says {header.chunks:,} chunks and {header.entries:,} "
                f"entries, which do not fit into its {size:,} bytes"
            )

    def _read_chunks(self, lines: IO[bytes]) -> Sequence[Chunk]:
        """Read the table of chunks and check each line."""
        count, end = self.header.chunks, 0
        is_small = count <= _TABLE_IN_MEMORY
        kept: list[Chunk] = []
        places = array("Q")
        for number in range(count):
            if not (is_small or number % BLOCK_LINES):
                places.append(lines.tell())
            chunk = decode_chunk(lines.readline(CHUNK_LINE_BYTES))
            if wrong := _wrong_with(chunk, end):
                raise ArchiveError(f"the manifest's chunk {number} {wrong}")
            end += chunk.length
            self.raw_lengths.append(chunk.raw)
            if is_small:
                kept.append(chunk)
        if end != self.header.chunk_bytes:
            raise ArchiveError("the manifest's chunks do not add up to its header's total")
        if is_small:
            return kept
        places.append(lines.tell())
        return LineTable(self._lines.between, decode_chunks, places, count)

    def entries(self) -> Iterator[Entry]:
        """Every entry in the order of the walk. One iteration at a time."""
        for placed in self.placed_entries():
            yield placed[0]

    def placed_entries(self) -> Iterator[PlacedEntry]:
        """Every entry with its line's place, in the order of the walk. One iteration at a time."""
        count, start, lengths = 0, self._entries_start, self.raw_lengths
        chunks = len(lengths)
        for block in self._blocks():
            entries = decode_entries(block)
            lines = block.splitlines(keepends=True)
            if len(lines) != len(entries):
                raise ArchiveError("the manifest holds a line that is empty")
            for entry, line in zip(entries, lines, strict=True):
                # The test of `_is_sound`, without a call for each entry.
                number = entry.chunk
                is_placed = 0 <= number < chunks and 0 <= entry.offset < lengths[number]
                if not is_placed or entry.size < 0 or (entry.stale and not self._is_sound(entry)):
                    raise _unsound(count)
                end = start + len(line)
                yield entry, start, end
                start = end
                count += 1
        self._check_count(count)

    def _blocks(self) -> Iterator[bytes]:
        """The lines of entries in blocks of many whole lines."""
        place = self._entries_start
        while block := self._lines.between(place, place + _BLOCK_BYTES):
            whole = block.rfind(b"\n") + 1
            block = block[:whole] if whole else self._lines.line_at(place)
            place += len(block)
            yield block

    def _is_sound(self, entry: Entry) -> bool:
        lengths, number = self.raw_lengths, entry.chunk
        return (
            entry.size >= 0
            and 0 <= number < len(lengths)
            and 0 <= entry.offset < lengths[number]
            and (not entry.stale or 0 <= min(entry.stale) <= max(entry.stale) < len(lengths))
        )

    def _check_count(self, count: int) -> None:
        if count != self.header.entries:
            raise ArchiveError(
                f"the manifest holds {count} entries, its header says {self.header.entries}"
            )

    def lines_between(self, start: int, end: int) -> bytes:
        """The lines from one place to another, undecoded."""
        return self._lines.between(start, end)

    def line_at(self, place: int) -> bytes:
        """The line that begins at a place."""
        return self._lines.line_at(place)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _wrong_with(chunk: Chunk, end: int) -> str:
    """The flaw of a chunk's line; "" if it is sound.

    Args:
        end: where the chunk before ends.
    """
    if chunk.offset != end or chunk.length <= 0:
        return "does not follow the one before"
    if not 0 < chunk.raw <= CHUNK_RAW_LIMIT:
        return f"unpacks to {chunk.raw:,} bytes"
    if chunk.length > chunk.raw + chunk.raw // 64 + _STORED_MORE_BYTES:
        return f"takes {chunk.length:,} bytes for {chunk.raw:,}"
    if len(chunk.sha256) != 64 or len(chunk.content) not in (0, 64):
        return "has a hash that is none"
    return ""
