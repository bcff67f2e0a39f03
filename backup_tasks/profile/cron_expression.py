"""Cron expressions: only those that Debian's cron and cronsim understand in the same way."""

from __future__ import annotations

import re
from datetime import UTC, datetime

# As in Debian's crontab(5). @reboot is missing: it is no time, so its next run cannot be told.
NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
_MONTHS = frozenset(
    ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
)
_DAYS = frozenset(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))
_NAMES = (frozenset[str](), frozenset[str](), frozenset[str](), _MONTHS, _DAYS)
# Any start will do to see whether an expression ever fires; 2024 has a 29 February.
_ANY_START = datetime(2024, 1, 1, tzinfo=UTC)


def expand_cron(expression: str) -> str:
    """The five fields of an expression that `check_cron` accepts; a nickname is expanded."""
    return NICKNAMES.get(expression.strip(), " ".join(expression.split()))


def check_cron(expression: str) -> None:
    """Refuse an expression that Debian's cron would refuse, misread or never run.

    Raises:
        ValueError: the expression is such a one; says which field is wrong.
    """
    text = expression.strip()
    if text.startswith("@"):
        _check_nickname(text)
    fields = expand_cron(text).split(" ")
    if len(fields) != len(_FIELDS) or not expression.isprintable():
        raise ValueError(
            f'should have five fields such as "0 2 * * *", or be one of {", ".join(NICKNAMES)}'
        )
    for field, name, names in zip(fields, _FIELDS, _NAMES, strict=True):
        _check_field(field, name, names)
    if not _fires(fields):
        raise ValueError(f'"{expression}" never fires: there is no such day')


def _fires(fields: list[str]) -> bool:
    """Whether the expression ever fires.

    Raises:
        ValueError: a field is out of its range.
    """
    from cronsim import CronSim, CronSimError

    try:
        return next(CronSim(" ".join(fields), _ANY_START)) is not None
    except StopIteration:
        return False
    except CronSimError as error:
        # cronsim refuses 30 February with the same words as day 32; tell the two apart.
        if fields[3] != "*" and _fires([*fields[:3], "*", fields[4]]):
            return False
        name = str(error).removeprefix("Bad ").replace("-of-", " of the ")
        position = _FIELDS.index(name) if name in _FIELDS else 0
        raise ValueError(f'"{fields[position]}" is not a {name} that cron knows') from None


def _check_nickname(text: str) -> None:
    if text == "@reboot":
        raise ValueError("@reboot is not supported: a backup needs a time of day")
    if text not in NICKNAMES:
        raise ValueError(f'"{text}" is none of {", ".join(NICKNAMES)}')


def _check_field(field: str, name: str, names: frozenset[str]) -> None:
    words = {word.lower() for word in re.findall(r"[A-Za-z]+", field)}
    if not re.fullmatch(r"[0-9A-Za-z*,/-]+", field) or not words <= names:
        raise ValueError(f'"{field}" is not a {name} that cron knows')
    # Debian's cron reads 5/10 as 5 alone; others read it as 5-59/10.
    if re.search(r"(^|,)[0-9A-Za-z]+/", field):
        raise ValueError(f'"{field}" is a step without a range; write for example "*/10"')
