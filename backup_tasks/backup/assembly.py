"""Writes the bytes of one archive, from the first chunk to the footer, into the store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO

from msgspec import Struct

from backup_tasks import __version__
from backup_tasks.archive.builder import ArchiveBuilder
from backup_tasks.archive.carry_over import Earlier
from backup_tasks.archive.entry_writer import EntryWriter
from backup_tasks.archive.pending_lines import FOLDER_LINE, LATE_LINK_LINE, complete_lines
from backup_tasks.archive.write_order import LaterGroups
from backup_tasks.backup.basis import Basis
from backup_tasks.backup.context import BackupRun
from backup_tasks.backup.scan import Scan
from backup_tasks.backup.writers import Writers
from backup_tasks.chunks.encrypt import Sealer
from backup_tasks.claim.machine_key import private_files
from backup_tasks.common.printable import printable
from backup_tasks.common.temporary import temporary_file
from backup_tasks.common.units import utc_text
from backup_tasks.errors import ProfileError
from backup_tasks.format.footer import END_CHUNK, FORMAT_VERSION, Footer
from backup_tasks.format.limits import COUNTED_SOURCES, END_BYTES, MOUNTS_BYTES, SOURCES_BYTES
from backup_tasks.format.manifest import Chunk, Header, SourceCount, encode_text, write_manifest
from backup_tasks.journal.problems import Problem
from backup_tasks.journal.run_record import RunRecord
from backup_tasks.keys.signing import SigningKey
from backup_tasks.previous.versions import NOTHING_BEFORE, Before
from backup_tasks.reuse.plan import NO_REUSE, Reuse
from backup_tasks.spools.folder_stack import OPEN_FOLDER
from backup_tasks.spools.records import LineSpool
from backup_tasks.staging.objects import Detour, RecordingWriter
from backup_tasks.stores.base import ArchiveWriter
from backup_tasks.upload.part_assembler import (
    NOTHING_AHEAD,
    Ahead,
    PartAssembler,
    count_copies,
    plan_part_bytes,
)

# The most that an entry's headers and manifest line take, for an estimate.
_ENTRY_OVERHEAD_BYTES = 2048
# At most this many of the left-out files are named.
_NAMED = 5


class SourcesSeen(Struct, frozen=True):
    """The header's facts about the sources, so that a later run notices what they lost.

    Attributes:
        counts: source -> its entries and content bytes.
        mounts, rules, alarms: as in a `Header`.
    """

    counts: Mapping[str, SourceCount]
    mounts: Sequence[str] = ()
    rules: str = ""
    alarms: int = 0


class Written(Struct, frozen=True):
    """A written archive: its chunks, the manifest's header, and the signed footer."""

    chunks: Sequence[Chunk]
    header: Header
    footer: Footer


class Assembly(Struct, frozen=True):
    """Writes one archive.

    Attributes:
        run: profile, store and state directory.
        basis: the earlier objects on which it is built.
        name: the archive's name.
        key: signs the archive.
        scan: the sources as the walk saw them, and which chunks of the basis are reused.
        record: gets the figures, and gives the host's name.
        report: called for each file that is not stored whole.
        before: the previous backup, for versions of files that cannot be read.
        seen: the header's facts about the sources.
    """

    run: BackupRun
    basis: Basis
    name: str
    key: SigningKey
    scan: Scan
    record: RunRecord
    report: Callable[[Problem], None]
    before: Before = NOTHING_BEFORE
    seen: SourcesSeen = SourcesSeen({})

    def write(self, writers: Writers, end: IO[bytes]) -> Written:
        """Write the whole archive; `end` gets a plain copy of what follows the chunks."""
        scan, last = self.scan, self.basis.last
        parts = self._assembler(writers.archive, scan.reuse, writers.ahead)
        recipients = self.run.profile.recipients
        sealer = Sealer(recipients) if recipients else None
        _refuse_too_many(sealer)
        builder = ArchiveBuilder(parts, self.run.profile.backup.compression_level, sealer)
        root = os.open("/", OPEN_FOLDER)
        self.run.progress.start("backing up", scan.read_bytes, scan.count)
        try:
            earlier = self._earlier()
            if last is not None and earlier is not None:
                builder.keep(earlier.base, scan.reuse.ranges, earlier.read_stored)
            detour = self._detour(writers, builder, parts)
            journal = detour or writers.journal
            entries = EntryWriter(
                builder,
                self.report,
                self.run.progress,
                root,
                scan.reuse,
                earlier,
                journal,
                private_files(self.run.paths.state),
                holder=self.before.name,
                is_holder_known=self.before.is_known,
            )
            now_ns = int(self.record.started_at.timestamp()) * 10**9
            with (
                LineSpool() as lines,
                LaterGroups(now_ns) as later,
                LineSpool() as link_lines,
                LineSpool() as folder_lines,
            ):
                old_lines = last.index.lines_between if last else _no_lines
                _collect(lines, entries.write_all(scan.steps, old_lines, later.postpone), detour)
                for group in later.in_order():
                    _collect(group.lines, entries.write_group(group.plans), detour)
                builder.end_entries()
                if detour is not None:
                    detour.end()
                _collect(link_lines, entries.write_late_links(scan.late_links), None)
                # The deepest folders first: some tars set a folder's time at once, and a folder
                # that is made in it afterwards would change that time.
                _collect(folder_lines, entries.write_folders(reversed(scan.folders)), None)
                builder.end_entries()
                self._note_figures(entries, parts, detour)
                header = self._header(builder, entries)
                awaited = {
                    **later.lines(),
                    LATE_LINK_LINE: link_lines,
                    FOLDER_LINE: reversed(folder_lines),
                }
                entry_lines = complete_lines(lines, awaited, old_lines)
                footer = self._add_manifest(builder, header, entry_lines, end)
        finally:
            os.close(root)
            builder.close()
        self._note_figures(entries, parts, detour)
        self._tell_left_out(entries.left_out)
        return Written(builder.chunks, header, footer)

    def _earlier(self) -> Earlier | None:
        """Where earlier versions lie; None if none can be carried over."""
        source = self.basis.last or self.basis.versions
        if source is None or not self.before.may_carry:
            return None
        started_at, copies = source.started_at, self.basis.last is not None
        return Earlier(source.base, self.run.store, self.run.keys, started_at, copies)

    def _tell_left_out(self, paths: Sequence[str]) -> None:
        if paths:
            named = ", ".join(printable(f"/{path}") for path in paths[:_NAMED])
            more = f" and {len(paths) - _NAMED:,} more" if len(paths) > _NAMED else ""
            warning = f"left out, for it is a private key that signs backups: {named}{more}"
            if warning not in self.record.warnings:  # an earlier try may have added it
                self.record.warnings.append(warning)

    def _detour(
        self, writers: Writers, builder: ArchiveBuilder, parts: PartAssembler
    ) -> Detour | None:
        """Have new chunks recorded, if there is a journal; returns the detour through staging
        objects, if there are any."""
        if writers.journal is not None:
            builder.record(RecordingWriter(writers.archive, writers.journal).delivered, None)
        if writers.staging_objects is None:
            return None
        return Detour(
            writers.staging_objects,
            builder,
            writers.archive,
            parts,
            lambda staging: self._assembler(staging, NO_REUSE),
            self.run.store.limits,
            self._expected_bytes(self.scan.reuse),
        )

    def _expected_bytes(self, reuse: Reuse) -> int:
        scan = self.scan
        return reuse.reused_bytes + scan.read_bytes + scan.count * _ENTRY_OVERHEAD_BYTES

    def _assembler(
        self, writer: ArchiveWriter, reuse: Reuse, ahead: Ahead = NOTHING_AHEAD
    ) -> PartAssembler:
        limits, reused_bytes = self.run.store.limits, reuse.reused_bytes
        expected_bytes = self._expected_bytes(reuse)
        sent_bytes = expected_bytes - reused_bytes
        copies = count_copies(len(reuse.ranges), reused_bytes, expected_bytes, limits)
        planned_bytes = plan_part_bytes(sent_bytes, limits, copies)
        return PartAssembler(writer, limits, planned_bytes, expected_bytes, ahead)

    def _note_figures(
        self, entries: EntryWriter, parts: PartAssembler, detour: Detour | None
    ) -> None:
        record, staged_bytes = self.record, detour.sent_bytes if detour else 0
        record.files, record.raw_bytes = entries.totals.files, entries.totals.raw_bytes
        record.sent_bytes = parts.sent_bytes + staged_bytes
        record.copied_bytes = parts.copied_bytes - staged_bytes

    def _header(self, builder: ArchiveBuilder, written: EntryWriter) -> Header:
        last, started_at = self.basis.last, utc_text(self.record.started_at)
        sources = _first_texts(self.run.profile.backup.sources, SOURCES_BYTES)
        return Header(
            format=FORMAT_VERSION,
            profile=self.run.profile.name,
            host=self.record.host,
            started_at=started_at,
            written_at=utc_text(self.run.clock()),
            tool=f"backup-tasks {__version__}",
            sources=sources,
            entries=written.totals.entries,
            files=written.totals.files,
            raw_bytes=written.totals.raw_bytes,
            chunks=len(builder.chunks),
            chunk_bytes=sum(chunk.length for chunk in builder.chunks),
            problems=len(self.record.problems),
            copied_from=last.name if last else "",
            copied_bytes=self.record.copied_bytes,
            full_at=last.full_at if last else started_at,
            name=self.name,
            recipients=self.run.profile.recipients,
            torn=written.totals.torn,
            carried=written.totals.carried,
            unreadable=self.record.unreadable,
            needed_backups=self._needed_backups(),
            source_counts=tuple(map(self.seen.counts.get, sources[:COUNTED_SOURCES])),
            mounts=_first_texts(self.seen.mounts, MOUNTS_BYTES),
            rules=self.seen.rules,
            alarms=self.seen.alarms,
        )

    def _needed_backups(self) -> tuple[str, ...]:
        """The backups that hold files which this one lacks.

        While anything cannot be read, those of the previous backup are among them, since it is not
        known which files they hold.
        """
        record = self.record
        if record.unreadable or record.carried:
            more = [name for name in self.before.needed if name not in record.needed_backups]
            record.needed_backups[:0] = more
        return tuple(record.needed_backups)

    def _add_manifest(
        self,
        builder: ArchiveBuilder,
        header: Header,
        entry_lines: Iterable[bytes],
        end: IO[bytes],
    ) -> Footer:
        with temporary_file() as lines:
            write_manifest(lines, header, builder.chunks, entry_lines)
            size = lines.tell()
            lines.seek(0)
            return builder.add_manifest(lines, size, self.key, end)


def _refuse_too_many(sealer: Sealer | None) -> None:
    """Refuse more recipients than readers accept.

    Raises:
        ProfileError: the end mark, encrypted for all recipients, is longer than readers accept.
    """
    if sealer is not None and len(sealer.seal(END_CHUNK)) > END_BYTES:
        raise ProfileError(
            "encryption.recipients: too many: what age adds to every megabyte for all of them "
            f"takes more than {END_BYTES // 1024} KiB; name fewer"
        )


def _first_texts(texts: Sequence[str], room: int) -> tuple[str, ...]:
    """The first texts that fit into `room` in the manifest's first line; usually all."""
    for number, text in enumerate(texts):
        room -= len(encode_text(text))
        if room < 0:
            return tuple(texts[:number])
    return tuple(texts)


def _collect(lines: LineSpool, written: Iterable[bytes], detour: Detour | None) -> None:
    for line in written:
        lines.append(line)
        if detour is not None:
            detour.go_on()


def _no_lines(start: int, end: int) -> bytes:
    raise AssertionError(f"there is no last manifest with lines from {start} to {end}")
