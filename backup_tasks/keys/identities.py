"""Identities: the private keys that open encrypted archives, read when first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from backup_tasks.common.printable import printable
from backup_tasks.errors import ArchiveError, IdentityError
from backup_tasks.keys.recipients import describe_recipients

_LARGEST_BYTES = 2**20
_AGE_STARTS = (b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE-----")
_SSH_STARTS = (b"-----BEGIN OPENSSH PRIVATE KEY-----", b"-----BEGIN RSA PRIVATE KEY-----")
_NO_KEY_FITS = "No matching keys found"

# Asks a person for a passphrase, with this prompt. Raises IdentityError if nobody can be asked.
Ask = Callable[[str], str]


class NoKeyFits(IdentityError):
    """The keys can be read, but none of them fits a recipient of the file."""


def ask_nobody(_: str) -> str:
    """The `Ask` for a run that must not ask anybody, such as a backup.

    Raises:
        IdentityError: always.
    """
    raise IdentityError("it is protected by a passphrase, and nobody is asked here")


class Keyring:
    """The private keys of one identity file.

    Args:
        file: identities as `age -i` takes them, one a line; or an SSH private key; or either
            encrypted by age with a passphrase. None: there is no key.
        ask: called once if the file is protected by a passphrase.
        recipients: public keys that the error names if no identity fits.
    """

    def __init__(
        self, file: Path | None, ask: Ask = ask_nobody, recipients: Sequence[str] = ()
    ) -> None:
        self._file = file
        self._ask = ask
        self._recipients = recipients
        self._lock = threading.Lock()
        self._identities: Sequence[object] | None = None
        self._trouble: IdentityError | None = None

    def load(self) -> None:
        """Read the identity file, once; nobody is asked a second time.

        Raises:
            IdentityError: there is no key, or it cannot be read or unlocked; the same each time.
        """
        self._loaded()

    def _loaded(self) -> Sequence[object]:
        with self._lock:
            if self._trouble is not None:
                raise IdentityError(str(self._trouble))
            if self._identities is None:
                try:
                    self._identities = self._read()
                except IdentityError as error:
                    self._trouble = error
                    raise
            return self._identities

    def _read(self) -> Sequence[object]:
        if self._file is None:
            raise IdentityError(
                "it is encrypted, and no key was named: use --identity FILE, or set "
                "encryption.identity_file in the profile"
            )
        return read_identities(self._file, self._ask)

    def open(self, age_file: bytes) -> bytes:
        """Decrypt an age file.

        Raises:
            NoKeyFits: the file is encrypted for others.
            IdentityError: there is no key, or it cannot be read or unlocked.
            ArchiveError: the file is damaged.
        """
        import pyrage

        identities = self._loaded()
        try:
            content: bytes = pyrage.decrypt(age_file, identities)
            return content
        except pyrage.DecryptError as error:
            if str(error) != _NO_KEY_FITS:
                raise ArchiveError(f"it cannot be decrypted: {error}") from None
        made_for = describe_recipients(age_file, self._recipients)
        named = ", ".join(self._recipients)
        raise NoKeyFits(
            f"no key in {printable(str(self._file))} opens it: it was encrypted for {made_for}"
            + (f"; the profile names {named}" if named else "")
        )


NO_KEYS = Keyring(None)


def read_identities(file: Path, ask: Ask) -> list[object]:
    """Read all identities in a file.

    Raises:
        IdentityError: the file cannot be read or unlocked, or holds no key that is supported; the
            message never shows the file's content.
    """
    content = _read(file)
    if content.startswith(_AGE_STARTS):
        content = _unlock(file, content, ask)
    if content.startswith(_SSH_STARTS):
        return [_ssh_identity(file, content)]
    try:
        lines = [line.strip() for line in content.decode("utf-8").splitlines()]
    except UnicodeDecodeError:
        raise _no_identity(file) from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise IdentityError(f"{_shown(file)} holds no key")
    return [_age_identity(file, key) for key in keys]


def _shown(file: Path) -> str:
    return f"identity file {printable(str(file))}"


def _read(file: Path) -> bytes:
    try:
        with open(file, "rb") as opened:
            content = opened.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise IdentityError(f"{_shown(file)} cannot be read: {error.strerror}") from None
    if len(content) > _LARGEST_BYTES:
        raise _no_identity(file)
    return content


def _no_identity(file: Path) -> IdentityError:
    return IdentityError(
        f"{_shown(file)} is none: it should hold lines that begin with AGE-SECRET-KEY-, or an SSH "
        "private key"
    )


def _unlock(file: Path, content: bytes, ask: Ask) -> bytes:
    import pyrage

    try:
        passphrase = ask(f"Passphrase for {printable(str(file))}: ")
    except IdentityError as error:
        raise IdentityError(f"{_shown(file)}: {error}") from None
    try:
        unlocked: bytes = pyrage.passphrase.decrypt(content, passphrase)
        return unlocked
    except pyrage.DecryptError as error:
        if str(error) == _NO_KEY_FITS:
            raise IdentityError(f"{_shown(file)} is not protected by a passphrase alone") from None
        raise IdentityError(f"{_shown(file)}: the passphrase is wrong, or the file damaged") from (
            None
        )


def _ssh_identity(file: Path, content: bytes) -> object:
    import pyrage

    try:
        return pyrage.ssh.Identity.from_buffer(content)
    except pyrage.IdentityError as error:
        if "decrypted first" in str(error):
            reason = (
                "is an SSH key with a passphrase, which is not supported: use a copy without one "
                "(ssh-keygen -p), protected by `age -p`"
            )
        else:
            reason = "is an SSH key of a kind that age does not know, or damaged"
        raise IdentityError(f"{_shown(file)} {reason}") from None


def _age_identity(file: Path, key: str) -> object:
    import pyrage

    if key.upper().startswith("AGE-PLUGIN-"):
        raise IdentityError(f"{_shown(file)} holds a key for a plugin, which is not supported")
    try:
        return pyrage.x25519.Identity.from_str(key)
    except pyrage.IdentityError:
        raise _no_identity(file) from None
