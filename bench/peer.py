"""One of those who are compared: what it finds, and what it must be able to say of itself."""

from __future__ import annotations

import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import Work
from bench.phases import Phase
from bench.server import bucket_bytes
from tests.support.s3_server import REGION


@dataclass(frozen=True)
class Scene:
    """What a peer finds.

    Attributes:
        folder: empty, for what the peer itself writes (repository, cache, state, logs).
        corpus: what is backed up.
        endpoint: of the server, or of what stands in front of it.
        client: of boto3, to look into the bucket.
        programs: folder that holds the AWS CLI; None where nobody needs it.
    """

    folder: Path
    corpus: Path
    one_file: Path
    bucket: str
    endpoint: str
    access_key: str
    secret_key: str
    client: Any
    programs: Path | None = None

    @property
    def environ(self) -> dict[str, str]:
        """The environment of everybody, with the keys as every S3 client looks for them."""
        path = os.environ.get("PATH", os.defpath)
        return {
            "PATH": f"{self.programs}{os.pathsep}{path}" if self.programs else path,
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "LANG": "C.UTF-8",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


class Peer(ABC):
    """One of those who are compared.

    Attributes:
        name: as tables show it.
        mtime_unit_ns: what it keeps times of files in.
        remote: whether it talks to the S3 server.
        restores: the backup that it brings back when all is restored, its newest.
    """

    name: str
    mtime_unit_ns = 1
    remote = True
    restores = Phase.CHANGED

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def prepare(self) -> None:
        """What a user does once, before the first backup."""
        return

    def work(self, phase: Phase, target: Path) -> Work | None:
        """How this phase's work is done; None for what this peer cannot do.

        Args:
            target: an empty folder to restore into.
        """
        commands = self.commands(phase, target)
        return Work(commands, self.work_folder(target), self.environ()) if commands else None

    @abstractmethod
    def commands(self, phase: Phase, target: Path) -> tuple[tuple[str, ...], ...]:
        """The commands of `work`; empty for what this peer cannot do."""

    def environ(self) -> Mapping[str, str]:
        return self.scene.environ

    def work_folder(self, target: Path) -> Path:  # noqa: ARG002
        return self.scene.folder

    def stored_bytes(self) -> int:
        """What its store takes now."""
        return bucket_bytes(self.scene.client, self.scene.bucket)

    def _set_up(self, *command: str) -> None:
        subprocess.run(
            command,
            cwd=self.scene.folder,
            env=dict(self.environ()),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
        )
