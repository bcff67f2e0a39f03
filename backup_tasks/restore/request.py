"""An operator's request for a restore, and the report about it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast, get_args

import msgspec
from msgspec import Struct

from backup_tasks.census.catalog import Backup
from backup_tasks.errors import UsageError
from backup_tasks.format.manifest import Header
from backup_tasks.read.authenticity import ANYBODY, Proof, Trust
from backup_tasks.read.not_whole import NotWhole
from backup_tasks.restore.policy import ExtractPolicy, ExtractReport, Overwrite


class RestoreRequest(Struct, frozen=True):
    """The entries to restore, where to, and how.

    Attributes:
        paths: gitignore patterns; empty means everything.
        target: the folder to write below; "/" when in place.
        overwrite: None refuses a target that is not empty (in place: as "never").
        trusted: restore devices and setuid bits, too, and let a plain tar unpack to hundreds of
            times its size.
        is_unattended: nobody looked at the archive, so refuse such a size even when trusted.
        skip_damaged: skip files in damaged chunks, instead of stopping.
        trust: whose archives are restored.
    """

    paths: tuple[str, ...]
    target: Path
    in_place: bool = False
    overwrite: Overwrite | None = None
    trusted: bool = False
    is_unattended: bool = False
    dry_run: bool = False
    skip_damaged: bool = False
    trust: Trust = ANYBODY

    @property
    def is_told_what_to_do(self) -> bool:
        """Whether the target may hold files already."""
        return self.in_place or self.overwrite is not None

    @property
    def policy(self) -> ExtractPolicy:
        """Rules for what the archive may do to the target."""
        return ExtractPolicy(self.overwrite or "never", self.trusted)


class RestoreWish(Struct, frozen=True):
    """The options of `invoke restore` as typed, in the task's order; "" if not given."""

    date: str = ""
    name: str = ""
    path: tuple[str, ...] = ()
    to: str = ""
    in_place: bool = False
    overwrite: str = ""
    trusted: bool = False
    skip_damaged: bool = False
    unproven: bool = False
    dry_run: bool = False


def parse_wish(
    wish: RestoreWish, backup: Backup, folder: Path, signers: tuple[str, ...]
) -> RestoreRequest:
    """Turn the options of a restore into a request.

    Args:
        signers: public keys, one of which must have signed; empty believes anybody.
        folder: relative paths start here.

    Raises:
        UsageError: two options exclude each other, or an option has no such value.
    """
    if wish.to and wish.in_place:
        raise UsageError("give --to or --in-place, not both")
    if wish.overwrite not in ("", *get_args(Overwrite)):
        raise UsageError(f"--overwrite {wish.overwrite!r}: choose never, older or always")
    target = Path("/") if wish.in_place else folder / (wish.to or f"restored/{backup.id}")
    return RestoreRequest(
        paths=wish.path,
        target=target,
        in_place=wish.in_place,
        overwrite=cast(Overwrite, wish.overwrite) if wish.overwrite else None,
        trusted=wish.trusted or (wish.in_place and os.geteuid() == 0),
        dry_run=wish.dry_run,
        skip_damaged=wish.skip_damaged,
        trust=Trust(signers, wish.unproven),
    )


class RestoreReport(Struct, frozen=True):
    """Report on a restore; in a dry run, on what would be restored.

    Attributes:
        fetched_bytes: stored bytes that the wanted entries need.
        proof: whose archive it is; header: the manifest's header, None for a plain tar.
        not_whole: wanted files that were not whole when the backup was made.
        fault_at_end: the fault behind the manifest, where no file depends on it; "" if none.
    """

    backup: Backup
    target: Path
    entries: int
    fetched_bytes: int
    extracted: ExtractReport
    dry_run: bool
    proof: Proof
    header: Header | None = None
    fault_at_end: str = ""
    not_whole: NotWhole = msgspec.field(default_factory=NotWhole)
