"""Whatever ends a run: no backup is listed, nothing is left for long, and the next run works."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sysconfig
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backup_tasks.common.paths import PROJECT_ROOT
from backup_tasks.format.archive_names import CLAIM_NAME
from tests.conftest import S3Bucket
from tests.support.cli import Cli, Done, assert_refused, cli, finish, s3_store
from tests.support.faulty_proxy import Answer, FaultyProxy, PassOn, Request, break_off
from tests.support.smtp_server import start_smtp_server

__all__ = ["cli"]

BACKUP = ("backup", "--profile", "test")


class Run:
    """A backup through a proxy, which gets a signal in the middle of a chosen request."""

    def __init__(self, cli: Cli, proxy: FaultyProxy) -> None:
        self.cli = cli
        self.proxy = proxy
        self._process: subprocess.Popen[str] | None = None

    def end_at(self, operation: str, number: int, *, times: int = 1) -> Done:
        """Run a backup and send it the signal `times` when it makes this request."""

        def strike(request: Request, pass_on: PassOn) -> Answer | None:
            assert self._process
            for _ in range(times):
                self._process.send_signal(number)
            if operation in ("CreateMultipartUpload", "CompleteMultipartUpload"):
                return None  # the run ends before the server does it
            return pass_on(request)

        self.proxy.misbehave(operation, strike)
        self._process = self.cli.start(*BACKUP)
        return finish(self._process)


@pytest.fixture
def run(cli: Cli, s3_bucket: S3Bucket) -> Iterator[Run]:
    """A run of the profile `test`, whose store is a bucket behind a proxy."""
    with FaultyProxy(s3_bucket.endpoint) as proxy:
        cli.write_profile(s3_store(s3_bucket, endpoint_url=proxy.endpoint))
        yield Run(cli, proxy)


def wait_for(happened: Callable[[], object]) -> None:
    """Wait for what another process does, where nothing wakes us up."""
    give_up_at = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < give_up_at, "it never happened"
        time.sleep(0.01)


def unfinished(bucket: S3Bucket) -> list[str]:
    answer = bucket.client.list_multipart_uploads(Bucket=bucket.bucket)
    return [upload["Key"] for upload in answer.get("Uploads", [])]


def assert_next_run_works(run: Run, bucket: S3Bucket) -> None:
    name = run.cli.back_up()
    assert bucket.keys() == [f"backups/{name}-backup.tar.gz"]
    assert unfinished(bucket) == []
    assert len(run.cli.records()) == len(run.cli.log()) == 2


@pytest.mark.parametrize(
    ("number", "operation"),
    [
        (signal.SIGTERM, "ListObjectsV2"),
        (signal.SIGTERM, "CreateMultipartUpload"),
        (signal.SIGTERM, "UploadPart"),
        (signal.SIGTERM, "CompleteMultipartUpload"),
        (signal.SIGINT, "ListObjectsV2"),
        (signal.SIGINT, "UploadPart"),
        (signal.SIGHUP, "UploadPart"),
    ],
)
def test_signal_ends_the_run_and_its_upload(
    run: Run, s3_bucket: S3Bucket, number: signal.Signals, operation: str
) -> None:
    done = run.end_at(operation, number)
    assert_refused(run.cli, done, 128 + number, f"ended by {number.name}")
    assert s3_bucket.keys() == []
    assert unfinished(s3_bucket) == []
    assert_next_run_works(run, s3_bucket)


def test_second_signal_does_not_cut_the_cleaning_up_short(run: Run, s3_bucket: S3Bucket) -> None:
    done = run.end_at("UploadPart", signal.SIGINT, times=5)
    assert_refused(run.cli, done, 130, "ended by SIGINT")
    assert unfinished(s3_bucket) == []
    assert_next_run_works(run, s3_bucket)


def test_signal_that_was_ignored_from_the_start_stays_so(run: Run, s3_bucket: S3Bucket) -> None:
    run.cli.environ["TERM"] = "dumb"
    command = ["nohup", *run.cli.command(*BACKUP)]
    process: subprocess.Popen[str]

    def hang_up(request: Request, pass_on: PassOn) -> Answer | None:
        process.send_signal(signal.SIGHUP)
        return pass_on(request)

    run.proxy.misbehave("UploadPart", hang_up)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=run.cli.environ,
        cwd=run.cli.here,
    )
    assert finish(process).code == 0
    assert len(s3_bucket.keys()) == 1


def test_kill_leaves_an_upload_that_the_next_run_ends(run: Run, s3_bucket: S3Bucket) -> None:
    earlier = run.cli.back_up()
    done = run.end_at("UploadPart", signal.SIGKILL)
    assert (done.code, done.out, done.err) == (-signal.SIGKILL, "", "")
    assert s3_bucket.keys() == [f"backups/{earlier}-backup.tar.gz"]
    assert len(unfinished(s3_bucket)) == 1
    name = run.cli.back_up()
    assert s3_bucket.keys() == [f"backups/{one}-backup.tar.gz" for one in (earlier, name)]
    assert unfinished(s3_bucket) == []


def test_upload_that_could_not_be_ended_is_ended_by_the_next_run(
    run: Run, s3_bucket: S3Bucket
) -> None:
    for operation, times in (("UploadPart", 9), ("AbortMultipartUpload", 9)):
        run.proxy.misbehave(operation, break_off, times)
    run.cli.write_profile(s3_store(s3_bucket, endpoint_url=run.proxy.endpoint, max_attempts=2))
    assert run.cli.run(*BACKUP).code == 1
    assert len(unfinished(s3_bucket)) == 1
    run.cli.write_profile(s3_store(s3_bucket))
    assert_next_run_works(run, s3_bucket)


def test_kill_in_a_directory_store_leaves_nothing_for_long(cli: Cli, tmp_path: Path) -> None:
    cli.write_profile()
    earlier = cli.back_up()
    # The writing of a file stands still where its size may not grow: at a limit that kills.
    (cli.source / "big").write_bytes(os.urandom(2**21))
    limited = 'ulimit -c 0; ulimit -f 1024; trap - XFSZ; exec "$@"'
    program = (
        "import runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_DFL); "
        "sys.argv = sys.argv[1:]; runpy.run_module('invoke', run_name='__main__', alter_sys=True)"
    )
    command = cli.command(*BACKUP)
    python, arguments = command[0], command[3:]
    done = subprocess.run(
        ["bash", "-c", limited, "bash", python, "-c", program, "invoke", *arguments],
        env=cli.environ,
        cwd=cli.here,
        capture_output=True,
    )
    assert done.returncode == -signal.SIGXFSZ, done
    assert cli.archives() == [f"{earlier}-backup.tar.gz"]
    assert len([name for name in os.listdir(cli.store) if name.endswith(".partial")]) == 1
    name = cli.back_up()
    left = sorted(set(os.listdir(cli.store)) - {CLAIM_NAME})
    assert left == [f"{one}-backup.tar.gz" for one in (earlier, name)]


def test_signal_while_the_mail_goes_out_costs_the_mail_alone(cli: Cli) -> None:
    with start_smtp_server(manners="silent") as server:
        cli.write_profile(
            more=f'[notify.email]\nhost = "127.0.0.1"\nport = {server.port}\nsecurity = "none"\n'
            'from = "backup@example.com"\nto = ["admin@example.com"]\n'
        )
        process = cli.start(*BACKUP)
        wait_for(lambda: server.connections)
        process.send_signal(signal.SIGTERM)
        done = finish(process)
    assert done.code == 0
    assert len(cli.archives()) == 1
    [record] = cli.records()
    [notification] = record["notifications"]
    assert record["result"] == "success"
    assert notification["error"] == "the mail was perhaps not sent: ended by SIGTERM"
    assert done.err == f"WARNING: no mail to admin@example.com: {notification['error']}\n"
    assert "SUCCESS: " in cli.log()[0]


def test_interrupted_restore_leaves_no_half_file_and_goes_on(run: Run, s3_bucket: S3Bucket) -> None:
    big = run.cli.source / "big"
    big.write_bytes(os.urandom(3 * 2**20))
    run.cli.back_up()
    process: subprocess.Popen[str]

    def strike(request: Request, pass_on: PassOn) -> Answer | None:
        # The first reads fetch the manifest; then come the files.
        length = request.headers.get("Range", "")
        first, _, last = length.removeprefix("bytes=").partition("-")
        if int(last) - int(first) > 2**20:
            process.send_signal(signal.SIGTERM)
        return pass_on(request)

    run.proxy.misbehave("GetObject", strike, times=20)
    restore = ("restore", "--profile", "test", "--to", "back")
    process = run.cli.start(*restore)
    done = finish(process)
    assert_refused(run.cli, done, 143, "ended by SIGTERM")
    target = run.cli.here / "back"
    assert not [path for path in target.rglob("*") if path.name == "big"]
    run.cli.write_profile(s3_store(s3_bucket))
    again = run.cli.run(*restore, "--overwrite", "never")
    assert again.code == 0, again
    restored = target / str(big).lstrip("/")
    assert restored.read_bytes() == big.read_bytes()
    assert sorted(os.listdir(restored.parent)) == sorted(os.listdir(run.cli.source))


STRIKER = """
import os, sys

class Striker:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["STRIKE_AT"]:
            os.kill(os.getpid(), int(os.environ["STRIKE_WITH"]))

sys.meta_path.insert(0, Striker())
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A virtual environment as `make venv` prepares it, and the variables that it needs here.

    Python in it sends itself the signal $STRIKE_WITH when it imports the module $STRIKE_AT.
    """
    place = tmp_path_factory.mktemp("early") / "venv"
    venv.create(place, symlinks=True)
    [modules] = place.glob("lib/python3.*/site-packages")
    shutil.copy(PROJECT_ROOT / "quiet-ctrl-c.pth", modules)
    # No sitecustomize: Debian's Python has one of its own, which would be found first.
    (modules / "striker.py").write_text(STRIKER)
    (modules / "striker.pth").write_text("import striker\n")
    installed = sysconfig.get_path("purelib")
    return place / "bin" / "python", {"PYTHONPATH": installed}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    ("module", "is_read"),
    [
        ("invoke", False),
        ("invoke.program", False),
        ("backup_tasks.errors", False),
        ("backup_tasks.command.job", True),
        ("pydantic", True),
        ("backup_tasks.profile.model", True),
    ],
)
def test_a_signal_before_a_task_has_begun_ends_it_without_a_traceback(
    cli: Cli,
    python: tuple[Path, dict[str, str]],
    number: signal.Signals,
    module: str,
    is_read: bool,
) -> None:
    cli.write_profile()
    program, environ = python
    done = subprocess.run(
        [program, *cli.command(*BACKUP)[1:]],
        capture_output=True,
        cwd=cli.here,
        env={**cli.environ, **environ, "STRIKE_AT": module, "STRIKE_WITH": str(int(number))},
        text=True,
        check=False,
    )
    assert done.stdout == ""
    if is_read:
        assert (done.returncode, done.stderr) == (128 + number, f"ended by {number.name}\n")
    else:  # as a shell shows it: 128 and the number
        assert (done.returncode, done.stderr) == (-number, "")
    assert cli.archives() == []


@pytest.mark.parametrize(
    ("command", "is_ours"),
    [
        (["-m", "invoke", "--version"], True),
        (["-P", "-m", "invoke", "--version"], True),
        (["-c", "pass", "invoke"], False),
        (["-m", "pytest", "-k", "invoke", "--version"], False),
    ],
)
def test_only_the_tasks_have_their_signals_changed(
    python: tuple[Path, dict[str, str]], command: list[str], is_ours: bool
) -> None:
    program, environ = python
    (striker,) = program.parent.parent.glob("lib/*/site-packages/striker.py")
    text = striker.read_text()
    striker.write_text("import signal; print(signal.getsignal(2) is signal.SIG_DFL)")
    try:
        done = subprocess.run(
            [program, *command], capture_output=True, env=environ, text=True, check=True
        )
    finally:
        striker.write_text(text)
    assert done.stdout.splitlines()[0] == str(is_ours)
