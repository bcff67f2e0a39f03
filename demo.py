"""Show the main job on a real S3 server: back up, list, restore, compare. `make demo` runs it.

Everything lies in one temporary folder and on the loopback interface; both are gone in the end,
however the demo ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from backup_tasks.common.paths import find_paths
from backup_tasks.common.units import render_bytes, render_count, render_seconds
from backup_tasks.errors import BackupError
from backup_tasks.profile.load import load_profile
from tests.support.s3_server import S3Server
from tests.support.stage import SIGNALS, DemoError, Ended, Screen, remove_tree, started
from tests.support.trees import Comparison, TreeRules, compare_trees

BUCKET = "demo"
_SHOWN = 5


class Demo:
    """The parts of the demo, one method each.

    Args:
        folder: for logs, state and what is restored.
        server: running, without our bucket.
    """

    def __init__(self, screen: Screen, folder: Path, server: S3Server) -> None:
        self._screen = screen
        self._folder = folder
        self._server = server
        self._client = server.client()
        self._started_ns = 0
        self._archive = ""
        self._missing: frozenset[str] = frozenset()

    def make_bucket(self) -> None:
        """Make the bucket and put into the environment what profiles/demo.toml asks for."""
        self._client.create_bucket(Bucket=BUCKET)
        logs = self._folder / "logs"
        logs.mkdir()
        os.environ |= {
            "DEMO_ENDPOINT": self._server.endpoint,
            "DEMO_ACCESS_KEY_ID": self._server.access_key,
            "DEMO_SECRET_ACCESS_KEY": self._server.secret_key,
            "BACKUP_TASKS_STATE": str(self._folder / "state"),
            "BACKUP_TASKS_LOGS": str(logs),
        }
        self._screen.note(
            f"SeaweedFS listens at {self._server.endpoint}, with an empty bucket `{BUCKET}`.\n"
            "profiles/demo.toml finds its address and keys in DEMO_ENDPOINT, DEMO_ACCESS_KEY_ID\n"
            f"and DEMO_SECRET_ACCESS_KEY. Logs and state of this demo lie in {self._folder}."
        )

    def back_up(self) -> None:
        """Say what would be backed up, do it, and read the run's record."""
        self._run("invoke", "backup", "--profile", "demo", "--dry-run")
        self._started_ns = time.time_ns()
        code = self._run("invoke", "backup", "--profile", "demo", allowed=(0, 3))
        log = self._folder / "logs"
        self._run("tail", "-n", "1", str(log / "backup.log"))
        record = json.loads((log / "runs.jsonl").read_text("utf-8").splitlines()[-1])
        self._archive = record["archive"]
        self._missing = frozenset(problem["path"] for problem in record["problems"])
        if code == 3:
            self._screen.note(
                "Exit code 3: the backup is done and good, but some files could not be read, and "
                "are named.\nThat is what an ordinary user gets for files of root; root's own "
                "backup has them all."
            )

    def look(self) -> None:
        """List the backups, and search in one without fetching it."""
        self._run("invoke", "list", "--profile", "demo")
        self._run("invoke", "files", "--profile", "demo", "--path", "/etc/host*")

    def restore(self) -> None:
        """Restore everything with our own command, and compare."""
        target = self._folder / "restored"
        self._run("invoke", "restore", "--profile", "demo", "--to", str(target))
        self._compare(target, modes=True)

    def restore_without_us(self) -> None:
        """Restore the same object with nothing but a download and tar, and compare."""
        at = f"--endpoint-url {self._server.endpoint}"
        self._screen.command(f"aws {at} s3 ls s3://{BUCKET}/backups/")
        for item in self._client.list_objects_v2(Bucket=BUCKET)["Contents"]:
            name = item["Key"].removeprefix("backups/")
            self._screen.note(f"{item['LastModified']:%Y-%m-%d %H:%M:%S} {item['Size']:>10} {name}")
        target = self._folder / "plain"
        target.mkdir()
        self._screen.command(
            f"aws {at} s3 cp s3://{BUCKET}/backups/{self._archive} - | tar xz -C {target}"
        )
        self._pipe_into_tar(target)
        self._screen.note("(Done just now with boto3 in the place of `aws`, and with this tar.)")
        # For ordinary users tar takes the umask off the modes; root gets them as they were.
        self._compare(target, modes=os.geteuid() == 0)

    def _pipe_into_tar(self, target: Path) -> None:
        body = self._client.get_object(Bucket=BUCKET, Key=f"backups/{self._archive}")["Body"]
        with started(["tar", "xz", "-C", str(target)], stdin=subprocess.PIPE) as tar:
            assert tar.stdin is not None
            with contextlib.suppress(BrokenPipeError), tar.stdin:
                shutil.copyfileobj(body, tar.stdin, 2**20)
            if code := tar.wait():
                raise DemoError(f"tar ended with exit code {code}")

    def _compare(self, target: Path, *, modes: bool) -> None:
        profile = load_profile("demo", find_paths())
        rules = TreeRules(
            exclude=profile.backup.exclude,
            unread=self._missing,
            modes=modes,
            owners=os.geteuid() == 0,
            changed_since_ns=self._started_ns,
        )
        found = Comparison()
        for source in profile.backup.sources:
            compare_trees(Path(source), target, rules, found)
        if found.differences:
            raise DemoError(f"{target} differs from the originals: {_some(found.differences)}")
        compared = ["content", *(["modes"] if modes else []), "times"]
        compared += ["owners"] if rules.owners else []
        self._screen.good(
            f"Equal: {render_count(found.files, 'file')} ({render_bytes(found.bytes)}) byte for "
            f"byte, and {found.others:,} folders and links; compared by {', '.join(compared)}."
        )
        if found.changed:
            self._screen.note(
                f"Left out: {render_count(len(found.changed), 'original')} changed since the "
                f"backup began: {_some(found.changed)}"
            )

    def _run(self, *words: str, allowed: tuple[int, ...] = (0,)) -> int:
        self._screen.command(shlex.join(words))
        with started(words) as process:
            code = process.wait()
        if code not in allowed:
            raise DemoError(f"`{shlex.join(words)}` ended with exit code {code}")
        return code


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - _SHOWN:,} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more


def _clean_environment() -> None:
    """Keep the viewer's own settings out, and find our commands first."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "BACKUP_")):
            del os.environ[name]
    os.environ |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def run_demo(screen: Screen) -> None:
    """The whole demo. Raises DemoError and what the rooms raise; cleans up in any case."""
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        with SIGNALS.held():
            folder = Path(tempfile.mkdtemp(prefix="backup-demo-"))
            stack.callback(remove_tree, folder)
        screen.step("Start a real S3 server, for this demo alone")
        server = stack.enter_context(S3Server(folder / "server"))
        stack.callback(SIGNALS.ignore)  # called first
        server.start()
        demo = Demo(screen, folder, server)
        demo.make_bucket()
        screen.step("Back up /etc and this project's folder")
        demo.back_up()
        screen.step("Look at what is there")
        demo.look()
        screen.step("Restore, and compare with the originals")
        demo.restore()
        screen.step("Restore without this project: the backup is an ordinary .tar.gz")
        demo.restore_without_us()
    seconds = render_seconds(time.monotonic() - started)
    screen.good(f"\nDone in {seconds}. The server is stopped and {folder} removed.")


def main() -> int:
    """Run the demo; returns its exit code."""
    SIGNALS.watch()
    _clean_environment()
    try:
        run_demo(Screen())
    except Ended as ended:
        print(f"The demo was ended by {ended}; the server is stopped.", file=sys.stderr)
        return ended.exit_code
    except (DemoError, BackupError, RuntimeError, OSError) as error:
        print(f"The demo failed, and the server is stopped: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
