"""Who is measured, and how each of them is asked to do the same work.

Each peer has a fresh store for each round, is set up untimed, and runs with its own defaults.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from backup_tasks.common.paths import PROJECT_ROOT
from bench.peer import Peer, Scene
from bench.phases import Phase
from bench.server import folder_bytes
from tests.support.s3_server import REGION

# Beside this Python, as `. .venv/bin/activate` finds it.
INVOKE = str(Path(sys.executable).parent / "invoke")


class Us(Peer):
    """This project's tasks, as a user types them."""

    name = "backup-tasks"
    _ARGUMENTS: Mapping[Phase, tuple[str, ...]] = {
        Phase.FIRST: ("backup",),
        Phase.UNCHANGED: ("backup",),
        Phase.CHANGED: ("backup",),
        Phase.LIST: ("list",),
        Phase.VERIFY: ("verify", "--all"),
        Phase.VERIFY_ONE: ("verify", "--all"),
    }

    def prepare(self) -> None:
        write_profile(self.scene)

    def environ(self) -> Mapping[str, str]:
        return our_environ(self.scene)

    def work_folder(self, target: Path) -> Path:  # noqa: ARG002
        return PROJECT_ROOT

    def commands(self, phase: Phase, target: Path) -> tuple[tuple[str, ...], ...]:
        arguments = self._ARGUMENTS.get(phase) or ("restore", "--to", str(target))
        if phase is Phase.ONE_FILE:
            arguments += ("--path", str(self.scene.one_file))
        return ((INVOKE, *arguments, "--profile", "bench"),)


def write_profile(scene: Scene) -> None:
    """A profile `bench` for the corpus, and folders for all that a run leaves."""
    for name in ("profiles", "logs", "state"):
        (scene.folder / name).mkdir()
    (scene.folder / "profiles" / "bench.toml").write_text(
        f"""\
[backup]
sources = [{json.dumps(str(scene.corpus))}]
[store]
url = "s3://{scene.bucket}/backups/"
region = "{REGION}"
endpoint_url = "{scene.endpoint}"
access_key_id = {{ env = "AWS_ACCESS_KEY_ID" }}
secret_access_key = {{ env = "AWS_SECRET_ACCESS_KEY" }}
"""
    )


def our_environ(scene: Scene) -> dict[str, str]:
    """The environment in which our own commands find that profile, and none of the operator's."""
    places = {
        f"BACKUP_TASKS_{name.upper()}": str(scene.folder / name)
        for name in ("profiles", "logs", "state")
    }
    return {**scene.environ, **places}


class Restic(Peer):
    """restic, to the same S3 server."""

    name = "restic"

    def prepare(self) -> None:
        self._set_up("restic", "init")

    def environ(self) -> Mapping[str, str]:
        scene = self.scene
        return {
            **scene.environ,
            "RESTIC_REPOSITORY": f"s3:{scene.endpoint}/{scene.bucket}/restic",
            "RESTIC_PASSWORD": "bench",
            "RESTIC_CACHE_DIR": str(scene.folder / "cache"),
        }

    def commands(self, phase: Phase, target: Path) -> tuple[tuple[str, ...], ...]:
        restore = ("restic", "restore", "latest", "--target", str(target))
        match phase:
            case Phase.FIRST | Phase.UNCHANGED | Phase.CHANGED:
                return (("restic", "backup", str(self.scene.corpus)),)
            case Phase.RESTORE:
                return (restore,)
            case Phase.ONE_FILE:
                return ((*restore, "--include", str(self.scene.one_file)),)
            case Phase.LIST:
                return (("restic", "snapshots"),)
            case Phase.VERIFY | Phase.VERIFY_ONE:
                return (("restic", "check", "--read-data"),)


class Borg(Peer):
    """borg, to a directory of this machine, as it knows no S3."""

    name = "borg (local)"
    remote = False
    _NAMES: Mapping[Phase, str] = {
        Phase.FIRST: "first",
        Phase.UNCHANGED: "second",
        Phase.CHANGED: "third",
    }

    @property
    def _repository(self) -> Path:
        return self.scene.folder / "repository"

    def prepare(self) -> None:
        self._set_up("borg", "init", "--encryption", "none", str(self._repository))

    def environ(self) -> Mapping[str, str]:
        return {**self.scene.environ, "BORG_BASE_DIR": str(self.scene.folder)}

    def work_folder(self, target: Path) -> Path:
        return target  # where borg extracts to

    def commands(self, phase: Phase, target: Path) -> tuple[tuple[str, ...], ...]:  # noqa: ARG002
        latest = f"{self._repository}::third"
        match phase:
            case Phase.FIRST | Phase.UNCHANGED | Phase.CHANGED:
                name = f"{self._repository}::{self._NAMES[phase]}"
                return (("borg", "create", name, str(self.scene.corpus)),)
            case Phase.RESTORE:
                return (("borg", "extract", latest),)
            case Phase.ONE_FILE:
                return (("borg", "extract", latest, str(self.scene.one_file).lstrip("/")),)
            case Phase.LIST:
                return (("borg", "list", str(self._repository)),)
            case Phase.VERIFY | Phase.VERIFY_ONE:
                return (("borg", "check", "--verify-data", str(self._repository)),)

    def stored_bytes(self) -> int:
        return folder_bytes(self._repository)


class Pipeline(Peer):
    """tar, a compressor and the AWS CLI."""

    mtime_unit_ns = 10**9
    restores = Phase.FIRST
    ending: str
    compress: tuple[str, ...]
    expand: tuple[str, ...]

    def commands(self, phase: Phase, target: Path) -> tuple[tuple[str, ...], ...]:
        address = f"s3://{self.scene.bucket}/corpus.tar.{self.ending}"
        copy = ("aws", "--endpoint-url", self.scene.endpoint, "s3", "cp", "--no-progress")
        pack, unpack = self._tar(target)
        match phase:
            case Phase.FIRST:
                return (pack, *filter(None, [self.compress]), (*copy, "-", address))
            case Phase.RESTORE:
                return ((*copy, address, "-"), *filter(None, [self.expand]), unpack)
        return ()

    def _tar(self, target: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
        packing = "-cf" if self.compress else "-czf"
        unpacking = "-xpf" if self.expand else "-xpzf"
        source = str(self.scene.corpus).lstrip("/")
        return ("tar", packing, "-", "-C", "/", source), ("tar", unpacking, "-", "-C", str(target))


class TarGzip(Pipeline):
    name = "tar czf | aws"
    ending = "gz"
    compress = expand = ()


class TarPigz(Pipeline):
    name = "tar | pigz | aws"
    ending = "pigz.gz"
    compress = ("pigz",)
    expand = ("pigz", "-d")


class TarZstd(Pipeline):
    name = "tar | zstd -T0 | aws"
    ending = "zst"
    compress = ("zstd", "-T0")
    expand = ("zstd", "-d")


PEERS: tuple[type[Peer], ...] = (Us, Restic, Borg, TarGzip, TarPigz, TarZstd)
