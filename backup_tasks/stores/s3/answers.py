"""The one door to boto3: what an answer must have is asked for here, before anybody believes it.

botocore takes each status of 2xx for a success and leaves out what it does not find in the body,
so that a page of some proxy is a list of nothing. Behind this door an operation either gives an
answer that has everything that its caller needs, or raises one of `s3_errors.FAILURES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote_plus

from backup_tasks.errors import BackupError
from backup_tasks.stores.s3.errors import BODY_FAILURES, UnfitAnswer

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Request = Mapping[str, Any]
Answer = Mapping[str, Any]


def checked(client: S3Client) -> S3Client:
    """The client, with every answer checked. Operations that are not known here do not exist."""
    return cast("S3Client", _CheckedClient(client))


def pages(ask: Callable[..., Any], tokens: Mapping[str, str]) -> Iterator[Any]:
    """Every page of a list. Raises what `ask` does, and UnfitAnswer for a list without an end.

    Args:
        ask: gets one page, from the place that keyword arguments name.
        tokens: each such argument -> the field of a page that says where the next one begins.
    """
    place: dict[str, Any] = {}
    been: set[tuple[Any, ...]] = set()
    while True:
        page = ask(**place)
        yield page
        if not page["IsTruncated"]:
            return
        place = {name: page[field] for name, field in tokens.items() if page.get(field)}
        if not place:
            raise UnfitAnswer(trouble="a list that goes on does not say where")
        if tuple(place.values()) in been:
            raise UnfitAnswer(trouble="a list goes round in circles")
        been.add(tuple(place.values()))


# IMF-fixdate (RFC 9110, 5.6.7), the only form that a server may send. The weekday is not looked at.
_HTTP_DATE: Final = re.compile(
    r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT", re.ASCII
)
_MONTHS: Final = "JanFebMarAprMayJunJulAugSepOctNovDec"


def time_of_answer(answer: Answer) -> datetime | None:
    """When the server says that it answered, in UTC; None if it does not, or some cache did."""
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    match = _HTTP_DATE.fullmatch(headers.get("date", ""))
    if match is None or "age" in headers:
        return None
    day, year, hour, minute, second = map(int, match.group(1, 3, 4, 5, 6))
    try:
        month = 1 + _MONTHS.index(match[2]) // 3  # starts with a capital, so between no two
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None


class _CheckedClient:
    """See `checked`."""

    def __init__(self, client: S3Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        if name in _PASSED:
            return getattr(self._client, name)
        if name not in _CHECKS:
            raise AttributeError(f"nothing is known about the answers to {name}")
        return partial(self._ask, name)

    def _ask(self, operation: str, **request: Any) -> Any:
        try:
            answer = getattr(self._client, operation)(**request)
            _CHECKS[operation](answer, request)
        except (*BODY_FAILURES, BackupError, MemoryError):
            raise
        except Exception as error:
            # botocore's parsers raise whatever comes, such as ValueError for a date that is none.
            trouble = f"{operation}: {type(error).__name__}: {error}"
            raise UnfitAnswer(trouble=trouble) from error
        return answer


def _need(answer: Answer, field: str, kind: type) -> Any:
    """A field of an answer: of this kind; text is not empty, numbers are not negative, and a time
    has its zone."""
    value = answer.get(field)
    if not isinstance(value, kind) or value == "" or (kind is int and cast("int", value) < 0):
        raise UnfitAnswer(trouble=f"an answer came without its {field}")
    if isinstance(value, datetime) and value.tzinfo is None:
        raise UnfitAnswer(trouble=f"an answer came with a {field} in no time zone")
    return value


def _check_object_list(answer: Answer, request: Request) -> None:
    _check_list(answer)
    bucket, name, prefix = request["Bucket"], _need(answer, "Name", str), request["Prefix"]
    if name != bucket and not _is_alias(bucket):
        raise UnfitAnswer(trouble=f"the list is that of a bucket {name}")
    # botocore decodes it, also where the server (SeaweedFS) had not encoded it.
    if unquote_plus(answer.get("Prefix", "")) != unquote_plus(prefix):
        raise UnfitAnswer(trouble=f"the list is that of another prefix, {answer.get('Prefix')!r}")
    for item in answer.get("Contents", []):
        if not _need(item, "Key", str).startswith(prefix):
            raise UnfitAnswer(trouble=f"the list holds {item['Key']!r}, of another prefix")
        _check_object(item, "Size")


def _is_alias(bucket: str) -> bool:
    """Names of access points, which are not the bucket's own."""
    return bucket.startswith("arn:") or bucket.endswith(("-s3alias", "--op-s3"))


def _check_list(answer: Answer) -> None:
    _need(answer, "IsTruncated", bool)


def _check_object(item: Answer, size_field: str) -> None:
    _need(item, "ETag", str)
    _need(item, size_field, int)
    _need(item, "LastModified", datetime)


def _check_head(answer: Answer, _: Request) -> None:
    _check_object(answer, "ContentLength")


def _check_body(answer: Answer, _: Request) -> None:
    if "Body" not in answer:
        raise UnfitAnswer(trouble="an answer came without its body")


def _check_started(answer: Answer, _: Request) -> None:
    _need(answer, "UploadId", str)


def _check_part(answer: Answer, _: Request) -> None:
    _need(answer, "ETag", str)


def _check_copied(answer: Answer, _: Request) -> None:
    _need(_need(answer, "CopyPartResult", dict), "ETag", str)


def _check_uploads(answer: Answer, _: Request) -> None:
    _check_list(answer)
    for item in answer.get("Uploads", []):
        _need(item, "Key", str)
        _need(item, "UploadId", str)
        _need(item, "Initiated", datetime)


def _check_parts(answer: Answer, _: Request) -> None:
    _check_list(answer)
    for item in answer.get("Parts", []):
        _need(item, "ETag", str)
        _need(item, "PartNumber", int)
        _need(item, "Size", int)


def _check_removed(answer: Answer, _: Request) -> None:
    """S3 says 204 and nothing else; some servers say 200, but none of them writes a page."""
    told = answer.get("ResponseMetadata", {})
    headers = told.get("HTTPHeaders", {})
    is_page = "html" in headers.get("content-type", "") and headers.get("content-length") != "0"
    if told.get("HTTPStatusCode") != 204 and is_page:
        raise UnfitAnswer(trouble="a page came instead of a word that something was removed")


def _check_nothing(_: Answer, __: Request) -> None:
    """Whoever asks looks afterwards, or only makes a note of it."""


_PASSED: Final = ("meta", "close")
_CHECKS: Final[dict[str, Callable[[Answer, Request], None]]] = {
    "list_objects_v2": _check_object_list,
    "head_object": _check_head,
    "get_object": _check_body,
    "create_multipart_upload": _check_started,
    "upload_part": _check_part,
    "upload_part_copy": _check_copied,
    "complete_multipart_upload": _check_nothing,
    "abort_multipart_upload": _check_removed,
    "list_multipart_uploads": _check_uploads,
    "list_parts": _check_parts,
    "put_object": _check_part,
    "delete_object": _check_removed,
    "get_bucket_lifecycle_configuration": _check_nothing,
    "put_bucket_lifecycle_configuration": _check_nothing,
    "get_bucket_versioning": _check_nothing,
}
