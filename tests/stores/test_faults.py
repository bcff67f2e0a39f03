"""Whole runs against a store that misbehaves: each ends clean, and the next one works.

Each fault meets the kind of run that shows it best; `tests/support/fault_rig.py` run as a script
tries every kind.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import S3Bucket
from tests.support.fault_proxy import FAULTS, FaultProxy
from tests.support.fault_rig import LARGE_BYTES, SMALL_BYTES, Rig, impatient, judge
from tests.support.interruptions import new_bucket
from tests.support.s3_server import S3Server

# Fault -> the run that meets it, and its exit code.
RUNS = {
    "connection reset before each request, once": ("incremental", 0),
    "connection reset after each request, once": ("first", 0),
    "connection closed without an answer, once": ("resumed", 0),
    "every connection is reset": ("verify", 1),
    "every connection closes without an answer": ("prune", 1),
    "a part stalls, once": ("first", 0),
    "lists stall for ever": ("restore", 1),
    "answers are cut in the middle, once": ("incremental", 0),
    "lists are always cut": ("prune", 1),
    "archives are always cut": ("restore", 1),
    "archives come one byte short": ("verify", 1),
    "archives come with a flipped bit": ("restore", 1),
    "a part arrives with a flipped bit, once": ("first", 0),
    "parts always arrive with a flipped bit": ("first", 1),
    "503 once, then well": ("prune", 0),
    "503 for ever": ("first", 1),
    "503 to writes for ever": ("incremental", 1),
    "503 without S3's words": ("verify", 1),
    "500 once, then well": ("restore", 0),
    "500 for ever": ("prune", 1),
    "an error inside of 200, once": ("incremental", 0),
    "an error inside of every 200": ("restore", 1),
    "an error inside of each copy's 200": ("incremental", 1),
    "lost answer to Create": ("first", 0),
    "lost answer to a part": ("first", 0),
    "lost answer to a copy": ("incremental", 0),
    "lost answer to Complete": ("first", 0),
    "answers to Complete are always lost": ("first", 0),
    "lost answer to Abort": ("resumed", 0),
    "lost answer to Delete": ("prune", 0),
    "empty answers": ("verify", 1),
    "empty answer to Complete": ("first", 0),
    "409 to Complete": ("first", 1),
    "412 to each copy": ("incremental", 0),
    "412 to each read": ("restore", 1),
    "expired token": ("verify", 1),
    "the token expires on the way": ("first", 1),
    "abort says NoSuchKey": ("resumed", 0),
    "abort says MethodNotAllowed": ("resumed", 0),
    "301 to another region": ("restore", 1),
    "307 to another host": ("first", 1),
    "HTML with 200": ("prune", 1),
    "HTML with 200 to all but lists": ("first", 1),
    "HTML that is no XML": ("verify", 1),
    "no ETag": ("first", 1),
    "a date that is none": ("first", 1),
    "pages of one key": ("prune", 0),
    "a list of another prefix": ("incremental", 1),
    "an empty list": ("prune", 1),
}


@pytest.fixture(scope="module")
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.endpoint) as running, impatient():
        yield running


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> Iterator[S3Bucket]:
    client = s3_server.client()
    made = new_bucket(s3_server.endpoint, s3_server.access_key, s3_server.secret_key, client)
    yield made
    client.delete_bucket(Bucket=made.bucket)
    client.close()


@pytest.fixture
def rig(tmp_path: Path, bucket: S3Bucket, proxy: FaultProxy) -> Iterator[Rig]:
    here = tmp_path / uuid.uuid4().hex[:12]
    here.mkdir()
    yield Rig.make(here, bucket, proxy)
    proxy.heal()


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_clean_and_the_next_run_works(rig: Rig, name: str) -> None:
    kind, code = RUNS[name]
    size = LARGE_BYTES if kind in ("incremental", "resumed") else SMALL_BYTES
    verdict = judge(rig, kind, FAULTS[name], size)
    assert verdict.wrong == ()
    assert verdict.outcome.code == code, verdict.outcome.said
    assert verdict.met, "the run never met it"


def test_an_empty_list_stops_a_backup_where_one_was_seen(rig: Rig) -> None:
    verdict = judge(rig, "incremental", FAULTS["an empty list"], LARGE_BYTES)
    assert verdict.wrong == ()
    assert (verdict.outcome.code, "not to be believed" in verdict.outcome.said) == (1, True)
