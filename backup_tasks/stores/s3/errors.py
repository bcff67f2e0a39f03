"""Turns boto3's errors into one line for the operator: endpoint, trouble and remedy.

The server's own text is repeated only if we have none of our own, and never for errors about keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import urllib3.exceptions
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from msgspec import Struct

from backup_tasks.common.printable import one_line
from backup_tasks.errors import ObjectMissing, StoreError


class UnfitAnswer(boto.BotoCoreError):
    """An answer of status 2xx without the fields that S3 always sends, such as a proxy's HTML page.

    Args:
        trouble: what is wrong with it; ends the text "does not answer as S3 does: ...".
    """

    fmt = "{trouble}"


# Errors that a client raises when the store, the network or the keys are at fault.
FAILURES: Final = (boto.BotoCoreError, boto.ClientError, ResponseParserError)
# The same, and the errors of reading a body.
BODY_FAILURES: Final = (*FAILURES, urllib3.exceptions.HTTPError, OSError)
# Trouble with the connection: the request may have arrived or not.
CONNECTION_FAILURES: Final = (boto.HTTPClientError, boto.ConnectionError)

_PERMISSIONS: Final = {
    "ListObjectsV2": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "UploadPartCopy": "s3:PutObject and s3:GetObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "DeleteObject": "s3:DeleteObject",
    "GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    "PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "GetBucketVersioning": "s3:GetBucketVersioning",
}
# Texts by status, for answers without S3's own: of a server in trouble, or of a proxy before it.
_BARE: Final = {
    400: "it refused {operation} without saying why; temporary keys may have expired",
    401: "it wants other keys for {operation}; check store.access_key_id",
    407: "a proxy on the way wants a password; check https_proxy and http_proxy",
    413: "what lies before it takes no request of this size; ask who runs it",
    429: "it asks to send less often; try again later",
}
_REFUSED: Final = {"AccessDenied", "AllAccessDisabled", "Forbidden", "403", "InvalidObjectState"}
_WRONG_REGION: Final = {
    "301",
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "IncorrectEndpoint",
}
_REMEDIES: Final = {
    "InvalidAccessKeyId": "the server does not know this access key; check store.access_key_id, "
    "or the AWS keys that boto3 found",
    "SignatureDoesNotMatch": "the secret key does not fit the access key; check "
    "store.secret_access_key, or the AWS keys that boto3 found",
    "ExpiredToken": "the temporary keys have expired; get new ones",
    "ExpiredTokenException": "the temporary keys have expired; get new ones",
    "TokenRefreshRequired": "the temporary keys have expired; get new ones",
    "RequestExpired": "the temporary keys have expired; get new ones",
    "InvalidToken": "the session token is not valid; check store.session_token",
    "InvalidTokenId": "the session token is not valid, or has expired; get new keys",
    "InvalidClientTokenId": "the server does not know this access key; check "
    "store.access_key_id, or the AWS keys that boto3 found",
    "RequestTimeTooSkewed": "this machine's clock and the server's differ too much; set the clock "
    "(timedatectl set-ntp true)",
    "InvalidBucketName": "this is not a name that a bucket can have; check store.url",
    "InvalidStorageClass": "the server does not know this storage class; check store.storage_class",
    "InvalidObjectState": "the object lies in an archive class; restore it in S3 first "
    "(aws s3api restore-object)",
    "NoSuchUpload": "the upload was ended by somebody else, perhaps by a lifecycle rule; run the "
    "backup again",
    "BadDigest": "what arrived is not what was sent, even when sent again; check the network and "
    "this machine's memory",
    "SlowDown": "the server asks to send less often; try again later",
    "QuotaExceeded": "the quota of the bucket is used up",
    "XMinioStorageFull": "the server's disk is full",
    "InsufficientStorage": "the server's disk is full",
}


class Endpoint(Struct, frozen=True):
    """Where a request went, for messages; holds no secret.

    Attributes:
        url: of the store, for example "s3://my-bucket/backups/".
        endpoint: the server's address, or "Amazon S3".
        region: as the profile or boto3 chose it, or "".
    """

    url: str
    bucket: str
    endpoint: str
    region: str


@contextmanager
def explained(endpoint: Endpoint, doing: str, name: str = "") -> Iterator[None]:
    """Turn an error of boto3 inside the block into a StoreError that says what was being done.

    Args:
        doing: ends the sentence "could not ...".
        name: of the object, if the request is about one; if it is missing, ObjectMissing is raised.

    Raises:
        ObjectMissing: there is no object of that name.
        StoreError: any other of BODY_FAILURES.
    """
    try:
        yield
    except BODY_FAILURES as error:
        raise explain(error, endpoint, doing, name) from error


def explain(error: Exception, endpoint: Endpoint, doing: str, name: str = "") -> StoreError:
    """The error for the operator, one line, for one of FAILURES or BODY_FAILURES."""
    if name and is_missing(error):
        return ObjectMissing(f"{endpoint.url}: there is no {name}")
    if isinstance(error, boto.ClientError):
        reason = _refusal(error, endpoint)
    else:
        reason = _trouble(error, endpoint)
    return StoreError(f"{endpoint.url}: could not {doing}: {reason}")


def code_of(error: BaseException) -> str:
    """S3's error code, or the status as text if the answer had no body; "" for other errors."""
    if not isinstance(error, boto.ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", "") or status_of(error))


def status_of(error: BaseException) -> int:
    """The HTTP status; 0 without one."""
    if not isinstance(error, boto.ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def has_no_reason(error: BaseException) -> bool:
    """Whether the server refused with a bare status, as it always does for HEAD.

    404 is no refusal, and a failing server (5xx) needs no further reason.
    """
    status = status_of(error)
    return 400 <= status < 500 and status != 404 and code_of(error) == str(status)


def is_missing(error: BaseException) -> bool:
    """Whether the object (not the bucket, not the upload) does not exist."""
    return code_of(error) in ("NoSuchKey", "NoSuchVersion", "404", "NotFound")


def is_refused(error: BaseException) -> bool:
    """Whether the object is there, but these keys may not read it, or it is in an archive class."""
    return code_of(error) in _REFUSED


def is_archived(error: BaseException) -> bool:
    """Whether the object is there, but in an archive class."""
    return code_of(error) == "InvalidObjectState"


def is_unknown_to_server(error: BaseException) -> bool:
    """Whether the server does not know this request or one of its headers."""
    return code_of(error) == "NotImplemented" or status_of(error) == 501


def _refusal(error: boto.ClientError, endpoint: Endpoint) -> str:
    code, status, operation = code_of(error), status_of(error), error.operation_name
    if code == "NoSuchBucket":
        return f"there is no bucket {endpoint.bucket} at {endpoint.endpoint}; check store.url"
    if code in _WRONG_REGION:
        return _wrong_region(error, endpoint)
    if code in _REMEDIES:
        return _REMEDIES[code]
    if code in ("AccessDenied", "AllAccessDisabled", "Forbidden", "403"):
        permission = _PERMISSIONS.get(operation, f"for {operation}")
        return f"no permission; the key needs {permission} on {endpoint.bucket}"
    if code.isdigit() or not code:  # no body, or not an S3 error
        return f"{endpoint.endpoint} answered {status}: {_bare(error, status)}"
    text = str(error.response["Error"].get("Message", ""))
    return f"{endpoint.endpoint} answered {code}: {one_line(text)[:300]} ({operation})"


def _bare(error: boto.ClientError, status: int) -> str:
    """The meaning of an answer with nothing but a status."""
    if status in _BARE:
        return _BARE[status].format(operation=error.operation_name)
    if 300 <= status < 400:
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        target = _shown_host(str(headers.get("location", "")))
        return f"it sends {error.operation_name} elsewhere{target}; check store.endpoint_url"
    if status >= 500:
        hint = "try again later; if it stays so, is it an S3 server? see store.endpoint_url"
        return f"it, or what lies before it, fails at {error.operation_name}; {hint}"
    return f"that is no answer to {error.operation_name}; is it an S3 server?"


def _shown_host(url: str) -> str:
    """The host alone; the rest of a URL may hold secrets."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    return f", to {one_line(host)[:100]}" if host else ""


def _wrong_region(error: boto.ClientError, endpoint: Endpoint) -> str:
    answer: Any = error.response
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    right = answer.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region")
    used = f", not {endpoint.region}" if endpoint.region and endpoint.region != right else ""
    if not right:
        return f"the bucket {endpoint.bucket} lies in another region{used}; set store.region"
    right = one_line(right)
    return f'the bucket {endpoint.bucket} lies in {right}{used}; set store.region = "{right}"'


def _trouble(error: Exception, endpoint: Endpoint) -> str:
    server = endpoint.endpoint
    match error:
        case boto.NoCredentialsError():
            return (
                "no keys; set store.access_key_id and store.secret_access_key in the profile, or "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials"
            )
        case boto.PartialCredentialsError():
            return "the keys that boto3 found are not complete: access key and secret are needed"
        case boto.ProfileNotFound():
            return "AWS_PROFILE names a profile that ~/.aws does not have"
        case boto.CredentialRetrievalError():
            return "the AWS keys could not be fetched; see the settings of boto3 in ~/.aws/config"
        case boto.SSLError():
            hint = "check store.endpoint_url; for an authority of your own, set AWS_CA_BUNDLE"
            return f"no TLS connection to {server}: {_cause(error)}; {hint}"
        case boto.EndpointConnectionError():
            hint = "check the network and store.endpoint_url"
            return f"cannot reach {server}: {_cause(error)}; {hint}"
        case boto.ProxyConnectionError():
            return f"the proxy on the way to {server} fails; check https_proxy and http_proxy"
        case boto.ConnectTimeoutError() | boto.ReadTimeoutError():
            return f"{server} gives no answer in time; check the network and the server"
        case (
            boto.ConnectionClosedError()
            | boto.ResponseStreamingError()
            | boto.IncompleteReadError()
        ):
            return f"{server} broke off the connection; check the server and run again"
        case UnfitAnswer():
            hint = "check the server, what lies before it, and store.endpoint_url"
            return f"{server} does not answer as S3 does: {one_line(str(error))[:200]}; {hint}"
        case ResponseParserError():
            return (
                f"{server} does not answer as S3 does; is it an S3 server? check store.endpoint_url"
            )
        case boto.HTTPClientError():
            return f"the connection to {server} failed: {_cause(error)}"
        case boto.BotoCoreError():
            return one_line(str(error))[:300]
    return f"the connection to {server} failed: {_cause(error)}"


def _cause(error: Exception) -> str:
    """The innermost reason, in the system's own words, such as "Connection refused"."""
    inner: Any = getattr(error, "kwargs", {}).get("error", error)
    for _ in range(5):
        deeper = getattr(inner, "reason", None) or inner.__context__
        if not isinstance(deeper, BaseException):
            break
        inner = deeper
    for name in ("verify_message", "strerror", "reason"):
        if isinstance(told := getattr(inner, name, None), str):
            return one_line(told)[:200]
    return one_line(str(inner) or type(inner).__name__)[:200]
