"""Another channel and another kind of store are one module each; no other code changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.support.project_copy import copy_project

WEBHOOK = '''"""A call of a URL for each run."""

import urllib.request

from pydantic import Field

from backup_tasks.journal.run_record import Notification
from backup_tasks.notify.channel import ChannelTable


class WebhookSettings(ChannelTable):
    url: str = Field(description="What is called.")


class WebhookChannel:
    name = "webhook"
    noun = "call"
    description = "A call of a URL."
    table = WebhookSettings

    def whom(self, settings):
        return settings.url

    def tell(self, settings, record, profile, paths):
        urllib.request.urlopen(settings.url, data=record.result.encode())
        return [Notification(self.name, settings.url)]

    def test(self, settings, samples, profile, paths):
        return [self.tell(settings, sample, profile, paths) for sample in samples][-1][0]

    def obeyed_files(self, settings):
        return []


CHANNEL = WebhookChannel()
'''
# Reached without a server: what lies on the other side is a folder of this machine.
SFTP = '''"""A folder of another machine."""

from pathlib import Path

from pydantic import Field

from backup_tasks.stores.directory import DirectoryStore
from backup_tasks.stores.kind import StoreTable


class SftpTable(StoreTable):
    ssh_port: int = Field(default=22, description="SFTP only. The port of ssh.")


class SftpKind:
    name = "sftp"
    scheme = "sftp://"
    examples = ("sftp://host/folder/",)
    url_help = "sftp://host/folder/"
    table = SftpTable

    def fits(self, url):
        return url.startswith(self.scheme)

    def normalize(self, url, root):
        return url.rstrip("/") + "/"

    def _there(self, settings):
        return Path("/", settings.url.removeprefix(self.scheme).partition("/")[2])

    def open(self, settings, root, check_place):
        return DirectoryStore(self._there(settings), settings.url)

    def place(self, settings):
        return f"{settings.url} at {settings.ssh_port}"

    def folder(self, settings):
        return None

    def unpack_command(self, settings, name, unpack):
        return f"ssh host cat {self._there(settings) / name} | {unpack}"

    def obeyed_files(self):
        return []


KIND = SftpKind()
'''


class Project:
    """A copy of the project, and a folder for what a profile there needs."""

    def __init__(self, folder: Path) -> None:
        self.root = copy_project(folder / "project")
        self.here = folder
        for name in ("profiles", "logs", "state", "source", "far"):
            (folder / name).mkdir(mode=0o700)
        (folder / "source" / "file").write_text("content")

    def write_profile(self, store: str, more: str = "") -> None:
        text = f'[backup]\nsources = ["{self.here}/source"]\n[store]\n{store}\n{more}'
        file = self.here / "profiles" / "test.toml"
        file.write_text(text)
        file.chmod(0o600)

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        folders = {
            f"BACKUP_TASKS_{name.upper()}": str(self.here / name)
            for name in ("profiles", "logs", "state")
        }
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env={**os.environ, **folders},
            capture_output=True,
            text=True,
        )

    def invoke(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "invoke", *arguments)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def called() -> Iterator[tuple[str, list[str]]]:
    """A server's URL, and what it was told."""
    told: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", told
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_channel_is_one_module(project: Project, called: tuple[str, list[str]]) -> None:
    url, told = called
    channels = project.root / "backup_tasks" / "notify" / "channels"
    (channels / "webhook.py").write_text(WEBHOOK)
    project.write_profile(
        f'url = "file://{project.here}/far/"',
        f'[notify.webhook]\nurl = "{url}"\non = ["failure", "success"]\n',
    )
    (channels / "email_old.py").write_text((channels / "email.py").read_text())
    (channels / "draft.py").touch()
    tested = project.invoke("notify-test", "--profile", "test")
    assert (tested.returncode, tested.stdout) == (0, f"sent to {url}\n"), tested.stderr
    assert told == ["success", "incomplete", "failure"]
    done = project.invoke("backup", "--profile", "test", "--json")
    assert done.returncode == 0, done.stderr
    assert told[3:] == ["success"]
    (notified,) = json.loads(done.stdout)["notifications"]
    assert (notified["channel"], notified["to"], notified["error"]) == ("webhook", url, "")
    project.write_profile('url = "s3://bucket/"', f'[notify.webhook]\nurl = "{url}"\non = 3\n')
    refused = project.invoke("list", "--profile", "test")
    assert refused.returncode == 2
    assert "notify.webhook.on: " in refused.stderr
    schema = project.python(
        "-c", "from backup_tasks.profile.json_schema import render_schema; print(render_schema())"
    )
    assert "webhook" in json.loads(schema.stdout)["properties"]["notify"]["properties"]


def test_a_kind_of_store_is_one_module(project: Project) -> None:
    kinds = project.root / "backup_tasks" / "stores" / "kinds"
    (kinds / "sftp.py").write_text(SFTP)
    url = f"sftp://host{project.here}/far/"
    project.write_profile(f'url = "{url}"\nssh_port = 2222')
    done = project.invoke("backup", "--profile", "test", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["store"] == url
    listed = project.invoke("list", "--profile", "test", "--json")
    (only,) = json.loads(listed.stdout)
    assert (project.here / "far" / only["object"]).exists()
    shown = project.invoke("profiles", "--json")
    assert json.loads(shown.stdout)[0]["place"] == f"{url} at 2222"
    project.write_profile('url = "s3://bucket/"\nssh_port = 2222')
    refused = project.invoke("list", "--profile", "test")
    assert "ssh_port: means something only for sftp:// stores" in refused.stderr
    project.write_profile('url = "nonsense"')
    refused = project.invoke("list", "--profile", "test")
    assert '"sftp://host/folder/"' in refused.stderr
