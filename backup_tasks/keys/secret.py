"""Secrets of a profile: each is read only when it is used, and shown to nobody.

A profile writes `{ env = "NAME" }`, `{ file = "path" }`, `{ command = ["pass", "show", "x"] }`, or
the plain text itself, which the loader accepts only from a file that nobody else can read.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from backup_tasks.common.printable import one_line
from backup_tasks.common.processes import end_group
from backup_tasks.errors import ProfileError, TrustError
from backup_tasks.keys.secret_schema import SECRET_JSON_SCHEMA, VARIABLE
from backup_tasks.permissions.trusted_paths import check_file, check_program, open_trusted

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

COMMAND_TIMEOUT_SECONDS = 30
LARGEST_BYTES = 64 * 1024
FORMS = '{ env = "NAME" }, { file = "path" } or { command = ["program", "argument"] }'

Kind = Literal["env", "file", "command", "literal"]


class Placed(Struct, frozen=True):
    """A value of a profile together with its place.

    Attributes:
        value: as TOML gave it.
        place: the place for messages, for example `profiles/prod.toml:12: store.access_key_id`.
        folder: the profile's folder: a relative `file` starts there, and a `command` runs there.
        environ: the variables for `env` and `command`; None means the process's own, when used.
    """

    value: object
    place: str
    folder: Path
    environ: Mapping[str, str] | None = None

    def __repr__(self) -> str:
        return f"Placed({self.place!r})"


class Secret:
    """A reference to a secret; only `reveal` gives its text. No repr, dump or error holds it."""

    __slots__ = ("_environ", "_folder", "_place", "_value", "kind")

    kind: Kind

    def __init__(self, kind: Kind, value: str | tuple[str, ...], placed: Placed) -> None:
        self.kind = kind
        self._value = value
        self._place = placed.place
        self._folder = placed.folder
        self._environ = placed.environ

    @classmethod
    def parse(cls, raw: object) -> Secret:
        """Make a secret from a profile's value, or from a `Placed` that holds value and place.

        Raises:
            ValueError: the value has none of the accepted forms; never holds the value.
        """
        placed = raw if isinstance(raw, Placed) else Placed(raw, "secret", Path.cwd())
        if isinstance(raw, Secret):
            return raw
        if isinstance(placed.value, str):
            return cls("literal", _checked_literal(placed.value), placed)
        if isinstance(placed.value, Mapping):
            return cls(*_reference(placed.value), placed)
        raise ValueError(f"should be {FORMS}")

    def reveal(self) -> str:
        """The text of the secret, read now, without the line break at its end.

        Raises:
            ProfileError: the secret cannot be read, is empty or has several lines; one line that
                names key and reference.
            TrustError: others may change the file, or the program of the command.
        """
        readers: dict[Kind, Callable[[], str]] = {
            "env": self._from_environment,
            "file": self._from_file,
            "command": self._from_command,
            "literal": lambda: str(self._value),
        }
        text = readers[self.kind]().removesuffix("\n").removesuffix("\r")
        if not text:
            raise self.problem("is empty")
        if "\n" in text or "\r" in text or "\0" in text:
            raise self.problem("holds several lines; a secret is one line")
        return text

    def describe(self) -> str:
        """The reference in words, fit to show: `the environment variable BACKUP_KEY`."""
        match self.kind:
            case "env":
                return f"the environment variable {self._value}"
            case "file":
                return f"the file {one_line(str(self._path()))}"
            case "command":
                # Arguments stay hidden, since one of them may be a password.
                return f'the command "{one_line(self._value[0])}"'
            case "literal":
                return "the text in the profile"

    def _from_environment(self) -> str:
        environ = os.environ if self._environ is None else self._environ
        text = environ.get(str(self._value))
        if text is None:
            raise self.problem("is not set")
        return text

    def _from_file(self) -> str:
        try:
            with open(open_trusted(self._path()), "rb") as file:
                content = file.read(LARGEST_BYTES + 1)
        except OSError as error:
            raise self.problem(f"cannot be read: {error.strerror}") from None
        except TrustError as error:
            raise self._distrusted(error) from None
        return self._decoded(content)

    def _from_command(self) -> str:
        try:
            self.check_trust()
            process = subprocess.Popen(
                self._value,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=self._folder,
                env=None if self._environ is None else dict(self._environ),
                # In its own session the command can be ended whole, and cannot ask on our terminal.
                start_new_session=True,
            )
        except OSError as error:
            raise self.problem(f"cannot be started: {error.strerror}") from None
        except TrustError as error:
            raise self._distrusted(error) from None
        try:
            content, _ = process.communicate(timeout=COMMAND_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            end_group(process)
            raise self.problem(f"gave no answer in {COMMAND_TIMEOUT_SECONDS} s") from None
        except BaseException:  # Ctrl-C and SIGTERM reach only us, not the command's session
            end_group(process)
            raise
        if process.returncode != 0:
            raise self.problem(f"failed with exit code {process.returncode}; run it to see why")
        return self._decoded(content)

    def _decoded(self, content: bytes) -> str:
        if len(content) > LARGEST_BYTES:
            raise self.problem(f"gives more than {LARGEST_BYTES // 1024} KiB; a secret is one line")
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            raise self.problem("does not give UTF-8 text") from None

    def _path(self) -> Path:
        return self._folder / str(self._value)

    def check_trust(self) -> None:
        """Check that nobody else may change the file, or the program of the command.

        Raises:
            TrustError: others may change it.
        """
        if self.kind == "file":
            check_file(self._path())
        elif self.kind == "command":
            environ = os.environ if self._environ is None else self._environ
            check_program(self._value[0], self._folder, environ.get("PATH"))

    def _distrusted(self, error: TrustError) -> TrustError:
        return TrustError(f"{self._place}: {error}")

    def problem(self, what: str) -> ProfileError:
        """The error to raise when the reference is wrong; `what` must not hold the secret."""
        return ProfileError(f"{self._place}: {self.describe()} {what}")

    def __repr__(self) -> str:
        return f"Secret({self.describe()})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return (self.kind, self._value, self._folder) == (other.kind, other._value, other._folder)

    def __hash__(self) -> int:
        return hash((self.kind, self._value, self._folder))

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled: its text would leave this process")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(repr),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return SECRET_JSON_SCHEMA


def _reference(raw: Mapping[Any, Any]) -> tuple[Kind, str | tuple[str, ...]]:
    if len(raw) != 1 or not set(raw) <= {"env", "file", "command"}:
        raise ValueError(f"should be exactly one of {FORMS}")
    if "env" in raw:
        return "env", checked_variable(raw["env"])
    if "file" in raw:
        return "file", _checked_path(raw["file"])
    return "command", _checked_command(raw["command"])


def checked_variable(name: object) -> str:
    """Give the name back, if an environment variable can have it.

    Raises:
        ValueError: no variable can; the name is not shown, since it may be the secret itself.
    """
    if not isinstance(name, str) or not VARIABLE.fullmatch(name):
        raise ValueError("env should be a variable's name: letters, digits and _, without $")
    return name


def _checked_path(path: object) -> str:
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError("file should be a path in quotes")
    if path.startswith("~"):
        raise ValueError('file should be a full path; "~" is not expanded')
    return path


def _checked_command(command: object) -> tuple[str, ...]:
    if not isinstance(command, list | tuple) or not command:
        raise ValueError('command should be a list such as ["pass", "show", "backup"]')
    if not all(isinstance(word, str) and "\0" not in word for word in command) or not command[0]:
        raise ValueError("command should be a list of texts, the program first")
    return tuple(command)


def _checked_literal(text: str) -> str:
    if not text.strip():
        raise ValueError(f"is empty; write {FORMS}")
    if any(character in text for character in "\n\r\0"):
        raise ValueError("should be one line")
    return text
