"""Any history of runs, clocks, strangers' objects and losses: the newest good backup is there."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_tasks.census.census import Census
from backup_tasks.claim.acceptance import Acceptance
from backup_tasks.claim.claim_file import Name
from backup_tasks.claim.evidence import read_evidence
from backup_tasks.claim.proof_notes import ProofNotes
from backup_tasks.format.archive_names import choose_free_name, is_backup_name
from backup_tasks.keys.signing import make_signing_key
from backup_tasks.profile.model import Profile
from backup_tasks.prune.run_prune import run_prune
from backup_tasks.stores.directory import DirectoryStore
from tests.support.proven import KEY_TEXT, proven_archive

# Nothing here is dated ahead of this.
LATER = datetime(2200, 1, 1, tzinfo=UTC)

START = datetime(2025, 10, 25, 22, 0, tzinfo=UTC)  # some hours before summer time ends
STRANGER = make_signing_key()
SEALED_FOR = str(pyrage.x25519.Identity.generate().to_public())
_FORWARD = st.sampled_from([timedelta(seconds=20), timedelta(hours=1), timedelta(days=1)])

events = st.one_of(
    st.tuples(st.just("run"), _FORWARD),
    st.tuples(st.just("run"), _FORWARD),
    st.tuples(st.just("wrong clock"), st.sampled_from([-400, -3, -1])),
    st.tuples(st.just("junk"), st.integers(-2, 40)),
    st.tuples(st.just("signed by a stranger"), st.integers(-2, 40)),
    st.tuples(st.just("copy"), st.integers(0, 50)),
    st.tuples(st.just("replay"), st.integers(0, 50)),
    st.tuples(st.just("hollow"), st.integers(0, 50)),
    st.tuples(st.just("prune"), st.booleans()),
    st.tuples(st.just("notes are lost"), st.just(0)),
)


@dataclass
class World:
    """A store that strangers may write to and may not delete from, and the machine that owns it.

    Attributes:
        made: what the machine has made: bytes -> (name, when it was begun).
    """

    here: Path
    encrypted: bool
    retention: dict[str, Any]
    now: datetime = START
    made: dict[bytes, tuple[str, datetime]] = field(default_factory=dict)
    last: str = ""

    def __post_init__(self) -> None:
        self.folder = self.here / "store"
        self.folder.mkdir()
        self.store = DirectoryStore(self.folder)
        self.profile = Profile.model_validate(
            {
                "name": "prod",
                "path": Path("/etc/backup-tasks/prod.toml"),
                "backup": {"sources": ["/etc"], "timezone": "Europe/Stockholm"},
                "store": {"url": f"file://{self.folder}/"},
                "retention": self.retention,
            }
        )
        names = frozenset({Name("prod", "web1")})
        self.acceptance = Acceptance(frozenset({KEY_TEXT}), names, trusts_locked=True)

    def census(self) -> Census:
        notes = ProofNotes(self.here / "state", self.store.place)
        listed = self.store.list_objects()
        zone = self.profile.tzinfo
        return Census(self.store, zone, listed, notes, self.acceptance, now=LATER)

    def name_at(self, moment: datetime) -> str:
        taken = set(self.files())
        return choose_free_name(moment, self.profile.tzinfo, taken, encrypted=self.encrypted)

    def files(self) -> dict[str, bytes]:
        return {
            file.name: file.read_bytes()
            for file in self.folder.iterdir()
            if is_backup_name(file.name)
        }

    def archive(self, name: str, began: datetime, **how: Any) -> bytes:
        return proven_archive(name, began, recipients=(SEALED_FOR,), **how)

    def run(self, began: datetime) -> None:
        """One backup, and what it prunes."""
        census = self.census()
        census.look(4)
        name = self.name_at(began)
        content = self.archive(name, began)
        (self.folder / name).write_bytes(content)
        self.made[content], self.last = (name, began), name
        stored = self.store.stat(name)
        evidence = read_evidence(self.store, stored)
        header = {"profile": "prod", "host": "web1", "name": name}
        if evidence.header is None:  # a run knows the header of what it has written
            from backup_tasks.backup.assembly import utc_text
            from tests.support.manifests import header as make

            evidence = replace_evidence(evidence, make(**header, started_at=utc_text(began)))
        census.notes.note_made(stored, evidence)
        census.notes.save([*census.listed, stored])
        self.prune(look=False)

    def prune(self, *, look: bool) -> None:
        """Prune, and hold what is left against what must be."""
        before = self.files()
        census = self.census()
        if look:
            census.look_at_all()
            census.save()
        report = run_prune(self.profile, self.store, census, self.now, dry_run=False)
        assert report.failed == {}
        for name in report.deleted:
            assert before[name] in self.made, f"{name} is not ours, and was deleted"
            if not self.encrypted:
                assert self.made[before[name]][0] == name, f"{name} is a copy, and was deleted"
        self.check()

    def check(self) -> None:
        there = {content: name for name, content in self.files().items()}
        good = [content for content, (name, _) in self.made.items()]
        if good:
            newest = max(good, key=lambda content: (self.made[content][1], self.made[content][0]))
            assert newest in there, "the newest good backup is gone"
            assert self.last in {"", *self.files()}, "the backup that was made last is gone"

    def put(self, name: str, content: bytes) -> None:
        """What a stranger may do: a new object, and nothing instead of another."""
        if not (self.folder / name).exists():
            (self.folder / name).write_bytes(content)
            if self.made.get(content, ("",))[0] == name:
                # Put back under its own name it counts, and is what the store took last.
                self.last = ""

    def happen(self, kind: str, what: Any) -> None:
        made = list(self.made)
        match kind:
            case "run":
                self.now += what
                self.run(self.now)
            case "wrong clock":
                self.run(self.now + timedelta(days=what))
            case "junk":
                self.put(self.name_at(self.now + timedelta(hours=what)), b"x")
            case "signed by a stranger":
                moment = self.now + timedelta(hours=what)
                name = self.name_at(moment)
                self.put(name, self.archive(name, moment, key=STRANGER))
            case "copy" if made:
                name = self.name_at(self.now + timedelta(minutes=what))
                self.put(name, made[what % len(made)])
            case "replay" if made:
                content = made[what % len(made)]
                self.put(self.made[content][0], content)
            case "hollow" if made:
                content = made[what % len(made)]
                self.put(self.name_at(self.now), b"x" * 100 + content[100:])
            case "prune":
                self.prune(look=what)
            case "notes are lost":
                shutil.rmtree(self.here / "state", ignore_errors=True)


def replace_evidence(evidence: Any, header: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(evidence, header=header, is_locked=False, trouble="")


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@settings(max_examples=40, deadline=None)
@given(
    history=st.lists(events, max_size=14),
    retention=st.sampled_from(
        [{"keep_last": 1}, {"keep_last": 2}, {"keep_within": "1d"}, {"keep_daily": 1}]
    ),
)
def test_whatever_happens_the_newest_good_backup_is_there_and_nothing_else_is_deleted(
    encrypted: bool, history: list[tuple[str, Any]], retention: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory(prefix="test-histories-") as here:
        world = World(Path(here), encrypted, retention)
        for kind, what in history:
            world.happen(kind, what)
        world.check()
