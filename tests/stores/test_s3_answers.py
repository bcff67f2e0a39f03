"""Answers of a store that lie, or lack something: one clear line each, never a success."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from backup_tasks.errors import ObjectChanged, ObjectMissing, ReadRefused, StoreError
from backup_tasks.prune.lifecycle_bucket import read_lifecycle
from backup_tasks.stores.base import StoredObject
from backup_tasks.stores.s3.answers import checked
from backup_tasks.stores.s3.store import S3Store
from tests.conftest import S3Bucket
from tests.support.fault_proxy import (
    EVER,
    HTML,
    FaultProxy,
    NamedFault,
    changed,
    pages_of_one_key,
    says,
    substitute,
    swift,
    with_header,
    without_header,
)
from tests.support.fault_rig import impatient
from tests.support.faulty_proxy import Answer, Fault, PassOn, Request, refuse
from tests.support.s3_server import S3Server
from tests.support.settings import s3_settings

PART = 5 * 2**20
NAME = "2025-06-12_0200-backup.tar.gz"
OTHER = "2025-06-13_0200-backup.tar.gz"
NO_ZONE = "2025-06-12T02:00:00"
STAGED = f"{NAME}.0123abcd.partial"


@pytest.fixture(scope="module")
def server_proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.endpoint) as proxy, impatient():
        yield proxy


@pytest.fixture
def proxy(server_proxy: FaultProxy) -> Iterator[FaultProxy]:
    yield server_proxy
    server_proxy.heal()
    server_proxy.behave_as(())


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> Iterator[S3Bucket]:
    """One for all tests here, each of which has its own prefix."""
    client = s3_server.client()
    name = f"answers-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    yield S3Bucket(s3_server.endpoint, name, s3_server.access_key, s3_server.secret_key, client)
    client.delete_bucket(Bucket=name)
    client.close()


@pytest.fixture
def store(bucket: S3Bucket, proxy: FaultProxy) -> S3Store:
    return open_store(bucket, proxy)


def open_store(bucket: S3Bucket, proxy: FaultProxy, **others: object) -> S3Store:
    prefix = f"{uuid.uuid4().hex[:8]}/"
    return S3Store(s3_settings(bucket, prefix=prefix, endpoint_url=proxy.endpoint, **others))


def put(store: S3Store, name: str, *parts: bytes) -> StoredObject:
    writer = store.write(name, in_flight_bytes=4 * PART)
    for part in parts:
        writer.send(part)
    return writer.commit()


def inject(proxy: FaultProxy, operation: str, fault: Fault, times: int = EVER) -> None:
    proxy.inject(NamedFault("fault", (operation,), fault, times))


def told(error: pytest.ExceptionInfo[StoreError]) -> str:
    """What the operator reads: one line, with the store's name."""
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("s3://")
    return text


def goes_on(token: str) -> Fault:
    """A list that says it goes on, at this place."""
    mark = f"<IsTruncated>true</IsTruncated>{token}"
    return substitute("<IsTruncated>false</IsTruncated>", mark)


NEXT = "<NextContinuationToken>again</NextContinuationToken>"


@pytest.mark.parametrize(
    "fault",
    [
        HTML,
        says("<ListBucketResult/>"),
        says("<ListAllMyBucketsResult><Owner/></ListAllMyBucketsResult>"),
        says(""),
        substitute("<Name>.*?</Name>", "<Name>other</Name>"),
        substitute("<Name>.*?</Name>", ""),
        substitute("<Prefix>.*?</Prefix>", "<Prefix>elsewhere/</Prefix>"),
        substitute("<Prefix>.*?</Prefix>", ""),
        substitute("<IsTruncated>.*?</IsTruncated>", ""),
        goes_on(""),
        goes_on(NEXT),
        substitute("<Key>", "<Key>elsewhere/"),
        substitute("<Key>.*?</Key>", ""),
        substitute("<Size>.*?</Size>", "<Size>-1</Size>"),
        substitute("<Size>.*?</Size>", "<Size>many</Size>"),
        substitute("<Size>.*?</Size>", ""),
        substitute("<ETag>.*?</ETag>", ""),
        substitute("<LastModified>.*?</LastModified>", "<LastModified>soon</LastModified>"),
        substitute("<LastModified>.*?</LastModified>", f"<LastModified>{NO_ZONE}</LastModified>"),
        substitute("(<Contents>.*</Contents>)", r"\1\1"),
    ],
    ids=lambda fault: None,
)
def test_a_list_that_cannot_be_true_is_an_error_never_an_empty_store(
    store: S3Store, proxy: FaultProxy, fault: Fault
) -> None:
    put(store, NAME, b"hello")
    inject(proxy, "ListObjectsV2", fault)
    with pytest.raises(StoreError) as error:
        store.list_objects()
    assert "could not list the backups" in told(error)


def test_a_flipped_bit_in_a_list_is_at_worst_an_error(store: S3Store, proxy: FaultProxy) -> None:
    """What it does to a name nobody can tell; but nothing else than a list or an error comes."""
    put(store, NAME, b"hello")
    places = iter(range(0, 10**6, 7))
    size = 0

    def flip_next(answer: Answer) -> Answer:
        nonlocal size
        place, size = next(places), len(answer.body)
        bit = 1 << place % 8
        body = bytearray(answer.body)
        body[place % size] ^= bit
        return replace(answer, body=bytes(body))

    inject(proxy, "ListObjectsV2", changed(flip_next))
    while not size or proxy.met() * 7 < size:
        with contextlib.suppress(StoreError):
            store.list_objects()


def test_a_list_in_pages_of_one_is_whole(store: S3Store, proxy: FaultProxy) -> None:
    for name in (NAME, OTHER):
        put(store, name, b"hello")
    inject(proxy, "ListObjectsV2", pages_of_one_key())
    assert [one.name for one in store.list_objects()] == [NAME, OTHER]


@pytest.mark.parametrize(
    "fault",
    [
        HTML,
        without_header("ETag"),
        without_header("Last-Modified"),
        with_header("Last-Modified", "soon"),
        says(""),
    ],
    ids=lambda fault: None,
)
def test_a_head_without_etag_time_or_length_is_an_error(
    store: S3Store, proxy: FaultProxy, fault: Fault
) -> None:
    put(store, NAME, b"hello")
    inject(proxy, "HeadObject", fault)
    with pytest.raises(StoreError) as error:
        store.stat(NAME)
    assert "does not answer as S3 does" in told(error)


@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        ("UploadPart", without_header("ETag")),
        ("UploadPart", HTML),
        ("CreateMultipartUpload", HTML),
        ("CreateMultipartUpload", substitute("<UploadId>.*?</UploadId>", "")),
        ("UploadPartCopy", HTML),
        ("UploadPartCopy", substitute("<ETag>.*?</ETag>", "")),
        ("UploadPartCopy", says("<CopyPartResult/>")),
        ("CompleteMultipartUpload", HTML),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_step_of_an_upload_that_lacks_something_makes_no_object(
    store: S3Store, proxy: FaultProxy, operation: str, fault: Fault
) -> None:
    source = put(store, NAME, b"x" * PART)
    inject(proxy, operation, fault)
    with pytest.raises(StoreError) as error:
        copy_and_send(store, source)
    assert "Error:" not in told(error)
    proxy.heal()
    assert [one.name for one in store.list_objects()] == [NAME]


def copy_and_send(store: S3Store, source: StoredObject) -> None:
    writer = store.write(OTHER, in_flight_bytes=PART)
    try:
        writer.copy(source, 0, PART)
        writer.send(b"end")
        writer.commit()
    finally:
        writer.abort()


@pytest.mark.parametrize("operation", ["ListMultipartUploads", "ListParts"])
def test_a_page_instead_of_what_is_unfinished_is_an_error(
    store: S3Store, proxy: FaultProxy, operation: str
) -> None:
    writer = store.write(STAGED, in_flight_bytes=PART)
    writer.send(b"x" * PART)
    writer.leave()
    (upload,) = store.list_unfinished()
    inject(proxy, operation, HTML)
    with pytest.raises(StoreError) as error:
        store.list_unfinished() if operation == "ListMultipartUploads" else store.salvage(upload)
    told(error)
    proxy.heal()
    assert store.list_unfinished() == [upload]


def test_a_page_instead_of_a_removal_is_an_error(store: S3Store, proxy: FaultProxy) -> None:
    put(store, NAME, b"hello")
    inject(proxy, "DeleteObject", HTML)
    with pytest.raises(StoreError) as error:
        store.delete(NAME)
    told(error)


def test_a_page_instead_of_lifecycle_rules_is_no_bucket_without_rules(
    store: S3Store, proxy: FaultProxy
) -> None:
    inject(proxy, "GetLifecycle", HTML)
    with pytest.raises(StoreError) as error:
        read_lifecycle(store)
    told(error)


@pytest.mark.parametrize(
    "fault",
    [with_header("Content-Range", "bytes 1-5/12"), with_header("ETag", '"other"'), HTML],
    ids=lambda fault: None,
)
def test_bytes_of_another_place_or_object_are_an_error(
    store: S3Store, proxy: FaultProxy, fault: Fault
) -> None:
    found = put(store, NAME, b"hello, hello")
    inject(proxy, "GetObject", fault)
    with pytest.raises(StoreError) as error:
        store.read_range(found, 0, 5)
    told(error)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "ExpiredToken", "temporary keys have expired"),
        (403, "InvalidAccessKeyId", "does not know this access key"),
        (403, "RequestTimeTooSkewed", "set the clock"),
    ],
)
def test_the_reason_that_a_head_cannot_tell_is_asked_for(
    store: S3Store, proxy: FaultProxy, status: int, code: str, expected: str
) -> None:
    put(store, NAME, b"hello")
    for operation in ("HeadObject", "ListObjectsV2"):
        inject(proxy, operation, refuse(status, code))
    with pytest.raises(StoreError) as error:
        store.stat(NAME)
    assert expected in told(error)
    assert "S3 server?" not in told(error)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (says("", 503), "try again later"),
        (says("", 400), "may have expired"),
        (says("", 407), "https_proxy"),
        (says("", 307, Location="https://me:hunter2@s3.example.com/x"), "to s3.example.com"),
        (says("", 418), "is it an S3 server?"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_answer_without_s3_s_words_is_told_by_its_status(
    store: S3Store, proxy: FaultProxy, fault: Fault, expected: str
) -> None:
    inject(proxy, "ListObjectsV2", fault)
    with pytest.raises(StoreError) as error:
        store.list_objects()
    assert expected in told(error)
    assert "hunter2" not in told(error)


def test_no_operation_is_asked_for_whose_answers_nobody_checks(bucket: S3Bucket) -> None:
    client = checked(bucket.client)
    for name in ("get_paginator", "put_object_tagging", "copy_object", "delete_objects"):
        with pytest.raises(AttributeError, match=name):
            getattr(client, name)


# Servers with other manners


@pytest.mark.parametrize("changed_meanwhile", [False, True])
def test_a_412_for_what_is_as_it_was_is_no_replacement(
    store: S3Store, proxy: FaultProxy, changed_meanwhile: bool
) -> None:
    source = put(store, NAME, b"x" * PART, b"y" * PART)
    if changed_meanwhile:
        store.delete(NAME)
        put(store, NAME, b"z" * PART, b"y" * PART)
    proxy.behave_as(swift())
    writer = store.write(OTHER, in_flight_bytes=PART)
    for place in range(2):
        writer.copy(source, place * PART, PART)
    if changed_meanwhile:
        with pytest.raises(ObjectChanged):
            writer.commit()
        writer.abort()
        return
    found = writer.commit()
    assert store.read_range(found, 0, found.size) == b"x" * PART + b"y" * PART
    assert not store.copies_are_sure


def test_a_read_that_cannot_be_pinned_is_pinned_by_its_answer(
    store: S3Store, proxy: FaultProxy
) -> None:
    def refuse_pin(request: Request, pass_on: PassOn) -> Answer | None:
        if any(name.lower() == "if-match" for name in request.headers):
            return refuse(412, "PreconditionFailed")(request, pass_on)
        return pass_on(request)

    found, before = put(store, NAME, b"hello"), proxy.seen["GetObject"]
    proxy.behave_as([("GetObject", refuse_pin)])
    assert store.read_range(found, 0, 5) == b"hello"
    assert store.read_range(found, 1, 3) == b"ell"
    assert proxy.seen["GetObject"] - before == 3  # it is asked for with a pin but once
    store.delete(NAME)
    with pytest.raises(ObjectMissing):
        store.read_range(found, 0, 5)
    put(store, NAME, b"other")
    with pytest.raises(ObjectChanged):
        store.read_range(found, 0, 5)


def test_an_object_that_is_there_and_never_given_was_not_replaced(
    store: S3Store, proxy: FaultProxy
) -> None:
    found = put(store, NAME, b"hello")
    inject(proxy, "GetObject", refuse(412, "PreconditionFailed"))
    with pytest.raises(ReadRefused) as error:
        store.read_range(found, 0, 5)
    assert "replaced" not in told(error)
