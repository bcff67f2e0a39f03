"""The journal of a run that sends much: it lists what was sent, so that the next run need not.

One file of JSON lines for each staging object, in the state directory, written as chunks go out:

    {"staging": {...}}      first, and on disk before anything is sent: which object this is
    {"upload_id": "..."}    the store's handle for its upload
    {"begun": {...}}        a large file, before its pieces
    {"chunk": {...}}        a chunk; `offset` is its place in the staging object
    {"entry": {...}}        an entry as in the manifest to come, with its chunk numbers

A kill may cut the last line; a power cut may lose more. Readers believe a line only as far as
the object itself confirms it.
"""

from __future__ import annotations

import contextlib
import heapq
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from backup_tasks.archive.write_order import WriteGroup
from backup_tasks.common.paths import make_private, sync_folder
from backup_tasks.common.state_files import open_kept
from backup_tasks.format.limits import CHUNK_RAW_LIMIT, LINE_BYTES
from backup_tasks.format.manifest import Chunk, Entry

# At most about this much must be sent again after a power cut. On a busy disk each sync may wait
# for the writes of others: a sync every 64 MiB made a backup of /usr take 119 instead of 66 s.
_SYNC_BYTES = 512 * 2**20


class Staging(msgspec.Struct, frozen=True, kw_only=True):
    """The staging object that a journal is about.

    Attributes:
        name: the object's name.
        store: the store's URL.
        started_at: when the run started, ISO 8601, UTC, as in the manifest's header.
        first_chunk: number of the first chunk in the object; earlier chunks lie elsewhere.
        recipients: those for whom the chunks are encrypted, as in the manifest's header.
    """

    name: str
    store: str
    started_at: str
    first_chunk: int
    recipients: tuple[str, ...] = ()


class _Line(msgspec.Struct, omit_defaults=True, gc=False):
    staging: Staging | None = None
    upload_id: str = ""
    chunk: Chunk | None = None
    entry: Entry | None = None
    begun: Entry | None = None


class StagingJournal:
    """The journal of a staging object in the making.

    Once open, a journal that can no longer be written costs the next run time, and this run
    nothing.

    Args:
        path: the new file; its folder is made if need be.

    Raises:
        OSError: the file cannot be made; only the constructor raises this.
    """

    def __init__(self, path: Path, staging: Staging) -> None:
        self.staging = staging
        self._encode = msgspec.json.Encoder().encode
        make_private(path.parent)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file: IO[bytes] | None = open(descriptor, "wb", 2**16)  # noqa: SIM115
        self._unsynced_bytes = 0
        self._write(_Line(staging=staging))
        self._file.flush()
        os.fsync(descriptor)
        sync_folder(path.parent)

    def note_upload(self, upload_id: str) -> None:
        """Note the store's handle for the upload, as soon as there is one."""
        self._record(_Line(upload_id=upload_id), sync=True)

    def begin_large(self, entry: Entry) -> None:
        """Note that the headers of a large file were written; its pieces follow."""
        self._record(_Line(begun=entry))

    def add_chunk(self, chunk: Chunk, place: int) -> None:
        """Note that a chunk was delivered, and lies at `place` in the staging object."""
        self._unsynced_bytes += chunk.length
        sync = self._unsynced_bytes >= _SYNC_BYTES
        # Flush each chunk, so that a kill does not lose it: without it its entries are of no use.
        self._record(_Line(chunk=chunk.at(place)), flush=True, sync=sync)

    def add_entry(self, entry: Entry) -> None:
        """Note that an entry was written; kept entries and folders are passed over."""
        if entry.type != "dir" and entry.chunk >= self.staging.first_chunk:
            self._record(_Line(entry=entry))

    def _record(self, line: _Line, *, flush: bool = False, sync: bool = False) -> None:
        if self._file is None:
            return
        try:
            self._write(line)
            if flush or sync:
                self._file.flush()
            if sync:
                os.fdatasync(self._file.fileno())
                self._unsynced_bytes = 0
        except OSError:
            self.close()

    def _write(self, line: _Line) -> None:
        assert self._file is not None
        self._file.write(self._encode(line) + b"\n")

    def close(self) -> None:
        """Write no more; the file stays."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()


class StagedRun:
    """The content of a journal that an interrupted run left.

    Args:
        path: the journal.

    Attributes:
        staging: the object; None if not even the first line can be read.
        upload_id: the store's handle for its upload, or "".
        chunks: in order, one after the other in the object.
        begun: large files, each with the place of its headers.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.staging: Staging | None = None
        self.upload_id = ""
        self.chunks: list[Chunk] = []
        self.begun: list[Entry] = []
        # The places in the file where groups of entries begin.
        self._groups = [0]
        last_key = b""
        for place, line in self._lines():
            self.staging = self.staging or line.staging
            self.upload_id = self.upload_id or line.upload_id
            if line.begun is not None:
                self.begun.append(line.begun)
            if line.entry is not None:
                key = line.entry.walk_key
                if key <= last_key:
                    self._groups.append(place)
                last_key = key
            if line.chunk is not None:
                if not self._follows(line.chunk):
                    break
                self.chunks.append(line.chunk)

    def _follows(self, chunk: Chunk) -> bool:
        last = self.chunks[-1] if self.chunks else None
        is_next = last is None or chunk.offset == last.end
        return is_next and chunk.offset >= 0 < chunk.length and 0 < chunk.raw <= CHUNK_RAW_LIMIT

    def entries(self) -> Iterator[Entry]:
        """The written entries, in the order of the walk.

        Each write group (`WriteGroup`) was written in that order. If a journal has more groups than
        there are, the surplus is not believed.
        """
        begins = self._groups[: len(WriteGroup) + 1]
        ends: list[int | None] = [*begins[1:], None]
        groups = [self._entries_between(*span) for span in zip(begins, ends, strict=True)]
        last_key = b""
        for entry in heapq.merge(*groups[: len(WriteGroup)], key=lambda entry: entry.walk_key):
            if entry.walk_key <= last_key:  # no run writes a path twice
                return
            last_key = entry.walk_key
            yield entry

    def _entries_between(self, begin: int, end: int | None) -> Iterator[Entry]:
        for place, line in self._lines(begin):
            if end is not None and place >= end:
                return
            if line.entry is not None:
                yield line.entry

    def _lines(self, begin: int = 0) -> Iterator[tuple[int, _Line]]:
        """Each line from a place in the file on, up to the first unreadable one."""
        decode = msgspec.json.Decoder(_Line).decode
        try:
            with open_kept(self._path) as file:
                file.seek(begin)
                place = begin
                while line := file.readline(LINE_BYTES):
                    yield place, decode(line)
                    place += len(line)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return

    def forget(self) -> None:
        """Remove the journal, once nothing is left of its object.

        Raises:
            OSError: the file cannot be removed.
        """
        self._path.unlink(missing_ok=True)


class StagingFolder:
    """The journals of one profile and its store.

    Args:
        state: the state directory.
        key: names profile and store, fit for a file name.
    """

    def __init__(self, state: Path, key: str) -> None:
        self._folder = state / "staging"
        self._key = key

    def begin(self, run_id: str, staging: Staging) -> StagingJournal:
        """Begin a new journal.

        Args:
            run_id: eight hex digits that tell this staging object from all others.

        Raises:
            OSError: the file cannot be made.
        """
        return StagingJournal(self._folder / f"{self._key}-{run_id}.jsonl", staging)

    def read(self) -> list[StagedRun]:
        """The content of all journals, the earliest run first."""
        runs = [StagedRun(path) for path in sorted(self._folder.glob(f"{self._key}-*.jsonl"))]
        return sorted(runs, key=lambda run: run.staging.started_at if run.staging else "")
