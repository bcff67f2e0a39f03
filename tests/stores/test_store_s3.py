"""S3 beyond the contract: wrong settings, half-broken servers, a server that dies."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from backup_tasks.errors import (
    CopyRefused,
    CopyUnsupported,
    ObjectChanged,
    ObjectExists,
    ObjectMissing,
    StoreError,
)
from backup_tasks.stores.base import ArchiveWriter, StoredObject, Unfinished
from backup_tasks.stores.registry import open_store
from backup_tasks.stores.s3.multipart import S3Upload
from backup_tasks.stores.s3.store import S3Store
from backup_tasks.stores.s3.writer import S3Writer
from tests.conftest import S3Bucket
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
from tests.support.s3_server import S3Server, start_s3_server
from tests.support.settings import FakeSettings, Plain, s3_settings
from tests.support.smtp_server import Certificates, make_certificates

MIB = 2**20
PART = 5 * MIB
NAME = "2025-06-12_0200-backup.tar.gz"
OTHER = "2025-06-13_0200-backup.tar.gz"


@pytest.fixture
def proxy(s3_bucket: S3Bucket) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_bucket.endpoint) as running:
        yield running


@pytest.fixture
def store(s3_bucket: S3Bucket, proxy: FaultyProxy) -> S3Store:
    """A store behind the proxy."""
    return S3Store(s3_settings(s3_bucket, endpoint_url=proxy.endpoint, max_attempts=3))


def put(store: S3Store, name: str, *parts: bytes) -> None:
    writer = store.write(name, in_flight_bytes=64 * MIB)
    try:
        for part in parts:
            writer.send(part)
        writer.commit()
    except StoreError:
        writer.abort()
        raise


def send_until_it_fails(writer: ArchiveWriter) -> None:
    for _ in range(50):
        writer.send(b"x" * PART)


def told(error: pytest.ExceptionInfo[StoreError]) -> str:
    """The message, checked for what every message promises."""
    text = str(error.value)
    assert text.startswith("s3://")
    assert "\n" not in text
    assert len(text) < 400
    return text


# What is wrong with the profile


def test_open_store_chooses_by_kind(tmp_path: Path, s3_bucket: S3Bucket) -> None:
    assert isinstance(open_store(s3_settings(s3_bucket)), S3Store)
    folder = FakeSettings(f"file://{tmp_path}/")
    assert open_store(folder).list_objects() == []


def test_a_missing_bucket_is_named_and_never_created(s3_bucket: S3Bucket) -> None:
    store = S3Store(s3_settings(s3_bucket, bucket="no-such-bucket"))
    with pytest.raises(StoreError) as error:
        store.write(NAME, in_flight_bytes=MIB)
    assert "there is no bucket no-such-bucket at http://127.0.0.1:" in told(error)
    with pytest.raises(StoreError, match="no bucket"):
        store.list_objects()
    buckets = s3_bucket.client.list_buckets()["Buckets"]
    assert "no-such-bucket" not in [one["Name"] for one in buckets]


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"access_key_id": Plain("nobody")}, "store.access_key_id"),
        ({"secret_access_key": Plain("hunter2hunter2")}, "store.secret_access_key"),
    ],
)
def test_wrong_keys_are_told_apart_without_showing_them(
    s3_bucket: S3Bucket, wrong: dict[str, Plain], hint: str
) -> None:
    with pytest.raises(StoreError) as error:
        S3Store(s3_settings(s3_bucket, **wrong)).list_objects()
    assert hint in told(error)
    assert "hunter2" not in str(error.value)
    assert s3_bucket.secret_key not in str(error.value)


def test_no_keys_at_all_is_told_with_every_place_to_put_them(
    s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    store = S3Store(s3_settings(s3_bucket, access_key_id=None, secret_access_key=None))
    with pytest.raises(StoreError) as error:
        store.list_objects()
    for place in ("store.access_key_id", "AWS_ACCESS_KEY_ID", "~/.aws/credentials"):
        assert place in told(error)


def test_keys_come_from_the_environment_when_the_profile_has_none(
    s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_bucket.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_bucket.secret_key)
    store = S3Store(s3_settings(s3_bucket, access_key_id=None, secret_access_key=None))
    assert store.list_objects() == []


def test_somebody_who_may_only_read_is_told_which_permission_is_missing(
    s3_bucket: S3Bucket, s3_server: S3Server
) -> None:
    put(S3Store(s3_settings(s3_bucket)), NAME, b"hello")
    reader = S3Store(
        s3_settings(
            s3_bucket,
            access_key_id=Plain(s3_server.reader_key),
            secret_access_key=Plain(s3_server.reader_secret),
        )
    )
    assert reader.read_range(reader.stat(NAME), 0, 5) == b"hello"
    with pytest.raises(StoreError) as error:
        reader.write(OTHER, in_flight_bytes=MIB)
    assert "no permission; the key needs s3:PutObject" in told(error)
    with pytest.raises(StoreError, match="s3:DeleteObject"):
        reader.delete(NAME)


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("http://127.0.0.1:1", "cannot reach http://127.0.0.1:1: Connection refused"),
        ("http://no-such-host.invalid", "cannot reach http://no-such-host.invalid"),
        ("nonsense", "what store.endpoint_url holds is not the address of a server"),
    ],
)
def test_a_server_that_cannot_be_reached_is_named(
    s3_bucket: S3Bucket, endpoint: str, reason: str
) -> None:
    with pytest.raises(StoreError) as error:
        S3Store(s3_settings(s3_bucket, endpoint_url=endpoint)).list_objects()
    assert reason in told(error)


def test_a_server_without_tls_is_told(s3_bucket: S3Bucket) -> None:
    endpoint = s3_bucket.endpoint.replace("http:", "https:")
    with pytest.raises(StoreError) as error:
        S3Store(s3_settings(s3_bucket, endpoint_url=endpoint)).list_objects()
    assert f"no TLS connection to {endpoint}" in told(error)


@pytest.fixture
def tls_proxy(s3_bucket: S3Bucket, tmp_path: Path) -> Iterator[tuple[FaultyProxy, Certificates]]:
    certificates = make_certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)
    with FaultyProxy(s3_bucket.endpoint, context) as running:
        yield running, certificates


def test_parts_carry_a_signed_digest_instead_of_a_second_hash(
    s3_bucket: S3Bucket,
    tls_proxy: tuple[FaultyProxy, Certificates],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy, certificates = tls_proxy
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates.authority))
    headers: list[dict[str, str]] = []

    def look(request: Request, pass_on: PassOn) -> Answer:
        headers.append({name.lower(): value for name, value in request.headers.items()})
        return pass_on(request)

    proxy.misbehave("UploadPart", look, times=9)
    store = S3Store(s3_settings(s3_bucket, endpoint_url=proxy.endpoint))
    put(store, NAME, b"x" * PART, b"y")
    assert store.read_range(store.stat(NAME), PART - 1, 2) == b"xy"
    assert len(headers) == 2
    assert all(one["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD" for one in headers)
    assert all("content-md5" in one for one in headers)
    assert all("content-md5;" in one["authorization"] for one in headers)


def open_sockets() -> set[str]:
    links = [os.readlink(entry) for entry in os.scandir("/proc/self/fd") if entry.is_symlink()]
    return {link for link in links if link.startswith("socket:")}


def test_a_forked_process_lets_go_of_its_parent_s_connections(s3_bucket: S3Bucket) -> None:
    """On one that both use, each would take what was meant for the other."""
    before = open_sockets()
    store = S3Store(s3_settings(s3_bucket))
    put(store, NAME, b"hello")
    connections = open_sockets() - before
    assert connections
    process = os.fork()
    if not process:
        try:
            store.after_fork()
            still_open = connections & open_sockets()
            reads = store.read_range(store.stat(NAME), 1, 3) == b"ell"
            os._exit(0 if reads and not still_open else 1)
        finally:
            os._exit(2)
    assert os.waitpid(process, 0)[1] == 0
    assert store.read_range(store.stat(NAME), 1, 3) == b"ell"
    assert open_sockets() - before == connections


def test_a_certificate_of_nobody_we_trust_is_told(
    s3_bucket: S3Bucket, tls_proxy: tuple[FaultyProxy, Certificates]
) -> None:
    proxy, _ = tls_proxy
    with pytest.raises(StoreError) as error:
        S3Store(s3_settings(s3_bucket, endpoint_url=proxy.endpoint)).list_objects()
    assert f"no TLS connection to {proxy.endpoint}" in told(error)
    assert "unable to get local issuer certificate" in told(error)


def test_a_secret_in_the_endpoint_is_not_shown(s3_bucket: S3Bucket) -> None:
    endpoint = "http://me:hunter2@127.0.0.1:1"
    with pytest.raises(StoreError) as error:
        S3Store(s3_settings(s3_bucket, endpoint_url=endpoint)).list_objects()
    assert "hunter2" not in told(error)


def page(request: Request, pass_on: PassOn) -> Answer:
    return Answer(200, {"Content-Type": "text/html"}, b"<html><p>Welcome to nginx!</html>")


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (
            refuse(
                301,
                "PermanentRedirect",
                headers="x-amz-bucket-region: eu-north-1",
            ),
            'lies in eu-north-1, not us-east-1; set store.region = "eu-north-1"',
        ),
        (
            refuse(400, "AuthorizationHeaderMalformed", more="<Region>eu-west-3</Region>"),
            'set store.region = "eu-west-3"',
        ),
        (refuse(403, "AccessDenied"), "no permission; the key needs s3:ListBucket"),
        (refuse(403, "RequestTimeTooSkewed"), "clock"),
        (refuse(400, "ExpiredToken"), "temporary keys have expired"),
        (refuse(503, "SlowDown"), "less often"),
        (refuse(418, "Teapot", "two\nlines \u202e"), "Teapot: two\\nlines \\u202e"),
        (refuse(418, "Teapot", "short and stout"), "Teapot: short and stout"),
        (break_off, "broke off the connection"),
        (page, "is it an S3 server?"),
    ],
)
def test_what_a_server_answers_is_told_in_one_line(
    store: S3Store, proxy: FaultyProxy, fault: object, expected: str
) -> None:
    for operation in ("ListObjectsV2", "HeadBucket"):
        proxy.misbehave(operation, fault, times=20)  # type: ignore[arg-type]
    with pytest.raises(StoreError) as error:
        store.list_objects()
    assert expected in told(error)


# Sending


def test_a_part_that_was_damaged_on_the_way_is_sent_again(
    store: S3Store, proxy: FaultyProxy
) -> None:
    proxy.misbehave("UploadPart", flip_sent_byte)
    put(store, NAME, b"x" * PART)
    assert proxy.seen["UploadPart"] == 2
    assert store.read_range(store.stat(NAME), 0, PART) == b"x" * PART


@pytest.mark.parametrize("code", ["RequestTimeTooSkewed", "RequestTimeout", "SlowDown"])
def test_a_part_is_sent_again_after_passing_trouble(
    store: S3Store, proxy: FaultyProxy, code: str
) -> None:
    proxy.misbehave("UploadPart", refuse(503 if code == "SlowDown" else 400, code), times=2)
    put(store, NAME, b"hello")
    assert store.stat(NAME).size == 5


def test_a_part_whose_answer_was_lost_is_stored_once(store: S3Store, proxy: FaultyProxy) -> None:
    proxy.misbehave("UploadPart", lose_answer)
    put(store, NAME, b"a" * PART, b"b")
    assert store.stat(NAME).size == PART + 1


def test_an_upload_that_keeps_failing_is_an_error_and_leaves_nothing(
    store: S3Store, proxy: FaultyProxy
) -> None:
    proxy.misbehave("UploadPart", refuse(403, "AccessDenied"), times=20)
    with pytest.raises(StoreError) as error:
        put(store, NAME, *[b"x" * PART] * 8)
    assert "could not send part" in told(error)
    assert "s3:PutObject" in told(error)
    assert store.list_objects() == []
    assert store.list_unfinished() == []


def test_an_error_in_the_background_is_raised_by_a_later_call_and_stays(
    store: S3Store, proxy: FaultyProxy
) -> None:
    proxy.misbehave("UploadPart", refuse(403, "AccessDenied"), times=20)
    writer = store.write(NAME, in_flight_bytes=PART)
    writer.send(b"x" * PART)
    for call in (lambda: writer.send(b"y" * PART), writer.commit, writer.commit):
        with pytest.raises(StoreError, match="s3:PutObject"):
            call()
    writer.abort()


def test_no_more_is_in_memory_than_allowed_while_the_server_is_slow(
    store: S3Store, proxy: FaultyProxy
) -> None:
    go_on = threading.Event()
    arrived: list[int] = []

    def hold(request: Request, pass_on: PassOn) -> Answer:
        arrived.append(len(request.body))
        assert go_on.wait(60)
        return pass_on(request)

    proxy.misbehave("UploadPart", hold, times=100)
    writer = store.write(NAME, in_flight_bytes=3 * PART)
    sent: list[int] = []
    fourth = threading.Event()

    def send_all() -> None:
        for number in range(6):
            if number == 3:
                fourth.set()
            writer.send(b"x" * PART)
            sent.append(number)

    sender = threading.Thread(target=send_all)
    sender.start()
    assert fourth.wait(60)
    sender.join(0.3)  # it would have gone on by now, if it could
    assert sent == [0, 1, 2]
    go_on.set()
    sender.join(60)
    assert writer.commit().size == 6 * PART
    assert len(arrived) == 6


def test_the_storage_class_and_the_run_are_kept_with_the_object(
    s3_bucket: S3Bucket,
) -> None:
    put(S3Store(s3_settings(s3_bucket, storage_class="STANDARD_IA")), NAME, b"hello")
    head = s3_bucket.client.head_object(Bucket=s3_bucket.bucket, Key=f"backups/{NAME}")
    assert head["StorageClass"] == "STANDARD_IA"
    assert len(head["Metadata"]["backup-tasks-run"]) == 32


# The last step


def test_a_commit_whose_answer_was_lost_is_recognised_as_our_own(
    store: S3Store, proxy: FaultyProxy
) -> None:
    proxy.misbehave("CompleteMultipartUpload", lose_answer)
    put(store, NAME, b"hello")
    assert proxy.seen["CompleteMultipartUpload"] == 2  # and the second was answered with 412
    assert store.read_range(store.stat(NAME), 0, 5) == b"hello"


def test_a_commit_that_was_never_answered_counts_when_the_object_is_there(
    store: S3Store, proxy: FaultyProxy
) -> None:
    proxy.misbehave("CompleteMultipartUpload", lose_answer)
    proxy.misbehave("CompleteMultipartUpload", break_off, times=20)
    put(store, NAME, b"hello")
    assert [one.name for one in store.list_objects()] == [NAME]


def test_an_empty_answer_to_the_commit_is_believed_only_with_the_object_there(
    store: S3Store, proxy: FaultyProxy
) -> None:
    proxy.misbehave("CompleteMultipartUpload", empty_answer)
    put(store, NAME, b"hello")
    assert store.stat(NAME).size == 5
    proxy.misbehave("CompleteMultipartUpload", lambda request, pass_on: Answer(200, {}, b""))
    with pytest.raises(StoreError) as error:
        put(store, OTHER, b"hello")
    assert "took 2025-06-13_0200-backup.tar.gz as complete, but it is not there" in told(error)


def test_an_error_inside_a_200_is_an_error(store: S3Store, proxy: FaultyProxy) -> None:
    proxy.misbehave("CompleteMultipartUpload", refuse(200, "InternalError"))
    put(store, NAME, b"hello")  # asked again
    proxy.misbehave("CompleteMultipartUpload", refuse(200, "InternalError"), times=20)
    with pytest.raises(StoreError) as error:
        put(store, OTHER, b"hello")
    assert "could not complete" in told(error)
    assert [one.name for one in store.list_objects()] == [NAME]


def test_somebody_elses_object_that_came_first_is_neither_taken_for_ours_nor_touched(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket
) -> None:
    def overtaken(request: Request, pass_on: PassOn) -> Answer:
        # After our own look for the name, before the server's.
        key = f"backups/{NAME}"
        s3_bucket.client.put_object(Bucket=s3_bucket.bucket, Key=key, Body=b"other")
        return pass_on(request)

    proxy.misbehave("CompleteMultipartUpload", overtaken)
    with pytest.raises(ObjectExists, match=NAME):
        put(store, NAME, b"hello")
    assert store.read_range(store.stat(NAME), 0, 5) == b"other"


def test_a_commit_at_the_same_moment_as_another_finds_the_name_taken(
    store: S3Store, proxy: FaultyProxy
) -> None:
    proxy.misbehave("CompleteMultipartUpload", refuse(409, "ConditionalRequestConflict"), times=9)
    with pytest.raises(ObjectExists, match="at the same moment"):
        put(store, NAME, b"hello")


def test_a_server_that_does_not_know_conditional_commits_works_all_the_same(
    store: S3Store, proxy: FaultyProxy
) -> None:
    proxy.misbehave("CompleteMultipartUpload", refuse(501, "NotImplemented"))
    put(store, NAME, b"hello")
    assert store.stat(NAME).size == 5
    with pytest.raises(ObjectExists):
        put(store, NAME, b"again")


def lose_the_last_part(request: Request, pass_on: PassOn) -> Answer:
    start, end = request.body.rindex(b"<Part>"), request.body.rindex(b"</Part>") + 7
    body = request.body[:start] + request.body[end:]
    headers = {**request.headers, "Content-Length": str(len(body))}
    return pass_on(Request(request.method, request.path, headers, body))


def test_an_object_of_another_size_than_was_sent_is_removed_and_told(
    store: S3Store, proxy: FaultyProxy
) -> None:
    proxy.misbehave("CompleteMultipartUpload", lose_the_last_part)
    with pytest.raises(StoreError) as error:
        put(store, NAME, b"x" * PART, b"y")
    assert "5,242,880 bytes where 5,242,881 were sent" in told(error)
    assert store.list_objects() == []


# Reading


@pytest.mark.parametrize("fault", [cut_answer, shorten_answer, break_off])
def test_a_body_that_breaks_off_is_read_again(
    store: S3Store, proxy: FaultyProxy, fault: object
) -> None:
    put(store, NAME, b"x" * PART)
    found = store.stat(NAME)
    proxy.misbehave("GetObject", fault)  # type: ignore[arg-type]
    assert store.read_range(found, 1, PART - 1) == b"x" * (PART - 1)


@pytest.mark.parametrize("fault", [cut_answer, shorten_answer, break_off])
def test_a_body_that_always_breaks_off_is_an_error_never_a_short_answer(
    store: S3Store, proxy: FaultyProxy, fault: object
) -> None:
    put(store, NAME, b"x" * PART)
    found = store.stat(NAME)
    proxy.misbehave("GetObject", fault, times=50)  # type: ignore[arg-type]
    with pytest.raises(StoreError) as error:
        store.read_range(found, 1, PART - 1)
    assert f"could not read {NAME} at byte 1" in told(error)


def test_an_archived_object_says_how_to_get_it_back(store: S3Store, proxy: FaultyProxy) -> None:
    put(store, NAME, b"hello")
    proxy.misbehave("GetObject", refuse(403, "InvalidObjectState"))
    with pytest.raises(StoreError, match="restore it in S3 first"):
        store.read_range(store.stat(NAME), 0, 5)


# Copying


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (refuse(501, "NotImplemented"), CopyUnsupported),
        (refuse(403, "InvalidObjectState"), CopyRefused),
        (refuse(403, "AccessDenied"), CopyRefused),
        (refuse(412, "PreconditionFailed"), CopyUnsupported),
        (refuse(404, "NoSuchKey"), ObjectMissing),
        (refuse(200, "InternalError"), StoreError),
    ],
)
def test_a_copy_that_cannot_be_says_why_by_its_kind(
    store: S3Store, proxy: FaultyProxy, fault: object, expected: type[StoreError]
) -> None:
    put(store, NAME, b"x" * PART)
    proxy.misbehave("UploadPartCopy", fault, times=20)  # type: ignore[arg-type]
    writer = store.write(OTHER, in_flight_bytes=MIB)
    writer.copy(store.stat(NAME), 0, PART)
    with pytest.raises(StoreError) as error:
        writer.commit()
    assert type(error.value) is expected
    assert NAME in told(error)
    writer.abort()


def held_until(
    gate: threading.Event, arrived: threading.Semaphore | None = None
) -> Callable[[Request, PassOn], Answer]:
    """Passes requests on once the gate is open; `arrived` is released for each that waits."""

    def hold(request: Request, pass_on: PassOn) -> Answer:
        if arrived is not None:
            arrived.release()
        assert gate.wait(60)
        return pass_on(request)

    return hold


def committing(writer: ArchiveWriter) -> Future[StoredObject]:
    """The object of a writer that commits it on another thread."""
    pool = ThreadPoolExecutor(1)
    coming = pool.submit(writer.commit)
    pool.shutdown(wait=False)
    return coming


def test_an_object_that_is_still_to_be_committed_is_copied_to_its_place(
    store: S3Store, proxy: FaultyProxy
) -> None:
    gate = threading.Event()
    proxy.misbehave("CompleteMultipartUpload", held_until(gate))
    writer = store.write(OTHER, in_flight_bytes=64 * MIB)
    source = store.write(NAME, in_flight_bytes=64 * MIB)
    source.send(b"b" * PART)
    writer.send(b"a" * PART)
    coming = committing(source)
    writer.copy(coming, 0, PART)
    writer.send(b"c" * PART)
    writer.check()
    assert not coming.done()
    gate.set()
    found = writer.commit()
    content = store.read_range(found, 0, found.size)
    assert content == b"a" * PART + b"b" * PART + b"c" * PART


def test_a_commit_that_fails_on_another_thread_is_told_by_who_was_to_copy(
    store: S3Store, proxy: FaultyProxy
) -> None:
    proxy.misbehave("CompleteMultipartUpload", refuse(403, "AccessDenied"), times=20)
    writer = store.write(OTHER, in_flight_bytes=64 * MIB)
    source = store.write(NAME, in_flight_bytes=64 * MIB)
    source.send(b"b" * PART)
    writer.copy(committing(source), 0, PART)
    with pytest.raises(StoreError) as error:
        writer.commit()
    assert f"could not complete {NAME}" in told(error)
    source.abort()
    writer.abort()
    assert store.list_unfinished() == []


def test_giving_up_ends_a_commit_that_waits_and_gives_its_memory_to_others(
    store: S3Store, proxy: FaultyProxy
) -> None:
    gate, arrived = threading.Event(), threading.Semaphore(0)
    proxy.misbehave("UploadPart", held_until(gate, arrived), times=4)
    source = store.write(NAME, in_flight_bytes=8 * PART)
    for _ in range(8):
        source.send(b"b" * PART)
    coming = committing(source)
    for _ in range(4):
        assert arrived.acquire(timeout=60)
    leaving = threading.Thread(target=source.leave)
    leaving.start()
    with pytest.raises(StoreError, match="has ended"):
        coming.result(60)
    gate.set()
    leaving.join(60)
    writer = store.write(OTHER, in_flight_bytes=PART)
    sender = threading.Thread(target=lambda: [writer.send(b"c" * PART) for _ in range(3)])
    sender.start()
    sender.join(60)
    assert not sender.is_alive()
    assert writer.commit().size == 3 * PART


def test_writers_of_one_store_share_the_memory_that_is_allowed(
    store: S3Store, proxy: FaultyProxy
) -> None:
    gate = threading.Event()
    proxy.misbehave("UploadPart", held_until(gate), times=100)
    first = store.write(NAME, in_flight_bytes=3 * PART)
    second = store.write(OTHER, in_flight_bytes=3 * PART)
    first.send(b"a" * PART)
    first.send(b"a" * PART)
    sent: list[int] = []
    has_sent = threading.Event()

    def send_all() -> None:
        for number in range(3):
            second.send(b"b" * PART)
            sent.append(number)
            has_sent.set()

    sender = threading.Thread(target=send_all)
    sender.start()
    assert has_sent.wait(60)
    sender.join(0.3)  # it would have sent all by now, if it could
    assert sent == [0]
    gate.set()
    sender.join(60)
    assert (first.commit().size, second.commit().size) == (2 * PART, 3 * PART)


def test_a_server_that_wants_all_parts_equal_cannot_take_copies(
    store: S3Store, proxy: FaultyProxy
) -> None:
    put(store, NAME, b"x" * PART)
    proxy.misbehave("CompleteMultipartUpload", refuse(400, "InvalidPart", "must be equal"))
    writer = store.write(OTHER, in_flight_bytes=MIB)
    writer.copy(store.stat(NAME), 0, PART)
    with pytest.raises(CopyUnsupported) as error:
        writer.commit()
    assert OTHER in told(error)
    writer.abort()


def test_sending_waits_for_a_part_that_is_slow_so_that_a_crash_loses_little(
    store: S3Store, proxy: FaultyProxy
) -> None:
    gate = threading.Event()
    proxy.misbehave("UploadPart", held_until(gate))
    writer = cast(S3Writer, store.write(NAME, in_flight_bytes=96 * MIB))
    sender = threading.Thread(target=lambda: [writer.send(b"x" * PART) for _ in range(22)])
    sender.start()

    def waits() -> bool:
        return len(writer._sending) == 1 and len(writer._ends) == writer._sending[0] + 16

    try:
        with writer._changed:
            assert writer._changed.wait_for(waits, timeout=60)
    finally:
        gate.set()
        sender.join()
    assert writer.commit().size == 22 * PART


# Salvage


def lose_second_part(request: Request, pass_on: PassOn) -> Answer | None:
    return None if "partNumber=2&" in request.path + "&" else pass_on(request)


def interrupted_upload(store: S3Store, proxy: FaultyProxy) -> Unfinished:
    """An upload whose second of three parts never arrived."""
    proxy.misbehave("UploadPart", lose_second_part, times=50)
    writer = cast(S3Writer, store.write(NAME, in_flight_bytes=64 * MIB))
    for letter in (b"a", b"b", b"c"):
        writer.send(letter * PART)
    with writer._changed:
        assert writer._changed.wait_for(lambda: not writer._under_way, timeout=60)
    writer.leave()
    (found,) = store.list_unfinished()
    return found


def test_salvage_ends_at_the_first_part_that_is_missing(store: S3Store, proxy: FaultyProxy) -> None:
    found = store.salvage(interrupted_upload(store, proxy))
    assert found is not None
    assert store.read_range(found, 0, found.size) == b"a" * PART
    assert store.list_unfinished() == []


def test_salvage_whose_answer_is_lost_finds_what_it_made(
    store: S3Store, proxy: FaultyProxy
) -> None:
    upload = interrupted_upload(store, proxy)
    proxy.misbehave("CompleteMultipartUpload", lose_answer)
    found = store.salvage(upload)
    assert found is not None
    assert (found.name, found.size) == (NAME, PART)


@pytest.mark.parametrize(
    "fault",
    [refuse(403, "AccessDenied"), refuse(501, "NotImplemented"), refuse(404, "NoSuchUpload")],
)
@pytest.mark.parametrize("operation", ["ListParts", "CompleteMultipartUpload"])
def test_what_the_server_does_not_let_us_salvage_is_ended(
    store: S3Store, proxy: FaultyProxy, operation: str, fault: Fault
) -> None:
    upload = interrupted_upload(store, proxy)
    proxy.misbehave(operation, fault)
    assert store.salvage(upload) is None
    assert store.list_unfinished() == []
    assert store.list_objects() == []


def test_salvage_loses_nothing_when_the_server_cannot_be_reached(
    store: S3Store, proxy: FaultyProxy
) -> None:
    upload = interrupted_upload(store, proxy)
    proxy.misbehave("ListParts", break_off, times=3)
    with pytest.raises(StoreError) as error:
        store.salvage(upload)
    assert NAME in told(error)
    found = store.salvage(upload)
    assert found is not None
    assert found.size == PART


def test_what_is_sent_for_a_while_only_goes_to_no_archive_class(s3_bucket: S3Bucket) -> None:
    store = S3Store(s3_settings(s3_bucket, storage_class="STANDARD_IA"))
    put(store, NAME, b"kept")
    put(store, f"{NAME}.0123abcd.partial", b"for a while")
    listed = s3_bucket.client.list_objects_v2(Bucket=s3_bucket.bucket)["Contents"]
    assert [item["StorageClass"] for item in listed] == ["STANDARD_IA", "STANDARD"]


def test_copying_sends_no_bytes(store: S3Store, proxy: FaultyProxy) -> None:
    put(store, NAME, b"x" * (4 * PART))
    before = proxy.sent_bytes
    writer = store.write(OTHER, in_flight_bytes=MIB)
    writer.copy(store.stat(NAME), 0, 4 * PART)
    writer.commit()
    assert proxy.sent_bytes - before < 20_000


# Listing


def test_lists_longer_than_a_page_are_read_to_the_end(
    s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backup_tasks.stores.s3.store._PAGE", 2)
    store = S3Store(s3_settings(s3_bucket))
    names = [f"{number}-backup.tar.gz" for number in range(5)]
    for name in names:
        put(store, name, b"x")
        store.write(f"unfinished-{name}", in_flight_bytes=MIB)
    assert [one.name for one in store.list_objects()] == names
    unfinished = [one.name for one in store.list_unfinished()]
    assert sorted(unfinished) == [f"unfinished-{name}" for name in names]


def test_a_server_that_cannot_list_unfinished_uploads_does_not_stop_a_backup(
    store: S3Store, proxy: FaultyProxy
) -> None:
    proxy.misbehave("ListMultipartUploads", refuse(501, "NotImplemented"), times=9)
    assert store.list_unfinished() == []


# A server that dies


def test_a_server_that_dies_in_the_middle_ends_the_upload_and_the_next_run_works(
    tmp_path: Path,
) -> None:
    with start_s3_server(tmp_path / "server") as server:
        client = server.client()
        client.create_bucket(Bucket="backups")
        bucket = S3Bucket(server.endpoint, "backups", server.access_key, server.secret_key, client)
        store = S3Store(s3_settings(bucket, max_attempts=2))
        put(store, NAME, b"the backup before")
        writer = store.write(OTHER, in_flight_bytes=2 * PART)
        writer.send(b"x" * PART)
        server.kill()
        with pytest.raises(StoreError) as error:
            send_until_it_fails(writer)
        assert server.endpoint in told(error)
        writer.abort()
        server.restart()
        store = S3Store(s3_settings(bucket, max_attempts=8))
        assert store.read_range(store.stat(NAME), 0, 17) == b"the backup before"
        for left in store.list_unfinished():
            store.end_unfinished(left)
        assert store.list_unfinished() == []
        put(store, OTHER, b"hello")
        assert [one.name for one in store.list_objects()] == [NAME, OTHER]


# What a server says, and what is there


def test_a_strangers_object_of_equal_size_is_not_taken_for_ours_after_a_server_said_yes(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket
) -> None:
    def lie(request: Request, pass_on: PassOn) -> Answer:
        key = f"backups/{NAME}"
        s3_bucket.client.put_object(Bucket=s3_bucket.bucket, Key=key, Body=b"other")
        body = b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
        return Answer(200, {"Content-Type": "application/xml"}, body)

    proxy.misbehave("CompleteMultipartUpload", lie)
    with pytest.raises(StoreError, match="another object has its name"):
        put(store, NAME, b"hello")
    assert store.read_range(store.stat(NAME), 0, 5) == b"other"


def test_where_commits_are_never_conditional_a_name_that_was_taken_meanwhile_is_refused(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket
) -> None:
    slow = store.write(NAME, in_flight_bytes=MIB)
    slow.send(b"the second")
    s3_bucket.client.put_object(Bucket=s3_bucket.bucket, Key=f"backups/{NAME}", Body=b"the first")
    proxy.misbehave("CompleteMultipartUpload", refuse(501, "NotImplemented"))
    with pytest.raises(ObjectExists):
        slow.commit()
    slow.abort()
    assert store.read_range(store.stat(NAME), 0, 9) == b"the first"


def test_a_bug_while_a_part_is_sent_ends_the_commit_and_is_told(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def buggy(*_: object) -> str:
        raise KeyError("no such thing")

    monkeypatch.setattr(S3Upload, "send_part", buggy)
    writer = store.write(NAME, in_flight_bytes=MIB)
    writer.send(b"x")
    with pytest.raises(StoreError, match=f"part 1 of {NAME}: KeyError: 'no such thing'"):
        writer.commit()
    writer.abort()
    assert store.list_objects() == []


def test_what_arrived_while_an_upload_was_being_ended_is_ended_too(
    store: S3Store, proxy: FaultyProxy
) -> None:
    def say_done(request: Request, pass_on: PassOn) -> Answer:
        return Answer(204, {}, b"")  # and a part that is under way keeps it alive

    writer = store.write(NAME, in_flight_bytes=MIB)
    writer.send(b"x" * PART)
    proxy.misbehave("AbortMultipartUpload", say_done)
    writer.abort()
    assert store.list_unfinished() == []


def test_a_range_that_comes_from_another_place_than_was_asked_for_is_not_believed(
    store: S3Store, proxy: FaultyProxy
) -> None:
    put(store, NAME, b"0123456789")

    def shifted(request: Request, pass_on: PassOn) -> Answer:
        answer = pass_on(request)
        return replace(
            answer, body=b"9876", headers=answer.headers | {"Content-Range": "bytes 5-8/10"}
        )

    found = store.stat(NAME)
    proxy.misbehave("GetObject", shifted, times=20)
    with pytest.raises(StoreError):
        store.read_range(found, 2, 4)


def test_a_salvaged_object_of_another_size_than_its_parts_is_removed(
    store: S3Store, proxy: FaultyProxy
) -> None:
    writer = cast(S3Writer, store.write(NAME, in_flight_bytes=64 * MIB))
    for letter in (b"a", b"b"):
        writer.send(letter * PART)
    with writer._changed:
        assert writer._changed.wait_for(lambda: not writer._under_way, timeout=60)
    writer.leave()
    (upload,) = store.list_unfinished()
    proxy.misbehave("CompleteMultipartUpload", lose_the_last_part)
    assert store.salvage(upload) is None
    assert store.list_objects() == []


def test_a_source_that_was_replaced_after_it_was_copied_ends_the_commit(store: S3Store) -> None:
    """A server may pass over the pin: then the copy may be of either."""
    put(store, NAME, b"a" * PART)
    writer = cast(S3Writer, store.write(OTHER, in_flight_bytes=MIB))
    writer.copy(store.stat(NAME), 0, PART)
    with writer._changed:
        assert writer._changed.wait_for(lambda: not writer._under_way, timeout=60)
    store.delete(NAME)
    put(store, NAME, b"b" * PART)
    with pytest.raises(ObjectChanged):
        writer.commit()
    writer.abort()
    assert [one.name for one in store.list_objects()] == [NAME]
