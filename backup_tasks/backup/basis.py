"""What the next archive is built on: the store as it is, the previous backup, interrupted runs."""

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
    """What an archive is built on.

    Attributes:
        listed: what the store held when this run looked; it is asked once.
        census: which of that are backups that count.
        last: what chunks are kept of; if there is none, `why_full` says why.
        may_stage: whether what is sent may be copied from a staging object.
        versions: without `last`, an archive that has what cannot be read now.
        under_way: names that others are writing.
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
        """What is known of the backup before."""
        there = {backup.stored.name for backup in self.census.backups()}
        found = self.census.newest_or_previous()
        newest = found.stored.name if found is not None else ""
        archive = self.last or self.versions
        if archive is None:
            # Nobody knows what it holds, nor whose it is.
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
    """What to keep chunks of; else what to carry over from, at most, and why so.

    Raises StoreError when the store fails, or lists no backup although one was seen there.
    """
    listed, census = _list_store(run, host)
    census.look()
    why = _why_nothing_is_kept(run) or why_begin_anew(census)
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


def _why_nothing_is_kept(run: BackupRun) -> str:
    if run.full:
        return "--full was asked for"
    if run.copy_memory.refused(run.now):
        return "the store refused to copy on its own side"
    return "" if run.store.can_copy else "the store cannot copy on its own side"


def choose_basis(run: BackupRun, record: RunRecord) -> Basis:
    """Look at what earlier runs left, finished or not, and remove what is of no use."""
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
        # Who may not delete must not leave something behind with every run.
        may_stage &= discard(run, useless, unfinished, record)
        if found:
            basis = replace(basis, last=build_on(basis.last, found, run.margin_ns))
            _tell_what_was_found(run, found)
    except BaseException:
        basis.close()
        raise
    return replace(basis, may_stage=may_stage)


def _is_useful(run: BackupRun, staged: StagedRun, last: PreviousBackup | None) -> bool:
    """Whether an interrupted run read what no later archive holds, and not too long ago."""
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
    """Remove what is of no use any more. Returns whether it is gone; if not, the record says so."""
    try:
        discard_runs(run.store, staged, unfinished)
    except (StoreError, OSError) as error:
        record.warnings.append(f"what was staged stays in the store: {one_line(str(error))}")
        return False
    return True


def discard_all(run: BackupRun, record: RunRecord) -> None:
    """Remove whatever is staged. Raises StoreError."""
    if staged := run.staging.read():
        discard(run, staged, run.store.list_unfinished(), record)


def choose_another_name(run: BackupRun, record: RunRecord) -> Basis:
    """The basis after somebody else took the archive's name; what was staged serves again."""
    record.forget_problems()
    names = frozenset(one.name for one in run.store.list_unfinished())
    return replace(choose_basis(run, record), under_way=names)


def basis_after(run: BackupRun, basis: Basis, error: BackupError, record: RunRecord) -> Basis:
    """What to do when copying failed: keep nothing, and if copying as such fails, stage nothing."""
    if isinstance(error, CopyUnsupported):
        run.copy_memory.remember(run.now)
    record.forget_problems()
    discard_all(run, record)
    why = one_line(str(error))
    if basis.last is None or not isinstance(error, CopyRefused):
        # What could not be fetched just now is not asked for again, file by file.
        listed, census = _list_store(run, record.host)
        return Basis(listed, census, None, why, may_stage=basis.last is not None)
    now = look_at_store(run, record.host)
    return Basis(now.listed, now.census, None, why, versions=now.last or now.versions)
