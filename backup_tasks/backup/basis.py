"""Chooses what the next archive is built on: the previous backup, and interrupted runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from backup_tasks.backup.context import BackupRun
from backup_tasks.census.census import Census
from backup_tasks.claim.clock import is_ahead
from backup_tasks.claim.machine_key import read_own_key
from backup_tasks.common.printable import one_line
from backup_tasks.common.units import render_bytes
from backup_tasks.errors import (
    BackupError,
    CopyRefused,
    CopyUnsupported,
    StoreError,
)
from backup_tasks.journal.run_record import RunRecord, open_log
from backup_tasks.previous.archive import (
    PreviousBackup,
    find_previous_backup,
    why_begin_anew,
    why_full,
)
from backup_tasks.previous.versions import Before
from backup_tasks.staging.journal import StagedRun
from backup_tasks.staging.leftovers import end_leftovers
from backup_tasks.staging.salvage import Salvaged, build_on, discard_runs, salvage_runs
from backup_tasks.stores.base import StoredObject, Unfinished


class Basis(Struct, frozen=True):
    """The basis on which an archive is built.

    Attributes:
        listed: the objects in the store when this run looked; the store is listed once.
        census: the backups among them, and which of these count.
        last: the backup whose chunks are reused; if None, `why_full` says why.
        why_full: why everything is read and sent, or what was wrong with newer backups; or "".
        may_stage: whether bytes may be sent to staging objects and copied from there.
        versions: without `last`, a backup that has earlier versions of unreadable files.
        under_way: names that others are writing just now.
    """

    listed: Sequence[StoredObject]
    census: Census
    last: PreviousBackup | None
    why_full: str
    may_stage: bool = False
    versions: PreviousBackup | None = None
    under_way: frozenset[str] = frozenset()

    def close(self) -> None:
        """Free memory and files."""
        for archive in (self.last, self.versions):
            if archive is not None:
                archive.close()

    def before(self, run: BackupRun) -> Before:
        """The previous backup, as far as it is known."""
        there = {backup.stored.name for backup in self.census.backups()}
        found = self.census.newest_or_previous()
        newest = found.stored.name if found is not None else ""
        archive = self.last or self.versions
        if archive is None:
            # Its content and its recipients are unknown.
            return Before(newest)
        needed = tuple(name for name in archive.needed if name in there)
        is_ours = tuple(archive.recipients) == tuple(run.profile.recipients)
        may_carry = self.last is not None or is_ours
        return Before(
            archive.name or newest,
            archive.started_at,
            archive.index,
            may_carry,
            needed,
            is_known=bool(archive.name),
        )


def look_at_store(run: BackupRun, host: str) -> Basis:
    """Look for a backup whose chunks can be reused; else for one to carry versions over from.

    Raises:
        StoreError: the store fails, or lists no backup although one was seen there.
    """
    listed, census = _list_store(run, host)
    census.look()
    why = _why_nothing_is_reused(run) or why_begin_anew(census)
    found, trouble = find_previous_backup(
        run.profile,
        run.store,
        census,
        run.cache,
        run.newest_seen,
        read_own_key(run.paths.state),
        host,
        run.keys,
        run.margin_ns,
    )
    if found is None:
        return Basis(listed, census, None, why or trouble)
    if why := why or why_full(found, run.profile, run.now):
        return Basis(listed, census, None, why, versions=found)
    return Basis(listed, census, found, trouble)


def _list_store(run: BackupRun, host: str) -> tuple[list[StoredObject], Census]:
    listed = run.store.list_objects()
    run.newest_seen.refuse_nothing(listed, may_be_gone=True)
    return listed, run.census(listed, host)


def _why_nothing_is_reused(run: BackupRun) -> str:
    if run.full:
        return "--full was asked for"
    if run.copy_memory.refused(run.now):
        return "the store refused to copy on its own side"
    return "" if run.store.can_copy else "the store cannot copy on its own side"


def choose_basis(run: BackupRun, record: RunRecord) -> Basis:
    """Look at what finished and interrupted runs left, and remove what is of no use."""
    store, staged = run.store, run.staging.read()
    names = [one.staging.name for one in staged if one.staging]
    end_leftovers(store, run.upload_note, run.earliest_now, names)
    basis = look_at_store(run, record.host)
    if basis.last is not None and basis.why_full:
        open_log(run.paths).info("backup %s: %s", run.profile.name, basis.why_full)
    may_stage = store.can_copy and not run.copy_memory.refused(run.now)
    if not staged:
        return replace(basis, may_stage=may_stage)
    try:
        unfinished = store.list_unfinished()
        may_resume = may_stage and not run.full
        useful = [one for one in staged if may_resume and _is_useful(run, one, basis.last)]
        found = salvage_runs(store, useful, unfinished)
        used = {id(one.run) for one in found}
        useless = [one for one in staged if id(one) not in used]
        # If deleting fails, stage nothing: every run would leave something behind.
        may_stage &= discard(run, useless, unfinished, record)
        if found:
            basis = replace(basis, last=build_on(basis.last, found, run.margin_ns))
            _tell_what_was_found(run, found)
    except BaseException:
        basis.close()
        raise
    return replace(basis, may_stage=may_stage)


def _is_useful(run: BackupRun, staged: StagedRun, last: PreviousBackup | None) -> bool:
    """Whether an interrupted run is newer than the previous backup, or recent if there is none."""
    if staged.staging is None or staged.staging.recipients != run.profile.recipients:
        return False
    started_at = datetime.fromisoformat(staged.staging.started_at)
    if is_ahead(started_at, run.now):
        return False
    if last is not None:
        return started_at > datetime.fromisoformat(last.started_at)
    return run.now - started_at < run.profile.backup.full_every


def _tell_what_was_found(run: BackupRun, found: Sequence[Salvaged]) -> None:
    arrived = sum(chunk.length for one in found for chunk in one.chunks)
    open_log(run.paths).info(
        "backup %s: an interrupted run goes on: %s had arrived",
        run.profile.name,
        render_bytes(arrived),
    )


def discard(
    run: BackupRun,
    staged: Sequence[StagedRun],
    unfinished: Collection[Unfinished],
    record: RunRecord,
) -> bool:
    """Remove staged runs that are of no use; returns whether they are gone. If not, the record says
    so."""
    try:
        discard_runs(run.store, staged, unfinished)
    except (StoreError, OSError) as error:
        record.warnings.append(f"what was staged stays in the store: {one_line(str(error))}")
        return False
    return True


def discard_all(run: BackupRun, record: RunRecord) -> None:
    """Remove everything that is staged.

    Raises:
        StoreError: the unfinished uploads cannot be listed.
    """
    if staged := run.staging.read():
        discard(run, staged, run.store.list_unfinished(), record)


def choose_another_name(run: BackupRun, record: RunRecord) -> Basis:
    """The basis after somebody else took the archive's name; staged chunks are used again."""
    record.forget_problems()
    names = frozenset(one.name for one in run.store.list_unfinished())
    return replace(choose_basis(run, record), under_way=names)


def basis_after(run: BackupRun, basis: Basis, error: BackupError, record: RunRecord) -> Basis:
    """The basis after copying failed: keep nothing, and if copying as such fails, stage nothing."""
    if isinstance(error, CopyUnsupported):
        run.copy_memory.remember(run.now)
    record.forget_problems()
    discard_all(run, record)
    why = one_line(str(error))
    if basis.last is None or not isinstance(error, CopyRefused):
        # Do not ask again, file by file, for what could not be fetched just now.
        listed, census = _list_store(run, record.host)
        return Basis(listed, census, None, why, may_stage=basis.last is not None)
    now = look_at_store(run, record.host)
    return Basis(now.listed, now.census, None, why, versions=now.last or now.versions)
