"""One archive on its way into a bucket: a multipart upload with several parts under way at once."""

from __future__ import annotations

import bisect
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from backup_tasks.errors import StoreError
from backup_tasks.stores.base import CopySource, PartBody, StoredObject, settled
from backup_tasks.stores.s3.client import InFlight, S3Access
from backup_tasks.stores.s3.multipart import S3Upload, Unreachable

_SENDERS = 4
# Copies have their own threads: the server takes time for one, and sending must not wait for it.
_COPIERS = 4
# How many parts sending may get ahead of a part that is slow to arrive: after a crash, parts behind
# a gap cannot be salvaged. Enough to go on sending while a server takes a second for one part.
_MOST_AHEAD = 16


class S3Writer:
    """See `base.ArchiveWriter` for the contract.

    A crash leaves the multipart upload. No listing of objects shows it; `list_unfinished` finds it.
    """

    def __init__(
        self,
        access: S3Access,
        name: str,
        upload_id: str,
        run_id: str,
        in_flight: InFlight,
        most_in_flight_bytes: int,
    ) -> None:
        self._most_in_flight_bytes = most_in_flight_bytes
        self._senders = ThreadPoolExecutor(_SENDERS, "send")
        self._copiers = ThreadPoolExecutor(_COPIERS, "copy")
        self._stopped = threading.Event()
        self._upload = S3Upload(access, name, upload_id, run_id, self._stopped)
        self._in_flight = in_flight
        self._changed = in_flight.changed
        self._etags: dict[int, str] = {}
        # Where each part ends; then the copied parts, by number.
        self._ends: list[int] = []
        self._copying: dict[int, Future[None]] = {}
        self._sources: dict[int, CopySource] = {}
        self._under_way = 0
        self._held_bytes = 0
        self._sending: list[int] = []
        self._failure: StoreError | None = None
        self._ended = False

    @property
    def upload_id(self) -> str:
        return self._upload.upload_id

    def send(self, body: PartBody) -> None:
        size = len(body)
        with self._changed:
            self._changed.wait_for(lambda: self._failure or self._has_room(size))
            number = self._begin_part(size)
            self._hold(size)
            self._sending.append(number)
        self._senders.submit(self._run, self._upload.send_part, number, size, body)

    def copy(self, source: CopySource, start: int, length: int) -> None:
        with self._changed:
            number = self._begin_part(length)
            self._sources[number] = source
            self._copying[number] = self._copiers.submit(
                self._run, self._upload.copy_part, number, 0, source, start, length
            )

    def withdraw(self, offset: int) -> None:
        with self._changed:
            stay = bisect.bisect_right(self._ends, offset)
            begun = []
            for number in range(stay + 1, len(self._ends) + 1):
                del self._sources[number]
                if self._copying.pop(number).cancel():
                    self._under_way -= 1
                else:
                    begun.append(number)
            # Otherwise a copy might arrive after its number was given to another part.
            self._changed.wait_for(
                lambda: self._has_ended() or all(number in self._etags for number in begun)
            )
            self._refuse_ended()
            for number in begun:
                del self._etags[number]
            del self._ends[stay:]

    def check(self) -> None:
        with self._changed:
            if self._failure:
                raise self._failure

    def commit(self, name: str = "") -> StoredObject:
        if name not in ("", self._upload.name):
            raise ValueError("S3 binds an upload to its key when it is started")
        if not self._ends:  # S3 makes no object out of no parts
            self.send(b"")
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended() or not self._under_way)
            self._refuse_ended()
        for source in {settled(coming) for coming in self._sources.values()}:
            self._upload.check_source(source)
        found = self._upload.complete(
            self._etags, self._total_bytes, has_copies=bool(self._copying)
        )
        self._ended = True
        self._shut_down()
        return found

    def abort(self) -> None:
        if self._ended:
            return
        self._stop()
        # End the upload at once, so that requests under way fail soon. End it again when none is
        # left, because a part that arrived in between may have stayed. Failures here are ignored:
        # the caller knows why it gives up, and the next run finds an upload that is left.
        reachable = not isinstance(self._failure, Unreachable)
        with contextlib.suppress(StoreError):
            self._upload.end()
        self._shut_down()
        if reachable:
            with contextlib.suppress(StoreError):
                self._upload.end()
        self._ended = True

    def leave(self) -> None:
        if not self._ended:
            self._stop()
            self._shut_down()
            self._ended = True

    def _stop(self) -> None:
        with self._changed:
            self._stopped.set()
            self._changed.notify_all()

    def _hold(self, size: int) -> None:
        self._held_bytes += size
        self._in_flight.held_bytes += size

    def _has_room(self, size: int) -> bool:
        # A part larger than the whole limit is sent when no other is under way.
        held_bytes = self._in_flight.held_bytes
        free = self._most_in_flight_bytes - held_bytes
        is_ahead = self._sending and len(self._ends) - self._sending[0] >= _MOST_AHEAD
        return not held_bytes or (size <= free and not is_ahead)

    def _begin_part(self, size: int) -> int:
        """Take the next part number.

        Raises:
            StoreError: an earlier part failed, or the upload has ended.
        """
        self._refuse_ended()
        self._ends.append(self._total_bytes + size)
        self._under_way += 1
        return len(self._ends)

    @property
    def _total_bytes(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _has_ended(self) -> bool:
        return self._failure is not None or self._ended or self._stopped.is_set()

    def _refuse_ended(self) -> None:
        if self._failure:
            raise self._failure
        if self._has_ended():
            url = self._upload.access.place.url
            raise StoreError(f"{url}: the upload of {self._upload.name} has ended")

    def _run(self, work: Callable[..., str], number: int, held_bytes: int, *what: object) -> None:
        etag, failure = "", None
        try:
            if not (self._failure or self._stopped.is_set()):
                etag = work(number, *what)
        except StoreError as error:
            failure = error
        except Exception as error:  # a bug; it must not pass for a part that was sent
            what_failed = f"part {number} of {self._upload.name}"
            failure = StoreError(f"{what_failed}: {type(error).__name__}: {error}")
            failure.__cause__ = error
        with self._changed:
            self._etags[number] = etag
            self._failure = self._failure or failure
            self._under_way -= 1
            self._hold(-held_bytes)
            if number in self._sending:
                self._sending.remove(number)
            self._changed.notify_all()

    def _shut_down(self) -> None:
        self._copiers.shutdown(wait=False, cancel_futures=True)
        self._senders.shutdown(wait=True, cancel_futures=True)
        self._copiers.shutdown(wait=True)
        with self._changed:  # parts that never began
            self._hold(-self._held_bytes)
            self._changed.notify_all()
