"""A server as the README imagines it, on which its commands are run as they stand there.

`/etc`, `/home` and `/var/www` lie in a folder of the test, as does the project; the bucket is
on the test's own S3 server, the crontab in a box, the mail goes to the test's mail server.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.support.s3_server import S3Server
from tests.support.shell_blocks import Block, write_aws

BUCKET = "my-bucket"
# Where the README's project lies, and its secrets.
_PROJECT, _SECRETS = "/srv/backup-tasks", "/root/.config/backup-tasks"
_PROMPT = "$ "
_PHOTO_BYTES = 12_000_000
_FILES = {
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/nginx/nginx.conf": "worker_processes 4;\n",
    "etc/nginx/sites-enabled/default": "server { listen 80; }\n",
    "home/anna/notes.txt": "Buy milk.\n",
    "var/www/index.html": "<h1>It works!</h1>\n",
}
# Amounts, dates, durations and names that differ from machine to machine and run to run.
_VARIES = (
    (re.compile(r"ed25519:[A-Za-z0-9+/]{43}="), "key"),
    (re.compile(r"\bage1[0-9a-z.]+"), "age1key"),
    (re.compile(r"^([-dlrwxst]{10}) +\S+/\S+", re.M), r"\1 owner"),
    (re.compile(r"\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun)\b"), "@"),
    (re.compile(r"\d[\d,.]*(kB|MB|GB|B|[smhd]\b)?"), "#"),
    (re.compile(r"#(?: #)+"), "#"),
    (re.compile(r"[ \t]+"), " "),
    (re.compile(r" +$", re.M), ""),
)


@dataclass(frozen=True)
class Step:
    """One command of a session, and what the document says that it prints."""

    command: str
    printed: str


def read_session(block: Block) -> list[Step]:
    """The commands of a ```console block, each with the output below it."""
    steps: list[Step] = []
    for line in block.text.splitlines(keepends=True):
        if line.startswith(_PROMPT):
            steps.append(Step(line.removeprefix(_PROMPT).rstrip("\n"), ""))
        elif steps and steps[-1].command.endswith("\\"):
            longer = f"{steps[-1].command[:-1].rstrip()} {line.strip()}"
            steps[-1] = Step(longer, "")
        else:
            steps[-1] = Step(steps[-1].command, steps[-1].printed + line)
    return steps


def mask(text: str) -> str:
    """The text without what differs from run to run."""
    for pattern, replacement in _VARIES:
        text = pattern.sub(replacement, text)
    return text.strip()


@dataclass(frozen=True)
class Stage:
    """The server.

    Attributes:
        root: what stands for `/`; project: the copy of this project.
        mail: lines of [notify.email] that lead to the test's mail server.
    """

    root: Path
    project: Path
    environ: dict[str, str]
    mail: str

    def write_file(self, path: str, text: str) -> None:
        """Write a file of the project as the README says it, led to this stage."""
        text = re.sub(r'"(/(?:etc|home|var)\b)', rf'"{self.root}\1', text)
        text = text.replace('host = "smtp.example.com"', self.mail)
        (self.project / path).write_text(self._lead_here(text))

    def run(self, command: str) -> str:
        """Run a command on a terminal of its own; returns what it printed, as the README would
        show it."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            ["bash", "-c", self._lead_here(command)],
            cwd=self.project,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        printed = b""
        try:
            while piece := os.read(ours, 65536):
                printed += piece
        except OSError:  # the terminal's way to say that nobody writes any more
            pass
        finally:
            os.close(ours)
            process.wait(timeout=300)
        text = printed.decode(errors="replace").replace("\r\n", "\n")
        text = text.replace(str(self.project), _PROJECT).replace(sys.executable, "python")
        return text.replace(str(self.root), "").replace(str(self.root).lstrip("/") + "/", "")

    def _lead_here(self, text: str) -> str:
        """Paths of the README's server as paths of this one."""
        text = text.replace(_SECRETS, f"{self.root}{_SECRETS}")
        text = re.sub(r"(?<= )/(?=(?:home|tmp)/)", f"{self.root}/", text)
        return text.replace("'etc/", f"'{str(self.root).lstrip('/')}/etc/")


def build_stage(folder: Path, project: Path, server: S3Server, mail: str) -> Stage:
    """Make the server's files and secrets, and the bucket."""
    root = folder / "server"
    for path, text in _FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "home/anna/photo.raw").write_bytes(os.urandom(_PHOTO_BYTES))
    (root / "tmp").mkdir()
    secrets = root / _SECRETS.lstrip("/")
    secrets.mkdir(parents=True)
    for name, text in (
        ("s3-key", server.access_key),
        ("s3-secret", server.secret_key),
        ("smtp-password", "mail-secret"),
    ):
        (secrets / name).write_text(text + "\n")
        (secrets / name).chmod(0o600)
    server.client().create_bucket(Bucket=BUCKET)
    # The test's folders lie below /tmp, which base.toml leaves out for good reason.
    base = project / "profiles" / "base.toml"
    base.write_text(base.read_text().replace('    "/tmp/",\n', ""))
    write_aws(folder)
    environ = {
        "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(root / "root"),
        "TERM": "dumb",
        "TZ": _zone_of_noon(datetime.now(UTC)),
        "BACKUP_TASKS_STATE": str(folder / "state"),
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_DEFAULT_REGION": "eu-north-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return Stage(root, project, environ, mail)


def _zone_of_noon(now: datetime) -> str:
    """A time zone in which the day does not change while the test runs."""
    return f"Etc/GMT{now.hour - 12:+d}"
