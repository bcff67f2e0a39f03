"""Ordinary .tar.gz archives that we did not write: read from front to end with `tarfile`."""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from backup_tasks.cut_off import cut_off_error
from backup_tasks.errors import ArchiveError
from backup_tasks.manifest import MANIFEST_PATH, EntryType
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

    Raises ArchiveError when it is no sound and whole .tar.gz, mostly after the members before
    the damage; and for an archive of ours that lost its footer.
    """
    with (
        _explained(stored),
        io.BufferedReader(_ObjectReader(store, stored), _PIECE_BYTES) as packed,
        # tarfile's own "r|gz" stops after the first gzip member, without an error.
        gzip.GzipFile(fileobj=packed, mode="rb") as unpacked,
        tarfile.open(fileobj=unpacked, mode="r|", tarinfo=_StrictInfo, errorlevel=2) as archive,
    ):
        for info in archive:
            if info.name == MANIFEST_PATH:
                raise cut_off_error(stored.name)
            # tarfile keeps every member it met, for random access that a stream has not.
            archive.members.clear()  # type: ignore[attr-defined]
            member = _member_of(info)
            if member is not None:
                yield member, _content(archive, info, stored)
        _check_end(archive)


@contextlib.contextmanager
def _explained(stored: StoredObject) -> Iterator[None]:
    """What tarfile and gzip say of unsound input, as an ArchiveError."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ArchiveError(f"{stored.name}: no sound .tar.gz: {error}") from error
    except (ValueError, OverflowError) as error:  # numbers in headers that are none
        raise ArchiveError(f"{stored.name}: a header cannot be read: {error}") from error


class _StrictInfo(tarfile.TarInfo):
    """tarfile takes the end of its input, and any block that is no header, for the archive's end
    without a word; here only the end mark is."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # a block of zeros
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            raise tarfile.ReadError("it is cut off: tar's end mark is missing") from None
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"an entry's header is damaged: {error}") from None


def _check_end(archive: tarfile.TarFile) -> None:
    """Read on to the end of the object, so that gzip's last checksum is checked as well."""
    assert archive.fileobj is not None
    while rest := archive.fileobj.read(_PIECE_BYTES):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("more follows after tar's end mark, where tar never looks")


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


def _content(
    archive: tarfile.TarFile, info: tarfile.TarInfo, stored: StoredObject
) -> Iterator[memoryview]:
    if not info.isreg() and not info.issparse():
        return
    with _explained(stored):
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
