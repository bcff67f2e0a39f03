"""The files that are backed up: a server's worth of them, the same bytes on every machine.

    corpus = Corpus(FULL, folder)
    corpus.make()
    corpus.change()     # one percent of the files
    corpus.revert()

Small files are cut from pools of text at places of their own, so that making 2.5 GB takes about
a minute, and yet no deduplication finds the same blocks twice.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from bench.noise import (
    database_pages,
    log_lines,
    machine_code,
    noise,
    numbers,
    prose,
    source_code,
)

_MIB = 2**20
_VERSION = 1
# Files never end at the same moment as the bench begins; some nanoseconds show who keeps them.
_FIRST_MTIME = 1_700_000_000
_MTIME_RANGE = 30_000_000
# A file beyond this is put together from pieces, none as long as the shortest chunk of a peer.
_PIECE = 48 * 1024


@dataclass(frozen=True)
class Spec:
    """How large a corpus is.

    Attributes:
        files: how many small ones; together about 17 KB times as many bytes.
        large_bytes: size of each of the three large ones.
        pool_bytes: of each kind of content that small files are cut from.
    """

    name: str
    files: int
    large_bytes: int
    pool_bytes: int = 24 * _MIB


FULL = Spec("full", 100_000, 240 * _MIB)
SMALL = Spec("small", 5_000, 12 * _MIB)
TINY = Spec("tiny", 100, _MIB // 2, _MIB)
SIZES = {spec.name: spec for spec in (FULL, SMALL, TINY)}


@dataclass(frozen=True)
class SmallFile:
    """One of the many: where it lies (relative), and what it is."""

    number: int
    path: str
    kind: str
    size: int
    mode: int
    mtime_ns: int


# Of 256 files, so many of each kind; and the sizes as powers of two, one of them for each file.
_KINDS = ("code",) * 192 + ("text",) * 40 + ("binary",) * 20 + ("packed",) * 4
_POWERS = {
    "code": (8, 9, 10, 10, 11, 11, 11, 12, 12, 12, 12, 13, 13, 13, 14, 15),
    "text": (6, 8, 9, 10, 10, 11, 11, 12, 12, 13, 13, 13, 14, 14, 15, 16),
    "binary": (11, 12, 12, 13, 13, 14, 14, 14, 15, 15, 16, 16, 16, 17, 17, 18),
    "packed": (12, 13, 14, 14, 15, 15, 15, 16, 16, 16, 17, 17, 17, 18, 18, 19),
}
_ENDINGS = {"code": "py", "text": "txt", "binary": "so", "packed": "png"}
_MODES = (0o644,) * 12 + (0o755, 0o600, 0o640, 0o444)
_FILES_OF_A_FOLDER = 4
_FOLDERS_OF_A_FOLDER = 30


def plan_small_files(spec: Spec) -> Iterator[SmallFile]:
    """Name, kind, size, mode and time of each small file."""
    for number in range(spec.files):
        first, second, third, fourth = numbers(f"file {number}", 4)
        kind = _KINDS[first & 255]
        power = _POWERS[kind][first >> 8 & 15]
        folder = number // _FILES_OF_A_FOLDER
        path = f"tree{folder // _FOLDERS_OF_A_FOLDER:03}/part{folder:05}/{kind}{number:06}"
        yield SmallFile(
            number,
            f"{path}.{_ENDINGS[kind]}",
            kind,
            (1 << power) + (second & (1 << power) - 1),
            _MODES[first >> 12 & 15],
            _mtime_ns(third, fourth),
        )


def choose_changed(spec: Spec) -> list[int]:
    """The numbers of the small files that change: one of each hundred."""
    return [
        start + numbers(f"changed {start}", 1)[0] % 100 for start in range(0, spec.files - 99, 100)
    ]


class Corpus:
    """The corpus below `folder`/corpus-NAME, with a note beside it that tells when it is whole."""

    def __init__(self, spec: Spec, folder: Path) -> None:
        self.spec = spec
        self.root = folder / f"corpus-{spec.name}"
        self._note = folder / f"corpus-{spec.name}.json"
        self._dirty = folder / f"corpus-{spec.name}.changed"

    def make(self, say: Callable[[str], None] = print) -> None:
        """Make it, unless it is there; bring back what an interrupted bench left changed."""
        wanted = {"version": _VERSION, **asdict(self.spec)}
        if self._note.exists() and json.loads(self._note.read_text()) == wanted:
            if self._dirty.exists():
                self.revert()
            return
        say(f"making the corpus: {self.spec.files:,} files and three large ones")
        self._note.unlink(missing_ok=True)
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        for file in plan_small_files(self.spec):
            self._write_small(file, 0)
        for name, content in _LARGE.items():
            self._write_large(name, content)
        self._date_folders()
        self._note.write_text(json.dumps(wanted))

    def change(self) -> int:
        """Give one percent of the small files other content. Returns how many."""
        self._dirty.touch()
        return self._rewrite(generation=1)

    def revert(self) -> None:
        """Undo `change`, but for the ctime, which nobody can set."""
        self._rewrite(generation=0)
        self._dirty.unlink(missing_ok=True)

    @cached_property
    def unchanged_file(self) -> Path:
        """A small file of the middle, for whoever asks for a single one."""
        changed = set(choose_changed(self.spec))
        half = self.spec.files // 2
        return self.root / next(
            file.path
            for file in plan_small_files(self.spec)
            if file.number >= half and file.kind == "code" and file.number not in changed
        )

    def _rewrite(self, generation: int) -> int:
        changed = set(choose_changed(self.spec))
        for file in plan_small_files(self.spec):
            if file.number in changed:
                self._write_small(file, generation)
        return len(changed)

    @cached_property
    def _pools(self) -> dict[str, bytes]:
        size = self.spec.pool_bytes
        return {
            "code": source_code("pool", size),
            "text": prose("pool", size),
            "binary": machine_code("pool", size),
        }

    def _write_small(self, file: SmallFile, generation: int) -> None:
        path = self.root / file.path
        if file.number % _FILES_OF_A_FOLDER == 0 and generation == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        content = self._content(file, generation)
        # In place, as editors that keep hard links do; a file of mode 444 is opened as its owner.
        if path.exists():
            path.chmod(0o600)
        path.write_bytes(content)
        path.chmod(file.mode)
        mtime_ns = file.mtime_ns + generation * _MTIME_RANGE * 10**9
        os.utime(path, ns=(mtime_ns, mtime_ns))

    def _content(self, file: SmallFile, generation: int) -> bytes:
        label = f"content {file.number} {generation}"
        if file.kind == "packed":
            return noise(label, file.size)
        pool = self._pools[file.kind]
        pieces = [f"{label}\n".encode()]
        for place in numbers(label, file.size // _PIECE + 1):
            at = place % (len(pool) - _PIECE)
            pieces.append(pool[at : at + min(_PIECE, file.size)])
        return b"".join(pieces)[: file.size]

    def _write_large(self, name: str, content: Callable[[int, int], bytes]) -> None:
        path = self.root / "large" / name
        path.parent.mkdir(exist_ok=True)
        with open(path, "wb") as file:
            for number, start in enumerate(range(0, self.spec.large_bytes, 4 * _MIB)):
                file.write(content(number, min(4 * _MIB, self.spec.large_bytes - start)))
        mtime_ns = _mtime_ns(*numbers(f"large {name}", 2))
        os.utime(path, ns=(mtime_ns, mtime_ns))

    def _date_folders(self) -> None:
        for folder, _, _ in os.walk(self.root, topdown=False):
            relative = os.path.relpath(folder, self.root)
            mtime_ns = _mtime_ns(*numbers(f"folder {relative}", 2))
            os.chmod(folder, 0o755)  # noqa: S103 - whatever the umask is
            os.utime(folder, ns=(mtime_ns, mtime_ns))


def _image_part(number: int, size: int) -> bytes:
    """Of four parts one is empty, one packed, two programs and their files."""
    label = f"image {number}"
    match number % 4:
        case 0:
            return bytes(size)
        case 1:
            return noise(label, size)
    return machine_code(label, size)


_LARGE: dict[str, Callable[[int, int], bytes]] = {
    "access.log": lambda number, size: log_lines(f"log {number}", size, number * 45_000),
    "database.db": lambda number, size: database_pages(f"database {number}", size),
    "disk.img": _image_part,
}


def _mtime_ns(seconds: int, fraction: int) -> int:
    return (_FIRST_MTIME + seconds % _MTIME_RANGE) * 10**9 + fraction % 10**9
