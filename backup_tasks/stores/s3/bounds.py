"""Limits how much of an answer is read, so that no server decides how much memory we take.

botocore reads the body of an error or a list to its end, however long it is. A range of an archive
has its length from the request: see `client.read_body`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import urllib3.exceptions
from botocore import exceptions as boto

from backup_tasks.common.units import render_bytes
from backup_tasks.format.limits import ANSWER_BYTES
from backup_tasks.stores.s3.errors import UnfitAnswer

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def bounded(client: S3Client) -> S3Client:
    """Have the client read at most `ANSWER_BYTES` of any answer but an object's content."""
    # botocore sends every request here; there is no public place for this.
    send: Callable[[Any], Any] = client._endpoint.http_session.send  # type: ignore[attr-defined]

    def send_and_read(request: Any, **_: object) -> Any:
        is_content, request.stream_output = request.stream_output, True
        answer = send(request)
        if not is_content or answer.status_code >= 300:
            _read(answer)
        return answer

    client.meta.events.register("before-send.s3", send_and_read)
    return client


def _read(answer: Any) -> None:
    """Read the body. Errors are of botocore's own classes, by which it decides what to retry.

    Raises:
        ReadTimeoutError: the server stopped sending.
        ConnectionClosedError: the connection broke off.
        HTTPClientError: any other trouble with the connection.
        UnfitAnswer: the body is longer than `ANSWER_BYTES`.
    """
    try:
        content = answer.raw.read(ANSWER_BYTES + 1)
    except urllib3.exceptions.ReadTimeoutError as error:
        raise boto.ReadTimeoutError(endpoint_url=answer.url, error=error) from error
    except urllib3.exceptions.ProtocolError as error:
        raise boto.ConnectionClosedError(endpoint_url=answer.url, error=error) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise boto.HTTPClientError(error=error) from error
    if len(content) > ANSWER_BYTES:
        answer.raw.close()
        raise UnfitAnswer(trouble=f"an answer goes on for more than {render_bytes(ANSWER_BYTES)}")
    answer._content = content
