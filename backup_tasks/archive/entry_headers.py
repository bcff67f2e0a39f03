"""Makes tar headers of a walk's entries, and notes where the entries stand."""

from __future__ import annotations

import os
from collections.abc import Mapping

from backup_tasks.format.manifest import Entry
from backup_tasks.format.tar_headers import Member, SparseMap, encode_headers, encode_sparse_map
from backup_tasks.snapshot.source_file import SourceFile


def set_place(entry: Entry, place: tuple[int, int], span: int) -> None:
    """Note where an entry begins, and how many raw bytes it takes."""
    entry.chunk, entry.offset = place
    entry.span = 0
    if entry.raw_span != span:
        entry.span = span


def file_headers(entry: Entry, source: SourceFile, xattrs: Mapping[str, bytes]) -> bytes:
    """The headers of a regular file, with the map of its parts if it is sparse."""
    sparse = source.segments if source.is_sparse else None
    headers = encode_headers(member_of(entry, xattrs, source.stored_bytes, sparse))
    return headers + encode_sparse_map(sparse) if sparse is not None else headers


def member_of(
    entry: Entry,
    xattrs: Mapping[str, bytes],
    stored_bytes: int = 0,
    sparse: SparseMap | None = None,
) -> Member:
    """The tar member of an entry. `stored_bytes` is without the sparse map, which is added."""
    map_bytes = len(encode_sparse_map(sparse)) if sparse is not None else 0
    return Member(
        path=entry.name.encode("utf-8", "surrogateescape"),
        kind=entry.type,
        size=entry.size,
        stored=stored_bytes + map_bytes,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        user=entry.user.encode("utf-8", "surrogateescape"),
        group=entry.group.encode("utf-8", "surrogateescape"),
        mtime_ns=entry.mtime_ns,
        link=entry.link_name.encode("utf-8", "surrogateescape"),
        rdev_major=os.major(entry.rdev),
        rdev_minor=os.minor(entry.rdev),
        xattrs=xattrs,
        sparse=sparse,
    )
