"""This machine's note on a profile's sources: what they held, and the hold, if any.

For a plain profile the claim says the same. For an encrypted one only this note has paths and
numbers. Putting back an older claim lifts no hold that this note has.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from backup_tasks.claim.claim_file import Baseline, Hold
from backup_tasks.common.state_files import read_kept, write_note

_NOTE_BYTES = 2**23


class SourcesNote(msgspec.Struct, frozen=True, kw_only=True):
    """The note on one profile's sources, as one store has them.

    Attributes:
        baseline: what the last good backup held.
        hold: why nothing is deleted; is_blind: nobody here knew what was lost when it began.
        given_up: name of the last good backup before a loss -> when an operator accepted that
            loss, ISO 8601, UTC.
    """

    baseline: Baseline | None = None
    hold: Hold | None = None
    is_blind: bool = False
    given_up: dict[str, str] = {}


class SourcesMemory:
    """Keep the note in the state directory.

    Args:
        state: the state directory.
        key: stands for profile and store together (`state_key`), fit for a file name.
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
        """Replace the note.

        Raises:
            OSError: the note cannot be written.
        """
        write_note(self._path, msgspec.to_builtins(note))
