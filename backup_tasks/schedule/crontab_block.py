"""Cuts our fenced block out of a crontab, and renders it anew; the rest stays byte for byte.

    # BEGIN backup-tasks /srv/backup-tasks
    # Written by `invoke cron-install`. Change the profiles, not these lines.
    0 2 * * * /srv/.../python -P -m invoke -r /srv/backup-tasks backup --profile prod >/dev/null
    # END backup-tasks /srv/backup-tasks

The fence names the project's folder, so that several projects can share a crontab.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from backup_tasks.common.printable import printable
from backup_tasks.errors import ScheduleError
from backup_tasks.schedule.scheduler import DueRun

_PROFILES = "BACKUP_TASKS_PROFILES"
_NOTE = b"# Written by `invoke cron-install`. Change the profiles, not these lines.\n"


class SplitCrontab(Struct, frozen=True):
    """A crontab cut at the block. Without a block, everything is in `before`."""

    before: bytes
    lines: tuple[DueRun, ...]
    after: bytes


def split_crontab(content: bytes, root: Path) -> SplitCrontab:
    """Cut out the block of the project in `root`.

    Raises:
        ScheduleError: the fence is damaged, so that our lines cannot be told from others; says
            what to repair.
    """
    begin, end = _fence(root)
    lines = _split_lines(content)
    bare = [line.rstrip() for line in lines]  # an editor may have left spaces or CR behind
    begins = [number for number, line in enumerate(bare) if line == begin.rstrip()]
    ends = [number for number, line in enumerate(bare) if line == end.rstrip()]
    if not begins and not ends:
        return SplitCrontab(content, (), b"")
    if len(begins) != 1 or len(ends) != 1 or begins[0] > ends[0]:
        raise ScheduleError(_describe_damage(begin, begins, end, ends))
    start, stop = begins[0], ends[0]
    inside = (parse_line(line) for line in bare[start + 1 : stop])
    return SplitCrontab(
        b"".join(lines[:start]),
        tuple(line for line in inside if line is not None),
        b"".join(lines[stop + 1 :]),
    )


def join_crontab(split: SplitCrontab, lines: Sequence[DueRun], root: Path) -> bytes:
    """The crontab with these lines as its block; without lines it has no block."""
    block = render_block([line.text for line in lines], root)
    before = split.before
    if block and before and not before.endswith(b"\n"):
        before += b"\n"
    return before + block + split.after


def render_block(lines: Sequence[bytes], root: Path) -> bytes:
    """The fenced block; empty without lines."""
    if not lines:
        return b""
    begin, end = _fence(root)
    return b"".join((begin, b"\n", _NOTE, *(line + b"\n" for line in lines), end, b"\n"))


def render_line(
    expression: str, profile: str, root: Path, python: str, environment: Mapping[str, str]
) -> DueRun:
    """The line that backs up a profile.

    The line needs nothing from cron's environment. It drops standard output, so that cron mails
    only errors and warnings.

    Args:
        expression: five fields.
        profile: as `--profile` takes it.
        python: the interpreter to run, an absolute path.
        environment: variables to set for the run.

    Raises:
        ScheduleError: a path or a value holds a line break or a NUL byte.
    """
    variables = [f"{name}={value}" for name, value in environment.items()]
    words = [*(["/usr/bin/env", *variables] if variables else []), python]
    # -P: a file invoke.py or json.py in cron's working folder must not be imported.
    words += ["-P", "-m", "invoke", "-r", str(root), "backup", "--profile", profile]
    command = f"{shlex.join(words)} >/dev/null"
    if re.search(r"[\0\n\r]", command):
        raise ScheduleError(f"a crontab cannot hold a path with a line break: {printable(command)}")
    # cron turns an unescaped % into a newline, and each of \% and \\ into its second character.
    escaped = command.replace("\\", "\\\\").replace("%", "\\%")
    text = os.fsencode(f"{expression} {escaped}")
    return DueRun(profile, expression, text, environment.get(_PROFILES, ""))


def parse_line(text: bytes) -> DueRun | None:
    """Parse a line of the block; None for comments and empty lines."""
    stripped = text.strip()
    if not stripped or stripped.startswith(b"#"):
        return None
    *fields, command = os.fsdecode(stripped).split(None, 5)
    unescaped = re.sub(r"\\([\\%])", r"\1", command)
    try:
        words = shlex.split(unescaped)
        profile = words[words.index("--profile") + 1]
    except (ValueError, IndexError):
        return DueRun("", " ".join(fields), text)
    set_to = [word.partition("=")[2] for word in words if word.startswith(f"{_PROFILES}=")]
    return DueRun(profile, " ".join(fields), text, set_to[0] if set_to else "")


def _fence(root: Path) -> tuple[bytes, bytes]:
    # A line break would end the fence's line; `printable` keeps different paths different.
    key = os.fsencode(root) if str(root).isprintable() else printable(str(root)).encode()
    return b"# BEGIN backup-tasks " + key, b"# END backup-tasks " + key


def _split_lines(content: bytes) -> list[bytes]:
    # Only \n ends a line of a crontab; bytes.splitlines would also cut at \r.
    return re.findall(rb"[^\n]*\n|[^\n]+", content)


def _describe_damage(begin: bytes, begins: Sequence[int], end: bytes, ends: Sequence[int]) -> str:
    found = [(number, begin) for number in begins] + [(number, end) for number in ends]
    places = ", ".join(f'line {number + 1} "{printable(text)}"' for number, text in sorted(found))
    return (
        "the fence around our lines in the crontab is damaged: there should be one BEGIN and then "
        f"one END, but there is {places}; repair it with `crontab -e`; nothing was changed"
    )
