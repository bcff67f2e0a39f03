"""Requests and settings that reading from and writing to a bucket share."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct

from backup_tasks.errors import ObjectMissing
from backup_tasks.stores.base import StoredObject, Unfinished, taken
from backup_tasks.stores.s3.answers import pages
from backup_tasks.stores.s3.errors import (
    BODY_FAILURES,
    FAILURES,
    Endpoint,
    UnfitAnswer,
    code_of,
    explain,
    explained,
    has_no_reason,
    is_unknown_to_server,
    status_of,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Key of an object's metadata. Its value lets a run recognise the objects that it wrote itself.
RUN_KEY = "backup-tasks-run"
# Error codes that botocore does not retry, although the same request may succeed the next time.
_WORTH_REPEATING = frozenset({"BadDigest", "RequestTimeTooSkewed", "RequestTimeout"})
_LONGEST_PAUSE_SECONDS = 8.0

_Answer = TypeVar("_Answer")


@dataclass(slots=True)
class Pins:
    """Whether requests to copy and to read are pinned: the server checks the object's ETag.

    Attributes:
        copies, reads: false once the server answered 412 although the object had not changed.
    """

    copies: bool = True
    reads: bool = True


class S3Access(Struct, frozen=True):
    """A client, and the settings that every request through it needs.

    Attributes:
        client: made by `answers.checked`.
        prefix: "" or text that ends with a slash.
        max_attempts: how often one request is tried, the first time included.
    """

    client: S3Client
    place: Endpoint
    bucket: str
    prefix: str
    storage_class: str
    max_attempts: int
    pins: Pins = msgspec.field(default_factory=Pins)

    def key(self, name: str) -> str:
        """The object's key in the bucket."""
        return self.prefix + name

    def head(self, name: str) -> tuple[StoredObject, Mapping[str, str]]:
        """The object and its metadata.

        Raises:
            ObjectMissing: there is no object of that name.
            StoreError: the store refuses, fails or cannot be reached.
        """
        doing = f"look at {name}"
        try:
            answer = self.client.head_object(Bucket=self.bucket, Key=self.key(name))
        except FAILURES as error:
            if has_no_reason(error):
                with explained(self.place, doing):
                    self.ask_for_reason()
            raise explain(error, self.place, doing, name) from error
        found = StoredObject(
            name, answer["ContentLength"], answer["LastModified"], bare_etag(answer["ETag"])
        )
        return found, answer.get("Metadata", {})

    def ask_for_reason(self) -> Mapping[str, Any]:
        """List one object. If that fails, the error has a text; that of a HEAD is a bare status."""
        return self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)

    def is_as_it_was(self, source: StoredObject) -> bool:
        """Whether the object still has the ETag and the size of `source`.

        Needed after a 412: some servers answer so to every request that names the ETag of an
        object that was made of parts.

        Raises:
            ObjectMissing: there is no object of that name any more.
            StoreError: the store refuses, fails or cannot be reached.
        """
        found, _ = self.head(source.name)
        return (found.etag, found.size) == (source.etag, source.size)


@dataclass(slots=True)
class InFlight:
    """The parts that all writers of a store have under way together.

    Attributes:
        changed: guards `held_bytes` and the writers' own notes of parts under way; wakes threads
            that wait for room or for the end.
        held_bytes: bytes of sent parts that are still in memory.
    """

    changed: threading.Condition = field(default_factory=threading.Condition)
    held_bytes: int = 0


def repeated(call: Callable[[], _Answer], attempts: int, stopped: threading.Event) -> _Answer:
    """Call again after errors that botocore does not retry itself, with growing pauses.

    These errors are a few error codes, answers that lack a field, and bodies that broke off while
    they were read.

    Args:
        attempts: the most calls; the error of the last one is raised as it came.
        stopped: once set, there are no more calls.
    """
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except BODY_FAILURES as error:
            # botocore has retried a request whose connection failed; it never retries a body.
            hopeless = isinstance(error, FAILURES) and not _is_worth_repeating(error)
            pause = min(_LONGEST_PAUSE_SECONDS, 0.25 * 2**attempt) * random.uniform(0.5, 1)  # noqa: S311
            if hopeless or attempt == attempts or stopped.wait(pause):
                raise
    raise AssertionError("attempts must be at least 1")


def _is_worth_repeating(error: Exception) -> bool:
    from botocore.exceptions import IncompleteReadError, ResponseStreamingError

    passing = IncompleteReadError | ResponseStreamingError | UnfitAnswer
    return isinstance(error, passing) or code_of(error) in _WORTH_REPEATING


def read_body(
    access: S3Access, source: StoredObject, start: int, length: int, *, pinned: bool
) -> bytes:
    """Read one range of at least one byte.

    Args:
        pinned: have the server check the ETag (If-Match); otherwise the answer must name it.

    Raises:
        BODY_FAILURES: the request or the body failed; also when other bytes came than were asked
            for.
    """
    pin: Any = {"IfMatch": quoted_etag(source.etag)} if pinned else {}
    answer = access.client.get_object(
        Bucket=access.bucket,
        Key=access.key(source.name),
        Range=f"bytes={start}-{start + length - 1}",
        **pin,
    )
    with answer["Body"] as body:
        etag = bare_etag(answer.get("ETag") or "")
        if (etag or not pinned) and etag != source.etag:
            raise UnfitAnswer(trouble="it sent bytes of something else")
        place = answer.get("ContentRange") or ""
        if place and not place.startswith(f"bytes {start}-"):
            raise UnfitAnswer(trouble=f"it sent {place} where other bytes were asked for")
        content = body.read(length + 1)  # never to its end, for it may have none
    if len(content) != length:
        raise OSError(0, f"{len(content):,} instead of {length:,} bytes came")
    return content


def refuse_taken_name(access: S3Access, name: str) -> None:
    """See that no object has this name.

    Raises:
        ObjectExists: there is one.
        StoreError: the store refuses, fails or cannot be reached.
    """
    try:
        access.head(name)
    except ObjectMissing:
        return
    raise taken(access.place.url, name)


def end_upload(access: S3Access, name: str, upload_id: str) -> None:
    """Abort a multipart upload; one that is gone already is no error.

    Raises:
        StoreError: the abort failed, and the upload may still be there.
    """
    try:
        access.client.abort_multipart_upload(
            Bucket=access.bucket, Key=access.key(name), UploadId=upload_id
        )
    except FAILURES as error:
        if not _has_ended(access, error, name, upload_id):
            raise explain(error, access.place, f"end the upload of {name}") from error


def _has_ended(access: S3Access, error: Exception, name: str, upload_id: str) -> bool:
    """Whether an upload is gone, although the server refused to abort it.

    For a completed upload AWS answers NoSuchUpload; other servers NoSuchKey or MethodNotAllowed.
    """
    if code_of(error) == "NoSuchBucket" or not (
        400 <= status_of(error) < 500 or is_unknown_to_server(error)
    ):
        return False
    if status_of(error) == 404:
        return True
    try:
        uploads = list_uploads(access, name)
    except FAILURES as listing_error:
        # A server that can neither list nor end uploads must end them itself.
        return is_unknown_to_server(error) and is_unknown_to_server(listing_error)
    return all(upload.upload_id != upload_id for upload in uploads)


def list_uploads(access: S3Access, beginning: str, page_size: int = 1000) -> list[Unfinished]:
    """Unfinished uploads under the prefix whose names begin with `beginning`.

    Raises:
        FAILURES: they cannot be listed.
    """
    ask = partial(
        access.client.list_multipart_uploads,
        Bucket=access.bucket,
        Prefix=access.key(beginning),
        MaxUploads=page_size,
    )
    tokens = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
    found = [
        Unfinished(item["Key"].removeprefix(access.prefix), item["UploadId"], item["Initiated"])
        for page in pages(ask, tokens)
        for item in page.get("Uploads", [])
        if item["Key"].startswith(access.prefix)  # some servers list all prefixes
    ]
    return [one for one in found if one.name and "/" not in one.name]


def bare_etag(etag: str) -> str:
    """Strip the quotes, which some servers leave out, and a proxy's mark of a weak ETag."""
    return etag.removeprefix("W/").strip('"')


def quoted_etag(etag: str) -> str:
    """An ETag in quotes, as conditional headers need it."""
    return f'"{etag}"'
