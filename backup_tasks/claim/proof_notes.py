"""Notes on the evidence in a store's objects, kept in the state directory.

The file has a line of JSON for each backup. If it is lost, the objects are read again. There is one
file for a store, not for a profile, so that each profile of this machine that writes there finds
the others' notes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from backup_tasks.claim.evidence import Evidence
from backup_tasks.claim.proof import Known
from backup_tasks.common.printable import one_line, printable
from backup_tasks.common.state_files import read_kept, state_key, write_state_file
from backup_tasks.format.archive_names import is_encrypted_name
from backup_tasks.stores.base import StoredObject

# A line takes about 1 KB; with many sources in the profile, up to some 30 KB.
_NOTE_BYTES = 64 * 2**20
# Only a stranger's manifest makes a longer line. It is not kept; that object is read each time.
_LINE_BYTES = 2**16
# Remember the footers of this many encrypted backups that are gone.
_MOST_GONE = 4000


class _Line(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One line of the file.

    A line with an unknown key is damaged, or of a later version, and is dropped.

    Attributes:
        is_gone: the backup is no longer there; only its name and footer are remembered.
        made: it was made here; unread: as `Known.unread`.
    """

    name: str
    etag: str = ""
    size: int = 0
    evidence: Evidence = Evidence()
    made: bool = False
    unread: str = ""
    is_gone: bool = False

    def is_of(self, stored: StoredObject) -> bool:
        return not self.is_gone and (self.etag, self.size) == (stored.etag, stored.size)


class ProofNotes:
    """The notes on one store; read once, when first needed.

    Args:
        state: the state directory.
        place: the store's `Store.place`.
    """

    def __init__(self, state: Path, place: str) -> None:
        self._file = state / "proofs" / f"{state_key('', place)}.jsonl"
        self._lines: dict[str, _Line] | None = None
        self._changed: set[str] = set()
        self._read_back: set[str] = set()
        self._gone: list[_Line] = []

    def known(self, objects: Iterable[StoredObject]) -> dict[str, Known]:
        """Name -> what is noted of this very object; left out if nothing is."""
        lines, found = self._read(), {}
        for stored in objects:
            line = lines.get(stored.name)
            if line is not None and line.is_of(stored):
                found[stored.name] = Known(line.evidence, line.made, line.unread)
        return found

    def owners(self) -> Mapping[str, str]:
        """Footer -> its backup's name, for backups made here and encrypted ones that are gone."""
        return {
            line.evidence.footer: line.name
            for line in (*self._read().values(), *self._gone)
            if line.evidence.footer and (line.made or line.is_gone)
        }

    def note(self, stored: StoredObject, evidence: Evidence) -> None:
        """Remember what an object shows; `save` writes it."""
        if evidence.is_locked:  # which key was wanted is of no use later
            evidence = msgspec.structs.replace(evidence, trouble="")
        before = self._read().get(stored.name)
        if before is not None and before.is_of(stored):
            before.evidence = evidence
            self._changed.add(stored.name)
        else:
            self._put(stored, evidence, made=False)

    def note_made(self, stored: StoredObject, evidence: Evidence) -> None:
        """Remember a backup that was just made here; `save` writes it."""
        self._put(stored, evidence, made=True)

    def note_unread(self, name: str, why: str) -> None:
        """Remember why a noted backup could not be read back; "" if it could.

        Such a backup stays listed, and is never the latest. `save` writes the note.
        """
        line = self._read().get(name)
        if line is not None:
            line.unread = printable(one_line(why))
            self._changed.add(name)
            self._read_back.add(name)

    def save(self, listed: Iterable[StoredObject]) -> None:
        """Write what changed. A failure to write is no error.

        Args:
            listed: the objects in the store now; notes on others are dropped.
        """
        there = {stored.name: stored for stored in listed}
        kept = self._merged(there)
        if not self._changed:
            return
        with contextlib.suppress(OSError):
            write_state_file(self._file, b"".join(_encode([*self._gone[-_MOST_GONE:], *kept])))
            self._changed.clear()

    def _put(self, stored: StoredObject, evidence: Evidence, made: bool) -> None:
        self._read()[stored.name] = _Line(
            name=stored.name, etag=stored.etag, size=stored.size, evidence=evidence, made=made
        )
        self._changed.add(stored.name)

    def _merged(self, there: Mapping[str, StoredObject]) -> list[_Line]:
        """Our lines on objects that are there, joined with lines that another run has written."""
        ours = self._read()
        if self._changed and self._file.exists():
            meanwhile, self._gone = _load(self._file)
            for name, line in meanwhile.items():
                mine = ours.get(name)
                if name not in self._changed or mine is None:
                    ours[name] = line
                elif (mine.etag, mine.size) == (line.etag, line.size):
                    mine.made |= line.made
                    if name not in self._read_back:
                        mine.unread = line.unread
        for name in [name for name in ours if name not in there]:
            line = ours.pop(name)
            self._changed.add(name)
            if line.evidence.footer and is_encrypted_name(name):
                self._gone.append(_Line(name=name, evidence=_footer_of(line), is_gone=True))
        return [ours[name] for name in sorted(ours)]

    def _read(self) -> dict[str, _Line]:
        if self._lines is None:
            self._lines, self._gone = _load(self._file)
        return self._lines


def _encode(lines: Iterable[_Line]) -> Iterator[bytes]:
    """Encode the lines, dropping those that are too long or find no room.

    Lines on backups made here, and on those that are gone, come first and are never dropped:
    anybody may put any number of objects beside our backups.
    """
    encoder, left = msgspec.json.Encoder(), _NOTE_BYTES
    for line in sorted(lines, key=lambda line: not (line.made or line.is_gone)):
        encoded = encoder.encode(line) + b"\n"
        if line.made or line.is_gone or len(encoded) <= min(left, _LINE_BYTES):
            left -= len(encoded)
            yield encoded


def _footer_of(line: _Line) -> Evidence:
    return Evidence(footer=line.evidence.footer)


def _load(file: Path) -> tuple[dict[str, _Line], list[_Line]]:
    """Lines by name, and lines on backups that are gone; unreadable ones are left out."""
    try:
        content = read_kept(file, _NOTE_BYTES)
    except OSError:
        return {}, []
    lines = _decode(content)
    return (
        {line.name: line for line in lines if not line.is_gone},
        [line for line in lines if line.is_gone],
    )


_decoder = msgspec.json.Decoder(_Line)
_BAD = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def _decode(content: bytes) -> list[_Line]:
    try:
        return _decoder.decode_lines(content)
    except _BAD:
        pass
    found = []
    for line in content.splitlines():
        with contextlib.suppress(*_BAD):
            found.append(_decoder.decode(line))
    return found
