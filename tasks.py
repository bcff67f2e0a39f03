"""The commands: `invoke --list` shows them, `invoke --help NAME` explains one.

A task parses what the operator typed, calls one function and prints what it returns. It imports
only what it needs, and when it runs: `invoke --list` waits for nothing.
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
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import Task

from backup_tasks.common.memory import explain_memory
from backup_tasks.errors import ENDING_SIGNALS, BackupError, Incomplete, UsageError

if TYPE_CHECKING:
    from backup_tasks.command.job import Job
    from backup_tasks.common.paths import Paths
    from backup_tasks.common.progress import Progress


def _open_closed_streams() -> None:
    """Open each standard stream that a daemon left closed.

    Otherwise the next opened file would take the stream's number, and receive the output.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode))


_open_closed_streams()


def _leave(number: int, _: object) -> NoReturn:
    """End on a signal before or after a task handles signals: nothing has begun, or all is done.

    An exception raised here could come out of an import under way.
    """
    os.write(2, f"ended by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


if {"invoke", "inv"} & {
    *sys.argv[0].split("/")[-2:]
}:  # otherwise another program imports this module, and handles signals itself
    for _number in ENDING_SIGNALS:
        # A signal that was ignored from the start stays ignored, as under nohup.
        if signal.getsignal(_number) is not signal.SIG_IGN:
            signal.signal(_number, _leave)

# File names are bytes; under a locale other than UTF-8 Python would decode them wrongly.
if sys.getfilesystemencoding() != "utf-8":
    os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONUTF8": "1"})  # noqa: S606

# Invoke sets this to True, and then every command would compile all of our code anew.
sys.dont_write_bytecode = False

# Imports make many lasting objects; collecting garbage among them takes a tenth of start-up.
gc.set_threshold(100_000, 50, 50)
# At exit Python would search them for garbage once more, for 50 ms and to no use.
atexit.register(gc.freeze)

# With `invoke -d` these would log every request, temporary keys included.
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
    """Make a function a task without short flags, with help for each option.

    Whatever goes wrong in it, its imports included, is told by `operator_errors`.
    """

    def make(body: Callable[..., None]) -> Task[Any]:
        options = body.__code__.co_varnames[1 : body.__code__.co_argcount]
        return Task(
            operator_errors()(body),
            name=name or None,
            # Otherwise the first option with that initial gets `-p` or `-d`.
            auto_shortflags=False,
            # By default an option without a default value is positional, and swallows `--help`.
            positional=positional,
            iterable=[option for option in options if option in ("path", "adopt")],
            help={option: HELP[option] for option in options if option in HELP},
        )

    return make


def now() -> datetime:
    """The present time, aware, UTC; the clock is read only here."""
    return datetime.now(UTC)


@contextlib.contextmanager
def operator_errors() -> Iterator[None]:
    """Turn errors into their text on stderr and their exit code.

    Raises:
        Exit: for our own errors, a closed or unwritable output, and a lack of memory.
    """
    try:
        try:
            yield
        except Incomplete:  # what was done is printed, and comes before what is missing
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except BackupError as error:
        raise Exit(str(error), code=error.exit_code) from error
    except BrokenPipeError:
        # The reader of our output has seen enough.
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
    """Send further output to /dev/null, so that Python does not fail to write it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def job(name: str, profile: str, **how: bool) -> AbstractContextManager[Job]:
    """Open a profile and its store, and supervise the outcome.

    Args:
        how: options of `journaled`.
    """
    from backup_tasks.command.job import journaled

    return journaled(name, profile, paths(), now, **how)


@contextlib.contextmanager
def small_job(name: str, profile: str = "", *, recorded: bool = True) -> Iterator[Paths]:
    """As `job`, without profile and store; gives the folders that the task works in."""
    from backup_tasks.command.supervise import supervised

    where = paths()
    with supervised(name, profile, where, now, recorded=recorded):
        yield where


def paths() -> Paths:
    """The folders that a task works in."""
    from backup_tasks.common.paths import find_paths

    return find_paths()


def progress() -> Progress:
    """Progress that is shown on a terminal, and silent in cron."""
    from backup_tasks.common.terminal import terminal_progress

    return terminal_progress()


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
    from backup_tasks.command.backup_job import BackupWish, run_backup_job, run_backup_plan_job
    from backup_tasks.command.print_backup import end_backup, print_backup_plan

    wish = BackupWish(full, accept_shrink, take_over)
    if dry_run:
        with job("backup", profile, recorded=False) as running:
            print_backup_plan(run_backup_plan_job(running, progress(), wish), as_json=json)
        return
    end_backup(run_backup_job(profile, paths(), now, progress(), wish), as_json=json)


@task("list")
def list_(_: Context, profile: str = "", identity: str = "", json: bool = False) -> None:
    """List the backups: name, age, size, what was new, files, duration, result."""
    from backup_tasks.command.print_listing import print_backups
    from backup_tasks.prune.prune_guard import told_hold

    with job("list", profile, recorded=False) as running:
        reading = running.reading(identity)
        if identity:
            reading.keys.load()
        if held := told_hold(reading.profile, reading.store, reading.state, reading.claim):
            print(f"nothing is deleted: {held}", file=sys.stderr)
        print_backups(reading.details(), now(), as_json=json)


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
    from backup_tasks.command.print_listing import print_entries
    from backup_tasks.read.listing import list_entries

    with job("files", profile, recorded=False) as running:
        reading = running.reading(identity)
        chosen, trust = reading.choose(name, date), reading.trust(unproven=unproven)
        found = list_entries(running.store, chosen.stored, path or (), reading.keys, trust)
        print_entries(found, as_json=json)


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
    from backup_tasks.command.print_reading import end_restore
    from backup_tasks.restore.request import RestoreWish
    from backup_tasks.restore.run_restore import run_restore_job

    how = (to, in_place, overwrite, trusted, skip_damaged, unproven, dry_run)
    wish = RestoreWish(date, name, tuple(path or ()), *how)
    with job("restore", profile, recorded=not dry_run) as running:
        done = run_restore_job(running.reading(identity), wish, Path.cwd(), progress())
        end_restore(done, running.record, as_json=json)


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
    from backup_tasks.command.print_reading import end_verify
    from backup_tasks.verify.run_verify import VerifyWish, run_verify_job

    wish = VerifyWish(date, name, all_, sample)
    with job("verify", profile, told=True) as running:
        found = run_verify_job(running.reading(identity), wish, now(), progress())
        end_verify(found, as_json=json)


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
    from backup_tasks.command.print_reading import end_drill
    from backup_tasks.verify.run_drill import DrillWish, run_drill_job

    wish = DrillWish(date, name, against_sources)
    with job("drill", profile, told=True) as running:
        done = run_drill_job(running.reading(identity), wish, progress())
        end_drill(done, running.record, as_json=json)


@task()
def signing_key(_: Context, json: bool = False) -> None:
    """Print this machine's public signing key as lines for a profile; makes the first one."""
    from backup_tasks.claim.machine_key import key_file, open_own_key
    from backup_tasks.command.print_upkeep import print_signing_key

    with small_job("signing-key", recorded=False) as where:
        key, is_new = open_own_key(where.state)
        print_signing_key(key, key_file(where.state), is_new=is_new, as_json=json)


@task()
def prune(
    _: Context,
    profile: str = "",
    adopt: list[str] | None = None,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Delete the backups that the profile's retention no longer keeps."""
    with job("prune", profile, exclusive=not dry_run, recorded=not dry_run) as running:
        from backup_tasks.command.print_upkeep import end_prune
        from backup_tasks.command.prune_job import run_prune_job

        done = run_prune_job(running, dry_run=dry_run, adopted=adopt or ())
        end_prune(done, running.record, as_json=json)


@task()
def lifecycle(
    _: Context,
    profile: str = "",
    install: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Show the bucket's lifecycle rules and those that the profile asks for."""
    from backup_tasks.command.print_upkeep import print_lifecycle
    from backup_tasks.prune.lifecycle import run_lifecycle

    changes = install and not dry_run
    with job("lifecycle", profile, exclusive=changes, recorded=changes) as running:
        found = run_lifecycle(running.profile, install=install, dry_run=dry_run)
        print_lifecycle(found, as_json=json)


@task()
def keygen(_: Context, output: str = "") -> None:
    """Make a key pair for encrypted backups; never overwrites one."""
    from backup_tasks.keys.keygen import default_identity_file, render_new_key, run_keygen

    with small_job("keygen"):
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
    from backup_tasks.notify.tell import send_test

    with job("notify-test", profile) as running:
        running.record.notifications = send_test(running.profile, running.paths, now())
        for sent in running.record.notifications:
            print(f"sent to {sent.to}")


@task()
def cron_install(_: Context, profile: str = "", dry_run: bool = False) -> None:
    """Write a crontab line for every profile with [schedule], or for one."""
    from backup_tasks.schedule.install import broken_profiles_error, install_cron, render_change
    from backup_tasks.schedule.scheduled import find_scheduled

    with small_job("cron-install", profile, recorded=not dry_run) as where:
        scheduled = find_scheduled(where, profile)
        change = install_cron(scheduled, where, keep_others=bool(profile), dry_run=dry_run)
        print(render_change(change))
        if change.broken:
            raise broken_profiles_error(change)


@task()
def cron_show(_: Context, profile: str = "", json: bool = False) -> None:
    """Say in words what is installed and when each runs next."""
    from backup_tasks.command.print_upkeep import print_cron
    from backup_tasks.schedule.install import show_cron
    from backup_tasks.schedule.scheduled import find_scheduled

    with small_job("cron-show", profile, recorded=False) as where:
        print_cron(show_cron(find_scheduled(where), where, now()), profile, as_json=json)


@task()
def cron_remove(_: Context, profile: str = "", dry_run: bool = False) -> None:
    """Remove our lines from the crontab, or the one of a profile."""
    from backup_tasks.schedule.install import remove_cron, render_change

    with small_job("cron-remove", profile, recorded=not dry_run) as where:
        print(render_change(remove_cron(where, profile, dry_run=dry_run)))


@task()
def profiles(_: Context, profile: str = "", json: bool = False) -> None:
    """List the profiles: sources, store, schedule, and what is wrong with them."""
    from backup_tasks.command.print_upkeep import print_profiles
    from backup_tasks.profile.load import describe_profiles

    with small_job("profiles", profile, recorded=False) as where:
        found = [one for one in describe_profiles(where) if profile in ("", one.name)]
        if profile and not found:
            raise UsageError(f"there is no profile {profile!r}; `invoke profiles` lists them")
        print_profiles(found, as_json=json)


@task(positional=("name",))
def profile_new(_: Context, name: str | None = None) -> None:
    """Write a commented profile to start from; never overwrites one."""
    from backup_tasks.profile.load import write_new_profile

    with small_job("profile-new", name or "") as where:
        if not name or name.startswith("-"):  # Invoke takes an option in this place for the name
            raise UsageError("name the new profile: invoke profile-new prod")
        written = write_new_profile(name, where)
        print(f"wrote {written}; edit it, then try: invoke backup --profile {name} --dry-run")
