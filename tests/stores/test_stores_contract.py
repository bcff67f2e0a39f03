"""What every store promises: the same tests, run on two S3 servers and on a directory."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_tasks.errors import ObjectChanged, ObjectExists, ObjectMissing, StoreError
from backup_tasks.format.archive_names import CLAIM_NAME
from backup_tasks.stores.base import ArchiveWriter, PartBody, Store, StoredObject, Unfinished
from backup_tasks.stores.directory import DirectoryStore
from backup_tasks.stores.directory_files import partial_path
from backup_tasks.stores.s3.store import S3Store
from backup_tasks.stores.s3.writer import S3Writer
from tests.conftest import S3Bucket
from tests.support.settings import s3_settings

MIB = 2**20
PART = 5 * MIB
NAME = "2025-06-12_0200-backup.tar.gz"
STAGED = f"{NAME}.0123abcd.partial"
OTHER = "2025-06-13_0200-backup.tar.gz"

# Opens a store with this prefix (for a directory: this folder) in the test's own place.
Opener = Callable[[str], Store]


@pytest.fixture(params=["s3", "moto", "directory"])
def open_at(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    if request.param == "directory":
        return lambda prefix: DirectoryStore(tmp_path / prefix, makeable_in=tmp_path)
    bucket: S3Bucket = request.getfixturevalue(f"{request.param}_bucket")
    return lambda prefix: S3Store(s3_settings(bucket, prefix=prefix))


@pytest.fixture
def store(open_at: Opener) -> Store:
    return open_at("backups/")


def put(store: Store, name: str, *parts: PartBody) -> StoredObject:
    writer = store.write(name, in_flight_bytes=64 * MIB)
    for part in parts:
        writer.send(part)
    return writer.commit()


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that differ everywhere, and between seeds."""
    block = bytes((seed * 7 + i * i + (i >> 8)) % 251 for i in range(65_521))
    return (block * (size // len(block) + 1))[:size]


def content_of(store: Store, found: StoredObject) -> bytes:
    return store.read_range(found, 0, found.size)


def test_write_keeps_many_parts_in_the_order_of_the_calls(store: Store) -> None:
    parts = [noise(PART + 1000 * i, seed=i) for i in range(9)] + [b"the end"]
    put(store, NAME, *parts)
    assert content_of(store, store.stat(NAME)) == b"".join(parts)


def test_commit_returns_what_list_and_stat_show(store: Store) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    found = put(store, NAME, b"hello")
    assert (found.name, found.size) == (NAME, 5)
    assert before < found.modified_at < datetime.now(UTC) + timedelta(seconds=5)
    # S3 lists a time to the second, or finer, as the server likes.
    for seen in (store.stat(NAME), *store.list_objects()):
        assert (seen.name, seen.size, seen.etag) == (found.name, found.size, found.etag)
    assert len(store.list_objects()) == 1


def test_write_takes_bytes_bytearrays_and_maps(store: Store) -> None:
    first, second, third = noise(PART, 1), bytearray(noise(PART, 2)), noise(PART, 3)
    with tempfile.TemporaryFile() as file:
        file.write(third)
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    put(store, NAME, first, second, mapped)
    assert content_of(store, store.stat(NAME)) == first + bytes(second) + third
    mapped.close()  # fails while anybody still looks into it


def test_write_of_nothing_makes_an_empty_object(store: Store) -> None:
    assert put(store, NAME).size == 0
    assert content_of(store, store.stat(NAME)) == b""


def test_write_takes_a_part_larger_than_all_the_memory_it_may_use(store: Store) -> None:
    writer = store.write(NAME, in_flight_bytes=MIB)
    parts = [noise(PART, i) for i in range(4)]
    for part in parts:
        writer.send(part)
    assert content_of(store, writer.commit()) == b"".join(parts)


def test_nothing_is_listed_before_the_commit(store: Store) -> None:
    writer = store.write(NAME, in_flight_bytes=64 * MIB)
    writer.send(noise(PART))
    writer.send(b"end")
    assert store.list_objects() == []
    with pytest.raises(ObjectMissing):
        store.stat(NAME)
    writer.commit()
    assert [found.name for found in store.list_objects()] == [NAME]
    assert store.list_unfinished() == []


def test_abort_leaves_nothing_and_may_be_called_twice(store: Store) -> None:
    writer = store.write(NAME, in_flight_bytes=64 * MIB)
    for _ in range(6):
        writer.send(noise(PART))
    writer.abort()
    writer.abort()
    assert store.list_objects() == []
    assert store.list_unfinished() == []


def test_abort_after_the_commit_leaves_the_object(store: Store) -> None:
    writer = store.write(NAME, in_flight_bytes=64 * MIB)
    writer.send(b"hello")
    writer.commit()
    writer.abort()
    assert content_of(store, store.stat(NAME)) == b"hello"


def test_nothing_can_be_sent_after_an_abort(store: Store) -> None:
    writer = store.write(NAME, in_flight_bytes=64 * MIB)
    writer.abort()
    with pytest.raises(StoreError):
        writer.send(b"late")
    with pytest.raises(StoreError):
        writer.commit()
    assert store.list_objects() == []


def test_write_refuses_a_name_that_is_taken(store: Store) -> None:
    put(store, NAME, b"the first")
    with pytest.raises(ObjectExists, match=NAME):
        store.write(NAME, in_flight_bytes=64 * MIB)
    assert content_of(store, store.stat(NAME)) == b"the first"
    assert store.list_unfinished() == []


def test_commit_refuses_a_name_that_was_taken_in_the_meantime(store: Store) -> None:
    slow = store.write(NAME, in_flight_bytes=64 * MIB)
    slow.send(b"the second")
    put(store, NAME, b"the first")
    with pytest.raises(ObjectExists, match=NAME):
        slow.commit()
    slow.abort()
    assert content_of(store, store.stat(NAME)) == b"the first"
    assert store.list_unfinished() == []


@pytest.mark.parametrize(
    ("start", "length"), [(0, 1), (0, 0), (PART - 1, 2), (3, PART), (2 * PART + 2, 1)]
)
def test_read_range_gives_exactly_what_was_asked_for(store: Store, start: int, length: int) -> None:
    parts = [noise(PART, 1), noise(PART, 2), b"end"]
    found = put(store, NAME, *parts)
    assert store.read_range(found, start, length) == b"".join(parts)[start : start + length]


def test_read_range_beyond_the_end_is_an_error(store: Store) -> None:
    found = put(store, NAME, b"hello")
    for start in (3, 5, 100):
        with pytest.raises(StoreError, match=NAME):
            store.read_range(found, start, 10)


def test_read_range_notices_that_the_object_was_replaced(store: Store) -> None:
    old = put(store, NAME, b"the first")
    store.delete(NAME)
    put(store, NAME, b"a second")
    with pytest.raises(ObjectChanged, match=NAME):
        store.read_range(old, 0, 5)


def test_what_is_missing_is_named(store: Store) -> None:
    found = put(store, NAME, b"hello")
    store.delete(NAME)
    with pytest.raises(ObjectMissing, match=NAME):
        store.stat(NAME)
    with pytest.raises(ObjectMissing, match=NAME):
        store.read_range(found, 0, 5)


def test_copied_ranges_hold_the_same_bytes_between_sent_ones(store: Store) -> None:
    body = noise(3 * PART, 4)
    old = put(store, NAME, body[: 2 * PART], body[2 * PART :])
    writer = store.write(OTHER, in_flight_bytes=64 * MIB)
    fresh = noise(PART, 9)
    writer.copy(old, 1000, PART)
    writer.send(fresh)
    writer.copy(old, PART + 17, PART + 5)
    writer.send(b"the end")
    new = writer.commit()
    expected = body[1000 : 1000 + PART] + fresh + body[PART + 17 : 2 * PART + 22] + b"the end"
    assert content_of(store, new) == expected
    assert content_of(store, old) == body


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_withdrawn_copies_leave_their_place_to_what_is_copied_and_sent_instead(
    store: Store, kept: int
) -> None:
    body = noise(6 * PART, 4)
    old = put(store, NAME, body)
    writer = store.write(OTHER, in_flight_bytes=64 * MIB)
    for number in range(6):  # more than are copied at once
        writer.copy(old, number * PART, PART)
    writer.withdraw(kept * PART)
    writer.copy(old, 17, PART)
    writer.send(b"the end")
    expected = body[: kept * PART] + body[17 : 17 + PART] + b"the end"
    assert content_of(store, writer.commit()) == expected


def test_withdrawing_a_copy_hides_no_trouble_with_it(store: Store) -> None:
    old = put(store, NAME, noise(PART, 1))
    store.delete(NAME)
    writer = store.write(OTHER, in_flight_bytes=64 * MIB)
    with pytest.raises(ObjectMissing, match=NAME):
        copy_and_withdraw(writer, old)
    writer.abort()
    assert store.list_objects() == []


def copy_and_withdraw(writer: ArchiveWriter, source: StoredObject) -> None:
    writer.copy(source, 0, source.size)
    while True:  # until it has been tried
        writer.check()
        writer.withdraw(source.size)


def test_copy_notices_that_the_source_was_replaced_or_deleted(store: Store) -> None:
    old = put(store, NAME, noise(PART, 1))
    store.delete(NAME)
    for error in (ObjectMissing, ObjectChanged):
        writer = store.write(OTHER, in_flight_bytes=64 * MIB)
        with pytest.raises(error, match=NAME):
            copy_and_commit(writer, old)
        writer.abort()
        if error is ObjectMissing:
            put(store, NAME, noise(PART, 2))
    assert [found.name for found in store.list_objects()] == [NAME]


def copy_and_commit(writer: ArchiveWriter, source: StoredObject) -> None:
    writer.copy(source, 0, source.size)
    writer.commit()


def test_unfinished_writes_are_listed_and_can_be_ended(
    store: Store, request: pytest.FixtureRequest
) -> None:
    writer = store.write(NAME, in_flight_bytes=64 * MIB)
    writer.send(noise(PART))
    put(store, OTHER, b"whole")
    before = datetime.now(UTC) - timedelta(minutes=1)
    (found,) = store.list_unfinished()
    assert (found.name, found.upload_id) == (NAME, writer.upload_id)
    after = datetime.now(UTC) + timedelta(minutes=1)
    # moto 5.2 lists every upload as begun on one day of 2010.
    assert before < found.started_at < after or request.node.callspec.params["open_at"] == "moto"
    store.end_unfinished(found)
    store.end_unfinished(found)
    assert store.list_unfinished() == []
    assert [one.name for one in store.list_objects()] == [OTHER]
    with pytest.raises(StoreError):
        writer.commit()
    writer.abort()


def begin(store: Store, name: str, *parts: bytes) -> Unfinished:
    """Send parts, end as a lost connection would, and find what is left."""
    writer = store.write(name, in_flight_bytes=64 * MIB)
    for part in parts:
        writer.send(part)
    wait_until_arrived(store, writer)
    writer.leave()
    writer.leave()
    with pytest.raises(StoreError):
        writer.send(b"late")
    (found,) = [one for one in store.list_unfinished() if one.name == name]
    assert found.upload_id == writer.upload_id
    return found


def wait_until_arrived(store: Store, writer: ArchiveWriter) -> None:
    if isinstance(writer, S3Writer):
        with writer._changed:
            assert writer._changed.wait_for(lambda: not writer._under_way, timeout=60)
    writer.check()


def test_salvage_makes_what_arrived_an_object(store: Store) -> None:
    parts = [noise(PART + i, i) for i in range(3)]
    upload = begin(store, STAGED, *parts)
    assert store.list_objects() == []
    found = store.salvage(upload)
    assert found is not None
    assert (found.name, found.size) == (STAGED, sum(map(len, parts)))
    assert content_of(store, found) == b"".join(parts)
    assert store.list_unfinished() == []
    again = store.salvage(upload)
    assert again is None or again == found
    assert [(one.name, one.etag) for one in store.list_objects()] == [(STAGED, found.etag)]


def test_salvaged_bytes_can_be_copied(store: Store) -> None:
    found = store.salvage(begin(store, STAGED, noise(PART, 1), noise(PART, 2)))
    assert found is not None
    writer = store.write(NAME, in_flight_bytes=MIB)
    writer.copy(found, 7, PART)
    writer.send(b"end")
    body = noise(PART, 1) + noise(PART, 2)
    assert content_of(store, writer.commit()) == body[7 : 7 + PART] + b"end"


def test_salvage_of_nothing_leaves_nothing(store: Store) -> None:
    assert store.salvage(begin(store, STAGED)) is None
    assert store.list_unfinished() == []
    assert store.list_objects() == []


def test_salvage_finds_what_an_earlier_one_made(store: Store) -> None:
    """The server did it, and the answer was lost."""
    upload = begin(store, STAGED, noise(PART))
    found = store.salvage(upload)
    assert found is not None
    if isinstance(store, DirectoryStore):  # killed between the name and the end of the old one
        os.link(store.folder / STAGED, partial_path(store.folder, STAGED, upload.upload_id))
    else:
        assert store.salvage(upload) == found
    for left in store.list_unfinished():
        assert store.salvage(left) == found
    assert store.list_unfinished() == []
    assert [one.name for one in store.list_objects()] == [STAGED]


def test_commit_may_give_another_name_where_the_store_says_so(store: Store) -> None:
    writer = store.write(STAGED, in_flight_bytes=MIB)
    writer.send(b"hello")
    if not store.can_rename:
        with pytest.raises(ValueError, match="key"):
            writer.commit(NAME)
        writer.abort()
        return
    found = writer.commit(NAME)
    assert (found.name, content_of(store, found)) == (NAME, b"hello")
    assert store.stat(NAME) == found
    assert [one.name for one in store.list_objects()] == [NAME]
    assert store.list_unfinished() == []


def test_check_tells_what_went_wrong_in_the_background(store: Store) -> None:
    old = put(store, NAME, noise(PART, 1))
    store.delete(NAME)
    writer = store.write(OTHER, in_flight_bytes=MIB)
    with pytest.raises(ObjectMissing, match=NAME):
        copy_and_check(store, writer, old)
    writer.abort()


def copy_and_check(store: Store, writer: ArchiveWriter, source: StoredObject) -> None:
    writer.copy(source, 0, PART)
    wait_until_arrived(store, writer)


def test_delete_removes_the_object_and_may_be_repeated(store: Store) -> None:
    put(store, NAME, b"hello")
    put(store, OTHER, b"other")
    store.delete(NAME)
    store.delete(NAME)
    assert [found.name for found in store.list_objects()] == [OTHER]


def test_list_is_sorted_by_name(store: Store) -> None:
    for name in (OTHER, "a", NAME, "B"):
        put(store, name, b"x")
    assert [one.name for one in store.list_objects()] == sorted([NAME, OTHER, "a", "B"])


def test_an_unused_store_lists_nothing(store: Store) -> None:
    assert store.list_objects() == []
    assert store.list_unfinished() == []


def test_stores_with_other_prefixes_do_not_see_each_other(open_at: Opener) -> None:
    first, second, deeper = open_at("a/"), open_at("a-b/"), open_at("a/b/")
    for store, content in ((first, b"1"), (second, b"2"), (deeper, b"3")):
        put(store, NAME, content)
        store.write(OTHER, in_flight_bytes=MIB).send(b"unfinished")
    for store, content in ((first, b"1"), (second, b"2"), (deeper, b"3")):
        (found,) = store.list_objects()
        assert content_of(store, found) == content
        assert [one.name for one in store.list_unfinished()] == [OTHER]
    first.delete(NAME)
    assert [one.name for one in second.list_objects()] == [NAME]


def test_names_with_spaces_and_letters_of_the_world_work(store: Store) -> None:
    name = "grüße & co +1%20=ü.tar.gz"
    old = put(store, name, noise(PART))
    writer = store.write(NAME, in_flight_bytes=MIB)
    writer.copy(old, 0, old.size)
    assert content_of(store, writer.commit()) == noise(PART)
    assert [one.name for one in store.list_objects()] == sorted([name, NAME])


@pytest.mark.parametrize("prefix", ["", "grüße & co +1%20=ü/", "a/b c/"])
def test_prefixes_of_every_kind_work(open_at: Opener, tmp_path: Path, prefix: str) -> None:
    (tmp_path / "a").mkdir()
    store = open_at(prefix)
    assert store.list_objects() == []
    writer = store.write(NAME, in_flight_bytes=MIB)
    assert [one.name for one in store.list_unfinished()] == [NAME]
    writer.send(b"hello")
    writer.commit()
    (found,) = store.list_objects()
    assert content_of(store, found) == b"hello"


def test_no_descriptor_is_left_open(store: Store) -> None:
    put(store, "warm", b"up")
    before = len(os.listdir("/proc/self/fd"))
    for i in range(5):
        found = put(store, f"n{i}", b"hello")
        store.read_range(found, 0, 5)
        store.write(f"m{i}", in_flight_bytes=MIB).abort()
    # The client of S3 keeps a few connections open for the next request.
    assert len(os.listdir("/proc/self/fd")) <= before + 4


def test_a_store_on_another_machine_tells_the_time_by_its_own_clock(store: Store) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    told = store.store_time()
    if isinstance(store, DirectoryStore):
        assert told is None
    else:
        assert told is not None
        assert before <= told <= datetime.now(UTC)


# --- small objects


SMALL = "note.json"


def test_a_small_object_comes_back_with_what_it_is(store: Store) -> None:
    with pytest.raises(ObjectMissing, match=SMALL):
        store.read_small(SMALL, 100)
    before = datetime.now(UTC) - timedelta(seconds=5)
    written = store.put_small(SMALL, b"first", replaces=None)
    content, found = store.read_small(SMALL, 5)
    assert (content, found.name, found.size, found.etag) == (b"first", SMALL, 5, written.etag)
    assert before < written.modified_at < datetime.now(UTC) + timedelta(seconds=5)
    with pytest.raises(StoreError, match="larger than 4 bytes"):
        store.read_small(SMALL, 4)


def test_a_small_object_is_made_only_where_there_is_none(store: Store) -> None:
    store.put_small(SMALL, b"first", replaces=None)
    with pytest.raises(ObjectExists, match=SMALL):
        store.put_small(SMALL, b"second", replaces=None)
    assert store.read_small(SMALL, 100)[0] == b"first"


def test_a_small_object_replaces_only_the_one_that_was_meant(store: Store) -> None:
    first = store.put_small(SMALL, b"first", replaces=None)
    second = store.put_small(SMALL, b"2nd", replaces=first)
    assert store.read_small(SMALL, 100) == (b"2nd", store.stat(SMALL))
    with pytest.raises(ObjectChanged, match=SMALL):
        store.put_small(SMALL, b"third", replaces=first)
    third = store.put_small(SMALL, b"third", replaces=store.stat(SMALL))
    assert len({first.etag, second.etag, third.etag}) == 3
    store.delete(SMALL)
    with pytest.raises(ObjectChanged, match=SMALL):
        store.put_small(SMALL, b"fourth", replaces=third)
    with pytest.raises(ObjectMissing):
        store.stat(SMALL)


def test_of_many_who_put_a_small_object_at_once_one_succeeds(open_at: Opener) -> None:
    stores = [open_at("backups/") for _ in range(6)]
    stores[0].put_small("warm", b"up", replaces=None)  # the clients are made one by one

    def put_all(replaces: StoredObject | None, word: bytes) -> list[StoredObject]:
        def one(number: int) -> StoredObject | None:
            try:
                return stores[number].put_small(SMALL, b"%s %d" % (word, number), replaces=replaces)
            except (ObjectExists, ObjectChanged):
                return None

        with ThreadPoolExecutor(len(stores)) as pool:
            return [done for done in pool.map(one, range(len(stores))) if done]

    (made,) = put_all(None, b"made")
    (replaced,) = put_all(made, b"replaced")
    assert stores[0].stat(SMALL).etag == replaced.etag


def test_the_claim_is_in_no_list_of_objects(store: Store) -> None:
    store.put_small(CLAIM_NAME, b"{}", replaces=None)
    put(store, NAME, b"hello")
    assert [one.name for one in store.list_objects()] == [NAME]
    assert store.list_unfinished() == []
    assert store.stat(CLAIM_NAME).size == 2


def test_places_tell_stores_apart_and_not_ways_to_write_them(open_at: Opener) -> None:
    assert open_at("a/").place == open_at("a/").place
    assert len({open_at(prefix).place for prefix in ("a/", "a/b/", "b/")}) == 3
