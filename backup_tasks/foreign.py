"""Ordinary .tar.gz archives that we did not write: read from front to end with `tarfile`."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from backup_tasks.errors import ArchiveError
from backup_tasks.manifest import EntryType
from backup_tasks.reader import RANGE_BYTES
from backup_tasks.stores.base import Store, StoredObject
from backup_tasks.tarstream import Member

_AHEAD = 3
_PIECE_BYTES = 2**20
_KINDS: dict[bytes, EntryType] = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.GNUTYPE_SPARSE: "file",
    tarfile.LNKTYPE: "hardlink",
    tarfile.SYMTYPE: "symlink",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
    tarfile.DIRTYPE: "dir",
    tarfile.FIFOTYPE: "fifo",
}


def foreign_members(
    store: Store, stored: StoredObject
) -> Iterator[tuple[Member, Iterator[memoryview]]]:
    """Each member with its content, which must be read before the next one is asked for.

    Raises ArchiveError when it is no sound .tar.gz.
    """
    try:
        with (
            io.BufferedReader(_ObjectReader(store, stored), _PIECE_BYTES) as packed,
            # tarfile's own "r|gz" stops after the first gzip member, without an error.
            gzip.GzipFile(fileobj=packed, mode="rb") as unpacked,
            tarfile.open(fileobj=unpacked, mode="r|", errorlevel=2) as archive,
        ):
            for info in archive:
                # tarfile keeps every member it met, for random access that a stream has not.
                archive.members.clear()  # type: ignore[attr-defined]
                member = _member_of(info)
                if member is not None:
                    yield member, _content(archive, info)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ArchiveError(f"{stored.name} is no sound .tar.gz: {error}") from error


def _member_of(info: tarfile.TarInfo) -> Member | None:
    kind = _KINDS.get(info.type)
    if kind is None:
        return None
    seconds = info.pax_headers.get("mtime")
    return Member(
        path=_relative(info.name),
        kind=kind,
        size=info.size if kind == "file" else 0,
        stored=info.size if kind == "file" else 0,
        mode=info.mode & 0o7777,
        uid=info.uid,
        gid=info.gid,
        user=info.uname.encode("utf-8", "surrogateescape"),
        group=info.gname.encode("utf-8", "surrogateescape"),
        mtime_ns=_nanoseconds(seconds) if seconds else int(info.mtime) * 10**9,
        link=_relative(info.linkname) if kind == "hardlink" else _raw(info.linkname),
        rdev_major=info.devmajor,
        rdev_minor=info.devminor,
        xattrs={
            key.removeprefix("SCHILY.xattr."): value.encode("utf-8", "surrogateescape")
            for key, value in info.pax_headers.items()
            if key.startswith("SCHILY.xattr.")
        },
    )


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[memoryview]:
    if not info.isreg() and not info.issparse():
        return
    file = archive.extractfile(info)
    while file is not None and (piece := file.read(_PIECE_BYTES)):
        yield memoryview(piece)


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _relative(name: str) -> bytes:
    """ "./etc/x" and "/etc/x" as tar writes them -> "etc/x"; `..` is left for the extractor."""
    names = [part for part in name.split("/") if part not in ("", ".")]
    return _raw("/".join(names))


def _nanoseconds(seconds: str) -> int:
    whole, _, fraction = seconds.partition(".")
    return int(whole) * 10**9 + int(fraction[:9].ljust(9, "0") or 0)


class _ObjectReader(io.RawIOBase):
    """An object as a stream, fetched a few ranges ahead."""

    def __init__(self, store: Store, stored: StoredObject) -> None:
        self._pool = ThreadPoolExecutor(_AHEAD, thread_name_prefix="read")
        self._store = store
        self._stored = stored
        self._next = 0
        self._waiting: deque[Future[bytes]] = deque()
        self._current = memoryview(b"")

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
        return count

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        super().close()
