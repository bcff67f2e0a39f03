"""A proxy before a real S3 server with named faults, and with the manners of other servers.

    with FaultProxy(server.endpoint) as proxy:
        proxy.inject(FAULTS["lost answer to Complete"])
        ... a run ...
        proxy.heal()
        proxy.behave_as(SWIFT)

`tests.support.faulty_proxy` is what it is made of: there each fault concerns the next few requests.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import parse_qs, urlsplit

from tests.support.faulty_proxy import (
    Answer,
    Fault,
    FaultyProxy,
    PassOn,
    Request,
    break_off,
    cut_answer,
    empty_answer,
    flip_sent_byte,
    lose_answer,
    refuse,
    shorten_answer,
)

EVER: Final = 10**6
WRITES: Final = (
    "CreateMultipartUpload",
    "UploadPart",
    "UploadPartCopy",
    "CompleteMultipartUpload",
    "AbortMultipartUpload",
    "DeleteObject",
)
READS: Final = ("ListObjectsV2", "HeadObject", "GetObject", "ListMultipartUploads", "ListParts")
ALL: Final = (*READS, *WRITES)
# Answers that have a body which botocore reads as XML.
XML: Final = (
    "ListObjectsV2",
    "ListMultipartUploads",
    "ListParts",
    "CreateMultipartUpload",
    "UploadPartCopy",
    "CompleteMultipartUpload",
)


@dataclass(frozen=True)
class NamedFault:
    """What goes wrong, where, and how often.

    Attributes:
        where: S3's operations.
        times: how many requests of each it concerns.
        after: how many requests of each pass before.
    """

    name: str
    where: tuple[str, ...]
    fault: Fault
    times: int = EVER
    after: int = 0


class FaultProxy(FaultyProxy):
    """See the module."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self._injected: list[NamedFault] = []
        self._manners: Sequence[tuple[str, Fault]] = ()
        self._met: dict[tuple[str, str], int] = {}

    def inject(self, *faults: NamedFault) -> None:
        """Let these faults happen from now on."""
        with self._guard:
            self._injected += faults
            self._met.clear()

    def heal(self) -> None:
        """Let none of them happen any more; manners stay."""
        with self._guard:
            self._injected.clear()

    def behave_as(self, manners: Sequence[tuple[str, Fault]]) -> None:
        """Answer as another server does; the first fitting one of an operation counts."""
        self._manners = manners

    def met(self) -> int:
        """How many requests met an injected fault since the last `inject`."""
        with self._guard:
            return sum(
                min(fault.times, max(0, self._met.get((fault.name, operation), 0) - fault.after))
                for fault in self._injected
                for operation in fault.where
            )

    def answer(self, request: Request) -> Answer | None:
        with self._guard:
            found = self._next_fault(request.operation)
        if found is not None:
            return found(request, self._with_manners)
        return super().answer(request)

    def _next_fault(self, operation: str) -> Fault | None:
        for fault in self._injected:
            if operation in fault.where:
                number = self._met.get((fault.name, operation), 0)
                self._met[fault.name, operation] = number + 1
                if fault.after <= number < fault.after + fault.times:
                    return fault.fault
        return None

    def _pass_on(self, request: Request) -> Answer:
        return self._with_manners(request)

    def _with_manners(self, request: Request) -> Answer:
        for operation, manner in self._manners:
            if operation == request.operation:
                told = manner(request, super()._pass_on)
                assert told is not None
                return told
        return super()._pass_on(request)


# Single faults


def reset(request: Request, pass_on: PassOn) -> Answer:
    """The connection is reset; the server never got the request."""
    return Answer(0, {}, b"")


def reset_after(request: Request, pass_on: PassOn) -> Answer:
    """The server did it; the connection is reset."""
    pass_on(request)
    return Answer(0, {}, b"")


def stall(seconds: float) -> Fault:
    """Nothing comes for a while, and then the connection ends."""

    def fault(request: Request, pass_on: PassOn) -> None:
        time.sleep(seconds)

    return fault


def says(body: str, status: int = 200, **headers: str) -> Fault:
    """The server never gets the request; the client is told this."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def fault(request: Request, pass_on: PassOn) -> Answer:
        return Answer(status, named, b"" if request.method == "HEAD" else body.encode())

    return fault


def changed(change: Callable[[Answer], Answer]) -> Fault:
    """The true answer, changed."""

    def fault(request: Request, pass_on: PassOn) -> Answer:
        answer = pass_on(request)
        return change(answer) if answer.status < 300 else answer

    return fault


def without_header(name: str) -> Fault:
    def drop(answer: Answer) -> Answer:
        kept = {key: value for key, value in answer.headers.items() if key.lower() != name.lower()}
        return replace(answer, headers=kept)

    return changed(drop)


def with_header(name: str, value: str) -> Fault:
    def put(answer: Answer) -> Answer:
        kept = {key: old for key, old in answer.headers.items() if key.lower() != name.lower()}
        return replace(answer, headers={**kept, name: value})

    return changed(put)


def substitute(pattern: str, replacement: str) -> Fault:
    """In the body, everywhere."""
    return changed(
        lambda answer: replace(
            answer, body=re.sub(pattern.encode(), replacement.encode(), answer.body, flags=re.S)
        )
    )


def flip(answer: Answer) -> Answer:
    """One bit of the body is another."""
    middle = len(answer.body) // 2
    if not answer.body:
        return answer
    flipped = bytes([answer.body[middle] ^ 4])
    return replace(answer, body=answer.body[:middle] + flipped + answer.body[middle + 1 :])


def pages_of_one_key() -> Fault:
    """However many are asked for, one comes at a time."""
    found: list[bytes] = []

    def fault(request: Request, pass_on: PassOn) -> Answer:
        token = parse_qs(urlsplit(request.path).query).get("continuation-token")
        place = int(token[0]) if token else 0
        answer = pass_on(request)  # of a token that is not its own the server makes what it likes
        if not token:
            found[:] = re.findall(rb"<Contents>.*?</Contents>", answer.body, re.S)
        goes_on = place + 1 < len(found)
        page = (
            b"<?xml version='1.0'?><ListBucketResult>"
            + b"".join(re.findall(rb"<(?:Name|Prefix)>.*?</(?:Name|Prefix)>", answer.body)[:2])
            + (b"<NextContinuationToken>%d</NextContinuationToken>" % (place + 1)) * goes_on
            + b"<IsTruncated>%s</IsTruncated>" % (b"true" if goes_on else b"false")
            + b"".join(found[place : place + 1])
            + b"</ListBucketResult>"
        )
        return Answer(200, {"Content-Type": "application/xml"}, page)

    return fault


HTML: Final = says("<html><body><p>Welcome!</p></body></html>", Content_Type="text/html")
BROKEN_HTML: Final = says("<html><p>It works!<br></html>", Content_Type="text/html")
ERROR_INSIDE: Final = says(
    "<?xml version='1.0'?><Error><Code>InternalError</Code><Message>no</Message></Error>",
    Content_Type="application/xml",
)
_NS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_OTHERS_LIST = says(
    f"<?xml version='1.0'?><ListBucketResult {_NS}><Name>other</Name><Prefix>x/</Prefix>"
    "<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated></ListBucketResult>",
    Content_Type="application/xml",
)


# Of the manners of servers: abort after Complete, and copies pinned to the ETag of many parts.


def _abort_as(status: int, code: str) -> Fault:
    refused = refuse(status, code)

    def abort(request: Request, pass_on: PassOn) -> Answer | None:
        answer = pass_on(request)
        # This one says the same of what was completed as of what never was.
        return refused(request, pass_on) if answer.status >= 300 else answer

    return abort


def _remember_completed(abort: Fault) -> Sequence[tuple[str, Fault]]:
    """SeaweedFS takes the abort of a completed upload; these do not."""
    completed: set[str] = set()

    def upload_of(request: Request) -> str:
        found = re.search(r"uploadId=([^&]+)", request.path)
        return found[1] if found else ""

    def complete(request: Request, pass_on: PassOn) -> Answer:
        answer = pass_on(request)
        if answer.status == 200:
            completed.add(upload_of(request))
        return answer

    def end(request: Request, pass_on: PassOn) -> Answer | None:
        if upload_of(request) in completed:
            return abort(request, lambda _: Answer(404, {}, b""))
        return abort(request, pass_on)

    return [("CompleteMultipartUpload", complete), ("AbortMultipartUpload", end)]


def _refuse_pinned_copy(request: Request, pass_on: PassOn) -> Answer | None:
    headers = {name.lower(): value for name, value in request.headers.items()}
    if "-" in headers.get("x-amz-copy-source-if-match", ""):
        return refuse(412, "PreconditionFailed")(request, pass_on)
    return pass_on(request)


def swift() -> Sequence[tuple[str, Fault]]:
    """As OpenStack Swift's s3api."""
    return [
        *_remember_completed(_abort_as(404, "NoSuchKey")),
        ("UploadPartCopy", _refuse_pinned_copy),
    ]


def s3rver() -> Sequence[tuple[str, Fault]]:
    """As s3rver."""
    return _remember_completed(_abort_as(405, "MethodNotAllowed"))


def _named(faults: Iterable[NamedFault]) -> dict[str, NamedFault]:
    return {fault.name: fault for fault in faults}


_TOKEN = refuse(400, "ExpiredToken", "The provided token has expired.")
FAULTS: Final = _named(
    [
        # The network.
        NamedFault("connection reset before each request, once", ALL, reset, 1),
        NamedFault("connection reset after each request, once", ALL, reset_after, 1),
        NamedFault("connection closed without an answer, once", ALL, break_off, 1),
        NamedFault("every connection is reset", ALL, reset),
        NamedFault("every connection closes without an answer", ALL, break_off),
        NamedFault("a part stalls, once", ("UploadPart",), stall(4), 1),
        NamedFault("lists stall for ever", ("ListObjectsV2",), stall(4)),
        NamedFault("answers are cut in the middle, once", (*XML, "GetObject"), cut_answer, 1),
        NamedFault("lists are always cut", ("ListObjectsV2",), cut_answer),
        NamedFault("archives are always cut", ("GetObject",), cut_answer),
        NamedFault("archives come one byte short", ("GetObject",), shorten_answer),
        NamedFault("archives come with a flipped bit", ("GetObject",), changed(flip)),
        NamedFault("a part arrives with a flipped bit, once", ("UploadPart",), flip_sent_byte, 1),
        NamedFault("parts always arrive with a flipped bit", ("UploadPart",), flip_sent_byte),
        # A server in trouble.
        NamedFault("503 once, then well", ALL, refuse(503, "SlowDown"), 1),
        NamedFault("503 for ever", ALL, refuse(503, "SlowDown")),
        NamedFault("503 to writes for ever", WRITES, refuse(503, "ServiceUnavailable")),
        NamedFault("503 without S3's words", ALL, says("", 503)),
        NamedFault("500 once, then well", ALL, refuse(500, "InternalError"), 1),
        NamedFault("500 for ever", ALL, refuse(500, "InternalError")),
        NamedFault("an error inside of 200, once", XML, ERROR_INSIDE, 1),
        NamedFault("an error inside of every 200", XML, ERROR_INSIDE),
        NamedFault("an error inside of each copy's 200", ("UploadPartCopy",), ERROR_INSIDE),
        # Lost and empty answers.
        NamedFault("lost answer to Create", ("CreateMultipartUpload",), lose_answer, 1),
        NamedFault("lost answer to a part", ("UploadPart",), lose_answer, 1),
        NamedFault("lost answer to a copy", ("UploadPartCopy",), lose_answer, 1),
        NamedFault("lost answer to Complete", ("CompleteMultipartUpload",), lose_answer, 1),
        NamedFault(
            "answers to Complete are always lost", ("CompleteMultipartUpload",), lose_answer
        ),
        NamedFault("lost answer to Abort", ("AbortMultipartUpload",), lose_answer, 1),
        NamedFault("lost answer to Delete", ("DeleteObject",), lose_answer, 1),
        NamedFault("empty answers", XML, empty_answer),
        NamedFault("empty answer to Complete", ("CompleteMultipartUpload",), empty_answer),
        # Refusals.
        NamedFault("409 to Complete", ("CompleteMultipartUpload",), refuse(409, "Conflict")),
        NamedFault("412 to each copy", ("UploadPartCopy",), refuse(412, "PreconditionFailed")),
        NamedFault("412 to each read", ("GetObject",), refuse(412, "PreconditionFailed")),
        NamedFault("expired token", ALL, _TOKEN),
        NamedFault("the token expires on the way", (*WRITES, "HeadObject", "GetObject"), _TOKEN),
        NamedFault("abort says NoSuchKey", ("AbortMultipartUpload",), refuse(404, "NoSuchKey")),
        NamedFault(
            "abort says MethodNotAllowed",
            ("AbortMultipartUpload",),
            refuse(405, "MethodNotAllowed"),
        ),
        # Somewhere else.
        NamedFault(
            "301 to another region",
            ALL,
            refuse(301, "PermanentRedirect", headers="x-amz-bucket-region: eu-north-1"),
        ),
        NamedFault("307 to another host", ALL, says("", 307, Location="http://127.0.0.1:9/x")),
        # Answers that are none.
        NamedFault("HTML with 200", ALL, HTML),
        NamedFault("HTML with 200 to all but lists", (*WRITES, "HeadObject", "GetObject"), HTML),
        NamedFault("HTML that is no XML", ALL, BROKEN_HTML),
        NamedFault("no ETag", ("UploadPart", "HeadObject"), without_header("ETag")),
        NamedFault("a date that is none", ("HeadObject",), with_header("Last-Modified", "soon")),
        # Lists.
        NamedFault("pages of one key", ("ListObjectsV2",), pages_of_one_key()),
        NamedFault("a list of another prefix", ("ListObjectsV2",), _OTHERS_LIST),
        NamedFault(
            "an empty list",
            ("ListObjectsV2",),
            substitute(r"<Contents>.*</Contents>", ""),
        ),
    ]
)
assert len(FAULTS) == 49
