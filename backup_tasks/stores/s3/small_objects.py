"""Small objects of a bucket that may be replaced: read whole, written under a condition.

AWS, SeaweedFS and Ceph know If-None-Match and If-Match of a PUT. A server may say that it does not
(501), or pass over them in silence. Then the object is put, and looked at a moment
later: of several who put it at once, the last one finds its own.
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

# Longer than a request of somebody else takes that has looked just before we wrote.
_SETTLING_SECONDS = 2.0


def read_small(access: S3Access, name: str, most_bytes: int) -> tuple[bytes, StoredObject]:
    """See `base.Store`."""

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
    """See `base.Store`."""
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
            # Or the answer to our own was lost, and botocore asked once more.
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
    except ValueError:  # a server without a clock
        moment = datetime.fromtimestamp(0, UTC)
    return StoredObject(name, len(body), moment, bare_etag(answer["ETag"]))


def _knows_conditions(access: S3Access, name: str, body: bytes) -> bool:
    """Whether the server refuses to put what is there already. Asked with the very same bytes."""
    try:
        _put(access, name, body, {"IfNoneMatch": "*"})
    except FAILURES as error:
        return _is_unmet(error)
    return False


def _is_unmet(error: Exception) -> bool:
    """The condition does not hold. 409: somebody else is just writing it; 404: it is gone."""
    return status_of(error) in (409, 412) or code_of(error) in ("NoSuchKey", "404")


def _refuse_unfit(access: S3Access, name: str, replaces: StoredObject | None) -> None:
    """Raises ObjectExists or ObjectChanged for a server that does not look itself."""
    with contextlib.suppress(ObjectMissing):
        found, _ = access.head(name)
        if replaces is None:
            raise taken(access.place.url, name)
        if found.etag == replaces.etag:
            return
    if replaces is not None:
        raise changed(access.place.url, name)


def _own(access: S3Access, name: str, body: bytes, replaces: StoredObject | None) -> StoredObject:
    """The object, if it is the one that was put. Raises ObjectExists, ObjectChanged, StoreError."""
    with contextlib.suppress(ObjectMissing):
        content, found = read_small(access, name, len(body))
        if content == body:
            return found
    raise (taken if replaces is None else changed)(access.place.url, name)
