"""A profile with problems: its line in the crontab stays, and it is named wherever profiles are."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from backup_tasks.common.paths import PROJECT_ROOT
from backup_tasks.schedule.crontab_block import split_crontab
from tests.support.cli import Cli, Done, cli
from tests.support.cron_box import CronBox, cron_box
from tests.support.other_process import IS_ROOT, NOBODY

__all__ = ["cli", "cron_box"]

NIGHTLY = '[schedule]\ncron = "0 2 * * *"\n'
TYPO = "[retention]\nkeep_lst = 7\n"


@pytest.fixture
def two(cli: Cli, cron_box: CronBox) -> Cli:
    """Profiles c1 and c2 with their lines in the crontab."""
    cli.environ["PATH"] = os.environ["PATH"]  # with the crontab of this test
    for name in ("c1", "c2"):
        cli.write_profile(more=NIGHTLY, name=name)
    assert cli.run("cron-install").code == 0
    assert sorted(lines(cron_box)) == ["c1", "c2"]
    return cli


def lines(cron_box: CronBox) -> dict[str, bytes]:
    """Profile -> its line."""
    return {line.profile: line.text for line in split_crontab(cron_box.read(), PROJECT_ROOT).lines}


def assert_named(cli: Cli, done: Done, *words: str) -> None:
    """Exit code 2, and the reason on stderr, in the log and in the record."""
    assert done.code == 2, done
    for word in words:
        assert word in done.err, done
    record = cli.records()[-1]
    assert (record["task"], record["result"], record["exit_code"]) == ("cron-install", "failure", 2)
    assert record["error"] == done.err.rstrip("\n")
    assert "FAILURE" in cli.log()[-1]


def with_a_typo(cli: Cli) -> None:
    cli.write_profile(more=NIGHTLY + TYPO, name="c2")


def that_is_no_toml(cli: Cli) -> None:
    (cli.profiles / "c2.toml").write_text("[backup\n")


def with_a_mistyped_schedule(cli: Cli) -> None:
    cli.write_profile(more=NIGHTLY.replace("schedule", "shedule"), name="c2")


def with_a_mistyped_store(cli: Cli) -> None:
    path = cli.write_profile(more=NIGHTLY, name="c2")
    path.write_text(path.read_text().replace("[store]", "[stroe]"))


def without_a_store(cli: Cli) -> None:
    path = cli.write_profile(more=NIGHTLY, name="c2")
    path.write_text(path.read_text().replace("[store]\n", "").replace("url =", "# url ="))


def whose_base_is_broken(cli: Cli) -> None:
    path = cli.write_profile(more=NIGHTLY, name="c2")
    path.write_text('inherit = "base"\n' + path.read_text())
    (cli.profiles / "base.toml").write_text(TYPO)


def whose_base_is_missing(cli: Cli) -> None:
    path = cli.write_profile(more=NIGHTLY, name="c2")
    path.write_text('inherit = "gone"\n' + path.read_text())


def that_others_may_write(cli: Cli) -> None:
    (cli.profiles / "c2.toml").chmod(0o666)


def that_belongs_to_somebody(cli: Cli) -> None:
    os.chown(cli.profiles / "c2.toml", NOBODY, NOBODY)


def that_is_a_link_to_what_is_not_mounted(cli: Cli) -> None:
    (cli.profiles / "c2.toml").unlink()
    (cli.profiles / "c2.toml").symlink_to(cli.here / "mnt" / "c2.toml")


def that_cannot_be_opened(cli: Cli) -> None:
    """As a file that is not readable, for root as well."""
    (cli.profiles / "c2.toml").unlink()
    (cli.profiles / "c2.toml").symlink_to("c2.toml")


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (with_a_typo, 'c2.toml:10: retention: unknown key "keep_lst"; did you mean "keep_last"?'),
        (that_is_no_toml, "c2.toml:1: "),
        (with_a_mistyped_schedule, 'unknown key "shedule"; did you mean "schedule"?'),
        (with_a_mistyped_store, 'unknown key "stroe"; did you mean "store"?'),
        (without_a_store, "store: missing"),
        (whose_base_is_broken, 'base.toml:2: retention: unknown key "keep_lst"'),
        (whose_base_is_missing, 'inherit: there is no profile "gone" to inherit from'),
        (that_others_may_write, "may be written by"),
        pytest.param(
            *(that_belongs_to_somebody, "belongs to"),
            marks=pytest.mark.skipif(not IS_ROOT, reason="only root gives files away"),
        ),
        (that_is_a_link_to_what_is_not_mounted, "c2"),
        (that_cannot_be_opened, "c2"),
    ],
    ids=lambda value: getattr(value, "__name__", "named"),
)
def test_the_line_of_a_profile_stays_as_it_was_and_the_others_are_installed(
    two: Cli, cron_box: CronBox, harm: Callable[[Cli], None], named: str
) -> None:
    before = lines(cron_box)["c2"]
    harm(two)
    two.write_profile(more=NIGHTLY.replace("2", "3"), name="c1")
    two.write_profile(more=NIGHTLY, name="c3")
    done = two.run("cron-install")
    assert_named(two, done, named, "the line of c2 stays in the crontab as it was")
    after = lines(cron_box)
    assert after["c2"] == before
    assert after["c1"].startswith(b"0 3 * * * ")
    assert after["c3"].startswith(b"0 2 * * * ")
    told = dict(re.findall(r"^(c\d) +(.+?) *$", done.out, re.MULTILINE))
    assert told == {"c1": "changed", "c2": "kept as it is", "c3": "added"}
    [entry] = json.loads(two.run("cron-show", "--profile", "c2", "--json").out)["entries"]
    assert (entry["state"], entry["expression"]) == ("broken", "0 2 * * *")
    assert entry["next_run"]
    assert named.partition(";")[0] in entry["problem"]
    is_taken_for_a_base = harm is without_a_store
    ok = re.search(r"^c2 .* ok$", two.run("profiles").out, re.MULTILINE)
    assert bool(ok) == is_taken_for_a_base
    # The line that stayed is as good as ever once the profile is mended.
    (two.profiles / "c2.toml").unlink()
    (two.profiles / "base.toml").unlink(missing_ok=True)
    two.write_profile(more=NIGHTLY, name="c2")
    done = two.run("cron-install")
    assert (done.code, lines(cron_box)["c2"]) == (0, before)


def test_a_broken_profile_that_never_had_a_line_is_named_too(two: Cli, cron_box: CronBox) -> None:
    two.write_profile(more=NIGHTLY + TYPO, name="c3")
    before = cron_box.read()
    done = two.run("cron-install")
    assert_named(two, done, "c3.toml:10", "c3 got no line in the crontab")
    assert re.search(r"^c3 +left out", done.out, re.MULTILINE)
    assert cron_box.read() == before
    shown = two.run("cron-show")
    assert shown.code == 0
    assert re.search(r"^c3 .* broken", shown.out, re.MULTILINE)
    assert "c3.toml:10" in shown.out


def test_the_line_of_a_profile_goes_when_its_file_is_gone_or_has_no_schedule(
    two: Cli, cron_box: CronBox
) -> None:
    (two.profiles / "c1.toml").unlink()
    two.write_profile(name="c2")
    shown = json.loads(two.run("cron-show", "--json").out)["entries"]
    assert [entry["state"] for entry in shown] == ["orphan", "orphan"]
    done = two.run("cron-install")
    assert (done.code, lines(cron_box)) == (0, {})
    assert done.out.count("removed") == 2


def test_a_profile_that_was_renamed_takes_its_schedule_along(two: Cli, cron_box: CronBox) -> None:
    (two.profiles / "c2.toml").rename(two.profiles / "web.toml")
    assert two.run("cron-install").code == 0
    assert sorted(lines(cron_box)) == ["c1", "web"]


def test_a_dry_run_names_the_broken_profile_and_writes_nothing(two: Cli, cron_box: CronBox) -> None:
    with_a_typo(two)
    two.write_profile(more=NIGHTLY.replace("2", "3"), name="c1")
    before = cron_box.read()
    done = two.run("cron-install", "--dry-run")
    assert_named(two, done, "c2.toml:10")
    assert "would be kept as it is" in done.out
    assert cron_box.read() == before


def test_one_profile_is_installed_beside_a_broken_one(two: Cli, cron_box: CronBox) -> None:
    with_a_typo(two)
    before = lines(cron_box)["c2"]
    assert two.run("cron-install", "--profile", "c1").code == 0
    done = two.run("cron-install", "--profile", "c2")
    assert_named(two, done, "c2.toml:10")
    assert lines(cron_box)["c2"] == before


def test_the_line_of_a_broken_profile_is_removed_by_name(two: Cli, cron_box: CronBox) -> None:
    with_a_typo(two)
    assert two.run("cron-remove", "--profile", "c2").code == 0
    assert list(lines(cron_box)) == ["c1"]


@pytest.mark.parametrize("harm", ["missing", "no folder", "empty"])
def test_nothing_is_removed_when_the_folder_of_the_profiles_is_not_there(
    two: Cli, cron_box: CronBox, harm: str
) -> None:
    before = cron_box.read()
    shutil.rmtree(two.profiles)
    if harm == "empty":  # a mount point
        two.profiles.mkdir()
    elif harm == "no folder":
        two.profiles.touch()
    assert_named(two, two.run("cron-install"), str(two.profiles))
    assert cron_box.read() == before
    shown = two.run("cron-show")
    assert "orphan" not in shown.out
    assert str(two.profiles) in shown.out + shown.err
    listed = two.run("profiles")
    assert listed.code == (0 if harm == "empty" else 2)


def test_lines_of_profiles_that_lie_elsewhere_stay_until_these_are_gone(
    two: Cli, cron_box: CronBox, tmp_path: Path
) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine, other):
        folder.mkdir(mode=0o700)
    (two.profiles / "c2.toml").rename(mine / "c2.toml")
    two.write_profile(more=NIGHTLY, name="c3").rename(other / "c3.toml")
    assert two.run("cron-install", "--profile", mine / "c2.toml").code == 0
    other_folder = {"BACKUP_TASKS_PROFILES": str(other)}
    assert two.run("cron-install", "--profile", "c3", **other_folder).code == 0
    there = {"c1", str(mine / "c2.toml"), "c3"}

    def installed() -> set[str]:
        return set(lines(cron_box))

    assert two.run("cron-install").code == 0
    assert installed() == there
    shown = json.loads(two.run("cron-show", "--json").out)["entries"]
    assert {entry["profile"]: entry["state"] for entry in shown} == dict.fromkeys(there, "current")
    text = (mine / "c2.toml").read_text()
    (mine / "c2.toml").write_text(text + TYPO)
    other.rename(tmp_path / "not mounted")
    assert_named(two, two.run("cron-install"), "c2.toml:10", f"the folder {other}")
    assert installed() == there
    (mine / "c2.toml").write_text(text.replace("0 2", "0 4"))
    (tmp_path / "not mounted").rename(other)
    (other / "c3.toml").rename(other / "c4.toml")
    assert two.run("cron-install").code == 0
    assert installed() == there - {"c3"}
    assert lines(cron_box)[str(mine / "c2.toml")].startswith(b"0 4 ")
    (mine / "c2.toml").unlink()
    assert two.run("cron-install").code == 0
    assert installed() == {"c1"}
