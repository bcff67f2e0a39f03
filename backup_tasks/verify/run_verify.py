"""Verify: read an archive and check all that can be checked, without restoring anything.

Every byte of an archive of ours is covered: the chunks by their hashes in the manifest, the
manifest by its hash in the footer; end mark and footer have only one valid spelling. The signature
covers the footer, and must be by one of the profile's keys if the profile names any.
"""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, datetime

from msgspec import Struct

from backup_tasks.census.catalog import Backup
from backup_tasks.census.reading import Reading
from backup_tasks.chunks.reader import ReadChunk, read_chunks
from backup_tasks.common.progress import Progress
from backup_tasks.common.units import render_count
from backup_tasks.errors import ArchiveError, UsageError
from backup_tasks.format.manifest import Chunk, Entry, Header, PlacedEntry
from backup_tasks.format.manifest_lines import Manifest
from backup_tasks.journal.run_record import RunRecord, warn
from backup_tasks.keys.identities import NO_KEYS, Keyring
from backup_tasks.read.authenticity import Trust
from backup_tasks.read.member_stream import render_fetched_again
from backup_tasks.read.open_archive import OpenArchive, open_archive
from backup_tasks.read.selection import Selection, WantedPaths
from backup_tasks.stores.base import Store
from backup_tasks.verify.entry_check import EntryCheck
from backup_tasks.verify.verified_chunks import Groups, VerifiedBefore
from backup_tasks.verify.verify_report import VerifyReport, render_verify

_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")


class VerifyWish(Struct, frozen=True):
    """The options of `invoke verify` as typed, in the task's order; "" if not given."""

    date: str = ""
    name: str = ""
    all: bool = False
    sample: str = ""


def run_verify(
    store: Store,
    backup: Backup,
    progress: Progress,
    sample: Sample | None = None,
    keys: Keyring = NO_KEYS,
    signers: Collection[str] = (),
    before: VerifiedBefore | None = None,
) -> VerifyReport:
    """Read one archive and check it. Faults are not raised, but reported.

    Args:
        sample: the chunks to check; None checks all.
        keys: open the archive if it is encrypted.
        signers: public keys as text, one of which must have signed; empty believes anybody.
        before: groups of chunks that were found whole in other archives; this one's are added.

    Raises:
        StoreError: the store failed.
        IdentityError: the archive is encrypted, and `keys` do not open it.
        BackupError: there is no room for temporary files.
    """
    report = VerifyReport(backup)
    weighed_alone = Trust(tuple(signers), unproven=True)  # doubts go into the report
    try:
        with open_archive(store, backup.stored, keys, weighed_alone) as archive:
            report.add_proof(archive.proof)
            if archive.manifest is None:
                _verify_plain_tar(archive, report, progress)
            else:
                _verify_ours(archive, archive.manifest, report, progress, sample, before)
    except ArchiveError as error:
        report.add_fault(str(error))
    return report


def _verify_ours(
    archive: OpenArchive,
    manifest: Manifest,
    report: VerifyReport,
    progress: Progress,
    sample: Sample | None,
    before: VerifiedBefore | None,
) -> None:
    report.chunks, report.header = len(manifest.chunks), manifest.header
    if fault_at_end := archive.find_fault_at_end():
        report.add_fault(fault_at_end)
    numbers: Sequence[int] = range(report.chunks)
    if sample is not None:
        numbers = sample.choose(report.chunks, archive.stored.name)
        report.limit = f"a sample of {sample.percent:g}%"
        before = None
    _check_chunks(archive, manifest, report, numbers, progress, before)


def _check_chunks(
    archive: OpenArchive,
    manifest: Manifest,
    report: VerifyReport,
    numbers: Sequence[int],
    progress: Progress,
    before: VerifiedBefore | None,
) -> None:
    manifest_check = _ManifestCheck(manifest.header)

    def passing(entries: Iterator[PlacedEntry]) -> Iterator[PlacedEntry]:
        return manifest_check.passing(report.not_whole.passing(manifest.header, entries))

    with closing(Selection(manifest, WantedPaths(()), passing)) as selection:
        if manifest_check.fault:
            report.add_fault(manifest_check.fault)
        chunks = manifest.chunks
        progress.start("verifying", sum(chunks[number].length for number in numbers), 0)
        check = EntryCheck()
        groups = Groups(before, chunks)
        reading = _Reading(report, selection, check, groups, chunks)
        store, stored, keys = archive.store, archive.stored, archive.keys
        found = read_chunks(store, stored, chunks, numbers, keys, reading.is_known)
        with closing(found):
            for chunk in found:
                files = check.files
                reading.take(chunk)
                progress.advance(chunks[chunk.number].length, check.files - files)
    if len(numbers) == len(chunks):
        check.finish()
    check.add_hardlinks(manifest.entries())
    report.lost = check.lost
    report.entries, report.files, report.raw_bytes = check.entries, check.files, check.bytes


@dataclass(slots=True)
class _Reading:
    """The chunks of an archive as they come, and the entries that should begin in them."""

    report: VerifyReport
    selection: Selection
    check: EntryCheck
    groups: Groups
    chunks: Sequence[Chunk]
    expected: deque[list[Entry]] = field(default_factory=deque)

    def is_known(self, number: int) -> bool:
        """Tell `read_chunks` whether a chunk need not be unpacked."""
        begin = [wanted.entry for wanted in self.selection.entries_in(number)]
        if begin:
            self.groups.expect(self.selection.group(number), begin)
        self.expected.append(begin)
        return self.groups.is_known(number)

    def take(self, chunk: ReadChunk) -> None:
        """Check the next chunk."""
        report, check, groups = self.report, self.check, self.groups
        number, begin, place = chunk.number, self.expected.popleft(), self.chunks[chunk.number]
        if chunk.damage:
            report.add_fault(
                f"chunk {number} (bytes {place.offset:,} to {place.end:,}): {chunk.damage}"
            )
        lost = check.lost.count
        if begin and groups.is_known(number):
            check.accept(chunk, begin, self.selection.group(number)[-1])
        else:
            check.check(chunk, begin)
        is_sound = not chunk.damage and check.lost.count == lost
        groups.took(number, is_sound=is_sound, is_open=check.is_open)
        report.checked_chunks += 1
        report.fetched_again += chunk.fetched_again
        report.checked_bytes += place.length


class _ManifestCheck:
    """Finds out whether a manifest contradicts itself, while its entries pass by."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._fault = ""
        self._files = self._content = 0

    def passing(self, entries: Iterator[PlacedEntry]) -> Iterator[PlacedEntry]:
        """Pass the entries on and check them. Take all of them before reading `fault`."""
        last: bytes | None = None
        for placed in entries:
            entry = placed[0]
            key = entry.walk_key
            if last is not None and key <= last and not self._fault:
                self._fault = f"the manifest lists {entry.name!r} out of order or twice"
            last = key
            if entry.type == "file":
                self._files += 1
                self._content += entry.size
            yield placed

    @property
    def fault(self) -> str:
        """How the manifest contradicts itself; "" if it does not."""
        header = self._header
        if self._fault or (self._files, self._content) == (header.files, header.raw_bytes):
            return self._fault
        return (
            f"the manifest lists {self._files:,} files of {self._content:,} bytes, its header "
            f"says {header.files:,} of {header.raw_bytes:,}"
        )


def _verify_plain_tar(archive: OpenArchive, report: VerifyReport, progress: Progress) -> None:
    """Read a plain tar through, and check it by gzip's checksums and tar's headers."""
    report.limit = "no manifest of ours: only gzip's checksums and tar's headers were checked"
    progress.start("verifying", 0, 0)
    notes: set[str] = set()
    for member, pieces in archive.plain_members(notes=notes):
        for piece in pieces:
            progress.advance(len(piece))
        report.entries += 1
        report.files += member.kind == "file"
        report.raw_bytes += member.size
        progress.advance(0, 1)
    report.checked_bytes = archive.stored.size
    report.limit = "; ".join([report.limit, *sorted(notes)])


class Sample(Struct, frozen=True):
    """A part of an archive's chunks: the same one all day, another one each day.

    Attributes:
        percent: above 0, up to 100.
    """

    percent: float
    day: date

    def choose(self, count: int, name: str) -> list[int]:
        """Chunk numbers, ascending; at least one if there are any.

        Args:
            count: number of chunks in the archive; name: the archive's name.
        """
        wanted = min(count, max(1, round(count * self.percent / 100)))
        chooser = random.Random(f"{self.day.isoformat()} {name}")  # noqa: S311
        return sorted(chooser.sample(range(count), wanted))


def parse_sample(text: str, day: date) -> Sample | None:
    """Read a sample such as "1%"; None for "".

    Raises:
        UsageError: the text is no percentage above 0 and up to 100.
    """
    if not text:
        return None
    match = _PERCENT.fullmatch(text.replace(" ", ""))
    percent = float(match[1]) if match else 0.0
    if not 0 < percent <= 100:
        raise UsageError(f"--sample {text!r}: write how much to look at, such as 1%")
    return Sample(percent, day)


def run_verify_job(
    reading: Reading, wish: VerifyWish, now: datetime, progress: Progress
) -> list[VerifyReport]:
    """Verify the backups that are meant, oldest first, and fill in the run's record.

    Raises:
        UsageError: options exclude each other, `sample` is no percentage, or there is no such
            backup.
        IdentityError: as `run_verify`.
        StoreError: the store failed.
        BackupError: as `run_verify`.
    """
    if wish.all and (wish.name or wish.date):
        raise UsageError("give --all, or one backup with --name or --date")
    profile, record = reading.profile, reading.record
    sample = parse_sample(wish.sample, now.astimezone(profile.tzinfo).date())
    backups = [reading.choose(wish.name, wish.date)]
    if wish.all:
        backups, record.archive = reading.census.backups(), ""
    reports = []
    before = VerifiedBefore() if len(backups) > 1 else None
    signers = profile.signing.public_key
    with progress:
        for backup in backups:
            report = run_verify(
                reading.store, backup, progress, sample, reading.keys, signers, before
            )
            report.maker = reading.maker(report.header)
            reports.append(report)
            _add_to_record(record, report)
            if report.fetched_again:
                again = render_fetched_again(report.fetched_again)
                warn(record, f"{backup.stored.name}: {again}")
            if not report.is_damaged:
                reading.note_proven(report.header, report.proof)
    subject = f"{render_count(len(reports), 'archive')} whole" if wish.all else "is whole"
    record.outcome = subject + (f" as far as {sample.percent:g}% show" if sample else "")
    record.evidence = list(render_verify(reports))
    return reports


def _add_to_record(record: RunRecord, report: VerifyReport) -> None:
    record.files += report.files
    record.raw_bytes += report.raw_bytes
    record.archive_bytes += report.backup.stored.size
