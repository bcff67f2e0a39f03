"""Golden archives: small backups of every kind of entry, kept as some version once wrote them.

    sudo python -m tests.support.golden tests/golden/NAME [--encrypted] [--project FOLDER]

makes a new folder of them: backs up /srv/golden (which must not exist; it is removed again) twice,
as host `web1`, with the commands of this project or of another checkout. Nothing in a folder that
is there is ever made anew: what an old version wrote is what later ones must read.

A folder holds the archives, `expected.json` with what the newest one restores to, `public-key` with
the signer, and `key.txt`, the age identity, if they are encrypted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from backup_tasks.common.paths import PROJECT_ROOT

SOURCE = Path("/srv/golden")
_STATUS = ("st_mode", "st_uid", "st_gid", "st_mtime_ns")


def describe(top: Path) -> dict[str, dict[str, Any]]:
    """Every path below a folder with what matters of it: path -> facts, fit for JSON."""
    found = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        facts: dict[str, Any] = {name: getattr(status, name) for name in _STATUS}
        if stat.S_ISLNK(status.st_mode):
            facts["link"] = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            facts["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
            facts["names"] = status.st_nlink
            facts["xattrs"] = {name: os.getxattr(path, name).hex() for name in os.listxattr(path)}
        relative = os.fsencode(path.relative_to(top))
        found[relative.decode("utf-8", "backslashreplace")] = facts
    return found


def _make_first(top: Path) -> None:
    (top / "www").mkdir(parents=True)
    (top / "home").mkdir(mode=0o750)
    for number in range(12):
        (top / "www" / f"page{number:02}.html").write_text(f"<p>{number}</p>\n" * (number * 40 + 1))
    (top / "empty").touch()
    (top / "tool").write_text("#!/bin/sh\n")
    (top / "tool").chmod(0o4755)
    (top / ("long-" * 45)).write_text("a name that a ustar header cannot hold")
    os.close(os.open(os.fsencode(top) + b"/latin-\xe9", os.O_CREAT | os.O_WRONLY, 0o644))
    (top / "zoë").write_text("a name in UTF-8")
    os.symlink("../www/page01.html", top / "home" / "up")
    os.symlink("/etc/hosts", top / "absolute")
    os.symlink("tool", top / "relative")
    os.link(top / "www" / "page02.html", top / "home" / "same-file")
    os.mkfifo(top / "pipe", 0o600)
    with (top / "sparse").open("wb") as file:
        file.seek(2**20)
        file.write(b"behind a hole")
        file.truncate(2**21)
    os.setxattr(top / "tool", "user.note", b"kept")
    os.chown(top / "home", 1000, 1000)
    os.utime(top / "empty", ns=(10**18 + 1, 10**18 + 123_456_789))


def _change(top: Path) -> None:
    (top / "www" / "page03.html").unlink()
    (top / "www" / "page04.html").write_text("changed\n")
    (top / "www" / "new.html").write_text("new\n")
    (top / "relative").unlink()
    (top / "relative").mkdir()


def _profile(place: Path, *, encrypted: bool) -> str:
    text = f'[backup]\nsources = ["{SOURCE}"]\ntimezone = "UTC"\n'
    text += f'[store]\nurl = "file://{place}/store"\n'
    if encrypted:
        made = subprocess.run(
            ["age-keygen", "-o", place / "key.txt"], capture_output=True, text=True, check=True
        )
        recipient = made.stderr.split()[-1]
        text += f'[encryption]\nrecipients = ["{recipient}"]\nidentity_file = "{place}/key.txt"\n'
    return text


def make(folder: Path, project: Path, *, encrypted: bool) -> None:
    """Make a golden folder with the commands of a checkout."""
    SOURCE.mkdir()
    with tempfile.TemporaryDirectory(dir="/root") as made:
        place = Path(made)
        for name in ("profiles", "logs", "state", "store"):
            (place / name).mkdir(mode=0o700)
        (place / "profiles" / "web.toml").write_text(_profile(place, encrypted=encrypted))
        (place / "profiles" / "web.toml").chmod(0o600)
        names = ("PROFILES", "LOGS", "STATE")
        environ = {f"BACKUP_TASKS_{name}": str(place / name.lower()) for name in names}

        def invoke(*task: str) -> str:
            command = [sys.executable, "-m", "invoke", "-r", str(project), *task]
            inside = ["unshare", "--uts", "sh", "-c", 'hostname web1 && exec "$@"', "-", *command]
            done = subprocess.run(
                inside, env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True, check=True
            )
            return done.stdout

        try:
            if encrypted:
                invoke("key-check", "--profile", "web")
            _make_first(SOURCE)
            invoke("backup", "--profile", "web")
            _change(SOURCE)
            invoke("backup", "--profile", "web")
            folder.mkdir(parents=True)
            (folder / "expected.json").write_text(json.dumps(describe(SOURCE), indent=1) + "\n")
            public_key = json.loads(invoke("signing-key", "--json"))["public_key"]
            (folder / "public-key").write_text(f"{public_key}\n")
            for file in (place / "store").glob("*-backup.tar.gz*"):
                shutil.copyfile(file, folder / file.name)
            if encrypted:
                shutil.copyfile(place / "key.txt", folder / "key.txt")
        finally:
            shutil.rmtree(SOURCE)


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("folder", type=Path)
    options.add_argument("--project", type=Path, default=PROJECT_ROOT)
    options.add_argument("--encrypted", action="store_true")
    wanted = options.parse_args()
    make(wanted.folder.absolute(), wanted.project.absolute(), encrypted=wanted.encrypted)
