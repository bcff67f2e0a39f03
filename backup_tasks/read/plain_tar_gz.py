"""Read ordinary .tar.gz archives that we did not write, from front to end."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from backup_tasks.chunks.reader import RANGE_BYTES
from backup_tasks.common.printable import printable
from backup_tasks.common.units import render_bytes
from backup_tasks.errors import ArchiveError
from backup_tasks.format.manifest import MANIFEST_PATH
from backup_tasks.format.tar_headers import Member
from backup_tasks.format.tar_reader import Oddities, TarReader
from backup_tasks.read.truncation import cut_off_error, refuse_without_end
from backup_tasks.stores.base import Store, StoredObject

_AHEAD = 3
_PIECE_BYTES = 2**20
# Deflate packs zeros to a thousandth, gzip -1 to a 228th; all else to a fiftieth at best.
BOMB_RATIO = 150
BOMB_BYTES = 2**30


def plain_tar_members(
    store: Store, stored: StoredObject, *, trusted: bool = False, notes: set[str] | None = None
) -> Generator[tuple[Member, Iterator[memoryview]], None, None]:
    """Yield each member with its stored bytes; read them before asking for the next member.

    The caller closes the generator, for the reason that `read_chunks` gives.

    Args:
        trusted: let the archive unpack to any size, however small it is.
        notes: at the end, gets a line for each oddity of the archive.

    Raises:
        ArchiveError: the object is no sound and whole .tar.gz (mostly raised after the members
            before the damage), or it is an archive of ours that lost its footer.
    """
    is_ours = False
    with (
        _explained(stored),
        _ObjectReader(store, stored) as packed,
        io.BufferedReader(packed, _PIECE_BYTES) as buffered,
        # Reads all members of a gzip file; tarfile's own "r|gz" reads only the first.
        gzip.GzipFile(fileobj=buffered, mode="rb") as unpacked,
    ):
        source = _BoundedSource(unpacked, packed, trusted)
        reader = TarReader(source)
        for member, pieces in reader.members():
            member.path = _relative(member.path)
            if is_ours := member.path == MANIFEST_PATH.encode():
                break
            if member.kind == "hardlink":
                member.link = _relative(member.link)
            if member.path:  # else it is "./", the folder that everything lies in
                yield member, _explained_pieces(stored, pieces)
        if not is_ours:
            _check_end(source)
    if is_ours:
        raise cut_off_error(stored.name)
    if reader.oddities.lacks_end:
        refuse_without_end(store, stored)
    if notes is not None:
        notes |= _notes_of(reader.oddities)


def _notes_of(odd: Oddities) -> set[str]:
    names = ", ".join(printable(name) for name in sorted(odd.unknown_names))
    notes = {
        "the archive has no end mark; if it was cut off between two entries, nothing tells": (
            odd.lacks_end
        ),
        "some times in the archive cannot be read; others were taken, mostly of whole seconds": (
            odd.lacks_times
        ),
        f"ACLs name users or groups that are unknown here ({names}); these were left out of them": (
            bool(names)
        ),
    }
    return {note for note, is_so in notes.items() if is_so}


@contextlib.contextmanager
def _explained(stored: StoredObject) -> Iterator[None]:
    """Turn errors about unsound input into one that names the archive.

    Raises:
        ArchiveError: the archive is no sound .tar.gz.
    """
    try:
        yield
    except (ArchiveError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ArchiveError(f"{stored.name} is no sound .tar.gz: {error}") from error


def _explained_pieces(stored: StoredObject, pieces: Iterator[memoryview]) -> Iterator[memoryview]:
    with _explained(stored):
        yield from pieces


class _BoundedSource:
    """The unpacked bytes; refuses to unpack a decompression bomb."""

    def __init__(self, unpacked: gzip.GzipFile, packed: _ObjectReader, trusted: bool) -> None:
        self._unpacked = unpacked
        self._packed = packed
        self._trusted = trusted
        self._count = 0

    def read(self, size: int, /) -> bytes:
        piece = self._unpacked.read(size)
        self._count += len(piece)
        is_much = self._count > max(BOMB_BYTES, BOMB_RATIO * self._packed.count)
        if is_much and not self._trusted:
            raise ArchiveError(
                f"{render_bytes(self._packed.count)} of it unpack to over "
                f"{render_bytes(self._count)}, as in a file made to fill disks; if you know "
                "better, restore it with --trusted"
            )
        return piece


def _check_end(source: _BoundedSource) -> None:
    """Read on to the end of the object, so that gzip's last checksum is checked as well.

    Raises:
        ArchiveError: something other than zeros follows tar's end mark.
    """
    while rest := source.read(_PIECE_BYTES):
        if rest.strip(b"\0"):
            raise ArchiveError("more follows after tar's end mark, where tar never looks")


def _relative(path: bytes) -> bytes:
    """ "./etc/x" and "/etc/x" as tar writes them -> "etc/x"; `..` is left for the extractor."""
    return b"/".join(name for name in path.split(b"/") if name not in (b"", b"."))


class _ObjectReader(io.RawIOBase):
    """An object as a stream, fetched a few ranges ahead; `count` is the bytes read so far."""

    def __init__(self, store: Store, stored: StoredObject) -> None:
        self._pool = ThreadPoolExecutor(_AHEAD, thread_name_prefix="read")
        self._store = store
        self._stored = stored
        self._next = 0
        self._waiting: deque[Future[bytes]] = deque()
        self._current = memoryview(b"")
        self.count = 0

    def readable(self) -> bool:
        return True

    def _fetch_ahead(self) -> None:
        while len(self._waiting) < _AHEAD and self._next < self._stored.size:
            length = min(RANGE_BYTES, self._stored.size - self._next)
            self._waiting.append(
                self._pool.submit(self._store.read_range, self._stored, self._next, length)
            )
            self._next += length

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._current:
            self._fetch_ahead()
            if not self._waiting:
                return 0
            self._current = memoryview(self._waiting.popleft().result())
        count = min(len(buffer), len(self._current))
        buffer[:count] = self._current[:count]
        self._current = self._current[count:]
        self.count += count
        return count

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        super().close()
