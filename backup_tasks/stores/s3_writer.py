"""One archive on its way into a bucket: a multipart upload with its parts side by side."""

from __future__ import annotations

import base64
import bisect
import contextlib
import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import IO, TYPE_CHECKING, NoReturn, cast

from backup_tasks.errors import (
    CopyRefused,
    CopyUnsupported,
    ObjectMissing,
    StoreError,
)
from backup_tasks.stores.base import CopySource, PartBody, StoredObject, settled
from backup_tasks.stores.s3_access import (
    RUN_KEY,
    InFlight,
    S3Access,
    bare_etag,
    changed,
    end_upload,
    quoted_etag,
    refuse_taken_name,
    repeated,
    taken,
)
from backup_tasks.stores.s3_body import BodyFile
from backup_tasks.stores.s3_errors import (
    CONNECTION_FAILURES,
    FAILURES,
    code_of,
    explain,
    is_missing,
    is_unknown_to_server,
    status_of,
)

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

_SENDERS = 4
# On threads of their own: the server is busy with a copy, and sending must not wait for that.
_COPIERS = 4
# How far sending may get ahead of a part that is slow to arrive: what lies behind a gap cannot be
# salvaged after a crash. Far enough to go on while a server takes a second for one of them.
_MOST_AHEAD = 16
_REFUSED_COPIES = frozenset(
    {"NotImplemented", "InvalidObjectState", "InvalidRequest", "MethodNotAllowed"}
    | {"AccessDenied", "Forbidden", "403"}
)


class S3Writer:
    """See `base.ArchiveWriter` for the contract.

    A crash leaves the multipart upload, which no listing of objects shows; `list_unfinished`
    finds it.
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
        self._access = access
        self._name = name
        self._upload_id = upload_id
        self._run_id = run_id
        self._most_in_flight_bytes = most_in_flight_bytes
        self._senders = ThreadPoolExecutor(_SENDERS, "send")
        self._copiers = ThreadPoolExecutor(_COPIERS, "copy")
        self._stopped = threading.Event()
        self._in_flight = in_flight
        self._changed = in_flight.changed
        self._etags: dict[int, str] = {}
        # Where each part ends, and those that are copied.
        self._ends: list[int] = []
        self._copying: dict[int, Future[None]] = {}
        self._under_way = 0
        self._held_bytes = 0
        self._sending: list[int] = []
        self._failure: StoreError | None = None
        self._has_copies = False
        self._ended = False

    @property
    def upload_id(self) -> str:
        return self._upload_id

    def send(self, body: PartBody) -> None:
        size = len(body)
        with self._changed:
            self._changed.wait_for(lambda: self._failure or self._has_room(size))
            number = self._begin_part(size)
            self._hold(size)
            self._sending.append(number)
        self._senders.submit(self._run, self._send_part, number, size, body)

    def copy(self, source: CopySource, start: int, length: int) -> None:
        with self._changed:
            number = self._begin_part(length)
            self._has_copies = True
            self._copying[number] = self._copiers.submit(
                self._run, self._copy_part, number, 0, source, start, length
            )

    def withdraw(self, offset: int) -> None:
        with self._changed:
            stay = bisect.bisect_right(self._ends, offset)
            begun = []
            for number in range(stay + 1, len(self._ends) + 1):
                if self._copying[number].cancel():
                    self._under_way -= 1
                else:
                    begun.append(number)
            # Or one of them might arrive when its number belongs to another part.
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
        if name not in ("", self._name):
            raise ValueError("S3 binds an upload to its key when it is started")
        if not self._ends:  # S3 makes no object out of no parts
            self.send(b"")
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended() or not self._under_way)
            self._refuse_ended()
        # Asked also because a server that does not know If-None-Match may ignore it.
        refuse_taken_name(self._access, self._name)
        try:
            etag = self._complete(conditional=True)
        except FAILURES as error:
            found = self._committed_after_all(error)
        else:
            found = self._confirmed(etag)
        self._ended = True
        self._shut_down()
        return found

    def abort(self) -> None:
        if self._ended:
            return
        self._stop()
        # Ended at once, so that requests under way fail soon, and again when none is left, as
        # a part that arrived in between may have stayed. What fails here hides nothing: the
        # caller knows why it gives up, and the next run finds what is left.
        reachable = not isinstance(self._failure, _Unreachable)
        with contextlib.suppress(StoreError):
            end_upload(self._access, self._name, self._upload_id)
        self._shut_down()
        if reachable:
            with contextlib.suppress(StoreError):
                end_upload(self._access, self._name, self._upload_id)
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
        # A part larger than all the room goes when it is alone.
        held_bytes = self._in_flight.held_bytes
        free = self._most_in_flight_bytes - held_bytes
        is_ahead = self._sending and len(self._ends) - self._sending[0] >= _MOST_AHEAD
        return not held_bytes or (size <= free and not is_ahead)

    def _begin_part(self, size: int) -> int:
        """The number of the next part. Raises what went wrong before."""
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
            raise StoreError(f"{self._access.place.url}: the upload of {self._name} has ended")

    def _run(self, work: Callable[..., str], number: int, held_bytes: int, *what: object) -> None:
        etag, failure = "", None
        try:
            if not (self._failure or self._stopped.is_set()):
                etag = work(number, *what)
        except StoreError as error:
            failure = error
        except Exception as error:  # a bug, but one that must not pass for a part that was sent
            failure = StoreError(f"part {number} of {self._name}: {type(error).__name__}: {error}")
            failure.__cause__ = error
        with self._changed:
            self._etags[number] = etag
            self._failure = self._failure or failure
            self._under_way -= 1
            self._hold(-held_bytes)
            if number in self._sending:
                self._sending.remove(number)
            self._changed.notify_all()

    def _send_part(self, number: int, body: PartBody) -> str:
        digest = hashlib.md5(body, usedforsecurity=False).digest()

        def upload() -> str:
            with BodyFile(body, self._stopped) as file:
                answer = self._access.client.upload_part(
                    Bucket=self._access.bucket,
                    Key=self._access.key(self._name),
                    UploadId=self._upload_id,
                    PartNumber=number,
                    Body=cast(IO[bytes], file),
                    ContentLength=len(body),
                    ContentMD5=base64.b64encode(digest).decode(),
                )
            return answer["ETag"]

        try:
            return repeated(upload, self._access.max_attempts, self._stopped)
        except FAILURES as error:
            raise self._explained(error, f"send part {number} of {self._name}") from error

    def _copy_part(self, number: int, coming: CopySource, start: int, length: int) -> str:
        source = settled(coming)
        key = self._access.key(source.name)

        def copy() -> str:
            answer = self._access.client.upload_part_copy(
                Bucket=self._access.bucket,
                Key=self._access.key(self._name),
                UploadId=self._upload_id,
                PartNumber=number,
                CopySource={"Bucket": self._access.bucket, "Key": key},
                CopySourceIfMatch=quoted_etag(source.etag),
                CopySourceRange=f"bytes={start}-{start + length - 1}",
            )
            return answer["CopyPartResult"]["ETag"]

        try:
            return repeated(copy, self._access.max_attempts, self._stopped)
        except FAILURES as error:
            doing = f"copy from {source.name}"
            if status_of(error) == 412:
                raise changed(self._access.place.url, source.name) from error
            if is_unknown_to_server(error):
                raise CopyUnsupported(str(explain(error, self._access.place, doing))) from error
            if code_of(error) in _REFUSED_COPIES:
                raise CopyRefused(str(explain(error, self._access.place, doing))) from error
            if is_missing(error):
                raise explain(error, self._access.place, doing, source.name) from error
            raise self._explained(error, doing) from error

    def _explained(self, error: Exception, doing: str) -> StoreError:
        told = explain(error, self._access.place, doing)
        return _Unreachable(str(told)) if isinstance(error, CONNECTION_FAILURES) else told

    def _complete(self, *, conditional: bool) -> str:
        """Ask for the one atomic step. Returns the ETag, "" if the answer had none."""
        parts: list[CompletedPartTypeDef] = [
            {"PartNumber": number, "ETag": self._etags[number]} for number in sorted(self._etags)
        ]
        request = partial(
            self._access.client.complete_multipart_upload,
            Bucket=self._access.bucket,
            Key=self._access.key(self._name),
            UploadId=self._upload_id,
            MultipartUpload={"Parts": parts},
        )
        try:
            answer = request(IfNoneMatch="*") if conditional else request()
        except FAILURES as error:
            if conditional and is_unknown_to_server(error):
                return self._complete(conditional=False)
            raise
        return bare_etag(answer.get("ETag") or "")

    def _committed_after_all(self, error: Exception) -> StoredObject:
        """The object, if only the answer was lost. Raises what the error means otherwise.

        botocore repeats a request whose answer was lost, and then gets 412 for our own object.
        """
        with contextlib.suppress(ObjectMissing):
            found, metadata = self._access.head(self._name)
            if metadata.get(RUN_KEY) == self._run_id:
                return self._whole(found)
            if status_of(error) == 412:
                raise taken(self._access.place.url, self._name) from error
        doing = f"complete {self._name}"
        if self._has_copies and code_of(error) == "InvalidPart":
            # Cloudflare R2 wants all parts but the last equal, which copies cannot be.
            raise CopyUnsupported(str(explain(error, self._access.place, doing))) from error
        if status_of(error) == 409:
            raise StoreError(
                f"{self._access.place.url}: somebody else wrote {self._name} at the same moment; "
                "run the backup again"
            ) from error
        raise explain(error, self._access.place, doing) from error

    def _confirmed(self, etag: str) -> StoredObject:
        """The object as the server now shows it; no answer is believed without that."""
        try:
            found, metadata = self._access.head(self._name)
        except ObjectMissing:
            self._unconfirmed("it is not there")
        # The ETag is for servers that lose the metadata of a multipart upload.
        if metadata.get(RUN_KEY) != self._run_id and not (etag and found.etag == etag):
            self._unconfirmed("another object has its name")
        return self._whole(found)

    def _unconfirmed(self, found: str) -> NoReturn:
        raise StoreError(
            f"{self._access.place.url}: the server took {self._name} as complete, but {found}; "
            "run the backup again"
        )

    def _whole(self, found: StoredObject) -> StoredObject:
        if found.size == self._total_bytes:
            return found
        # Ours, and not what was sent: it must not be listed as a backup.
        with contextlib.suppress(*FAILURES):
            key = self._access.key(self._name)
            self._access.client.delete_object(Bucket=self._access.bucket, Key=key)
        raise StoreError(
            f"{self._access.place.url}: {self._name} has {found.size:,} bytes where "
            f"{self._total_bytes:,} were sent, and was removed; check the server and run again"
        )

    def _shut_down(self) -> None:
        self._copiers.shutdown(wait=False, cancel_futures=True)
        self._senders.shutdown(wait=True, cancel_futures=True)
        self._copiers.shutdown(wait=True)
        with self._changed:  # of what never began
            self._hold(-self._held_bytes)
            self._changed.notify_all()


class _Unreachable(StoreError):
    """The server could not be reached, so that asking it to clean up twice is no use."""
