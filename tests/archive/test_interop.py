"""An archive is an ordinary .tar.gz: everybody's tools read it, from a disk and from S3."""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backup_tasks.common.paths import Paths
from backup_tasks.common.time_zones import find_zone
from backup_tasks.format.footer import FOOTER_BYTES
from backup_tasks.format.manifest import MANIFEST_PATH, decode_header
from backup_tasks.read.manifest_reader import read_manifest
from tests.conftest import S3Bucket
from tests.support.backups import Backups
from tests.support.details import find_backups
from tests.support.source_trees import make_files, make_links, make_names, make_sparse, make_times

PYTHON = "import sys, tarfile; tarfile.open(sys.argv[1], 'r:gz').extractall('.')"
TOOLS = {
    "tar": ["tar", "-xzf", "{}"],
    "bsdtar": ["bsdtar", "-xf", "{}"],
    "busybox": ["busybox", "tar", "-xzf", "{}"],
    "tarfile": [sys.executable, "-c", PYTHON, "{}"],
    "gzip and tar": ["bash", "-o", "pipefail", "-ec", 'gzip -dc "$1" | tar -x', "-", "{}"],
    "pigz and bsdtar": ["bash", "-o", "pipefail", "-ec", 'pigz -dc "$1" | bsdtar -xf -', "-", "{}"],
}


@dataclass
class S3Backups(Backups):
    """The same with a bucket; a second client, which knows nothing of us, fetches the archive."""

    bucket: S3Bucket | None = None

    def write_profile(self) -> Path:
        assert self.bucket is not None
        file = self.paths.profiles / "test.toml"
        file.write_text(
            f'[backup]\nsources = ["{self.source}"]\ntimezone = "UTC"\n'
            f'[store]\nurl = "s3://{self.bucket.bucket}/backups/"\n'
            f'region = "{self.bucket.region}"\naddressing_style = "path"\n'
            f'endpoint_url = "{self.bucket.endpoint}"\n'
            f'access_key_id = "{self.bucket.access_key}"\n'
            f'secret_access_key = "{self.bucket.secret_key}"\n'
        )
        file.chmod(0o600)
        return file

    def archive(self) -> Path:
        assert self.bucket is not None
        (key,) = self.bucket.keys()
        self.store_folder.mkdir(exist_ok=True)
        file = self.store_folder / key.rpartition("/")[2]
        self.bucket.client.download_file(self.bucket.bucket, key, str(file))
        return file


@pytest.fixture(params=["directory", "s3"])
def backups(request: pytest.FixtureRequest, tmp_path: Path, paths: Paths) -> Backups:
    source, store = tmp_path / "source", tmp_path / "store"
    if request.param == "directory":
        return Backups(source, store, paths)
    return S3Backups(source, store, paths, bucket=request.getfixturevalue("s3_bucket"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all tools can take; made once, never changed."""
    root = tmp_path_factory.mktemp("tree") / "source"
    root.mkdir()
    make_files(root / "files")
    make_names(root / "names")
    make_links(root / "links")
    make_times(root)
    return root


def contents(root: Path) -> dict[str, tuple[str, Any]]:
    """Path -> what it is and what it holds, of everything below."""
    found: dict[str, tuple[str, Any]] = {}
    for path in root.rglob("*"):
        status = path.lstat()
        name = str(path.relative_to(root))
        if stat.S_ISLNK(status.st_mode):
            found[name] = ("symlink", os.readlink(path))
        elif stat.S_ISREG(status.st_mode):
            found[name] = ("file", path.read_bytes())
        else:
            found[name] = (stat.filemode(status.st_mode)[0], None)
    return found


def extract(tool: str, archive: Path, target: Path) -> subprocess.CompletedProcess[str]:
    target.mkdir()
    command = [word.format(archive) if word == "{}" else word for word in TOOLS[tool]]
    return subprocess.run(command, cwd=target, capture_output=True, text=True, errors="replace")


def test_every_tool_reads_the_archive(backups: Backups, tree: Path, tmp_path: Path) -> None:
    backups.source = tree
    assert backups.backup().problems == []
    archive = backups.archive()
    expected = contents(tree)
    for tool in TOOLS:
        target = tmp_path / tool
        done = extract(tool, archive, target)
        assert done.returncode == 0, (tool, done.stderr)
        restored = contents(target / str(tree).lstrip("/"))
        wrong = {name for name in expected | restored if expected.get(name) != restored.get(name)}
        assert not wrong, (tool, wrong)
        assert (target / MANIFEST_PATH).is_file()
        assert (target / str(tree).lstrip("/") / "links" / "zz last").stat().st_nlink == 3
        subprocess.run(["chmod", "-R", "u+rwX", target], check=True)
        shutil.rmtree(target)


def test_gzip_finds_it_sound_and_tar_reads_it_to_its_end(backups: Backups, tree: Path) -> None:
    backups.source = tree
    backups.backup()
    archive = backups.archive()
    subprocess.run(["gzip", "-t", archive], check=True)
    script = 'gzip -dc "$1" | tar -t >/dev/null'
    done = subprocess.run(["bash", "-o", "pipefail", "-c", script, "-", archive], check=False)
    assert done.returncode == 0
    assert archive.read_bytes()[-FOOTER_BYTES:][:4] == b"\x1f\x8b\x08\x04"


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool != "busybox"])
def test_sparse_files_have_their_full_length_in_every_tool(
    tool: str, tmp_path: Path, paths: Paths
) -> None:
    """All but busybox, which knows no sparse files of any kind of tar."""
    backups = Backups(tmp_path / "source", tmp_path / "store", paths)
    backups.source.mkdir()
    make_sparse(backups.source / "sparse")
    backups.backup()
    done = extract(tool, backups.archive(), tmp_path / "target")
    assert done.returncode == 0, done.stderr
    assert contents(backups.in_target(tmp_path / "target")) == contents(backups.source)


def test_python_reads_owners_modes_and_times_to_the_nanosecond(
    tree: Path, tmp_path: Path, paths: Paths
) -> None:
    backups = Backups(tree, tmp_path / "store", paths)
    backups.backup()
    seen = 0
    with tarfile.open(backups.archive(), "r:gz") as archive:
        for info in archive:
            if info.name == MANIFEST_PATH:
                continue
            found = os.lstat(b"/" + os.fsencode(info.name))
            assert (info.uid, info.gid) == (found.st_uid, found.st_gid)
            assert info.mode == stat.S_IMODE(found.st_mode)
            if info.name.startswith(str(tree).lstrip("/")):
                assert info.mtime == pytest.approx(found.st_mtime_ns / 1e9, abs=1e-6)
                seen += 1
    assert seen > 100


def test_whoever_recovers_with_plain_tar_finds_the_manifest(
    tree: Path, tmp_path: Path, paths: Paths
) -> None:
    backups = Backups(tree, tmp_path / "store", paths)
    backups.backup()
    told = subprocess.run(
        ["tar", "-xzOf", backups.archive(), MANIFEST_PATH], capture_output=True, check=True
    ).stdout
    lines = told.splitlines()
    header = decode_header(lines[0])
    assert header.entries == len(lines) - 1 - header.chunks
    assert header.sources == (str(tree),)


def test_every_chunk_is_a_gzip_member_of_its_own(tree: Path, tmp_path: Path, paths: Paths) -> None:
    backups = Backups(tree, tmp_path / "store", paths)
    backups.backup()
    store = backups.open_store()
    manifest = read_manifest(store, find_backups(store, find_zone("UTC"))[-1].stored)
    assert manifest is not None
    content = backups.archive().read_bytes()
    for chunk in manifest.chunks:
        raw = gzip.decompress(content[chunk.offset : chunk.offset + chunk.length])
        assert len(raw) == chunk.raw
        assert chunk.raw % 512 == 0
