"""The requests of one multipart upload, with their errors explained."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import threading
from collections.abc import Mapping
from functools import partial
from typing import IO, TYPE_CHECKING, Any, cast

from msgspec import Struct

from backup_tasks.errors import (
    CopyRefused,
    CopyUnsupported,
    ObjectExists,
    ObjectMissing,
    StoreError,
)
from backup_tasks.stores.base import CopySource, PartBody, StoredObject, changed, settled, taken
from backup_tasks.stores.s3.body import BodyFile
from backup_tasks.stores.s3.client import (
    RUN_KEY,
    S3Access,
    bare_etag,
    end_upload,
    quoted_etag,
    refuse_taken_name,
    repeated,
)
from backup_tasks.stores.s3.errors import (
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

_REFUSED_COPIES = frozenset(
    {"NotImplemented", "InvalidObjectState", "InvalidRequest", "MethodNotAllowed"}
    | {"AccessDenied", "Forbidden", "403"}
)


class Unreachable(StoreError):
    """The server could not be reached; asking it a second time to clean up is no use."""


class S3Upload(Struct, frozen=True):
    """One multipart upload; its requests may run concurrently.

    Attributes:
        name: of the object that the upload becomes.
        run_id: stands in the object's metadata, and tells our object from those of others.
        stopped: set when the upload is given up; then no request is retried.
    """

    access: S3Access
    name: str
    upload_id: str
    run_id: str
    stopped: threading.Event

    def end(self) -> None:
        """Abort the upload, which removes the parts that have arrived.

        Raises:
            StoreError: the abort failed, and parts may be left.
        """
        end_upload(self.access, self.name, self.upload_id)

    def send_part(self, number: int, body: PartBody) -> str:
        """Send one part; returns its ETag.

        Raises:
            ObjectExists: the upload is gone, and an object has its name.
            StoreError: the part could not be sent.
        """
        digest = hashlib.md5(body, usedforsecurity=False).digest()

        def upload() -> str:
            with BodyFile(body, self.stopped) as file:
                answer = self.access.client.upload_part(
                    Bucket=self.access.bucket,
                    Key=self.access.key(self.name),
                    UploadId=self.upload_id,
                    PartNumber=number,
                    Body=cast(IO[bytes], file),
                    ContentLength=len(body),
                    ContentMD5=base64.b64encode(digest).decode(),
                )
            return answer["ETag"]

        try:
            return repeated(upload, self.access.max_attempts, self.stopped)
        except FAILURES as error:
            raise self._explained(error, f"send part {number} of {self.name}") from error

    def copy_part(self, number: int, coming: CopySource, start: int, length: int) -> str:
        """Copy a range of another object as one part; returns its ETag.

        Raises:
            CopyRefused: the store does not copy this range.
            CopyUnsupported: the store never copies ranges.
            ObjectChanged: the source was replaced.
            ObjectMissing: the source is gone.
            ObjectExists: the upload is gone, and an object has its name.
            StoreError: any other failure. If the commit of `coming` failed: its error, as it came.
        """
        source, access = settled(coming), self.access
        pinned = access.pins.copies

        def copy() -> str:
            return self._ask_to_copy(number, source, start, length, pinned=pinned)

        try:
            return repeated(copy, access.max_attempts, self.stopped)
        except FAILURES as error:
            if status_of(error) != 412:
                raise self._copy_error(error, source) from error
            if not access.is_as_it_was(source):
                raise changed(access.place.url, source.name) from error
            if not pinned:
                doing = f"copy from {source.name}"
                raise CopyUnsupported(str(explain(error, access.place, doing))) from error
            access.pins.copies = False
            return self.copy_part(number, source, start, length)

    def _ask_to_copy(
        self, number: int, source: StoredObject, start: int, length: int, *, pinned: bool
    ) -> str:
        pin: Any = {"CopySourceIfMatch": quoted_etag(source.etag)} if pinned else {}
        answer = self.access.client.upload_part_copy(
            Bucket=self.access.bucket,
            Key=self.access.key(self.name),
            UploadId=self.upload_id,
            PartNumber=number,
            CopySource={"Bucket": self.access.bucket, "Key": self.access.key(source.name)},
            CopySourceRange=f"bytes={start}-{start + length - 1}",
            **pin,
        )
        return answer["CopyPartResult"]["ETag"]

    def check_source(self, source: StoredObject) -> None:
        """See that the source of copies is still the same object, as a server may ignore pins.

        If copies were pinned, a source that was removed since does no harm.

        Raises:
            ObjectChanged: the source was replaced.
            ObjectMissing: the source is gone, and copies were not pinned.
            StoreError: the store refuses or fails.
        """
        try:
            if not self.access.is_as_it_was(source):
                raise changed(self.access.place.url, source.name)
        except ObjectMissing:
            if not self.access.pins.copies:
                raise

    def _copy_error(self, error: Exception, source: StoredObject) -> StoreError:
        doing = f"copy from {source.name}"
        told = str(explain(error, self.access.place, doing))
        if is_unknown_to_server(error):
            return CopyUnsupported(told)
        if code_of(error) in _REFUSED_COPIES:
            return CopyRefused(told)
        if is_missing(error):
            return explain(error, self.access.place, doing, source.name)
        return self._explained(error, doing)

    def _explained(self, error: Exception, doing: str) -> StoreError:
        if code_of(error) == "NoSuchUpload" and self._is_name_taken():
            return taken(self.access.place.url, self.name)
        told = explain(error, self.access.place, doing)
        return Unreachable(str(told)) if isinstance(error, CONNECTION_FAILURES) else told

    def _is_name_taken(self) -> bool:
        """Whether an object has the name, so that another host may have ended the upload."""
        with contextlib.suppress(StoreError):
            self.access.head(self.name)
            return True
        return False

    def complete(self, etags: Mapping[int, str], size: int, *, has_copies: bool) -> StoredObject:
        """Complete the upload, the one atomic step, and check the object that it gives.

        Args:
            etags: of the parts, by their numbers.
            size: bytes of all parts together.
            has_copies: whether any part was copied.

        Raises:
            ObjectExists: another object has the name, or took it at the same moment.
            CopyUnsupported: the server refuses copied parts.
            StoreError: the upload could not be completed, or not be confirmed, or the object was
                of another size and was removed.
        """
        # A server that does not know If-None-Match may ignore it; so the name is looked up too.
        refuse_taken_name(self.access, self.name)
        parts: list[CompletedPartTypeDef] = [
            {"PartNumber": number, "ETag": etags[number]} for number in sorted(etags)
        ]
        try:
            etag = self._ask_to_complete(parts, conditional=True)
        except FAILURES as error:
            found = self._committed_after_all(error, has_copies=has_copies)
        else:
            found = self._confirmed(etag)
        return self._whole(found, size)

    def _ask_to_complete(self, parts: list[CompletedPartTypeDef], *, conditional: bool) -> str:
        """Ask the server to complete the upload; returns the object's ETag, "" without one."""
        request = partial(
            self.access.client.complete_multipart_upload,
            Bucket=self.access.bucket,
            Key=self.access.key(self.name),
            UploadId=self.upload_id,
            MultipartUpload={"Parts": parts},
        )
        try:
            answer = request(IfNoneMatch="*") if conditional else request()
        except FAILURES as error:
            if conditional and is_unknown_to_server(error):
                return self._ask_to_complete(parts, conditional=False)
            raise
        return bare_etag(answer.get("ETag") or "")

    def _committed_after_all(self, error: Exception, *, has_copies: bool) -> StoredObject:
        """The object, if it is there and only the answer was lost.

        botocore repeats a request whose answer was lost, and then gets 412 for our own object.

        Raises:
            ObjectExists: another object has the name, or was written at the same moment.
            CopyUnsupported: the server refuses copied parts.
            StoreError: any other meaning of `error`.
        """
        with contextlib.suppress(ObjectMissing):
            found, metadata = self.access.head(self.name)
            if metadata.get(RUN_KEY) == self.run_id:
                return found
            if status_of(error) in (409, 412) or code_of(error) == "NoSuchUpload":
                raise taken(self.access.place.url, self.name) from error
        doing = f"complete {self.name}"
        if has_copies and code_of(error) == "InvalidPart":
            # Cloudflare R2 wants all parts but the last of one size, which copies cannot be.
            raise CopyUnsupported(str(explain(error, self.access.place, doing))) from error
        if status_of(error) == 409:
            raise ObjectExists(
                f"{self.access.place.url}: somebody else wrote {self.name} at the same moment"
            ) from error
        raise explain(error, self.access.place, doing) from error

    def _confirmed(self, etag: str) -> StoredObject:
        """The object as the server now shows it: the answer alone is not believed.

        Raises:
            ObjectExists: another object has the name.
            StoreError: the object is not there, or the store refuses or fails.
        """
        try:
            found, metadata = self.access.head(self.name)
        except ObjectMissing:
            raise StoreError(self._unconfirmed("it is not there")) from None
        # The ETag serves where the server loses the metadata of a multipart upload.
        if metadata.get(RUN_KEY) != self.run_id and not (etag and found.etag == etag):
            # Two uploads were completed at once, and the server gave the name to the later one.
            raise ObjectExists(self._unconfirmed("another object has its name"))
        return found

    def _unconfirmed(self, found: str) -> str:
        return (
            f"{self.access.place.url}: the server took {self.name} as complete, but {found}; "
            "run the backup again"
        )

    def _whole(self, found: StoredObject, size: int) -> StoredObject:
        if found.size == size:
            return found
        # It is ours, but not what was sent: it must not be listed as a backup.
        with contextlib.suppress(*FAILURES):
            key = self.access.key(self.name)
            self.access.client.delete_object(Bucket=self.access.bucket, Key=key)
        raise StoreError(
            f"{self.access.place.url}: {self.name} has {found.size:,} bytes where "
            f"{size:,} were sent, and was removed; check the server and run again"
        )
