"""No answer is read beyond what S3 has to say: no server decides how much memory we take.

botocore reads every body to its end, of errors and of lists alike, however long it goes on. What an
archive is read from has its length from the request, see `s3_access.read_body`.
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
    """The client, which reads no more than `ANSWER_BYTES` of what is no archive's content."""
    # botocore has no other place where it sends than this one, and it is not public.
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
    """Read the body. Raises as botocore does itself, for it repeats requests by that."""
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
