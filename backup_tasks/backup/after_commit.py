"""After the commit: reads the backup back, and notes the outcome for this run and the next."""

from __future__ import annotations

from collections.abc import Sequence

from backup_tasks.backup.assembly import Written
from backup_tasks.backup.context import BackupRun
from backup_tasks.backup.read_back import Sent, read_back
from backup_tasks.claim.evidence import evidence_of
from backup_tasks.common.printable import one_line
from backup_tasks.errors import NotAsSent, ObjectArchived, StoreError
from backup_tasks.journal.run_record import RunRecord, hold_back
from backup_tasks.stores.base import StoredObject


def settle_backup(
    run: BackupRun,
    stored: StoredObject,
    written: Written,
    copied: Sequence[tuple[int, int]],
    there: Sequence[StoredObject],
    record: RunRecord,
) -> None:
    """Read the backup back before anything is built on it or deleted for it, and note its proof.

    If the store does not let the backup be read, this is reported, and nothing is deleted. If it
    lies in an archive class, this is only reported. A crash leaves no
    note, so the next run looks itself.

    Args:
        copied: as in `Sent`.
        there: the objects that the store listed before.

    Raises:
        NotAsSent: read back, the backup is not what was sent; the notes say so too.
    """
    run.proofs.note_made(stored, evidence_of(written.footer, written.header))
    try:
        read_back(run.store, stored, Sent(written.footer, written.chunks, copied))
    except NotAsSent as error:
        run.proofs.note_unread(stored.name, _why(error, run))
        run.proofs.save([*there, stored])
        raise
    except ObjectArchived as error:
        record.warnings.append(f"{stored.name} was not read back: {_why(error, run)}")
    except StoreError as error:
        hold_back(record, [f"{stored.name} was not read back: {_why(error, run)}"])
    run.proofs.save([*there, stored])


def _why(error: NotAsSent | StoreError, run: BackupRun) -> str:
    return one_line(str(error)).removeprefix(f"{run.store.url}: ")
