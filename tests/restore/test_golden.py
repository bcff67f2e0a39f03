"""What earlier versions wrote is read by this one, and by everybody's tar; see tests/golden."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from backup_tasks.common.paths import PROJECT_ROOT
from tests.support.cli import Cli, cli
from tests.support.golden import SOURCE, describe

__all__ = ["cli"]
FOLDERS = sorted((PROJECT_ROOT / "tests" / "golden").iterdir())
PLAIN = [folder for folder in FOLDERS if not (folder / "key.txt").exists()]
IS_ROOT = os.geteuid() == 0


def expected(folder: Path) -> dict[str, dict[str, Any]]:
    return comparable(json.loads((folder / "expected.json").read_text()))


def comparable(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Without the owners that only root can give, and the bits that go with them."""
    if not IS_ROOT:
        for facts in found.values():
            del facts["st_uid"], facts["st_gid"]
            facts["st_mode"] &= ~0o6000
    return found


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def golden(request: pytest.FixtureRequest, cli: Cli) -> Path:
    """A golden folder, whose archives are in the store of a profile that has its keys."""
    folder: Path = request.param
    cli.store.mkdir(exist_ok=True)
    for archive in folder.glob("*-backup.tar.gz*"):
        shutil.copyfile(archive, cli.store / archive.name)
    public_key = (folder / "public-key").read_text().strip()
    cli.write_profile(more=f'[signing]\npublic_key = "{public_key}"\n')
    return folder


def identity(folder: Path, tmp_path: Path) -> tuple[str, ...]:
    """The option that opens its archives, if they are encrypted."""
    if not (folder / "key.txt").exists():
        return ()
    key = tmp_path / "golden-key.txt"
    shutil.copyfile(folder / "key.txt", key)
    key.chmod(0o600)
    return ("--identity", str(key))


def test_a_golden_archive_is_listed_verified_and_restored_as_it_was(
    golden: Path, cli: Cli, tmp_path: Path
) -> None:
    opened = identity(golden, tmp_path)
    wanted = expected(golden)
    listed = cli.run("list", "--profile", "test", "--json", *opened)
    assert (listed.code, len(json.loads(listed.out))) == (0, 2), listed
    files = cli.run("files", "--profile", "test", "--json", *opened)
    assert files.code == 0, files
    verified = cli.run("verify", "--profile", "test", "--all", *opened)
    assert (verified.code, verified.out.count(": whole (")) == (0, 2), verified
    out = tmp_path / "out"
    restored = cli.run("restore", "--profile", "test", "--to", str(out), "--trusted", *opened)
    assert restored.code == 0, restored
    assert comparable(describe(out / str(SOURCE).lstrip("/"))) == wanted


@pytest.mark.parametrize("folder", PLAIN, ids=lambda folder: folder.name)
def test_gnu_tar_unpacks_a_golden_archive_to_the_same(folder: Path, tmp_path: Path) -> None:
    newest = max(folder.glob("*-backup.tar.gz"))
    unpack = ["tar", "-xpzf", newest, "-C", tmp_path, "--xattrs", "--xattrs-include=user.*"]
    subprocess.run(unpack, check=True)
    assert comparable(describe(tmp_path / str(SOURCE).lstrip("/"))) == expected(folder)
