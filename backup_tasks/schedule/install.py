"""Installs, shows and removes this project's lines in the user's crontab."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from backup_tasks.common.paths import Paths, find_paths
from backup_tasks.common.terminal import render_table
from backup_tasks.common.time_zones import local_zone
from backup_tasks.errors import ProfileError, ScheduleError
from backup_tasks.journal.locks import hold_lock
from backup_tasks.profile.cron_expression import expand_cron
from backup_tasks.schedule.scheduled import Scheduled, look_up, profiles_of
from backup_tasks.schedule.scheduler import DueRun, Installed, Scheduler, find_scheduler

if TYPE_CHECKING:
    from backup_tasks.profile.model import Profile

State = Literal["current", "out of date", "orphan", "not installed", "broken"]
Action = Literal["added", "changed", "removed", "unchanged", "kept as it is", "left out"]

_HINTS: dict[State, str] = {
    "out of date": "out of date: the profile or the project has changed since; "
    "`invoke cron-install` writes the line anew.",
    "orphan": "orphan: there is no such profile with [schedule] any more; "
    "`invoke cron-remove --profile NAME` removes the line.",
    "broken": "broken: the profile has problems, and so its backup fails; mend it. Its line in the "
    "crontab, if there is one, stays.",
    "not installed": "not installed: `invoke cron-install` installs it.",
}


class CronEntry(Struct, frozen=True):
    """One profile that is, or should be, in the crontab.

    Attributes:
        profile: as `--profile` takes it.
        expression: as in the crontab, or as in the profile if it is not installed.
        explanation: the expression in words.
        next_run: in the machine's time zone; None if the profile is not installed or never runs.
        problem: the first problem of a broken profile, one line, or "".
    """

    profile: str
    expression: str
    explanation: str
    next_run: datetime | None
    state: State
    problem: str = ""


class CronReport(Struct, frozen=True):
    """The findings of `show_cron`: in the order of the crontab, then profiles without a line."""

    entries: tuple[CronEntry, ...]


class CronChange(Struct, frozen=True):
    """The changes that an installation or a removal made, or would make.

    Attributes:
        actions: profile -> what happened to its line.
        dry_run: whether the changes were only planned, and nothing was written.
        broken: profile -> its problems, a line each; the profile's line was not touched.
    """

    actions: dict[str, Action]
    dry_run: bool
    broken: Mapping[str, str] = msgspec.field(default_factory=dict)


def install_cron(
    scheduled: Scheduled, paths: Paths, *, keep_others: bool = False, dry_run: bool = False
) -> CronChange:
    """Write one line for every profile that has [schedule] into our block of the crontab.

    Everything outside of the block stays byte for byte, and so does the line of a profile with
    problems. A line is removed only if its profile's file is gone, or is sound and has no
    [schedule]. A second installation changes nothing.

    Args:
        scheduled: all profiles; with `keep_others` only those to write, while the block's other
            lines stay.

    Raises:
        ScheduleError: a profile to write has no [schedule], or the crontab cannot be read or
            written; the crontab is unchanged.
        TrustError: others may change the program `crontab`.
        LockedError: another run is changing the crontab.
    """
    wanted = {line.profile: line for line in _lines_of(scheduled.profiles, paths)}
    if keep_others and len(wanted) < len(scheduled.profiles):
        without = (str(profile.path) for profile in scheduled.profiles if not profile.schedule)
        missing = ", ".join(without)
        raise ScheduleError(f'{missing}: has no [schedule]; add for example cron = "0 2 * * *"')
    broken = dict(scheduled.broken)
    scheduler = find_scheduler()
    with hold_lock([scheduler.place], paths, "cron-install"):
        installed = scheduler.read(paths.root)
        # Each line keeps its place, so that a second installation finds nothing to change.
        lines: dict[str | bytes, DueRun] = {}
        for line in installed.runs:
            if keep_others or line.profile in wanted:
                lines[line.profile or line.text] = wanted.get(line.profile, line)
                continue
            due = _line_due(line, scheduled, paths)
            if isinstance(due, ProfileError):
                broken[line.profile] = str(due)
                lines[line.profile] = line
            elif due is not None:
                lines[line.profile] = due
        due_runs = [*(lines | wanted).values()]
        return _apply(scheduler, installed, due_runs, paths, broken, dry_run=dry_run)


def _line_due(line: DueRun, scheduled: Scheduled, paths: Paths) -> DueRun | ProfileError | None:
    """Decide what replaces a line that no sound profile of the folder asks for.

    Returns:
        The due line, if the profile lies elsewhere; the error, if the profile has problems; None,
        if the profile is gone or has no [schedule].
    """
    if line.profile in scheduled.broken and profiles_of(line) == paths.profiles:
        return ProfileError(scheduled.broken[line.profile])
    found = look_up(line, paths) if line.profile else None
    if found is None or isinstance(found, ProfileError):
        return found
    return next(_lines_of([found], replace(paths, profiles=profiles_of(line))), None)


def remove_cron(paths: Paths, profile: str = "", *, dry_run: bool = False) -> CronChange:
    """Remove our block from the crontab, or only the line of one profile.

    Args:
        profile: as `cron-show` names it; the profile itself may be gone. "" removes the block.

    Raises:
        ScheduleError: the profile has no line, or the crontab cannot be read or written; the
            crontab is unchanged.
        TrustError: others may change the program `crontab`.
        LockedError: another run is changing the crontab.
    """
    scheduler = find_scheduler()
    with hold_lock([scheduler.place], paths, "cron-remove"):
        installed = scheduler.read(paths.root)
        kept = [line for line in installed.runs if profile and line.profile != profile]
        if profile and len(kept) == len(installed.runs):
            names = ", ".join(line.profile for line in installed.runs) or "none"
            raise ScheduleError(f"the crontab has no line for {profile!r}; there are: {names}")
        return _apply(scheduler, installed, kept, paths, {}, dry_run=dry_run)


def show_cron(scheduled: Scheduled, paths: Paths, now: datetime) -> CronReport:
    """Compare this project's lines in the crontab with those that the profiles ask for.

    Args:
        scheduled: all profiles.
        now: aware.
    """
    zone = local_zone()
    wanted = {line.profile: line for line in _lines_of(scheduled.profiles, paths)}
    installed = find_scheduler().read(paths.root).runs
    entries: list[CronEntry] = []
    for line in installed:
        due = wanted.get(line.profile) or _line_due(line, scheduled, paths)
        problem = str(due).partition("\n")[0] if isinstance(due, ProfileError) else ""
        entries.append(_entry(line, _state(line, due), now, zone, problem))
    there = {line.profile for line in installed}
    entries += [
        _entry(line, "not installed", now, zone)
        for line in wanted.values()
        if line.profile not in there
    ]
    entries += [
        CronEntry(name, "-", "-", None, "broken", problems.partition("\n")[0])
        for name, problems in scheduled.broken.items()
        if name not in there
    ]
    return CronReport(tuple(entries))


def render_cron(report: CronReport) -> str:
    """The report as a table, then each problem, and advice for each state but "current"."""
    if not report.entries:
        return "Nothing is scheduled: the crontab has no line of ours, and no profile [schedule]."
    rows = [
        (
            entry.profile or "?",
            entry.expression,
            entry.explanation,
            f"{entry.next_run:%a %Y-%m-%d %H:%M}" if entry.next_run else "-",
            entry.state,
        )
        for entry in report.entries
    ]
    table = render_table(("profile", "schedule", "in words", "next run", "state"), rows)
    states = {entry.state for entry in report.entries}
    hints = [entry.problem for entry in report.entries if entry.problem]
    hints += [hint for state, hint in _HINTS.items() if state in states]
    return "\n".join((table, *([""] if hints else []), *hints))


def render_change(change: CronChange) -> str:
    """The change as a table: each profile, and what happened to its line in the crontab."""
    if not change.actions:
        return "Nothing to do: the crontab has no line of ours, and none is asked for."
    rows = [
        (profile or "?", f"would be {action}" if change.dry_run else action)
        for profile, action in change.actions.items()
    ]
    return render_table(("profile", "line in the crontab"), rows)


def broken_profiles_error(change: CronChange) -> ProfileError:
    """The error that lists the problems of broken profiles, and says what to do about them."""
    problems = [line for told in change.broken.values() for line in told.splitlines()]
    kept = [name for name in change.broken if change.actions.get(name) == "kept as it is"]
    new = [name for name in change.broken if name not in kept]
    lines = list(dict.fromkeys(problems))  # once each: several profiles may share a broken base
    if kept:
        lines.append(
            f"the line of {', '.join(kept)} stays in the crontab as it was: mend the profile and "
            "run `invoke cron-install` again; or `invoke cron-remove --profile NAME` removes it"
        )
    if new:
        lines.append(
            f"{', '.join(new)} got no line in the crontab: mend the profile and run "
            "`invoke cron-install` again"
        )
    return ProfileError("\n".join(lines))


def _apply(
    scheduler: Scheduler,
    installed: Installed,
    lines: Sequence[DueRun],
    paths: Paths,
    broken: Mapping[str, str],
    *,
    dry_run: bool,
) -> CronChange:
    actions: dict[str, Action] = {}
    before = {line.profile: line.text for line in installed.runs}
    after = {line.profile: line.text for line in lines}
    for profile in before | after:
        if profile in broken:
            actions[profile] = "kept as it is"
        elif profile not in after:
            actions[profile] = "removed"
        elif profile not in before:
            actions[profile] = "added"
        else:
            actions[profile] = "unchanged" if before[profile] == after[profile] else "changed"
    actions |= {profile: "left out" for profile in broken if profile not in actions}
    if not dry_run and tuple(lines) != installed.runs:
        scheduler.write(installed, lines, paths.root)
    return CronChange(actions, dry_run, broken)


def _lines_of(profiles: Sequence[Profile], paths: Paths) -> Iterator[DueRun]:
    python, scheduler = _find_python(), find_scheduler()
    for profile in profiles:
        if profile.schedule is None:
            continue
        elsewhere = profile.path.parent != paths.profiles
        yield scheduler.render(
            expand_cron(profile.schedule.cron),
            str(profile.path) if elsewhere else profile.name,
            paths.root,
            python,
            _moved_folders(paths),
        )


def _find_python() -> str:
    # `python` and `python3` of a virtualenv are the same, and must not give different lines.
    named = Path(sys.prefix, "bin", "python3")
    if named.exists():
        return str(named)
    if not sys.executable:
        raise ScheduleError("the path of the Python interpreter is unknown; start it by full path")
    return sys.executable


def _moved_folders(paths: Paths) -> dict[str, str]:
    """The environment variables that a run under cron needs to find these same folders."""
    bare = find_paths({})
    return {
        f"BACKUP_TASKS_{name.upper()}": str(getattr(paths, name))
        for name in ("profiles", "templates", "logs", "state")
        if getattr(paths, name) != getattr(bare, name)
    }


def _state(line: DueRun, due: DueRun | ProfileError | None) -> State:
    if due is None:
        return "orphan"
    if isinstance(due, ProfileError):
        return "broken"
    return "current" if due.text == line.text else "out of date"


def _entry(line: DueRun, state: State, now: datetime, zone: tzinfo, problem: str = "") -> CronEntry:
    from cronsim import CronSim, CronSimError

    try:
        runs = CronSim(line.expression, now.astimezone(zone))
        explanation = runs.explain()
        next_run = next(runs, None) if state != "not installed" else None
    except CronSimError as error:  # somebody changed the line by hand
        explanation, next_run = f"cannot be read: {error}", None
    return CronEntry(line.profile, line.expression, explanation, next_run, state, problem)
