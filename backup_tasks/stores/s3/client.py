"""What reading from and writing to a bucket have in common."""

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

# The key of the object's metadata by which a run recognises what it wrote itself.
RUN_KEY = "backup-tasks-run"
# Answers that botocore's own retries leave alone, although the same request may well succeed.
_WORTH_REPEATING = frozenset({"BadDigest", "RequestTimeTooSkewed", "RequestTimeout"})
_LONGEST_PAUSE_SECONDS = 8.0

_Answer = TypeVar("_Answer")


@dataclass(slots=True)
class Pins:
    """Whether the server takes the ETag of what is to be copied, or to be read.

    Attributes:
        copies, reads: false once it answered 412 for an object that was as it was.
    """

    copies: bool = True
    reads: bool = True


class S3Access(Struct, frozen=True):
    """A client and what every request through it needs to know.

    Attributes:
        client: of `s3_answers.checked`.
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
        """The object and its metadata. Raises ObjectMissing, StoreError."""
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
        """Ask for a list of one: its errors have a text, while those of HEAD are a bare status."""
        return self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)

    def is_as_it_was(self, source: StoredObject) -> bool:
        """Whether an object is still the one that was looked at. Raises ObjectMissing, StoreError.

        Tells apart why a server says 412: some do so whenever a request names the ETag of an
        object that was made of parts.
        """
        found, _ = self.head(source.name)
        return (found.etag, found.size) == (source.etag, source.size)


@dataclass(slots=True)
class InFlight:
    """What all writers of a store have under way together.

    Attributes:
        changed: guards `held_bytes` and the writers' own notes of what is under way; wakes up
            whoever waits for room or for the end.
        held_bytes: sent parts that are in memory.
    """

    changed: threading.Condition = field(default_factory=threading.Condition)
    held_bytes: int = 0


def repeated(call: Callable[[], _Answer], attempts: int, stopped: threading.Event) -> _Answer:
    """Call again after an error that botocore itself does not retry, with growing pauses.

    These are few error codes, answers that lack something, and bodies that broke off while they
    were read.

    Args:
        attempts: how often at most; the last error is raised as it came.
        stopped: once set, nothing is called again.
    """
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except BODY_FAILURES as error:
            # A request whose connection failed was repeated by botocore; a body was not.
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
    """One range, at least one byte. Raises BODY_FAILURES, also for any other bytes.

    Args:
        pinned: ask for the object with this ETag alone; otherwise the answer must name it.
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
        content = body.read(length + 1)  # not all, for it may have no end
    if len(content) != length:
        raise OSError(0, f"{len(content):,} instead of {length:,} bytes came")
    return content


def refuse_taken_name(access: S3Access, name: str) -> None:
    """Raises ObjectExists if there is an object of that name."""
    try:
        access.head(name)
    except ObjectMissing:
        return
    raise taken(access.place.url, name)


def end_upload(access: S3Access, name: str, upload_id: str) -> None:
    """Abort a multipart upload; one that is gone already is no error. Raises StoreError."""
    try:
        access.client.abort_multipart_upload(
            Bucket=access.bucket, Key=access.key(name), UploadId=upload_id
        )
    except FAILURES as error:
        if not _has_ended(access, error, name, upload_id):
            raise explain(error, access.place, f"end the upload of {name}") from error


def _has_ended(access: S3Access, error: Exception, name: str, upload_id: str) -> bool:
    """Whether an upload is there no more, although its abort was refused.

    Of one that was completed, AWS says that it is not there; others say that the key is not, or
    that the method is not allowed.
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
    """Uploads of names that begin so, never committed or aborted. Raises what FAILURES are."""
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
        if item["Key"].startswith(access.prefix)  # some servers show those of all prefixes
    ]
    return [one for one in found if one.name and "/" not in one.name]


def bare_etag(etag: str) -> str:
    """Without quotes, which not every server puts everywhere, and without a proxy's mark."""
    return etag.removeprefix("W/").strip('"')


def quoted_etag(etag: str) -> str:
    """As a conditional header wants it."""
    return f'"{etag}"'
