"""Promises of small objects on S3 servers that know no conditions, and where answers are lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from backup_tasks.errors import ObjectChanged, ObjectExists, ReadRefused, StoreError
from backup_tasks.stores.s3 import small_objects as s3_small
from backup_tasks.stores.s3.answers import _CheckedClient
from backup_tasks.stores.s3.store import S3Store
from tests.conftest import S3Bucket
from tests.support.settings import s3_settings

NAME = "note.json"
CONDITIONS = ("IfMatch", "IfNoneMatch")
Ask = Callable[..., Any]


def refuse(code: str, status: int) -> ClientError:
    return ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject"
    )


@pytest.fixture
def store(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    monkeypatch.setattr(s3_small, "_SETTLING_SECONDS", 0.01)
    return S3Store(s3_settings(s3_bucket))


@pytest.fixture(params=["says so", "says NotImplemented", "says nothing"])
def ignorant(
    request: pytest.FixtureRequest, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> S3Store:
    """A store on a server that knows no conditions of a PUT."""
    really: Ask = _CheckedClient._ask

    def ask(self: _CheckedClient, operation: str, **asked: Any) -> Any:
        if operation == "put_object" and any(asked.pop(name, "") for name in CONDITIONS):
            if request.param == "says so":
                raise refuse("501", 501)
            if request.param == "says NotImplemented":
                raise refuse("NotImplemented", 400)
        return really(self, operation, **asked)

    monkeypatch.setattr(_CheckedClient, "_ask", ask)
    return store


def test_a_server_without_conditions_takes_small_objects(ignorant: S3Store) -> None:
    first = ignorant.put_small(NAME, b"first", replaces=None)
    assert ignorant.read_small(NAME, 10)[0] == b"first"
    second = ignorant.put_small(NAME, b"second", replaces=first)
    assert ignorant.read_small(NAME, 10) == (b"second", ignorant.stat(NAME))
    assert second.etag != first.etag


def test_who_puts_later_on_a_server_without_conditions_is_the_one_who_succeeds(
    ignorant: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = S3Store(ignorant._settings)

    def meanwhile(_: float) -> None:
        monkeypatch.setattr(s3_small.time, "sleep", lambda _: None)
        other.access.client.put_object(
            Bucket=other.bucket, Key=other.access.key(NAME), Body=b"other"
        )

    monkeypatch.setattr(s3_small.time, "sleep", meanwhile)
    with pytest.raises(ObjectExists):
        ignorant.put_small(NAME, b"first", replaces=None)
    assert ignorant.read_small(NAME, 10)[0] == b"other"


def test_a_server_that_says_it_knows_no_conditions_is_looked_at_instead(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = store.put_small(NAME, b"first", replaces=None)
    second = store.put_small(NAME, b"second", replaces=first)
    really: Ask = _CheckedClient._ask

    def ask(self: _CheckedClient, operation: str, **asked: Any) -> Any:
        if operation == "put_object" and any(asked.pop(name, "") for name in CONDITIONS):
            raise refuse("NotImplemented", 501)
        return really(self, operation, **asked)

    monkeypatch.setattr(_CheckedClient, "_ask", ask)
    with pytest.raises(ObjectExists):
        store.put_small(NAME, b"third", replaces=None)
    with pytest.raises(ObjectChanged):
        store.put_small(NAME, b"third", replaces=first)
    store.put_small(NAME, b"third", replaces=second)
    assert store.read_small(NAME, 10)[0] == b"third"


@pytest.mark.parametrize("status", [409, 412])
def test_an_answer_that_was_lost_is_no_stranger(
    store: S3Store, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """botocore repeats the request, whose condition does not hold any more: by our own object."""
    really: Ask = _CheckedClient._ask

    def ask(self: _CheckedClient, operation: str, **asked: Any) -> Any:
        answer = really(self, operation, **asked)
        if operation == "put_object":
            raise refuse("PreconditionFailed", status)
        return answer

    monkeypatch.setattr(_CheckedClient, "_ask", ask)
    first = store.put_small(NAME, b"first", replaces=None)
    assert store.put_small(NAME, b"second", replaces=first) == store.stat(NAME)


def test_a_refusal_is_explained(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_small(NAME, b"first", replaces=None)

    def ask(self: _CheckedClient, operation: str, **asked: Any) -> Any:
        error = refuse("AccessDenied", 403)
        error.operation_name = {"put_object": "PutObject", "get_object": "GetObject"}[operation]
        raise error

    monkeypatch.setattr(_CheckedClient, "_ask", ask)
    with pytest.raises(StoreError, match=r"could not write note.json: no permission.*s3:PutObject"):
        store.put_small(NAME, b"second", replaces=None)
    with pytest.raises(ReadRefused, match=r"could not read note.json: no permission"):
        store.read_small(NAME, 10)
