"""Listing profiles and starting new ones."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from backup_tasks.common.paths import PROJECT_ROOT, Paths
from backup_tasks.errors import UsageError
from backup_tasks.profile.load import (
    ProfileSummary,
    describe_profiles,
    load_profile,
    write_new_profile,
)
from tests.support.profile_files import SMALLEST, write


def test_describe_tells_of_each_profile_also_of_broken_ones(paths: Paths) -> None:
    write(paths, 'description = "good"\n' + SMALLEST + '[schedule]\ncron = "@daily"\n', "good")
    write(paths, 'description = "a base"\n[retention]\nkeep_last = 1\n', "base")
    write(paths, 'description = "odd"\nx = 1\n' + SMALLEST, "broken")
    write(paths, "[", "syntax")
    write(paths, "[retention]\nkeep_last = -1\n", "wrongbase")
    found = {summary.name: summary for summary in describe_profiles(paths)}
    assert list(found) == ["base", "broken", "good", "syntax", "wrongbase"]
    assert found["good"] == ProfileSummary(
        "good", "good", ("/etc",), "s3://bucket/", "@daily", place="s3://bucket/ at Amazon S3"
    )
    assert found["base"] == ProfileSummary("base", "a base", base_only=True)
    assert found["broken"].description == "odd"
    assert 'broken.toml:2: unknown key "x"' in found["broken"].problem
    assert "syntax.toml:1:" in found["syntax"].problem
    assert found["wrongbase"].base_only
    assert "wrongbase.toml:2: retention.keep_last" in found["wrongbase"].problem


@pytest.mark.parametrize("has_base", [True, False])
def test_a_new_profile_loads_as_it_is_and_with_every_comment_removed(
    paths: Paths, has_base: bool
) -> None:
    if has_base:
        write(paths, (PROJECT_ROOT / "profiles" / "base.toml").read_text(), "base")
    path = write_new_profile("web1", paths)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    profile = load_profile("web1", paths)
    assert profile.inherit == ("base" if has_base else "")
    assert profile.store.url == "s3://my-bucket/web1/"
    kept = [line for line in path.read_text().splitlines() if line != '# inherit = "base"']
    opened = [line.removeprefix("# ") for line in kept if not line.startswith("# url = ")]
    path.write_text("\n".join(line for line in opened if _is_toml(line)))
    whole = load_profile("web1", paths)
    assert whole.schedule
    assert whole.notify.email
    assert whole.store.access_key_id


def _is_toml(line: str) -> bool:
    return line.startswith("[") or line.split(" ")[1:2] == ["="]


def test_a_new_profile_never_overwrites(paths: Paths) -> None:
    path = write(paths, "mine = 1\n", "web1")
    with pytest.raises(UsageError, match="is there already"):
        write_new_profile("web1", paths)
    assert path.read_text() == "mine = 1\n"
    dangling = paths.profiles / "web2.toml"
    dangling.symlink_to(paths.profiles / "elsewhere.toml")
    with pytest.raises(UsageError, match="is there already"):
        write_new_profile("web2", paths)
    assert not (paths.profiles / "elsewhere.toml").exists()


@pytest.mark.parametrize("name", ["", "../x", "A", "x.y", "-x", "x" * 64, "a b", "x\n"])
def test_a_new_profile_with_a_bad_name_is_refused(paths: Paths, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a profile"):
        write_new_profile(name, paths)
    assert os.listdir(paths.profiles) == []


def test_a_new_profile_where_none_can_be_written_is_told(paths: Paths) -> None:
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        write_new_profile("x", replace(paths, profiles=paths.profiles / "absent"))
    with pytest.raises(UsageError, match="cannot be written: "):
        write_new_profile("x", replace(paths, profiles=Path("/proc")))


def test_half_a_new_profile_is_taken_away(paths: Paths) -> None:
    """With a file size limit of 100 bytes, as a full disk would stop the writing."""
    program = f"""
import resource, signal
from msgspec.structs import replace
from pathlib import Path
from backup_tasks.errors import UsageError
from backup_tasks.common.paths import find_paths
from backup_tasks.profile.load import write_new_profile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    write_new_profile("x", replace(find_paths(), profiles=Path({str(paths.profiles)!r})))
except UsageError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT_ROOT, capture_output=True, text=True
    )
    assert "cannot be written: File too large" in done.stdout, done.stderr
    assert os.listdir(paths.profiles) == []


def test_loading_needs_none_of_the_heavy_libraries() -> None:
    program = (
        "import sys; import backup_tasks.profile.load; "
        "print([m for m in ('boto3', 'rich', 'jinja2', 'pathspec', 'cronsim') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT_ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
