"""POSIX ACLs: as Linux keeps them in an extended attribute, and as text in a tar header.

GNU tar's `--acls` and bsdtar read only the text. Sources: linux/posix_acl_xattr.h; acl(5), "ACL
TEXT FORMS"; the `SCHILY.acl.access` keyword as star and GNU tar write it.
"""

from __future__ import annotations

import grp
import pwd
import struct

from backup_tasks.errors import ArchiveError

# Extended attribute -> the pax keyword of the same ACL.
KEYWORDS = {
    "system.posix_acl_access": b"SCHILY.acl.access",
    "system.posix_acl_default": b"SCHILY.acl.default",
}
_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_NO_ID = 0xFFFFFFFF
# How many unknown names to report, at most.
_TOLD = 8
# Tag -> its word, and whether it names a user or a group.
_TAGS = {
    0x01: ("user", False),
    0x02: ("user", True),
    0x04: ("group", False),
    0x08: ("group", True),
    0x10: ("mask", False),
    0x20: ("other", False),
}
_NUMBERS = {kind: tag for tag, kind in _TAGS.items()}


def acl_to_text(value: bytes) -> bytes:
    """An ACL as text: a line for each entry, ids as numbers; b"" for an unknown format."""
    if value[:4] != _VERSION or (len(value) - 4) % _ENTRY.size:
        return b""
    lines = []
    for tag, permissions, number in _ENTRY.iter_unpack(value[4:]):
        if tag not in _TAGS or permissions > 7:
            return b""
        word, is_named = _TAGS[tag]
        letters = "".join(
            letter if permissions & bit else "-"
            for letter, bit in zip("rwx", (4, 2, 1), strict=True)
        )
        lines.append(f"{word}:{number if is_named else ''}:{letters}")
    return "\n".join(lines).encode()


def acl_writers(value: bytes) -> list[tuple[str, int]]:
    """Which users and groups an ACL lets write, after its mask; owner and others are left out.

    Returns:
        ("user", uid) and ("group", gid), with -1 for the file's own group; only ("unknown", -1)
        for an ACL of unknown format.
    """
    if value[:4] != _VERSION or (len(value) - 4) % _ENTRY.size:
        return [("unknown", -1)]
    entries = list(_ENTRY.iter_unpack(value[4:]))
    mask = next((bits for tag, bits, _ in entries if _TAGS.get(tag) == ("mask", False)), 7)
    found = []
    for tag, bits, number in entries:
        if tag not in _TAGS:
            return [("unknown", -1)]
        word, is_named = _TAGS[tag]
        if bits & mask & 2 and (is_named or word == "group"):
            found.append((word, number if is_named else -1))
    return found


def acl_from_text(text: bytes, unknown: set[str]) -> bytes:
    """Convert an ACL as text to the attribute's value, names before numbers.

    An entry with neither a name that this machine knows nor a number is left out. This grants
    nobody more: no process can run as that user or group, and the mask, which bounds the owning
    group too, stays as it is.

    Args:
        unknown: receives the first names that were left out.

    Raises:
        ArchiveError: the text cannot be read.
    """
    entries: list[tuple[int, int, int]] = []
    lines = text.decode("utf-8", "surrogateescape").replace(",", "\n").splitlines()
    for line in filter(None, (line.partition("#")[0].strip() for line in lines)):
        word, *rest = line.split(":")
        words = {"u": "user", "g": "group", "m": "mask", "o": "other"}
        # star adds the number in a fourth field.
        name, letters, number = [*rest, "", "", ""][:3]
        tag = _NUMBERS.get((words.get(word, word), bool(name)))
        if tag is None or not letters or letters.strip("rwx-"):
            raise ArchiveError(f"a header holds an ACL that cannot be read: {line[:80]!r}")
        permissions = sum(
            bit for letter, bit in (("r", 4), ("w", 2), ("x", 1)) if letter in letters
        )
        found = _id_of(tag, name, number)
        if found is not None:
            entries.append((tag, permissions, found))
        elif len(unknown) < _TOLD:
            unknown.add(name[:80])
    entries.sort(key=lambda entry: (entry[0], entry[2]))
    return _VERSION + b"".join(_ENTRY.pack(*entry) for entry in entries)


def _id_of(tag: int, name: str, number: str) -> int | None:
    if not name:
        return _NO_ID
    try:
        if tag == _NUMBERS["user", True]:
            return pwd.getpwnam(name).pw_uid
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        digits = name if name.isdecimal() else number
        if not digits.isdecimal() or len(digits) > 10 or int(digits) >= _NO_ID:
            return None
        return int(digits)
