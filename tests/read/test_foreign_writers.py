"""What other programs write in every format of theirs comes back as GNU tar brings it back."""

from __future__ import annotations

import gzip
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.attacks import restore
from tests.support.histories import Twin, fingerprint
from tests.support.source_trees import make_attributes, make_links, make_modes, make_sparse

WHOLE = ("--xattrs", "--xattrs-include=*", "--acls")
PYTHON = """
import contextlib, os, sys, tarfile
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=int(sys.argv[1])) as archive:
    for folder, folders, files in os.walk("tree"):
        for name in ["", *files, *(f for f in folders if os.path.islink(f"{folder}/{f}"))]:
            with contextlib.suppress(ValueError):  # a name or a number that it has no room for
                archive.add(os.path.join(folder, name).rstrip("/"), recursive=False)
"""
SPARSE = {f"posix sparse {v}": f"--sparse-version={v}" for v in ("0.0", "0.1", "1.0")}
WRITERS = {
    **{f"tar {f}": ["tar", "-c", f"--format={f}"] for f in ("v7", "oldgnu", "gnu", "ustar")},
    "tar posix": ["tar", "-c", "--format=posix", *WHOLE],
    **{f"tar {f} sparse": ["tar", "-c", f"--format={f}", "--sparse"] for f in ("oldgnu", "gnu")},
    **{
        f"tar {name}": ["tar", "-c", "--format=posix", "--sparse", option, *WHOLE]
        for name, option in SPARSE.items()
    },
    "tar incremental": ["tar", "-c", "--format=gnu", "--listed-incremental=/dev/null"],
    "tar incremental posix": ["tar", "-c", "--format=posix", "--listed-incremental=/dev/null"],
    "tar label": ["tar", "-c", "--label=a volume"],
    "tar absolute": ["tar", "-c", "-P", "--transform=s,^,/,"],
    **{
        f"bsdtar {f}": ["bsdtar", "-cf", "-", "--format", f]
        for f in ("v7", "ustar", "pax", "gnutar")
    },
    **{
        f"python {name}": [sys.executable, "-c", PYTHON, str(number)]
        for number, name in enumerate(("ustar", "gnu", "pax"))
    },
    "busybox": ["busybox", "tar", "-c", "-f", "-"],
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds `tree`; made once, never changed."""
    root = tmp_path_factory.mktemp("foreign")
    tree = root / "tree"
    tree.mkdir()
    make_links(tree / "links")
    make_modes(tree / "modes")
    make_attributes(tree / "attributes")
    make_sparse(tree / "sparse")
    (tree / "a folder" / ("long" * 20) / ("longer" * 20)).mkdir(parents=True)
    (tree / "a folder" / ("long" * 20) / ("longer" * 20) / "leaf").write_text("x")
    (tree / ("n" * 140)).write_text("long")
    (tree / os.fsdecode(b"caf\xe9")).write_text("latin")
    (tree / "empty").touch()
    (tree / "large").write_bytes(os.urandom(3 * 2**20 + 77))
    for number, moment in enumerate((-86_400 * 10**9, 1_700_000_000_123_456_789, 2**32 * 10**9)):
        (tree / f"time {number}").mkdir()
        (tree / f"time {number}" / "file").write_text("x")
        (tree / f"time {number}" / "link").symlink_to("x")
        for place in ("file", "link", "."):
            path = tree / f"time {number}" / place
            os.utime(path, ns=(moment, moment), follow_symlinks=False)
    return root


def written(writer: str, source: Path) -> bytes:
    """What it cannot hold is left out, of which it complains."""
    command = WRITERS[writer] + ([] if writer.startswith("python") else ["tree"])
    return subprocess.run(command, cwd=source, capture_output=True).stdout


def by_tar(raw: bytes, target: Path) -> dict[str, Twin]:
    target.mkdir()
    command = ["tar", "-xpf", "-", *WHOLE, "-C", target]
    subprocess.run(command, input=raw, capture_output=True)
    return fingerprint(target / "tree")


def differences(ours: dict[str, Twin], theirs: dict[str, Twin]) -> dict[str, list[object]]:
    """Of folders the times are left out: tar loses those of which something comes later on."""
    found = {}
    for name in ours.keys() | theirs.keys():
        pair = [twins.get(name) for twins in (ours, theirs)]
        if all(twin and stat.S_ISDIR(twin.mode) for twin in pair):
            pair = [replace(twin, mtime_ns=0) for twin in pair if twin]
        if pair[0] != pair[1]:
            found[name] = list(pair)
    return found


@pytest.mark.parametrize("writer", WRITERS)
def test_what_others_write_comes_back_as_by_gnu_tar(
    source: Path, tmp_path: Path, writer: str
) -> None:
    raw = written(writer, source)
    report = restore(tmp_path / "store", gzip.compress(raw, 1), tmp_path / "ours", trusted=True)
    ours, theirs = fingerprint(tmp_path / "ours" / "tree"), by_tar(raw, tmp_path / "theirs")
    assert len(ours) > 60
    assert not differences(ours, theirs)
    lost = {path.removeprefix("tree/") for path, _ in report.extracted.problems}
    assert not lost & theirs.keys()
    for name, twin in fingerprint(source / "tree").items():
        if stat.S_ISDIR(twin.mode) and name in ours and twin.mtime_ns > 0:
            assert abs(ours[name].mtime_ns - twin.mtime_ns) <= 10**9, name
