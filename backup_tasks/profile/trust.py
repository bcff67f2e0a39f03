"""Checks that nobody else may change the files and programs that a profile relies on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from backup_tasks.common.printable import printable
from backup_tasks.errors import TrustError
from backup_tasks.keys.secret import Secret
from backup_tasks.notify.registry import NotifySettings, asked_for
from backup_tasks.permissions.trusted_paths import check_file, check_program
from backup_tasks.profile.files import MergedFiles
from backup_tasks.profile.model import Profile
from backup_tasks.profile.problems import ProfileProblem, dotted_key, secret_keys

if TYPE_CHECKING:
    from backup_tasks.profile.toml_lines import KeyPath


def find_untrusted(profile: Profile, merged: MergedFiles) -> Iterator[ProfileProblem]:
    """Yield a problem for each file or program that others may change.

    Checked are secrets from files and programs, the drill's program, the file of the mail server's
    certificate authority, and the files outside of the profile that the store obeys. An identity
    file is not checked: it decides nothing, and only opens what was encrypted for it.
    """
    for path in sorted(secret_keys(), key=str):
        if path[0] != "notify":
            yield from _flaw_of_secret(_value(profile, path), path, merged)
    try:
        _check_drill(profile)
    except TrustError as error:
        yield _problem(("drill", "command"), error, merged)
    yield from find_untrusted_channels(profile.notify, merged)
    for flaw in _flaws_of_store(profile):
        yield _problem(("store",), flaw, merged)


def find_untrusted_channels(
    notify: NotifySettings, merged: MergedFiles
) -> Iterator[ProfileProblem]:
    """As `find_untrusted`, but only for the files and programs of channels."""
    for path in sorted(secret_keys(), key=str):
        if path[0] == "notify":
            yield from _flaw_of_secret(_value(notify, path[1:]), path, merged)
    for channel, settings in asked_for(notify):
        for key, file in channel.obeyed_files(settings):
            try:
                check_file(file)
            except TrustError as error:
                yield _problem(("notify", channel.name, key), error, merged)


def _flaw_of_secret(value: object, path: KeyPath, merged: MergedFiles) -> Iterator[ProfileProblem]:
    if isinstance(value, Secret):
        try:
            value.check_trust()
        except TrustError as error:
            yield _problem(path, error, merged)


def _check_drill(profile: Profile) -> None:
    """Check the drill's program, unless it is named by a relative path.

    A program with a relative path comes from the restored backup, or is not found.

    Raises:
        TrustError: others may change the program.
    """
    command = profile.drill.command
    if command and (command[0].startswith("/") or "/" not in command[0]):
        check_program(command[0], Path("/"), None)


def _flaws_of_store(profile: Profile) -> Iterator[TrustError]:
    for file in profile.store.kind.obeyed_files():
        if os.path.lexists(file.path):
            try:
                check_file(file.path)
            except TrustError as error:
                what = f"{file.reader} reads {printable(str(file.path))}, and {error.what}"
                yield TrustError(what, file.remedy)


def _value(settings: object, path: KeyPath) -> object:
    for name in path:
        settings = getattr(settings, str(name), None)
    return settings


def _problem(path: KeyPath, error: TrustError, merged: MergedFiles) -> ProfileProblem:
    return ProfileProblem(merged.place(path), dotted_key(path), str(error))
