"""The commands: `invoke --list` shows them, `invoke --help NAME` explains one.

A task parses what the operator typed, calls one function and prints what it returns.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import Task

from backup_tasks.common.memory import explain_memory
from backup_tasks.common.paths import find_paths
from backup_tasks.errors import ENDING_SIGNALS, BackupError, UsageError

if TYPE_CHECKING:
    from backup_tasks.command.job import Job


def _open_closed_streams() -> None:
    """A daemon may leave one of these closed. The next file to be opened would take its number, and
    get what is printed."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode))


_open_closed_streams()


def _leave(number: int, _: object) -> NoReturn:
    """End before a task watches over signals, or after it: nothing has begun, or all is done.

    An error raised here would come out of an import that Python is in the midst of.
    """
    os.write(2, f"ended by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


if {"invoke", "inv"} & {
    *sys.argv[0].split("/")[-2:]
}:  # else somebody imports this, and has signals of their own
    for _number in ENDING_SIGNALS:
        # What was ignored from the start stays so, as under nohup.
        if signal.getsignal(_number) is not signal.SIG_IGN:
            signal.signal(_number, _leave)

# File names are bytes; under a locale that is not UTF-8 Python would read them wrongly.
if sys.getfilesystemencoding() != "utf-8":
    os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONUTF8": "1"})  # noqa: S606

# Invoke turns this on, and all of our code would be compiled anew with every command.
sys.dont_write_bytecode = False

# Imports make many objects that stay; looking for garbage among them takes a tenth of start-up.
gc.set_threshold(100_000, 50, 50)
# At the end Python would look through them once more, for 50 ms that nobody needs.
atexit.register(gc.freeze)

# `invoke -d` would have these tell every request, temporary keys included.
for _talkative in ("boto3", "botocore", "urllib3"):
    logging.getLogger(_talkative).setLevel(logging.INFO)

HELP = {
    "profile": "name of a file in profiles/, or a path to a .toml file (default: $BACKUP_PROFILE, "
    "else local)",
    "full": "read and send everything, whatever could be kept of the previous backup",
    "accept_shrink": "what the sources lost is meant to be gone: end the hold, delete again",
    "take_over": "make the store this profile's: on a new machine, or after the state was lost",
    "dry_run": "say what would be done, and do nothing",
    "json": "JSON alone on stdout",
    "date": "the last backup of that day, as 2025-06-12",
    "name": "that very backup, as 2025-06-12_0200",
    "path": "pattern of paths, as 'etc/nginx/**' (repeatable)",
    "adopt": "have a backup count that nothing proves, as 2025-06-12_0200 (repeatable)",
    "to": "folder to restore into (default: restored/<backup name>/)",
    "in_place": "restore to where the files came from",
    "overwrite": "never, older or always: what to do with files that are there",
    "trusted": "make devices and set setuid bits too",
    "skip_damaged": "leave out the files that damage in the archive costs, and restore the others",
    "unproven": "go on although signature or name do not prove whose backup it is",
    "against_sources": "compare the backup with the sources as they are now, too",
    "all_": "every backup there is",
    "sample": "look at a part of the chunks only, as 1%; another one each day",
    "identity": "file with the private key (default: encryption.identity_file of the profile)",
    "output": "where to write the private key (default: ~/.config/backup-tasks/key.txt)",
    "skip": "believe that the keys are safe elsewhere, without proof",
    "install": "merge the profile's rules into the bucket's",
}


def task(
    name: str = "", *, positional: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Task[Any]]:
    """A task without short flags, with the help of its options."""

    def make(body: Callable[..., None]) -> Task[Any]:
        options = body.__code__.co_varnames[1 : body.__code__.co_argcount]
        return Task(
            body,
            name=name or None,
            # Otherwise `-p` and `-d` fall to whichever option comes first.
            auto_shortflags=False,
            # Unless told, an option without a default is positional, and swallows `--help`.
            positional=positional,
            iterable=[option for option in options if option in ("path", "adopt")],
            help={option: HELP[option] for option in options if option in HELP},
        )

    return make


def now() -> datetime:
    """The clock, read here and nowhere else."""
    return datetime.now(UTC)


@contextlib.contextmanager
def operator_errors() -> Iterator[None]:
    """Turn our own errors into their text on stderr and their exit code."""
    try:
        yield
        sys.stdout.flush()
    except BackupError as error:
        raise Exit(str(error), code=error.exit_code) from error
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        _drop_output()
        raise Exit(code=128 + signal.SIGPIPE) from None
    except OSError as error:
        _drop_output()
        told = explain_memory(error) or f"the output cannot be written: {error.strerror}"
        raise Exit(told, code=1) from None
    except (MemoryError, ImportError, RuntimeError) as error:
        if told := explain_memory(error):
            raise Exit(told, code=1) from None
        raise


def _drop_output() -> None:
    """Nothing is left that Python would try to write at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def job(name: str, profile: str, **how: bool) -> Iterator[Job]:
    """A profile with its store, the outcome supervised, errors made fit for an operator."""
    from backup_tasks.command.job import journaled

    with operator_errors(), journaled(name, profile, find_paths(), now, **how) as running:
        yield running


@task()
def backup(
    _: Context,
    profile: str = "",
    full: bool = False,
    accept_shrink: bool = False,
    take_over: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Back up the profile's sources as one new archive, then prune."""
    from backup_tasks.command import output
    from backup_tasks.command.job import run_backup_job, run_backup_plan_job
    from backup_tasks.common.terminal import terminal_progress

    if dry_run:
        with job("backup", profile, recorded=False) as running:
            plan = run_backup_plan_job(running, terminal_progress(), full=full, take_over=take_over)
            output.print_backup_plan(plan, as_json=json)
        return
    with operator_errors():
        record = run_backup_job(
            profile,
            find_paths(),
            now,
            terminal_progress(),
            full=full,
            accept_shrink=accept_shrink,
            take_over=take_over,
        )
        output.print_backup(record, as_json=json)
    if record.exit_code:
        raise Exit(output.render_missing(record), code=record.exit_code)


@task("list")
def list_(_: Context, profile: str = "", identity: str = "", json: bool = False) -> None:
    """List the backups: name, age, size, what was new, files, duration, result."""
    from backup_tasks.census.accepted import list_and_tell, whose_count
    from backup_tasks.command import output
    from backup_tasks.command.job import read_claim
    from backup_tasks.prune.prune_guard import told_hold

    with job("list", profile, recorded=False) as running:
        keys = running.keys(identity)
        if identity:
            keys.load()
        state, claim = running.paths.state, read_claim(running)
        accepted = whose_count(running.profile, state, running.record.host, claim)
        if held := told_hold(running.profile, running.store, state, claim):
            print(f"nothing is deleted: {held}", file=sys.stderr)
        details = list_and_tell(
            running.profile, running.store, state, running.record, accepted, keys
        )
        output.print_backups(details, now(), as_json=json)


@task()
def files(
    _: Context,
    profile: str = "",
    date: str = "",
    name: str = "",
    path: list[str] | None = None,  # what invoke wants for one that may be repeated
    identity: str = "",
    unproven: bool = False,
    json: bool = False,
) -> None:
    """List or search what is in a backup, without fetching the archive."""
    from backup_tasks.census.accepted import choose_and_tell, list_census
    from backup_tasks.census.newest_seen import NewestSeen
    from backup_tasks.command import output
    from backup_tasks.command.job import accepted_for_reading
    from backup_tasks.read.authenticity import Trust
    from backup_tasks.read.listing import list_entries

    with job("files", profile, recorded=False) as running:
        store, state = running.store, running.paths.state
        accepted, keys = accepted_for_reading(running), running.keys(identity)
        seen, started_at = NewestSeen(state, running.profile, store), running.record.started_at
        census = list_census(running.profile, store, state, accepted, seen, started_at, keys)
        chosen = choose_and_tell(census, seen, running.record, name=name, day=date)
        trust = Trust(running.profile.signing.public_key, unproven)
        entries = list_entries(store, chosen.stored, path or (), keys, trust)
        output.print_entries(entries, as_json=json)


@task()
def restore(
    _: Context,
    profile: str = "",
    date: str = "",
    name: str = "",
    path: list[str] | None = None,  # what invoke wants for one that may be repeated
    to: str = "",
    in_place: bool = False,
    overwrite: str = "",
    trusted: bool = False,
    skip_damaged: bool = False,
    identity: str = "",
    unproven: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Restore the latest backup, or the one that --date or --name chooses."""
    from backup_tasks.command import output
    from backup_tasks.command.job import accepted_for_reading
    from backup_tasks.common.terminal import terminal_progress
    from backup_tasks.restore.request import RestoreWish
    from backup_tasks.restore.run_restore import run_restore_job

    wish = RestoreWish(
        name=name,
        day=date,
        paths=tuple(path or ()),
        to=to,
        in_place=in_place,
        overwrite=overwrite,
        trusted=trusted,
        dry_run=dry_run,
        skip_damaged=skip_damaged,
        unproven=unproven,
    )
    with job("restore", profile, recorded=not dry_run) as running:
        done = run_restore_job(
            running.profile,
            running.store,
            wish,
            Path.cwd(),
            running.paths.state,
            running.record,
            terminal_progress(),
            running.keys(identity),
            accepted_for_reading(running),
        )
        output.print_restore(done, as_json=json)
        if done.extracted.lost:
            raise output.unrestored(done)
    if running.record.exit_code:
        told = output.render_torn(done.backup.id, done.not_whole)
        raise Exit(told, code=running.record.exit_code)


@task()
def verify(
    _: Context,
    profile: str = "",
    date: str = "",
    name: str = "",
    all_: bool = False,
    sample: str = "",
    identity: str = "",
    json: bool = False,
) -> None:
    """Check every byte of the newest backup, or of the one that --date or --name chooses."""
    from backup_tasks.command import output
    from backup_tasks.command.job import accepted_for_reading
    from backup_tasks.common.terminal import terminal_progress
    from backup_tasks.verify.run_verify import VerifyWish, run_verify_job
    from backup_tasks.verify.verify_report import damage_error

    wish = VerifyWish(name, date, all_, sample)
    with job("verify", profile, mailed=True) as running:
        found = run_verify_job(
            running.profile,
            running.store,
            wish,
            now(),
            running.paths.state,
            running.record,
            terminal_progress(),
            running.keys(identity),
            accepted_for_reading(running),
        )
        output.print_verify(found, as_json=json)
        if any(one.is_damaged for one in found):
            raise damage_error(found)


@task()
def drill(
    _: Context,
    profile: str = "",
    date: str = "",
    name: str = "",
    against_sources: bool = False,
    identity: str = "",
    json: bool = False,
) -> None:
    """Restore a backup into a temporary folder, for proof, and mail the evidence."""
    from backup_tasks.command import output
    from backup_tasks.command.job import accepted_for_reading
    from backup_tasks.common.terminal import terminal_progress
    from backup_tasks.verify.drill_report import drill_error
    from backup_tasks.verify.run_drill import DrillWish, run_drill_job

    wish = DrillWish(name, date, against_sources)
    with job("drill", profile, mailed=True) as running:
        done = run_drill_job(
            running.profile,
            running.store,
            wish,
            running.paths.state,
            running.record,
            terminal_progress(),
            running.keys(identity),
            accepted_for_reading(running),
        )
        output.print_drill(done, as_json=json)
        if done.failures:
            raise drill_error(done)
    if running.record.exit_code:
        told = output.render_torn(done.backup.id, done.not_whole)
        raise Exit(told, code=running.record.exit_code)


@task()
def signing_key(_: Context, json: bool = False) -> None:
    """Print this machine's public signing key as lines for a profile; makes the first one."""
    from backup_tasks.claim.machine_key import key_file, open_own_key
    from backup_tasks.command import output
    from backup_tasks.command.supervise import supervised

    paths = find_paths()
    with operator_errors(), supervised("signing-key", "", paths, now, recorded=False):
        key, is_new = open_own_key(paths.state)
        output.print_signing_key(key, key_file(paths.state), is_new=is_new, as_json=json)


@task()
def prune(
    _: Context,
    profile: str = "",
    adopt: list[str] | None = None,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Delete the backups that the profile's retention no longer keeps."""
    from backup_tasks.command import output
    from backup_tasks.command.job import run_prune_job
    from backup_tasks.prune.run_prune import PruneIncomplete

    with job("prune", profile, exclusive=not dry_run, recorded=not dry_run) as running:
        try:
            done = run_prune_job(running, dry_run=dry_run, adopted=adopt or ())
        except PruneIncomplete as error:
            running.record.pruned = list(error.report.deleted)
            output.print_prune(error.report, as_json=json)
            raise
        output.print_prune(done, as_json=json)
    if running.record.unpruned:
        raise Exit(output.render_missing(running.record), code=running.record.exit_code)


@task()
def lifecycle(
    _: Context,
    profile: str = "",
    install: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Show the bucket's lifecycle rules and those that the profile asks for."""
    from backup_tasks.command import output
    from backup_tasks.prune.lifecycle import run_lifecycle

    changes = install and not dry_run
    with job("lifecycle", profile, exclusive=changes, recorded=changes) as running:
        found = run_lifecycle(running.profile, install=install, dry_run=dry_run)
        output.print_lifecycle(found, as_json=json)


@task()
def keygen(_: Context, output: str = "") -> None:
    """Make a key pair for encrypted backups; never overwrites one."""
    from backup_tasks.command.supervise import supervised
    from backup_tasks.keys.keygen import default_identity_file, render_new_key, run_keygen

    with operator_errors(), supervised("keygen", "", find_paths(), now):
        file = Path(output).absolute() if output else default_identity_file(os.environ)
        print(render_new_key(run_keygen(file, now())))


@task()
def key_check(_: Context, profile: str = "", identity: str = "", skip: bool = False) -> None:
    """Prove that a key opens what is encrypted for the profile's recipients."""
    from backup_tasks.backup.key_check import ProvenKeys, render_key_check, run_key_check

    with job("key-check", profile) as running:
        if skip and identity:
            raise UsageError("give --identity or --skip, not both")
        keys, proven = running.keys(identity), ProvenKeys(running.paths.state)
        done = run_key_check(running.profile, keys, proven, now(), skip=skip)
        print(render_key_check(done))


@task()
def notify_test(_: Context, profile: str = "") -> None:
    """Send a sample of each mail that the profile asks for."""
    from backup_tasks.notify.outcome import send_test

    with job("notify-test", profile) as running:
        sent = send_test(running.profile, running.paths, now())
        running.record.notifications = [sent]
        print(f"sent to {sent.to}")


@task()
def cron_install(_: Context, profile: str = "", dry_run: bool = False) -> None:
    """Write a crontab line for every profile with [schedule], or for one."""
    from backup_tasks.command.supervise import supervised
    from backup_tasks.schedule.install import broken_profiles_error, install_cron, render_change
    from backup_tasks.schedule.scheduled import find_scheduled

    paths = find_paths()
    with operator_errors(), supervised("cron-install", profile, paths, now, recorded=not dry_run):
        scheduled = find_scheduled(paths, profile)
        change = install_cron(scheduled, paths, keep_others=bool(profile), dry_run=dry_run)
        print(render_change(change))
        if change.broken:
            raise broken_profiles_error(change)


@task()
def cron_show(_: Context, profile: str = "", json: bool = False) -> None:
    """Say in words what is installed and when each runs next."""
    from backup_tasks.command import output
    from backup_tasks.command.supervise import supervised
    from backup_tasks.schedule.install import show_cron
    from backup_tasks.schedule.scheduled import find_scheduled

    paths = find_paths()
    with operator_errors(), supervised("cron-show", profile, paths, now, recorded=False):
        shown = show_cron(find_scheduled(paths), paths, now())
        output.print_cron(shown, profile, as_json=json)


@task()
def cron_remove(_: Context, profile: str = "", dry_run: bool = False) -> None:
    """Remove our lines from the crontab, or the one of a profile."""
    from backup_tasks.command.supervise import supervised
    from backup_tasks.schedule.install import remove_cron, render_change

    paths = find_paths()
    with operator_errors(), supervised("cron-remove", profile, paths, now, recorded=not dry_run):
        print(render_change(remove_cron(paths, profile, dry_run=dry_run)))


@task()
def profiles(_: Context, profile: str = "", json: bool = False) -> None:
    """List the profiles: sources, store, schedule, and what is wrong with them."""
    from backup_tasks.command import output
    from backup_tasks.command.supervise import supervised
    from backup_tasks.profile.load import describe_profiles

    paths = find_paths()
    with operator_errors(), supervised("profiles", profile, paths, now, recorded=False):
        found = [p for p in describe_profiles(paths) if profile in ("", p.name)]
        if profile and not found:
            raise UsageError(f"there is no profile {profile!r}; `invoke profiles` lists them")
        output.print_profiles(found, as_json=json)


@task(positional=("name",))
def profile_new(_: Context, name: str | None = None) -> None:
    """Write a commented profile to start from; never overwrites one."""
    from backup_tasks.command.supervise import supervised
    from backup_tasks.profile.load import write_new_profile

    paths = find_paths()
    with operator_errors(), supervised("profile-new", name or "", paths, now):
        if not name or name.startswith("-"):  # an option that stands here is taken for the name
            raise UsageError("name the new profile: invoke profile-new prod")
        written = write_new_profile(name, paths)
        print(f"wrote {written}; edit it, then try: invoke backup --profile {name} --dry-run")
