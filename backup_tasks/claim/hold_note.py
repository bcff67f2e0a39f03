"""What this machine remembers of a profile's sources: what they held, and the hold, if any.

The claim says the same of a plain profile. Of an encrypted one only this note has paths and
numbers; and a claim that somebody set back lifts no hold that stands here.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from backup_tasks.claim.claim_file import Baseline, Hold
from backup_tasks.common.state_files import read_kept, write_note

_NOTE_BYTES = 2**23


class SourcesNote(msgspec.Struct, frozen=True, kw_only=True):
    """One profile's sources in one store.

    Attributes:
        baseline: what the last good backup held.
        hold: why nothing is deleted; is_blind: nobody here knows what was lost when it began.
        given_up: the last good backup before a loss that was accepted -> when, ISO 8601, UTC.
    """

    baseline: Baseline | None = None
    hold: Hold | None = None
    is_blind: bool = False
    given_up: dict[str, str] = {}


class SourcesMemory:
    """Keeps the note in the state directory.

    Args:
        state: the state directory.
        key: whose store it is, fit for a file name.
    """

    def __init__(self, state: Path, key: str) -> None:
        self._path = state / "sources" / f"{key}.json"

    def read(self) -> SourcesNote:
        """The note; an empty one if it is lost or broken."""
        try:
            return msgspec.json.decode(read_kept(self._path, _NOTE_BYTES), type=SourcesNote)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return SourcesNote()

    def write(self, note: SourcesNote) -> None:
        """Remember this instead. Raises OSError."""
        write_note(self._path, msgspec.to_builtins(note))
