"""A proxy on the loopback that passes S3 requests on, misbehaves on demand, and counts.

    with FaultyProxy(server.endpoint) as proxy:
        proxy.misbehave("CompleteMultipartUpload", lose_answer)
        ... endpoint_url=proxy.endpoint ...
        assert proxy.seen["UploadPart"] == 3

A fault is called with the request and a function that passes it on; what it returns is the
answer, and None breaks off the connection.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import parse_qs, urlsplit

# For SO_LINGER: a close that resets the connection.
_AT_ONCE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def operation(self) -> str:
        """S3's name for it."""
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        headers = {name.lower() for name in self.headers}
        has_key = "/" in parts.path.strip("/")
        if "partNumber" in query:
            return "UploadPartCopy" if "x-amz-copy-source" in headers else "UploadPart"
        if "uploadId" in query:
            return {
                "POST": "CompleteMultipartUpload",
                "DELETE": "AbortMultipartUpload",
                "GET": "ListParts",
            }[self.method]
        for key, name in (
            ("uploads", {"POST": "CreateMultipartUpload", "GET": "ListMultipartUploads"}),
            ("lifecycle", {"PUT": "PutLifecycle", "GET": "GetLifecycle"}),
            ("list-type", {"GET": "ListObjectsV2"}),
        ):
            if key in query:
                return name.get(self.method, key)
        kind = "Object" if has_key else "Bucket"
        return {"GET": "Get", "HEAD": "Head", "PUT": "Put", "DELETE": "Delete"}[self.method] + kind


@dataclass(frozen=True)
class Answer:
    """One answer. A status of 0 is none: the connection is reset, with RST instead of FIN.

    Attributes: declared_bytes: what Content-Length says, if not the truth.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    declared_bytes: int | None = None


PassOn = Callable[[Request], Answer]
Fault = Callable[[Request, PassOn], Answer | None]


def lose_answer(request: Request, pass_on: PassOn) -> None:
    """The server does it, and the client never hears of it."""
    pass_on(request)


def break_off(request: Request, pass_on: PassOn) -> None:
    """The server never gets the request."""


def flip_sent_byte(request: Request, pass_on: PassOn) -> Answer:
    """One byte arrives at the server as another."""
    middle = len(request.body) // 2
    flipped = bytes([request.body[middle] ^ 1])
    body = request.body[:middle] + flipped + request.body[middle + 1 :]
    return pass_on(replace(request, body=body))


def cut_answer(request: Request, pass_on: PassOn) -> Answer:
    """The connection ends before the body does."""
    answer = pass_on(request)
    return replace(
        answer, body=answer.body[: len(answer.body) // 2], declared_bytes=len(answer.body)
    )


def shorten_answer(request: Request, pass_on: PassOn) -> Answer:
    """A shorter body than was asked for, properly declared."""
    answer = pass_on(request)
    return replace(answer, body=answer.body[:-1])


def empty_answer(request: Request, pass_on: PassOn) -> Answer:
    """Done, says the server, and no more."""
    pass_on(request)
    return Answer(200, {}, b"")


def refuse(status: int, code: str, text: str = "no", headers: str = "", more: str = "") -> Fault:
    """The server never gets the request; the client is told this error.

    Args:
        headers: of the answer, as "name: value".
        more: XML besides code and message.
    """
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{text}</Message>{more}</Error>"
    name, _, value = headers.partition(": ")
    told = {"Content-Type": "application/xml", **({name: value} if name else {})}

    def fault(request: Request, pass_on: PassOn) -> Answer:
        return Answer(status, told, b"" if request.method == "HEAD" else body.encode())

    return fault


class FaultyProxy:
    """See the module. Faults are used up: each concerns the next `times` requests of its kind.

    Attributes:
        seen: S3 operation -> how many requests came.
        down: nothing gets through any more, while this is set.
        sent_bytes, received_bytes: from and to the client, headers included.
    """

    def __init__(self, upstream: str, tls: ssl.SSLContext | None = None) -> None:
        self._upstream = urlsplit(upstream)
        self._guard = threading.Lock()
        self._faults: list[tuple[str, Fault]] = []
        self.seen: Counter[str] = Counter()
        self.down = False
        self.sent_bytes = 0
        self.received_bytes = 0
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._scheme = "https" if tls else "http"
        if tls:
            # The handshake comes with the first read, in the connection's own thread.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def endpoint(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def misbehave(self, operation: str, fault: Fault, times: int = 1) -> None:
        """Let the next requests of this operation meet the fault."""
        with self._guard:
            self._faults += [(operation, fault)] * times

    def forgive(self) -> None:
        """Let nothing go wrong any more."""
        with self._guard:
            self._faults.clear()

    def answer(self, request: Request) -> Answer | None:
        """What the client is to get; None breaks off the connection."""
        with self._guard:
            self.seen[request.operation] += 1
            if self.down:
                return None
            fault: Fault = lambda request, pass_on: pass_on(request)  # noqa: E731
            for planned in self._faults:
                if planned[0] == request.operation:
                    self._faults.remove(planned)
                    fault = planned[1]
                    break
        return fault(request, self._pass_on)

    def count(self, sent_bytes: int = 0, received_bytes: int = 0) -> None:
        with self._guard:
            self.sent_bytes += sent_bytes
            self.received_bytes += received_bytes

    def _pass_on(self, request: Request) -> Answer:
        connection = http.client.HTTPConnection(self._upstream.netloc, timeout=60)
        try:
            # Host stays the proxy's own: it is part of what the client signed.
            connection.request(request.method, request.path, request.body, request.headers)
            response = connection.getresponse()
            body = response.read()
            headers = dict(response.getheaders())
            length = None
            if request.method == "HEAD":
                length = int(headers.get("Content-Length", 0))
            return Answer(response.status, headers, body, length)
        finally:
            connection.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Counted:
    """A stream that tells how many bytes went through it."""

    def __init__(self, stream: BinaryIO, count: Callable[[int], None]) -> None:
        self._stream = stream
        self._count = count

    def read(self, size: int = -1) -> bytes:
        return self._counted(self._stream.read(size))

    def readline(self, size: int = -1) -> bytes:
        return self._counted(self._stream.readline(size))

    def write(self, content: bytes) -> int:
        self._count(len(content))
        return self._stream.write(content)

    def _counted(self, content: bytes) -> bytes:
        self._count(len(content))
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def setup(self) -> None:
        super().setup()
        self.rfile = _Counted(self.rfile, lambda size: self.proxy.count(sent_bytes=size))
        self.wfile = _Counted(self.wfile, lambda size: self.proxy.count(received_bytes=size))

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):  # the client went away
            super().handle()

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # the client went away
            self.close_connection = True
            return
        headers = {name: value for name, value in self.headers.items() if name != "Expect"}
        try:
            answer = self.proxy.answer(Request(self.command, self.path, headers, body))
        except OSError:  # the server behind us is gone
            answer = None
        if answer is None or not answer.status:
            if answer is not None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                self.connection.close()
            self.close_connection = True
            return
        self._tell(answer)

    def _tell(self, answer: Answer) -> None:
        length = len(answer.body) if answer.declared_bytes is None else answer.declared_bytes
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(answer.body)
        if length != len(answer.body) and self.command != "HEAD":
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815

    def log_message(self, format: str, *arguments: object) -> None:
        pass
