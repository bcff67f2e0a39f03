"""Time zones by name, and the machine's own as a real zone with its daylight saving rules.

The library tzlocal does not do: it refuses a TZ with rules of its own, such as `CET-1CEST`.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Mapping
from datetime import UTC, tzinfo
from difflib import get_close_matches
from zoneinfo import ZoneInfo, available_timezones

LOCALTIME = "/etc/localtime"
# The rule that glibc assumes for a TZ that names a summer time but not its dates.
_DEFAULT_RULE = ",M3.2.0,M11.1.0"


def find_zone(name: str) -> ZoneInfo:
    """Find a zone by its IANA name.

    Raises:
        ValueError: there is no such zone; suggests the nearest name. Or this machine has no
            time zone data.
    """
    zone = _named(name)
    if zone:
        return zone
    known = {known_name.lower(): known_name for known_name in available_timezones()}
    if not known:
        raise ValueError("this machine has no time zone data; install the package tzdata")
    near = get_close_matches(name.lower(), known, n=1)
    hint = f'; did you mean "{known[near[0]]}"?' if near else ""
    raise ValueError(f'"{name}" is not a time zone such as "Europe/Stockholm"{hint}')


def local_zone(environ: Mapping[str, str] | None = None, localtime: str = LOCALTIME) -> tzinfo:
    """The zone that C's localtime() would use: from TZ, else from /etc/localtime, else UTC.

    A fixed offset, as `datetime.astimezone()` gives, would be wrong half of the year.
    """
    setting = (os.environ if environ is None else environ).get("TZ")
    if setting is not None:
        return _zone_of_setting(setting.removeprefix(":"))
    name = os.path.realpath(localtime).partition("/zoneinfo/")[2]
    return _named(name) or _zone_of_file(localtime) or UTC


def _zone_of_setting(setting: str) -> tzinfo:
    if not setting:
        return UTC
    if setting.startswith("/"):
        return _zone_of_file(setting) or UTC
    return _named(setting) or _zone_of_rule(setting) or UTC


def _named(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name) if name else None
    except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
        return None


def _zone_of_file(path: str) -> ZoneInfo | None:
    try:
        with open(path, "rb") as file:
            return ZoneInfo.from_file(file)
    except (ValueError, OSError):
        return None


def _zone_of_rule(rule: str) -> ZoneInfo | None:
    """The zone of a POSIX rule such as `CET-1CEST,M3.5.0,M10.5.0/3`.

    zoneinfo reads such rules only at the end of a zone file (RFC 8536), so this makes a file that
    holds nothing else.
    """
    counts = (0, 0, 0, 0, 1, 1)  # one local time type, UTC, with a name of one byte
    block = struct.pack(">4sc15x6l", b"TZif", b"2", *counts) + struct.pack(">lBBx", 0, 0, 0)
    for text in (rule, rule + _DEFAULT_RULE):
        try:
            footer = f"\n{text}\n".encode("ascii")
            return ZoneInfo.from_file(io.BytesIO(block + block + footer))
        except ValueError:  # also for text that is not ASCII
            continue
    return None
