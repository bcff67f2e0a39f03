"""The errors that we raise on purpose. Anything else that escapes is a bug of ours.

    BackupError              1   base: one clear line for the operator
    +-- ProfileError         2   the profile breaks a rule
    |   +-- TrustError       2   others may change what is to be obeyed
    +-- UsageError           2   the command line asks for something impossible
    +-- ClaimRefused         1   the store belongs to somebody else
    +-- SourceError          1   nothing that the profile names can be read
    +-- StoreError           1   the store refused, failed or cannot be reached
    |   +-- ObjectMissing    1   no such object
    |   +-- ObjectExists     1   the name is taken; nothing was overwritten
    |   +-- ObjectChanged    1   the object is no longer the one that was pinned
    |   +-- ReadRefused      1   the object is there, and the store does not give it
    |   |   +-- ObjectArchived   it lies in a storage class that cannot be read at once
    |   +-- CopyRefused      1   the store does not copy this range on its own side
    |       +-- CopyUnsupported  it never copies ranges
    +-- ArchiveError         1   an archive is damaged, or not one of ours
    |   +-- UnprovenError    1   nothing proves that it is the archive that it should be
    +-- NotAsSent            1   a backup, read back, is not what was sent
    +-- RestoreError         1   the target cannot take what was asked for
    +-- DrillError           1   a drill did not give back what it should
    +-- NotifyError          1   a notification could not be delivered
    +-- ScheduleError        1   the crontab cannot be read or written
    +-- Incomplete           3   done, but not all of it, as the run's record says already
    +-- LockedError         11   another run holds the lock
    +-- IdentityError       12   wrong or missing key
    +-- Interrupted      128+n   ended by signal n

The message of each names the place, what was expected and found, and what to do next.
"""

from __future__ import annotations

import signal

# What ends a run: a key on the terminal, init or an administrator, a terminal that is closed.
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class BackupError(Exception):
    """Base of every error that we raise on purpose; the text is for the operator."""

    exit_code = 1


class ProfileError(BackupError):
    """The profile breaks a rule. Lists every problem, each with file, line and key."""

    exit_code = 2


class TrustError(ProfileError):
    """Others than root and the running user may change what is to be obeyed.

    Args:
        what: the name, and who may change it; one line.
        remedy: what to do about it, "" if `what` says it.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(f"{what}; {remedy}" if remedy else what)
        self.what = what


class UsageError(BackupError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class ClaimRefused(BackupError):
    """The store belongs to another profile or machine; nothing was written to it."""


class SourceError(BackupError):
    """Nothing that the profile names as a source can be read."""


class StoreError(BackupError):
    """The store refused, failed or could not be reached."""


class ObjectMissing(StoreError):
    """The store has no object of that name."""


class ObjectExists(StoreError):
    """An object of that name is there already; it was not overwritten."""


class ObjectChanged(StoreError):
    """The object under this name is no longer the one that was looked at before."""


class ReadRefused(StoreError):
    """The object is there, but cannot be read: archived, no permission, or a bad disk."""


class ObjectArchived(ReadRefused):
    """The object lies in a storage class that gives nothing before it was restored from there."""


class CopyRefused(StoreError):
    """The store cannot copy this range on its own side; the bytes must be sent."""


class CopyUnsupported(CopyRefused):
    """The store does not know how to copy ranges at all."""


class ArchiveError(BackupError):
    """An archive is damaged, incomplete or not one of ours."""


class UnprovenError(ArchiveError):
    """Nothing proves that an archive is the one that it should be: signature or name differ."""


class NotAsSent(BackupError):
    """A backup that was committed is, when it is read back, not what was sent."""


class RestoreError(BackupError):
    """The target of a restore cannot take what was asked for."""


class DrillError(BackupError):
    """A drill, a restore done for proof, did not give back what it should."""


class NotifyError(BackupError):
    """A notification could not be delivered."""


class ScheduleError(BackupError):
    """The crontab could not be read or written."""


class Incomplete(BackupError):
    """The task is done, but not all of it, as its record says already; the text names what."""

    exit_code = 3


class LockedError(BackupError):
    """Another run holds the lock."""

    exit_code = 11


class IdentityError(BackupError):
    """The key to an encrypted archive is wrong or missing."""

    exit_code = 12


class Interrupted(BackupError):
    """The run was ended by a signal.

    Args:
        signal_number: as in `signal`; the exit code is 128 plus it.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"ended by {signal.Signals(signal_number).name}")
        self.exit_code = 128 + signal_number
