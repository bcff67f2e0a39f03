"""What the tests of profiles share: small profiles, written and loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from backup_tasks.common.paths import Paths
from backup_tasks.errors import ProfileError
from backup_tasks.profile.load import (
    load_profile,
)
from backup_tasks.profile.model import Profile

CANARY = "wJalrXUtnFEMI/K7MDENG-canary"
STORE = '[store]\nurl = "s3://bucket"\n'
SMALLEST = f'[backup]\nsources = ["/etc"]\n{STORE}'
EMAIL = """[notify.email]
host = "smtp.example.com"
from = "a@example.com"
to = ["b@example.com"]
"""


def write(paths: Paths, text: str, name: str = "prod", mode: int = 0o644) -> Path:
    path = paths.profiles / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def load(paths: Paths, text: str, mode: int = 0o644) -> Profile:
    write(paths, text, mode=mode)
    return load_profile("prod", paths)


def problems(paths: Paths, text: str, mode: int = 0o644) -> list[str]:
    """The lines of the error, with the folder as it would look in the project."""
    write(paths, text, mode=mode)
    return told(paths, "prod")


def told(paths: Paths, name: str) -> list[str]:
    with pytest.raises(ProfileError) as caught:
        load_profile(name, paths)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{paths.profiles}/", "profiles/").splitlines()
