"""A server that never stops talking does not decide how much of it is read."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from backup_tasks.errors import StoreError
from backup_tasks.stores.base import StoredObject
from backup_tasks.stores.s3.store import S3Store
from tests.conftest import S3Bucket
from tests.support.fault_rig import impatient
from tests.support.settings import s3_settings

MIB = 2**20
# What sockets hold on the way, and what was asked for, is less; without bounds all of it comes.
FEW_MIB, ALL_MIB = 32, 128


class Talker(socketserver.ThreadingTCPServer):
    """Answers every request with this status, and goes on until nobody listens any more.

    Attributes:
        sent_mib: the most that it got rid of in one answer.
    """

    daemon_threads = True

    def __init__(self, status: str) -> None:
        self.status = status
        self.sent_mib = 0
        super().__init__(("127.0.0.1", 0), _Answering)


class _Answering(socketserver.StreamRequestHandler):
    server: Talker

    def handle(self) -> None:
        if not self.rfile.readline():
            return
        while self.rfile.readline().strip():
            pass
        head = f'HTTP/1.1 {self.server.status}\r\nETag: "etag"\r\nConnection: close\r\n\r\n'
        with contextlib.suppress(ConnectionError):
            self.wfile.write(head.encode() + b"<ListBucketResult>")
            for sent in range(ALL_MIB):
                self.wfile.write(b" " * MIB)
                self.server.sent_mib = max(self.server.sent_mib, sent)


@contextlib.contextmanager
def talking(status: str) -> Iterator[tuple[Talker, S3Store]]:
    with Talker(status) as server, impatient():
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        bucket = S3Bucket(endpoint, "bucket", "key", "secret", None)  # type: ignore[arg-type]
        try:
            yield server, S3Store(s3_settings(bucket, prefix="backups/", max_attempts=2))
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request", "503 Slow Down"])
def test_of_an_answer_without_an_end_little_is_read(status: str) -> None:
    goes_on = "does not answer as S3 does: an answer goes on"
    with talking(status) as (server, store), pytest.raises(StoreError, match=goes_on):
        store.list_objects()
    assert server.sent_mib < FEW_MIB


def test_of_an_archive_without_an_end_no_more_is_read_than_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backup_tasks.stores.s3.store.S3Access.ask_for_reason", lambda _: None)
    monkeypatch.setattr("backup_tasks.stores.s3.store.S3Access.is_as_it_was", lambda *_: True)
    found = StoredObject("object", 10**12, datetime.now(UTC), "etag")
    with talking("206 Partial Content") as (server, store), pytest.raises(StoreError):
        store.read_range(found, 0, 1000)
    assert server.sent_mib < FEW_MIB
