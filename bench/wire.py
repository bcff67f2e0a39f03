"""A relay that counts the bytes between a client and a server, and leaves them as they are.

It knows nothing of HTTP, so that clients may speak it in any way they like.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_BUFFER_BYTES = 2**18


class CountingRelay:
    """Listens on a free port of the loopback. Use as a context manager.

    Attributes:
        sent_bytes, received_bytes: from and to the clients so far, all that TCP carried.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self._guard = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.sent_bytes = 0
        self.received_bytes = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Closing alone would leave the other thread in accept(2).
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                server = socket.create_connection(self._upstream)
            except OSError:
                client.close()
                continue
            for source, target, sent in ((client, server, True), (server, client, False)):
                # The answer to a short request waits for nothing.
                target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(
                    target=self._pass_on, args=(source, target, sent), daemon=True
                ).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, sent: bool) -> None:
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        with contextlib.suppress(OSError):
            while count := source.recv_into(buffer):
                # Counted before it is passed on, so that no client ends before its bytes count.
                with self._guard:
                    if sent:
                        self.sent_bytes += count
                    else:
                        self.received_bytes += count
                target.sendall(buffer[:count])
        # When one side has no more to say, the other may still answer; both gone, both close.
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
