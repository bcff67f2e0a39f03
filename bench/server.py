"""The S3 server of a bench: fresh buckets, what they hold, and waiting until it is quiet."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.s3_server import S3Server

# Of what the server keeps objects in, larger than the tests have them: it pauses for about a second
# whenever one is full, which in a real one is seldom.
VOLUME_MEBIBYTES = 1024
_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK_SECONDS = 0.5
# Less of one core than this, and what the server does disturbs nobody.
_QUIET_SHARE = 0.04
_QUIET_LOOKS = 2
_MOST_SECONDS = 120
# The server deletes objects in the background, every few seconds.
_DELETED_AFTER_SECONDS = 5


def process_seconds(process_id: int) -> float:
    """CPU time that a process has taken so far. See proc(5)."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def wait_until_quiet(server: S3Server) -> None:
    """Return once what was written is on disk and the server has nothing more to do.

    Otherwise whoever comes next would pay for what the one before left to be done. Gives up
    after two minutes, as on a machine where others write there may be no such moment.
    """
    os.sync()
    give_up_at = time.monotonic() + _MOST_SECONDS
    looks = 0
    while looks < _QUIET_LOOKS and time.monotonic() < give_up_at:
        before = process_seconds(server.process_id)
        time.sleep(_LOOK_SECONDS)
        spent = process_seconds(server.process_id) - before
        looks = looks + 1 if spent < _QUIET_SHARE * _LOOK_SECONDS else 0


def give_room_back(server: S3Server) -> None:
    """Have the room of deleted objects given back to the disk, and return when that is done."""
    time.sleep(_DELETED_AFTER_SECONDS)
    server.vacuum()
    wait_until_quiet(server)


@contextlib.contextmanager
def fresh_bucket(client: Any, name: str) -> Iterator[str]:
    """An empty bucket, gone afterwards with all that is in it."""
    client.create_bucket(Bucket=name)
    try:
        yield name
    finally:
        for keys in _pages(client, name):
            client.delete_objects(
                Bucket=name, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
            )
        client.delete_bucket(Bucket=name)


def bucket_bytes(client: Any, bucket: str, prefix: str = "") -> int:
    """Of all objects together."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return sum(found["Size"] for page in pages for found in page.get("Contents", []))


def folder_bytes(folder: Path) -> int:
    """Of all files below a folder together."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _pages(client: Any, bucket: str) -> Iterator[list[str]]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        if found := page.get("Contents"):
            yield [one["Key"] for one in found]
