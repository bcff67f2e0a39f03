"""Turns the parts of an interrupted upload into an object, so that they are not sent again."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from backup_tasks.errors import ObjectMissing
from backup_tasks.stores.base import StoredObject, Unfinished
from backup_tasks.stores.s3.answers import pages
from backup_tasks.stores.s3.client import S3Access, end_upload
from backup_tasks.stores.s3.errors import (
    FAILURES,
    explain,
    explained,
    is_unknown_to_server,
    status_of,
)

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import PartTypeDef


def salvage_upload(access: S3Access, upload: Unfinished) -> StoredObject | None:
    """Complete the upload with the parts that arrived, up to a gap. See `base.Store.salvage`."""
    with contextlib.suppress(ObjectMissing):
        found, _ = access.head(upload.name)  # an earlier salvage made it, and the answer was lost
        end_upload(access, upload.name, upload.upload_id)
        return found
    parts = _arrived_parts(access, upload)
    if parts and _complete(access, upload, parts):
        with contextlib.suppress(ObjectMissing):
            found, _ = access.head(upload.name)
            if found.size == sum(part["Size"] for part in parts):
                return found
            with explained(access.place, f"delete {upload.name}"):
                access.client.delete_object(Bucket=access.bucket, Key=access.key(upload.name))
    end_upload(access, upload.name, upload.upload_id)
    return None


def _arrived_parts(access: S3Access, upload: Unfinished) -> list[PartTypeDef]:
    """The parts from the first up to a gap; none if the server refuses to list them.

    Raises:
        StoreError: the server fails or cannot be reached.
    """
    found: list[PartTypeDef] = []
    try:
        ask = partial(
            access.client.list_parts,
            Bucket=access.bucket,
            Key=access.key(upload.name),
            UploadId=upload.upload_id,
        )
        for page in pages(ask, {"PartNumberMarker": "NextPartNumberMarker"}):
            found += page.get("Parts", [])
    except FAILURES as error:
        if _is_trouble(error):
            raise explain(error, access.place, f"look at the upload of {upload.name}") from error
        return []
    found.sort(key=lambda part: part["PartNumber"])
    return [part for number, part in enumerate(found, 1) if part["PartNumber"] == number]


def _complete(access: S3Access, upload: Unfinished, parts: list[PartTypeDef]) -> bool:
    try:
        access.client.complete_multipart_upload(
            Bucket=access.bucket,
            Key=access.key(upload.name),
            UploadId=upload.upload_id,
            MultipartUpload={
                "Parts": [
                    {"PartNumber": part["PartNumber"], "ETag": part["ETag"]} for part in parts
                ]
            },
        )
    except FAILURES as error:
        if _is_trouble(error):
            raise explain(error, access.place, f"complete {upload.name}") from error
        # 404 may mean that it is done: botocore repeats a request whose answer was lost.
        return status_of(error) == 404
    return True


def _is_trouble(error: Exception) -> bool:
    """Whether the server fails or cannot be reached; if not, it refused this one request."""
    refused = 400 <= status_of(error) < 500
    return not (refused or is_unknown_to_server(error))
