"""Whom to tell about a profile with problems: its own [notify], if that is correct and trusted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import tzinfo
from pathlib import Path
from typing import Any

from msgspec import Struct
from pydantic import ValidationError

from backup_tasks.common.paths import Paths
from backup_tasks.common.time_zones import find_zone, local_zone
from backup_tasks.errors import ProfileError
from backup_tasks.notify.registry import NotifySettings
from backup_tasks.profile.files import MergedFiles, read_readable
from backup_tasks.profile.load import find_profile, keys_in_one, place_secrets
from backup_tasks.profile.problems import find_literal_secrets
from backup_tasks.profile.trust import find_untrusted_channels
from backup_tasks.stores.registry import normalize_url

_HIDDEN = '"…"'


class BrokenProfile(Struct, frozen=True):
    """The usable part of a profile with problems.

    Attributes:
        store_url: the store's URL, normalized; "" if it is wrong.
        values: every text that the profile holds.
    """

    name: str
    path: Path
    description: str
    notify: NotifySettings
    tzinfo: tzinfo
    store_url: str
    values: frozenset[str]
    store: None = None

    def hide_values(self, problems: str) -> str:
        """The problems without the profile's values, for a mail.

        A value may be a secret that was written under a wrong key.
        """
        for value in sorted(self.values, key=len, reverse=True):
            problems = problems.replace(f'"{value}"', _HIDDEN)
            problems = problems.replace(f'"{value[:57]}..."', _HIDDEN)
        return problems


def find_told(name: str, paths: Paths) -> BrokenProfile | None:
    """Find out from a profile with problems whom to tell about them.

    Bases are skipped from the first unreadable one on. A file that others may write is not read,
    be it the profile's own or a base.

    Args:
        name: as `find_profile` takes it.

    Returns:
        None if there is no [notify], or anything in it is wrong or not to be trusted.
    """
    try:
        path = find_profile(name, paths)
        merged = read_readable(path, paths, keys_in_one())
        raw = place_secrets(merged, paths, None).get("notify")
        notify = NotifySettings.model_validate(raw, context={"root": paths.root})
    except (ProfileError, OSError, ValidationError):
        return None
    problems = [*find_literal_secrets(merged, paths), *find_untrusted_channels(notify, merged)]
    if any(problem.key.startswith("notify.") for problem in problems):
        return None
    return BrokenProfile(
        name=path.stem,
        path=path,
        description=_printable_text(merged, "description"),
        notify=notify,
        tzinfo=_zone(merged),
        store_url=_store_url(merged, paths),
        values=frozenset(_texts(merged.values)),
    )


def _printable_text(merged: MergedFiles, *path: str) -> str:
    value: Any = merged.values
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) and value.isprintable() else ""


def _zone(merged: MergedFiles) -> tzinfo:
    named = _printable_text(merged, "backup", "timezone")
    if named:
        with contextlib.suppress(ValueError):
            return find_zone(named)
    return local_zone()


def _store_url(merged: MergedFiles, paths: Paths) -> str:
    try:
        return normalize_url(_printable_text(merged, "store", "url"), paths.root)
    except ValueError:
        return ""


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
