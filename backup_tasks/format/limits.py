"""Every limit of the archive: readers refuse more, and the writer never goes beyond.

A reader refuses numbers that no honest archive holds, before they cost memory, disk or time. The
writer keeps to the same limits or to stricter ones. It leaves out an entry that would break a
limit, or the part of the entry that would, and names it. Otherwise one file would make a whole
backup unreadable.

    number in an archive       readers refuse             the writer keeps to
    raw bytes of a chunk       beyond CHUNK_RAW_LIMIT     1 MiB, or one entry's headers, which
                                                          the limits below bound to 8 MiB
    number of chunks           beyond CHUNKS_LIMIT        the same: a backup of more fails
    entries of a chunk         beyond what its raw bytes  512 bytes a header, by nature
                               can hold
    a line of the manifest     beyond LINE_BYTES          PATH_BYTES for path and link
    a place in the manifest    beyond 256 GiB             ALL_LONG_PATHS_BYTES
    the manifest unpacked      beyond most_manifest_bytes WRITTEN_RATIO, of each piece of it
    the manifest's first line  beyond HEADER_PROBE_BYTES  SOURCES_BYTES for the sources,
                               of stored bytes            COUNTED_SOURCES, MOUNTS_BYTES
    the time of a folder       beyond 64 bits             OLDEST_NS to NEWEST_NS
    or link
    holes hashed as zeros      beyond HOLES_LIMIT         SPARSE_FROM_BYTES

Lower numbers in the right column come from other programs: bsdtar refuses a whole archive for one
pax header beyond 1 MiB.
"""

from __future__ import annotations

# --- Chunks and the headers in them ---

# The largest raw chunk that readers accept.
CHUNK_RAW_LIMIT = 64 * 2**20
# The most chunks that readers accept: 16 TiB raw, if they are full.
CHUNKS_LIMIT = 2**24
# A chunk of several entries has at most this many raw bytes; a longer chunk holds the headers of
# a single entry.
PACKED_BYTES = 2**20
# The least that an entry takes in a chunk: one tar header.
LEAST_ENTRY_BYTES = 512
# bsdtar stops at a larger pax header (libarchive 3.6, "Special header too large").
PAX_BYTES = 2**20
# The longest path that is stored; a call to Linux takes 4,096 bytes. A hardlink has two paths.
PATH_BYTES = 128 * 2**10
# The part of PATH_BYTES that a folder's path leaves for the names in the folder.
NAME_BYTES = 4096
# Programs cannot name paths beyond LONG_PATH_BYTES. All of them together are limited too: each
# entry's line of the manifest holds its whole path, and the lines lie in $TMPDIR.
LONG_PATH_BYTES = 4096
ALL_LONG_PATHS_BYTES = 2**31
# The room in a pax header for extended attributes and ACLs, as records.
ATTRIBUTES_BYTES = PAX_BYTES - 2 * PATH_BYTES - 8 * 2**10
# Readers refuse this many records in one entry's pax headers. Linux lists the names of a file's
# attributes in 64 KiB, so that no file has a third of this.
MOST_RECORDS = 2**15
# The most that the names, attributes and sparse map of one entry may take, in a tar of any origin.
EXTENDED_BYTES = 16 * 2**20

# --- Holes ---

# The most data segments in the map of a sparse file, about 5 MiB as text. Where a file has more,
# the smallest holes between them are stored as zeros.
MOST_SEGMENTS = 2**17
# These zeros take at most this many times the file's data, plus SPARSE_FROM_BYTES.
MOST_ZEROS = 16
# A file split into more pieces is not stored: finding each takes about a microsecond.
MOST_EXTENTS = 2**24
# Files with more bytes of holes are hashed by map and data, not with their holes as zeros. Hashing
# this many zeros takes half a second.
SPARSE_FROM_BYTES = 2**30
# Zeros are hashed at some 2 GB a second. A file on ext4 cannot have more bytes of holes; on XFS or
# tmpfs it can have 8 EiB. Version 0.1.0 refuses to restore more, whatever the hash.
HOLES_LIMIT = 2**44
TOO_MANY_HOLES = "its holes take more than 16 TiB, which not every version of this program restores"
# --- Times, in nanoseconds since 1970 ---

# The times that 64 bits hold: the years 1677 to 2554. Version 0.1.0 restores no archive in which a
# folder or a link has any other time; files may have any.
OLDEST_NS = -(2**63)
NEWEST_NS = 2**64 - 1

# --- The manifest ---

# The longest line that readers accept.
LINE_BYTES = 4 * 2**20
# The longest line of a chunk, and of the header, which must lie in the first MiB.
CHUNK_LINE_BYTES = 2**12
HEADER_LINE_BYTES = 2**20
# A manifest of a million equal entries shrinks to about a thirtieth.
_READ_RATIO = 200
_READ_FREE_BYTES = 64 * 2**20
# The writer's own limit: half of the ratio that readers accept.
WRITTEN_RATIO = 100
# How many stored bytes of a manifest are fetched, and to how many they are unpacked, to see its
# first line.
HEADER_PROBE_BYTES = 64 * 2**10
HEADER_RAW_BYTES = 2**20
# The longest encrypted form of tar's end mark: age adds a line or more for each recipient.
END_BYTES = 64 * 2**10
# The sources in the first line: the probe shows the line with them even if it does not shrink.
SOURCES_BYTES = 24 * 2**10
# In the same line, the counts below the first sources (some 40 bytes each), and the mount points.
COUNTED_SOURCES = 200
MOUNTS_BYTES = 8 * 2**10

# --- Answers of S3 ---

# A list of 1,000 keys of 1,024 bytes, each byte written as %XX, is shorter; so is any other answer.
ANSWER_BYTES = 6 * 2**20


def most_manifest_bytes(stored_bytes: int) -> int:
    """The most bytes to which a manifest of this stored length may unpack."""
    return _READ_FREE_BYTES + _READ_RATIO * stored_bytes


def leaves_no_room(folder: str) -> bool:
    """Whether paths in a folder may be longer than an archive holds."""
    most = PATH_BYTES - NAME_BYTES
    return len(folder) > most // 4 and len(folder.encode("utf-8", "surrogateescape")) > most


def within_time(nanoseconds: int) -> int:
    """The nearest time that readers accept for a folder or a link."""
    return min(max(nanoseconds, OLDEST_NS), NEWEST_NS)
