"""Every limit of the archive: what a reader refuses, and what the writer never goes beyond.

A reader refuses what no honest archive holds, before it costs memory, disk or time. The writer
keeps to the same numbers, or to stricter ones: an entry that would break one is left out, or
stored without what breaks it, and named. Otherwise one file would make a whole backup unreadable.

    number in an archive       readers refuse             the writer keeps to
    raw bytes of a chunk       beyond CHUNK_RAW_LIMIT     1 MiB, or one entry's headers, which
                                                          the limits below bound to 8 MiB
    number of chunks           beyond CHUNKS_LIMIT        the same: a backup of more fails
    entries of a chunk         beyond what its raw bytes  512 bytes a header, by nature
                               can hold
    a line of the manifest     beyond LINE_BYTES          PATH_BYTES for path and link
    a place in the manifest    beyond 256 GiB             ALL_LONG_PATHS_BYTES
    the manifest unpacked      beyond most_manifest_bytes WRITTEN_RATIO, of each piece of it
    the manifest's first line  what HEADER_PROBE_BYTES of SOURCES_BYTES for the sources,
                               stored bytes do not show   COUNTED_SOURCES, MOUNTS_BYTES
    the time of a folder       what no 64 bits hold       OLDEST_NS to NEWEST_NS
    or link
    holes hashed as zeros      beyond HOLES_LIMIT         SPARSE_FROM_BYTES

The lower numbers of the right column are other programs': bsdtar refuses a whole archive for
one pax header beyond 1 MiB.
"""

from __future__ import annotations

# --- Chunks and the headers in them ---

# The largest chunk that is believed.
CHUNK_RAW_LIMIT = 64 * 2**20
# The most chunks that are believed: 16 TiB of them, if they are full.
CHUNKS_LIMIT = 2**24
# A chunk holds whole entries up to so many raw bytes; a longer one the headers of a single entry.
PACKED_BYTES = 2**20
# What an entry takes of a chunk at the least: one tar header.
LEAST_ENTRY_BYTES = 512
# libarchive 3.6, "Special header too large": a pax header beyond it ends bsdtar's reading.
PAX_BYTES = 2**20
# The longest path that is stored; Linux takes 4,096 bytes at a time. A hardlink has two of them.
PATH_BYTES = 128 * 2**10
# Of it, what a folder leaves for the names in it.
NAME_BYTES = 4096
# Paths longer than programs can name, all together: each entry's line of the manifest holds its
# whole path, and the lines lie in $TMPDIR.
LONG_PATH_BYTES = 4096
ALL_LONG_PATHS_BYTES = 2**31
# What is left in a pax header for extended attributes and ACLs, as records.
ATTRIBUTES_BYTES = PAX_BYTES - 2 * PATH_BYTES - 8 * 2**10
# Records of one entry's pax headers. Linux lists the names of a file's attributes in 64 KiB, so
# that no file has a third of that.
MOST_RECORDS = 2**15
# What the names, attributes and sparse map of one entry may take in anybody's tar.
EXTENDED_BYTES = 16 * 2**20

# --- Holes ---

# The map of a sparse file names so many runs of bytes at most, about 5 MiB as text. Where there
# are more, the smallest holes between them are stored as zeros.
MOST_SEGMENTS = 2**17
# But no more of them than so many times the bytes that are there, beyond SPARSE_FROM_BYTES.
MOST_ZEROS = 16
# A file torn into more pieces is not looked through: finding them takes about a microsecond each.
MOST_EXTENTS = 2**24
# Files with more holes than this are hashed by map and data, not with their holes as zeros. It
# takes half a second to hash as many zeros.
SPARSE_FROM_BYTES = 2**30
# Zeros are hashed at some 2 GB a second. A file of ext4 cannot have more holes than this; one of
# XFS or tmpfs can have 8 EiB. Version 0.1.0 refuses to restore more, however it is hashed.
HOLES_LIMIT = 2**44
TOO_MANY_HOLES = "its holes take more than 16 TiB, which not every version of this program restores"
# --- Times, in nanoseconds since 1970 ---

# What 64 bits hold: from the year 1677 to 2554. Version 0.1.0 restores no archive in which a folder
# or a link has another; files may have any.
OLDEST_NS = -(2**63)
NEWEST_NS = 2**64 - 1

# --- The manifest ---

# The longest line that is believed.
LINE_BYTES = 4 * 2**20
# The longest line of a chunk, and of the header, which lies in the first MiB.
CHUNK_LINE_BYTES = 2**12
HEADER_LINE_BYTES = 2**20
# A manifest of a million equal entries shrinks to about a thirtieth.
_READ_RATIO = 200
_READ_FREE_BYTES = 64 * 2**20
# The writer's own: half of what readers believe.
WRITTEN_RATIO = 100
# What is fetched of a manifest to see its first line, and what is unpacked of that.
HEADER_PROBE_BYTES = 64 * 2**10
HEADER_RAW_BYTES = 2**20
# What tar's end mark may take where it is encrypted: age adds a line or more for each recipient.
END_BYTES = 64 * 2**10
# Of the first line, the sources: with them it shows in the probe even if it does not shrink.
SOURCES_BYTES = 24 * 2**10
# Of the same line, what lay below the first sources (some 40 bytes each), and mount points.
COUNTED_SOURCES = 200
MOUNTS_BYTES = 8 * 2**10

# --- Answers of S3 ---

# A list of 1,000 keys of 1,024 bytes, each written as %XX, takes less; all other answers do.
ANSWER_BYTES = 6 * 2**20


def most_manifest_bytes(stored_bytes: int) -> int:
    """To how many bytes a manifest of so many stored ones is believed to unpack."""
    return _READ_FREE_BYTES + _READ_RATIO * stored_bytes


def leaves_no_room(folder: str) -> bool:
    """Whether the paths of what lies in a folder may be longer than an archive holds."""
    most = PATH_BYTES - NAME_BYTES
    return len(folder) > most // 4 and len(folder.encode("utf-8", "surrogateescape")) > most


def within_time(nanoseconds: int) -> int:
    """The nearest time that readers take for a folder or a link."""
    return min(max(nanoseconds, OLDEST_NS), NEWEST_NS)
