"""The whole way: a profile's [schedule], the crontab, the real cron daemon, a backup."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from backup_tasks.common.paths import PROJECT_ROOT, Paths
from backup_tasks.schedule.crontab_block import split_crontab
from backup_tasks.schedule.install import install_cron
from backup_tasks.schedule.scheduled import find_scheduled
from tests.support.cron_box import CronBox, cron_box
from tests.support.smtp_server import start_smtp_server

__all__ = ["cron_box"]

# It fires at the next full minute; the rest is for a machine that is busy with other tests.
PATIENCE_SECONDS = 180


@pytest.fixture
def odd_paths(paths: Paths, tmp_path: Path) -> Paths:
    """The project under a name that cron and the shell would both like to interpret."""
    root = tmp_path / "100% it's \\here"
    root.symlink_to(PROJECT_ROOT)
    source = tmp_path / "source"
    source.mkdir()
    (tmp_path / "store").mkdir()
    (source / "file").write_text("kept")
    (paths.profiles / "nightly.toml").write_text(
        f'[backup]\nsources = ["{source}"]\n'
        f'[store]\nurl = "file://{tmp_path}/store/"\n'
        '[schedule]\ncron = "* * * * *"\n'
    )
    return replace(paths, root=root)


def archives(tmp_path: Path) -> list[str]:
    return [name.name for name in (tmp_path / "store").glob("*-backup.tar.gz")]


def test_cron_makes_the_backup_within_its_minute(
    cron_box: CronBox, odd_paths: Paths, tmp_path: Path
) -> None:
    install_cron(find_scheduled(odd_paths), odd_paths)
    records = odd_paths.logs / "runs.jsonl"
    deadline = time.monotonic() + PATIENCE_SECONDS
    with cron_box.daemon():
        # The daemon cannot tell us when; the record is the last thing that a run writes.
        while not records.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
    assert len(archives(tmp_path)) >= 1
    line = re.compile(r"\[[-\d]+ [:\d]+\] SUCCESS: (\S+) uploaded \(\S+, \S+\)")
    log = (odd_paths.logs / "backup.log").read_text()
    match = line.fullmatch(log.splitlines()[1])  # the first tells of the new signing key
    assert match
    assert match[1] in archives(tmp_path)


def test_the_line_prints_nothing_when_all_is_well_and_the_reason_when_not(
    cron_box: CronBox, odd_paths: Paths, tmp_path: Path
) -> None:
    install_cron(find_scheduled(odd_paths), odd_paths)
    (line,) = split_crontab(cron_box.read(), odd_paths.root).lines
    command = re.sub(r"\\([\\%])", r"\1", line.text.decode().split(" ", 5)[5])

    def run() -> tuple[int, str, str]:
        ended = subprocess.run(
            ["/bin/sh", "-c", command], env={}, cwd="/", capture_output=True, text=True, check=False
        )
        return ended.returncode, ended.stdout, ended.stderr

    assert run() == (0, "", "")
    assert len(archives(tmp_path)) == 1
    (tmp_path / "source" / "file").unlink()
    (tmp_path / "source").rmdir()
    code, stdout, stderr = run()
    assert (code, stdout) == (1, "")
    assert stderr.count("\n") == 1
    assert f"{tmp_path}/source" in stderr


def test_a_run_by_cron_of_a_profile_with_a_typo_is_told_by_mail(
    cron_box: CronBox, odd_paths: Paths, tmp_path: Path
) -> None:
    """The line stays, runs in its minute, and the profile's own table says whom to tell."""
    with start_smtp_server() as server:
        profile = odd_paths.profiles / "nightly.toml"
        whole = profile.read_text().replace("* * * * *", "0 2 * * *")
        profile.write_text(
            f'{whole}[notify.email]\nhost = "127.0.0.1"\nport = {server.port}\n'
            'security = "none"\nfrom = "b@example.com"\nto = ["admin@example.com"]\n'
        )
        assert install_cron(find_scheduled(odd_paths), odd_paths).broken == {}
        profile.write_text(profile.read_text() + "[retention]\nkeep_lst = 7\n")
        change = install_cron(find_scheduled(odd_paths), odd_paths)
        assert (change.actions, list(change.broken)) == ({"nightly": "kept as it is"}, ["nightly"])
        deadline = time.monotonic() + PATIENCE_SECONDS
        with cron_box.daemon(starts_at="2025-06-12 01:59:58"):
            # The daemon cannot tell us when; the record is the last thing that a run writes.
            records = odd_paths.logs / "runs.jsonl"
            while not _holds_a_line(records) and time.monotonic() < deadline:
                time.sleep(0.05)
    [message] = server.messages
    assert "keep_lst" in str(message.get_body(("plain",)))
    record = json.loads(records.read_text())
    assert (record["profile"], record["result"], record["exit_code"]) == ("nightly", "failure", 2)
    assert archives(tmp_path) == []


def _holds_a_line(file: Path) -> bool:
    return file.exists() and file.read_bytes().endswith(b"\n")
