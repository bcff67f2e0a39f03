"""The only way to boto3. Checks that each answer has the fields that its caller needs.

botocore takes every 2xx status for a success, and leaves out fields that the body lacks. So it
parses a proxy's HTML page as an empty list. Through this client an operation either returns a
complete answer, or raises one of `errors.FAILURES`.
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
    """Wrap a client, so that every answer is checked. Has only the operations of `_CHECKS`."""
    return cast("S3Client", _CheckedClient(client))


def pages(ask: Callable[..., Any], tokens: Mapping[str, str]) -> Iterator[Any]:
    """Yield every page of a list.

    Args:
        ask: fetches one page; its keyword arguments say where the page begins.
        tokens: each of these arguments -> the field of a page that has its value for the next page.

    Raises:
        UnfitAnswer: the list goes on without saying where, or goes round in circles.
        Exception: any error of `ask`, as it came.
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


# IMF-fixdate (RFC 9110, 5.6.7), the only form that a server may send. The weekday is not checked.
_HTTP_DATE: Final = re.compile(
    r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT", re.ASCII
)
_MONTHS: Final = "JanFebMarAprMayJunJulAugSepOctNovDec"


def time_of_answer(answer: Answer) -> datetime | None:
    """The Date of an answer, in UTC. None without a valid one, or when a cache answered."""
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    match = _HTTP_DATE.fullmatch(headers.get("date", ""))
    if match is None or "age" in headers:
        return None
    day, year, hour, minute, second = map(int, match.group(1, 3, 4, 5, 6))
    try:
        month = 1 + _MONTHS.index(match[2]) // 3  # only a month's first letter is a capital
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
            # botocore's parsers raise any kind of error, such as ValueError for a malformed date.
            trouble = f"{operation}: {type(error).__name__}: {error}"
            raise UnfitAnswer(trouble=trouble) from error
        return answer


def _need(answer: Answer, field: str, kind: type) -> Any:
    """The value of a field of this type.

    Raises:
        UnfitAnswer: it is missing or of another type, an empty text, a negative number, or a time
            without a zone.
    """
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
    # botocore URL-decodes the prefix, even if the server (SeaweedFS) did not encode it.
    if unquote_plus(answer.get("Prefix", "")) != unquote_plus(prefix):
        raise UnfitAnswer(trouble=f"the list is that of another prefix, {answer.get('Prefix')!r}")
    for item in answer.get("Contents", []):
        if not _need(item, "Key", str).startswith(prefix):
            raise UnfitAnswer(trouble=f"the list holds {item['Key']!r}, of another prefix")
        _check_object(item, "Size")


def _is_alias(bucket: str) -> bool:
    """Whether this names an access point; a list then shows the name of the bucket behind it."""
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
    """S3 answers 204 without a body. Some servers answer 200, but none sends an HTML page."""
    told = answer.get("ResponseMetadata", {})
    headers = told.get("HTTPHeaders", {})
    is_page = "html" in headers.get("content-type", "") and headers.get("content-length") != "0"
    if told.get("HTTPStatusCode") != 204 and is_page:
        raise UnfitAnswer(trouble="a page came instead of a word that something was removed")


def _check_nothing(_: Answer, __: Request) -> None:
    """The caller verifies the result with another request, or only takes note of the answer."""


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
