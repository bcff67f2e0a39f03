"""Promises of the schedule: our block in the crontab, and nothing but our block."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backup_tasks.common.paths import Paths
from backup_tasks.errors import LockedError, ScheduleError
from backup_tasks.journal.locks import hold_lock
from backup_tasks.schedule import crontab_program
from backup_tasks.schedule import install as schedule
from backup_tasks.schedule.crontab_block import (
    join_crontab,
    parse_line,
    render_block,
    render_line,
    split_crontab,
)
from backup_tasks.schedule.crontab_program import read_crontab, write_crontab
from backup_tasks.schedule.install import (
    install_cron,
    remove_cron,
    render_change,
    render_cron,
    show_cron,
)
from backup_tasks.schedule.scheduled import Scheduled
from tests.support.cron_box import CronBox, cron_box

__all__ = ["cron_box"]

ROOT = Path("/srv/backup-tasks")
NOW = datetime(2025, 6, 12, 10, 0, tzinfo=UTC)
OTHERS = b"""# my jobs \xff\xfe
MAILTO=root

*/5 * * * *\techo 'caf\xe9' 100\\% >/dev/null
# BEGIN backup-tasks /srv/backup-tasks-two
0 1 * * * true
# END backup-tasks /srv/backup-tasks-two
"""


def profile(paths: Paths, name: str, cron: str | None = "0 2 * * *") -> Any:
    """What the schedule needs of a profile."""
    when = SimpleNamespace(cron=cron) if cron else None
    return SimpleNamespace(name=name, path=paths.profiles / f"{name}.toml", schedule=when)


def sound(*profiles: Any) -> Scheduled:
    """These profiles, and none that is broken."""
    return Scheduled(profiles)


def block_of(content: bytes, paths: Paths) -> dict[str, str]:
    lines = split_crontab(content, paths.root).lines
    return {line.profile: line.expression for line in lines}


def test_installing_and_removing_leaves_all_else_byte_for_byte(
    cron_box: CronBox, paths: Paths
) -> None:
    cron_box.write(OTHERS)
    install_cron(sound(profile(paths, "prod"), profile(paths, "nas", "@daily")), paths)
    assert cron_box.read().startswith(OTHERS + b"# BEGIN backup-tasks ")
    assert block_of(cron_box.read(), paths) == {"prod": "0 2 * * *", "nas": "0 0 * * *"}
    cron_box.write(cron_box.read() + b"@hourly echo later\n")
    change = remove_cron(paths)
    assert change.actions == {"prod": "removed", "nas": "removed"}
    assert cron_box.read() == OTHERS + b"@hourly echo later\n"


def test_installing_works_for_a_user_without_crontab(cron_box: CronBox, paths: Paths) -> None:
    change = install_cron(sound(profile(paths, "prod")), paths)
    assert change.actions == {"prod": "added"}
    assert block_of(cron_box.read(), paths) == {"prod": "0 2 * * *"}


def test_installing_again_changes_nothing(cron_box: CronBox, paths: Paths) -> None:
    profiles = sound(profile(paths, "prod"), profile(paths, "nas"))
    install_cron(profiles, paths)
    once = cron_box.read()
    change = install_cron(profiles, paths)
    assert cron_box.read() == once
    assert set(change.actions.values()) == {"unchanged"}


def test_a_missing_final_newline_is_added_so_that_no_line_is_joined(
    cron_box: CronBox, paths: Paths
) -> None:
    cron_box.spool(b"0 5 * * * echo last")
    install_cron(sound(profile(paths, "prod")), paths)
    assert cron_box.read().startswith(b"0 5 * * * echo last\n# BEGIN ")


def test_one_profile_is_updated_beside_the_others(cron_box: CronBox, paths: Paths) -> None:
    install_cron(sound(profile(paths, "prod"), profile(paths, "nas")), paths)
    change = install_cron(sound(profile(paths, "prod", "30 3 * * 1")), paths, keep_others=True)
    assert change.actions == {"prod": "changed", "nas": "unchanged"}
    assert block_of(cron_box.read(), paths) == {"prod": "30 3 * * 1", "nas": "0 2 * * *"}


def test_one_profile_is_removed_beside_the_others(cron_box: CronBox, paths: Paths) -> None:
    install_cron(sound(profile(paths, "prod"), profile(paths, "nas")), paths)
    change = remove_cron(paths, "prod")
    assert change.actions == {"prod": "removed", "nas": "unchanged"}
    assert block_of(cron_box.read(), paths) == {"nas": "0 2 * * *"}


def test_installing_all_removes_the_line_of_a_profile_that_is_gone(
    cron_box: CronBox, paths: Paths
) -> None:
    install_cron(sound(profile(paths, "prod"), profile(paths, "old")), paths)
    (paths.profiles / "base.toml").touch()
    change = install_cron(sound(profile(paths, "prod"), profile(paths, "off", None)), paths)
    assert change.actions == {"prod": "unchanged", "old": "removed"}
    assert block_of(cron_box.read(), paths) == {"prod": "0 2 * * *"}


def test_removing_a_profile_that_has_no_line_names_those_that_have(
    cron_box: CronBox, paths: Paths
) -> None:
    install_cron(sound(profile(paths, "prod")), paths)
    with pytest.raises(ScheduleError, match="no line for 'prd'; there are: prod"):
        remove_cron(paths, "prd")


def test_a_narrowed_profile_without_schedule_is_an_error(cron_box: CronBox, paths: Paths) -> None:
    with pytest.raises(ScheduleError, match=r"off\.toml: has no \[schedule\]"):
        install_cron(sound(profile(paths, "off", None)), paths, keep_others=True)


def test_a_dry_run_tells_and_writes_nothing(cron_box: CronBox, paths: Paths) -> None:
    change = install_cron(sound(profile(paths, "prod")), paths, dry_run=True)
    assert cron_box.read() == b""
    assert "would be added" in render_change(change)


@pytest.mark.parametrize("missing", ["BEGIN", "END"])
def test_a_damaged_fence_is_named_and_nothing_is_written(
    cron_box: CronBox, paths: Paths, missing: str
) -> None:
    install_cron(sound(profile(paths, "prod")), paths)
    lines = cron_box.read().splitlines(keepends=True)
    damaged = b"".join(line for line in lines if missing.encode() not in line)
    cron_box.write(damaged)
    for action in (
        lambda: install_cron(sound(profile(paths, "prod")), paths),
        lambda: remove_cron(paths),
        lambda: show_cron(sound(), paths, NOW),
    ):
        with pytest.raises(ScheduleError, match=r"damaged.*line \d.*repair it with `crontab -e`"):
            action()
    assert cron_box.read() == damaged


def test_a_block_that_stands_twice_is_a_damaged_fence() -> None:
    block = render_block([b"0 2 * * * true"], ROOT)
    with pytest.raises(ScheduleError, match="damaged"):
        split_crontab(block + block, ROOT)


def test_what_cron_refuses_is_told_and_leaves_the_crontab(cron_box: CronBox, paths: Paths) -> None:
    cron_box.write(OTHERS)
    with pytest.raises(ScheduleError, match=r"not changed.*refused.*bad minute"):
        write_crontab(b"99 * * * * true\n")
    assert read_crontab() == OTHERS


def test_a_machine_without_cron_is_told_which_package_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ScheduleError, match="apt install cron"):
        read_crontab()


def test_a_user_who_may_not_use_cron_is_told_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refusing = tmp_path / "crontab"
    refusing.write_text("#!/bin/sh\necho 'You (joe) are not allowed to use this' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ScheduleError, match=r"cannot be read: You \(joe\) are not allowed"):
        read_crontab()


def test_two_installations_at_once_do_not_overwrite_each_other(
    cron_box: CronBox, paths: Paths
) -> None:
    with hold_lock(["crontab"], paths, "cron-install"), pytest.raises(LockedError):
        install_cron(sound(profile(paths, "prod")), paths)


def test_folders_that_were_moved_travel_in_the_line(cron_box: CronBox, paths: Paths) -> None:
    install_cron(sound(profile(paths, "prod")), paths)
    content = cron_box.read().decode()
    assert f"BACKUP_TASKS_LOGS={paths.logs} " in content
    assert f"BACKUP_TASKS_STATE={paths.state} " in content
    assert "BACKUP_TASKS_TEMPLATES" not in content  # these are where every run looks for them


def test_a_profile_outside_the_folder_is_scheduled_by_its_path(
    cron_box: CronBox, paths: Paths, tmp_path: Path
) -> None:
    elsewhere = profile(paths, "prod")
    elsewhere.path = tmp_path / "else where" / "prod.toml"
    install_cron(sound(elsewhere), paths)
    assert block_of(cron_box.read(), paths) == {str(elsewhere.path): "0 2 * * *"}
    assert [entry.state for entry in show_cron(sound(elsewhere), paths, NOW).entries] == ["current"]


def test_show_says_in_words_what_runs_when_and_what_is_amiss(
    cron_box: CronBox, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "local_zone", lambda: ZoneInfo("Europe/Stockholm"))
    install_cron(sound(*(profile(paths, name) for name in ("prod", "nas", "old"))), paths)
    (paths.profiles / "base.toml").touch()
    now_there = sound(
        profile(paths, "prod"),
        profile(paths, "nas", "5 4 * * 1-5"),
        profile(paths, "new"),
    )
    report = show_cron(now_there, paths, NOW)
    assert [(entry.profile, entry.state) for entry in report.entries] == [
        ("prod", "current"),
        ("nas", "out of date"),
        ("old", "orphan"),
        ("new", "not installed"),
    ]
    prod = report.entries[0]
    assert prod.explanation == "At 02:00 every day"
    assert prod.next_run == datetime(2025, 6, 13, 0, 0, tzinfo=UTC)
    shown = render_cron(report)
    assert re.search(
        r"^prod +0 2 \* \* \* +At 02:00 every day +Fri 2025-06-13 02:00 +current", shown, re.M
    )
    assert "`invoke cron-install`" in shown
    assert "`invoke cron-remove --profile NAME`" in shown


def test_the_next_run_keeps_its_hour_across_the_end_of_summer_time(
    cron_box: CronBox, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "local_zone", lambda: ZoneInfo("Europe/Stockholm"))
    monthly = sound(profile(paths, "prod", "0 6 1 * *"))
    install_cron(monthly, paths)
    entry = show_cron(monthly, paths, datetime(2025, 10, 20, tzinfo=UTC)).entries[0]
    assert entry.next_run == datetime(2025, 11, 1, 5, 0, tzinfo=UTC)


def test_a_line_is_current_whichever_name_of_the_interpreter_shows_it(
    cron_box: CronBox, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_cron(sound(profile(paths, "prod")), paths)
    for name in ("python", "python3"):
        monkeypatch.setattr(schedule.sys, "executable", f"{schedule.sys.prefix}/bin/{name}")
        entry = show_cron(sound(profile(paths, "prod")), paths, NOW).entries[0]
        assert entry.state == "current"


def test_show_survives_a_line_that_was_changed_by_hand(cron_box: CronBox, paths: Paths) -> None:
    install_cron(sound(profile(paths, "prod")), paths)
    content = cron_box.read()
    cron_box.write(content.replace(b"0 2 * * *", b"@reboot"))
    report = show_cron(sound(profile(paths, "prod")), paths, NOW)
    assert "cannot be read" in render_cron(report)


def test_nothing_scheduled_is_said_in_words(cron_box: CronBox, paths: Paths) -> None:
    assert "Nothing is scheduled" in render_cron(
        show_cron(sound(profile(paths, "a", None)), paths, NOW)
    )
    assert "Nothing to do" in render_change(install_cron(sound(), paths))


def test_a_path_with_a_line_break_is_refused() -> None:
    with pytest.raises(ScheduleError, match="line break"):
        render_line("0 2 * * *", "prod", Path("/srv/a\nb"), "/usr/bin/python3", {})


ODD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r"), min_size=1)


@given(root=ODD, name=ODD, logs=ODD)
@example(root="a\\\\b", name="c\\%d", logs="\\")
def test_whatever_a_path_holds_cron_and_the_shell_give_it_back(
    root: str, name: str, logs: str
) -> None:
    line = render_line("0 2 * * *", name, Path("/" + root), "/bin/python3", {"LOGS": logs})
    # As crontab(5) says: an unescaped % ends the command; a backslash guards % and itself.
    command = line.text.decode().split(" ", 5)[5]
    assert not re.search(r"(?<!\\)(?:\\\\)*%", command)
    words = shlex.split(re.sub(r"\\([\\%])", r"\1", command))
    assert words[:4] == ["/usr/bin/env", f"LOGS={logs}", "/bin/python3", "-P"]
    assert words[words.index("-r") + 1] == str(Path("/" + root))
    parsed = parse_line(line.text)
    assert parsed is not None
    assert parsed.profile == name


@given(
    before=st.binary(),
    after=st.binary(),
    names=st.lists(st.sampled_from(["a", "b", "c"]), unique=True, min_size=1),
)
def test_whatever_stands_around_the_block_stays(
    before: bytes, after: bytes, names: list[str]
) -> None:
    lines = [render_line("0 2 * * *", name, ROOT, "/bin/python3", {}) for name in names]
    installed = join_crontab(split_crontab(before, ROOT), lines, ROOT)
    added = b"" if not before or before.endswith(b"\n") else b"\n"
    assert installed == before + added + render_block([line.text for line in lines], ROOT)
    split = split_crontab(installed + after, ROOT)
    assert list(split.lines) == lines
    assert join_crontab(split, [], ROOT) == before + added + after


def test_the_line_runs_in_an_empty_environment_and_prints_nothing_on_success(
    tmp_path: Path,
) -> None:
    """Also from a folder that holds modules named like those that the run imports."""
    root = tmp_path / "100% o'dd \\root"
    root.mkdir()
    (root / "tasks.py").write_text(
        "import os\nfrom invoke.tasks import task\n"
        "@task\ndef backup(c, profile=''):\n"
        "    open('ran', 'w').write(profile + ' ' + os.environ['BACKUP_TASKS_LOGS'])\n"
        "    print('noise')\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    for module in ("invoke", "json", "tasks"):
        (home / f"{module}.py").write_text("raise SystemExit('the wrong module')\n")
    line = render_line(
        "0 2 * * *", "prod", root, schedule.sys.executable, {"BACKUP_TASKS_LOGS": "/l %"}
    )
    command = re.sub(r"\\([\\%])", r"\1", line.text.decode().split(" ", 5)[5])
    ended = subprocess.run(
        ["/bin/sh", "-c", command], cwd=home, env={}, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert (home / "ran").read_text() == "prod /l %"


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (read_crontab, "try it by hand: crontab -l"),
        (lambda: write_crontab(b"x\n"), "whether the crontab was changed is not known"),
    ],
)
def test_a_program_that_gives_no_answer_is_told_and_what_it_did_is_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[], object], told: str
) -> None:
    program = tmp_path / "bin" / "crontab"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(crontab_program, "_TIMEOUT_SECONDS", 0.2)
    with pytest.raises(ScheduleError, match=told) as caught:
        call()
    assert "gave no answer in 0.2 s" in str(caught.value)
