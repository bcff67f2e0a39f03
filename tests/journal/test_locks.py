"""Promises of the locks: one run at a time, and never a lock that outlives its holder."""

from __future__ import annotations

import re
import signal
import stat
import subprocess
import sys

import pytest

from backup_tasks.common.paths import PROJECT_ROOT, Paths
from backup_tasks.errors import BackupError, LockedError
from backup_tasks.journal.locks import hold_lock

_HOLDER = """
import sys
from pathlib import Path
from backup_tasks.journal.locks import hold_lock
from backup_tasks.common.paths import Paths

state = Path(sys.argv[1])
with hold_lock(sys.argv[2:], Paths(state, state, state, state, state), "backup prod"):
    print("held", flush=True)
    sys.stdin.read()
"""


def start_holder(paths: Paths, *names: str) -> subprocess.Popen[str]:
    """Another process that holds these locks until its stdin closes."""
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(paths.state), *names],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_second_run_is_told_who_holds_the_lock(paths: Paths) -> None:
    holder = start_holder(paths, "profile prod", "store s3://bucket/")
    expected = re.compile(
        rf"backup prod \(process {holder.pid}\) holds the lock on store s3://bucket/ "
        r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d; wait until it is done, or end that process"
    )
    with (
        pytest.raises(LockedError, match=expected) as raised,
        hold_lock(["profile other", "store s3://bucket/"], paths, "backup other"),
    ):
        pytest.fail("two runs at once")
    assert raised.value.exit_code == 11
    holder.communicate()


def test_a_killed_holder_leaves_no_lock_behind(paths: Paths) -> None:
    holder = start_holder(paths, "profile prod")
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with hold_lock(["profile prod"], paths, "backup prod"):
        pass


def test_other_names_are_free(paths: Paths) -> None:
    with hold_lock(["profile prod"], paths, "one"), hold_lock(["profile nas"], paths, "two"):
        pass


def test_names_that_read_alike_are_different_locks(paths: Paths) -> None:
    with hold_lock(["store s3://a/b"], paths, "one"), hold_lock(["store s3://a-b"], paths, "two"):
        pass


def test_a_refused_run_keeps_none_of_its_locks(paths: Paths) -> None:
    with (
        hold_lock(["b"], paths, "one"),
        pytest.raises(LockedError),
        hold_lock(["a", "b"], paths, "two"),
    ):
        pass
    with hold_lock(["a"], paths, "three"):
        pass


def test_a_lock_ends_with_its_block_also_after_an_error(paths: Paths) -> None:
    with pytest.raises(KeyError), hold_lock(["a"], paths, "one"):
        raise KeyError
    with hold_lock(["a"], paths, "two"):
        pass


def test_a_file_that_is_left_over_is_no_lock(paths: Paths) -> None:
    with hold_lock(["a"], paths, "one"):
        pass
    (left_over,) = (paths.state / "locks").iterdir()
    left_over.write_bytes(b"\xff no json")
    with hold_lock(["a"], paths, "two"):
        left_over.write_bytes(b"\xff no json")
        with (
            pytest.raises(LockedError, match="another run holds the lock on a"),
            hold_lock(["a"], paths, "three"),
        ):
            pass


def test_a_program_that_the_holder_started_does_not_keep_the_lock(paths: Paths) -> None:
    with hold_lock(["a"], paths, "one"):
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    with hold_lock(["a"], paths, "two"):
        pass
    child.communicate()


def test_only_the_owner_sees_the_locks(paths: Paths) -> None:
    paths.state.rmdir()
    with hold_lock(["a"], paths, "one"):
        folder = paths.state / "locks"
        (file,) = folder.iterdir()
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (paths.state, folder, file)]
    assert modes == [0o700, 0o700, 0o600]


def test_a_state_folder_that_cannot_be_written_is_named(paths: Paths) -> None:
    paths.state.rmdir()
    paths.state.write_text("a file where the folder should be")
    expected = rf"cannot take the lock {paths.state}/locks/a-.*BACKUP_TASKS_STATE"
    with pytest.raises(BackupError, match=expected), hold_lock(["a"], paths, "one"):
        pass
