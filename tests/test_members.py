"""Members of an archive and what is known of them before they are asked for."""

from __future__ import annotations

import hashlib

from backup_tasks.chunk_reader import ReadChunk
from backup_tasks.manifest import Entry
from backup_tasks.members import FoundMember, HashesAhead, MemberStream
from backup_tasks.selection import WantedEntry
from backup_tasks.tarstream import Member, encode_headers

CONTENT = b"c" * 512
OTHER = b"o" * 512
HEADERS = encode_headers(Member(b"a", "file", size=512, stored=512, mtime_ns=1))
RAW = HEADERS + CONTENT + OTHER


def found(sha256: str, span: int) -> FoundMember:
    """The one member of a chunk, as the manifest says that it stands there."""
    entry = Entry(path="a", type="file", size=512, sha256=sha256, chunk=0, span=span)
    wanted = WantedEntry(entry, "a")
    chunk = HashesAhead(iter([wanted])).prepare(0)(ReadChunk(0, RAW))
    return next(MemberStream(iter([chunk])).members(iter([wanted])))


def test_a_content_with_the_right_hash_need_not_be_hashed_again() -> None:
    assert found(hashlib.sha256(CONTENT).hexdigest(), 0).is_checked


def test_a_content_with_a_wrong_hash_is_not_taken_for_checked() -> None:
    assert not found(hashlib.sha256(OTHER).hexdigest(), 0).is_checked


def test_the_hash_of_other_bytes_than_the_members_vouches_for_nothing() -> None:
    """A manifest may say that the content stands elsewhere than the headers do."""
    span = len(HEADERS) + 1024
    one = found(hashlib.sha256(OTHER).hexdigest(), span)
    assert b"".join(one.pieces) == CONTENT
    assert not one.is_checked


def test_places_beyond_the_chunk_are_not_hashed() -> None:
    assert not found(hashlib.sha256(CONTENT).hexdigest(), 10**6).is_checked
    assert not found(hashlib.sha256(CONTENT).hexdigest(), 1).is_checked


def test_no_byte_is_hashed_twice_whatever_the_manifest_says() -> None:
    entries = [Entry(path=f"{n}", type="file", size=512, chunk=0) for n in range(3)]
    wanted = iter([WantedEntry(entry, entry.path) for entry in entries])
    chunk = HashesAhead(wanted).prepare(0)(ReadChunk(0, RAW + RAW))
    assert len(chunk.hashes) == 1
