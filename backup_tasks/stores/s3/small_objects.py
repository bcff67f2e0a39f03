"""Small, replaceable objects of a bucket: read whole, written under a condition.

AWS, SeaweedFS and Ceph support If-None-Match and If-Match for PUT. Other servers answer 501, or
ignore both in silence. Then the object is put without them, and read back after a pause: of several
writers at once, only the last one finds its own object.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import threading
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

from backup_tasks.errors import ObjectMissing, ReadRefused
from backup_tasks.stores.base import StoredObject, changed, taken
from backup_tasks.stores.s3.client import (
    S3Access,
    bare_etag,
    quoted_etag,
    repeated,
)
from backup_tasks.stores.s3.errors import (
    BODY_FAILURES,
    FAILURES,
    UnfitAnswer,
    code_of,
    explain,
    is_refused,
    is_unknown_to_server,
    status_of,
)

# Another writer may have looked just before our PUT. This is longer than its own PUT takes.
_SETTLING_SECONDS = 2.0


def read_small(access: S3Access, name: str, most_bytes: int) -> tuple[bytes, StoredObject]:
    """See `base.Store.read_small`."""

    def read() -> tuple[bytes, StoredObject]:
        answer: Any = access.client.get_object(Bucket=access.bucket, Key=access.key(name))
        etag, moment = bare_etag(answer.get("ETag") or ""), answer.get("LastModified")
        with answer["Body"] as body:
            content = body.read(most_bytes + 1)
        if not etag or not isinstance(moment, datetime):
            raise UnfitAnswer(trouble="an answer came without its ETag or LastModified")
        if len(content) <= most_bytes and len(content) != answer.get("ContentLength"):
            raise OSError(0, f"{len(content):,} bytes came, which are not all")
        return content, StoredObject(name, len(content), moment, etag)

    try:
        content, found = repeated(read, access.max_attempts, threading.Event())
    except BODY_FAILURES as error:
        told = explain(error, access.place, f"read {name}", name)
        raise ReadRefused(str(told)) if is_refused(error) else told from error
    if len(content) > most_bytes:
        raise ReadRefused(f"{access.place.url}: {name} is larger than {most_bytes:,} bytes")
    return content, found


def put_small(
    access: S3Access, name: str, body: bytes, replaces: StoredObject | None
) -> StoredObject:
    """See `base.Store.put_small`."""
    condition: dict[str, Any]
    condition = (
        {"IfNoneMatch": "*"} if replaces is None else {"IfMatch": quoted_etag(replaces.etag)}
    )
    try:
        written = _put(access, name, body, condition)
        if replaces is not None or _knows_conditions(access, name, body):
            return written
    except FAILURES as error:
        if is_unknown_to_server(error):
            _refuse_unfit(access, name, replaces)
            try:
                _put(access, name, body, {})
            except FAILURES as again:
                raise explain(again, access.place, f"write {name}") from again
        elif _is_unmet(error):
            # Perhaps by our own object: the answer was lost, and botocore repeated the PUT.
            return _own(access, name, body, replaces)
        else:
            raise explain(error, access.place, f"write {name}") from error
    time.sleep(_SETTLING_SECONDS)
    return _own(access, name, body, replaces)


def _put(access: S3Access, name: str, body: bytes, condition: dict[str, Any]) -> StoredObject:
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    put = partial(
        access.client.put_object,
        Bucket=access.bucket,
        Key=access.key(name),
        Body=body,
        ContentMD5=base64.b64encode(digest).decode(),
        ContentType="application/json",
        **condition,
    )
    answer = repeated(put, access.max_attempts, threading.Event())
    told = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        moment = parsedate_to_datetime(told).astimezone(UTC)
    except ValueError:  # the server sent no Date
        moment = datetime.fromtimestamp(0, UTC)
    return StoredObject(name, len(body), moment, bare_etag(answer["ETag"]))


def _knows_conditions(access: S3Access, name: str, body: bytes) -> bool:
    """Whether the server refuses to put an object that exists. Tried with the very same bytes."""
    try:
        _put(access, name, body, {"IfNoneMatch": "*"})
    except FAILURES as error:
        return _is_unmet(error)
    return False


def _is_unmet(error: Exception) -> bool:
    """Whether the condition does not hold. 409: another write is under way; 404: it is gone."""
    return status_of(error) in (409, 412) or code_of(error) in ("NoSuchKey", "404")


def _refuse_unfit(access: S3Access, name: str, replaces: StoredObject | None) -> None:
    """Check the condition ourselves, for a server that does not know conditions.

    Raises:
        ObjectExists: there is an object, and `replaces` is None.
        ObjectChanged: `replaces` is not there any more.
        StoreError: the store refuses or fails.
    """
    with contextlib.suppress(ObjectMissing):
        found, _ = access.head(name)
        if replaces is None:
            raise taken(access.place.url, name)
        if found.etag == replaces.etag:
            return
    if replaces is not None:
        raise changed(access.place.url, name)


def _own(access: S3Access, name: str, body: bytes, replaces: StoredObject | None) -> StoredObject:
    """The object, if it is the one that we put.

    Raises:
        ObjectExists: it is not, and `replaces` is None.
        ObjectChanged: it is not, and `replaces` is given.
        StoreError: it cannot be read.
    """
    with contextlib.suppress(ObjectMissing):
        content, found = read_small(access, name, len(body))
        if content == body:
            return found
    raise (taken if replaces is None else changed)(access.place.url, name)
