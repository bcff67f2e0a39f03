"""The works that are measured, in the order in which they are done."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """The value is what tables and plots call it."""

    FIRST = "first backup"
    VERIFY_ONE = "verify all, one backup"
    UNCHANGED = "unchanged second backup"
    CHANGED = "1 % of the files changed"
    LIST = "list"
    ONE_FILE = "one file restored"
    RESTORE = "full restore"
    VERIFY = "verify all, three backups"
