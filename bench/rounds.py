"""The rounds of the bench: every peer does a work before anybody does the next one.

In each round whoever began the round before goes last, and nobody starts before the server is
quiet, so that no peer has a better place than another.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bench.corpus import Corpus
from bench.measure import WorkFailed, measure
from bench.peer import Peer, Scene
from bench.peers import PEERS
from bench.phases import Phase
from bench.results import Bytes, Results, Run
from bench.rubbish import Rubbish
from bench.server import fresh_bucket, wait_until_quiet
from bench.trees import Print, differences, fingerprint, summarize
from bench.wire import CountingRelay
from tests.support.s3_server import S3Server

_T = TypeVar("_T")


@dataclass
class Bench:
    """What all rounds share.

    Attributes:
        folder: for everything that is written, emptied by whoever made it.
        programs: folder that holds the AWS CLI.
    """

    server: S3Server
    corpus: Corpus
    folder: Path
    programs: Path
    results: Results
    _rubbish: Rubbish = field(default_factory=Rubbish)

    def count_bytes(self) -> None:
        """A round of which the times do not count, as all bytes go through a relay.

        It comes first: it also brings the corpus and all programs into the page cache.
        """
        with (
            CountingRelay(self.server.endpoint) as relay,
            self._peers("bytes", relay) as peers,
            contextlib.closing(self._turns(peers)) as turns,
        ):
            for phase, peer in turns:
                before = relay.sent_bytes, relay.received_bytes
                if self._do(phase, peer) is None:
                    continue
                sent = relay.sent_bytes - before[0] if peer.remote else None
                received = relay.received_bytes - before[1] if peer.remote else None
                stored = peer.stored_bytes()
                self.results.bytes.append(Bytes(phase.value, peer.name, sent, received, stored))
                told = "" if sent is None else f"{sent / 1e6:10,.1f} MB sent"
                self._say("bytes", phase, peer, f"{told:>18} {stored / 1e6:10,.1f} MB stored")

    def play(self, number: int) -> None:
        """Round `number`, counted from 1."""
        with (
            self._peers(f"round{number}", None) as peers,
            contextlib.closing(self._turns(rotated(peers, number - 1))) as turns,
        ):
            for phase, peer in turns:
                run = self._do(phase, peer, number)
                if run is None:
                    continue
                self.results.runs.append(run)
                told = f"{run.wall_seconds:8.2f} s {run.cpu_seconds:8.2f} s CPU"
                memory = f"{run.largest_kib / 1024:6.0f} MiB"
                self._say(f"round {number}", phase, peer, f"{told} {memory}")

    def _turns(self, peers: Sequence[Peer]) -> Generator[tuple[Phase, Peer]]:
        """Whose turn it is for which work. The corpus changes in between, and back in the end."""
        self._original = fingerprint(self.corpus.root)
        self._now = self._original
        try:
            for phase in Phase:
                if phase is Phase.CHANGED:
                    self.corpus.change()
                    self._now = fingerprint(self.corpus.root)
                for peer in peers:
                    yield phase, peer
        finally:
            self.corpus.revert()

    def _do(self, phase: Phase, peer: Peer, number: int = 0) -> Run | None:
        target = Path(tempfile.mkdtemp(prefix="restored-", dir=self.folder))
        self._rubbish.add(target)
        work = peer.work(phase, target)
        if work is None:
            return None
        if phase is Phase.RESTORE:
            self._rubbish.wait()
        wait_until_quiet(self.server)
        try:
            cost = measure(work)
        except WorkFailed as error:
            raise WorkFailed(f"{peer.name}, {phase.value}: {error}") from error
        if phase is Phase.RESTORE:
            self._check(peer, target)
        elif phase is Phase.ONE_FILE:
            self._check_one_file(peer, target)
        return Run(
            number,
            phase.value,
            peer.name,
            cost.wall_seconds,
            cost.cpu_seconds,
            cost.largest_kib,
            cost.summed_kib,
        )

    def _check(self, peer: Peer, target: Path) -> None:
        # The files were as they were first, until one percent changed.
        wanted = self._now if peer.restores is Phase.CHANGED else self._original
        root = target / str(self.corpus.root).lstrip("/")
        self._assert_same(peer, wanted, fingerprint(root))

    def _check_one_file(self, peer: Peer, target: Path) -> None:
        file = self.corpus.unchanged_file
        wanted = {str(file).lstrip("/"): self._now[str(file.relative_to(self.corpus.root))]}
        # Not all peers date the folders above it.
        found = {path: one for path, one in fingerprint(target).items() if one.sha256}
        self._assert_same(peer, wanted, found)

    def _assert_same(self, peer: Peer, wanted: dict[str, Print], found: dict[str, Print]) -> None:
        if lines := differences(wanted, found, peer.mtime_unit_ns):
            raise WorkFailed(f"{peer.name} restored something else:\n{summarize(lines)}")

    @contextlib.contextmanager
    def _peers(self, name: str, relay: CountingRelay | None) -> Iterator[list[Peer]]:
        """All peers with fresh stores, which are gone afterwards."""
        client = self.server.client()
        with contextlib.ExitStack() as stack:
            stack.callback(self._rubbish.clear)
            peers = []
            for number, kind in enumerate(PEERS):
                folder = self.folder / f"{name}-peer{number}"
                folder.mkdir()
                self._rubbish.add(folder)
                bucket = stack.enter_context(fresh_bucket(client, f"{name}-peer{number}"))
                scene = Scene(
                    folder=folder,
                    corpus=self.corpus.root,
                    one_file=self.corpus.unchanged_file,
                    bucket=bucket,
                    endpoint=relay.endpoint if relay else self.server.endpoint,
                    access_key=self.server.access_key,
                    secret_key=self.server.secret_key,
                    client=client,
                    programs=self.programs,
                )
                peer = kind(scene)
                peer.prepare()
                peers.append(peer)
            yield peers

    def _say(self, round_name: str, phase: Phase, peer: Peer, told: str) -> None:
        print(f"{round_name:<8} {phase.value:<26} {peer.name:<22} {told}", flush=True)


def rotated(things: Sequence[_T], places: int) -> list[_T]:
    """The same things, beginning with another one."""
    places %= len(things)
    return [*things[places:], *things[:places]]
