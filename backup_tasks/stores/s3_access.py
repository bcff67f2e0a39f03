"""What reading from and writing to a bucket have in common."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from backup_tasks.errors import ObjectChanged, ObjectExists, ObjectMissing
from backup_tasks.stores.base import StoredObject
from backup_tasks.stores.s3_errors import (
    BODY_FAILURES,
    FAILURES,
    Place,
    code_of,
    explain,
    explained,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# The key of the object's metadata by which a run recognises what it wrote itself.
RUN_KEY = "backup-tasks-run"
# Answers that botocore's own retries leave alone, although the same request may well succeed.
_WORTH_REPEATING = frozenset({"BadDigest", "RequestTimeTooSkewed", "RequestTimeout"})
_LONGEST_PAUSE_SECONDS = 8.0

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class S3Access:
    """A client and what every request through it needs to know.

    Attributes:
        prefix: "" or text that ends with a slash.
        max_attempts: how often one request is tried, the first time included.
    """

    client: S3Client
    place: Place
    bucket: str
    prefix: str
    storage_class: str
    max_attempts: int

    def key(self, name: str) -> str:
        """The object's key in the bucket."""
        return self.prefix + name

    def head(self, name: str) -> tuple[StoredObject, Mapping[str, str]]:
        """The object and its metadata. Raises ObjectMissing, StoreError."""
        with explained(self.place, f"look at {name}", name):
            answer = self.client.head_object(Bucket=self.bucket, Key=self.key(name))
        found = StoredObject(
            name, answer["ContentLength"], answer["LastModified"], bare_etag(answer["ETag"])
        )
        return found, answer.get("Metadata", {})


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

    These are few error codes, and bodies that broke off while they were read.

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

    broke_off = isinstance(error, IncompleteReadError | ResponseStreamingError)
    return broke_off or code_of(error) in _WORTH_REPEATING


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
        if code_of(error) not in ("NoSuchUpload", "404"):
            raise explain(error, access.place, f"end the upload of {name}") from error


def bare_etag(etag: str) -> str:
    """Without quotes: not every server puts them everywhere."""
    return etag.strip('"')


def quoted_etag(etag: str) -> str:
    """As a conditional header wants it."""
    return f'"{etag}"'


def taken(url: str, name: str) -> ObjectExists:
    """The error for a name that has an object already."""
    return ObjectExists(f"{url}: {name} exists already, and nothing is ever overwritten")


def changed(url: str, name: str) -> ObjectChanged:
    """The error for an object that is no longer the one that was pinned."""
    return ObjectChanged(f"{url}: {name} was replaced by something else in the meantime; run again")
