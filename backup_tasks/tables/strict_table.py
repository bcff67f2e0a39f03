"""The base of every table of a profile: frozen, strict, and reporting all problems at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError


class Settings(BaseModel):
    """One table of a profile.

    Rules that concern several keys are checked together with the keys themselves, so that all
    problems are reported at once.
    """

    # hide_input_in_errors: a value may be a secret that was written under a wrong key.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    @classmethod
    def complete(cls, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """The table with defaults that depend on other keys."""
        return raw

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield problems that concern several keys, as (key, reason).

        Args:
            raw: the table as written; any single value in it may be wrong too.
        """
        del raw
        yield from ()

    def rules_of_whole(self) -> Iterator[tuple[str, str]]:
        """Like `rules`, for checks that need every single value to be right."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _report_everything(cls, raw: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        if not isinstance(raw, Mapping):
            return handler(raw)
        broken = list(cls.rules(raw))
        problems = [_detail((key,), "rule", reason) for key, reason in broken]
        try:
            made = handler(cls.complete(raw))
        except ValidationError as error:
            # A key that breaks a rule needs no second complaint.
            settled = {key for key, _ in broken}
            problems += [
                _detail(fault["loc"], fault["type"], fault["msg"], fault.get("ctx"))
                for fault in error.errors(include_input=False, include_url=False)
                if fault["loc"][0] not in settled
            ]
        else:
            problems += [_detail((key,), "rule", reason) for key, reason in made.rules_of_whole()]
            if not problems:
                return made
        raise ValidationError.from_exception_data(cls.__name__, problems, hide_input=True)


def _detail(
    path: tuple[int | str, ...], kind: str, reason: str, context: Mapping[str, Any] | None = None
) -> InitErrorDetails:
    # The reason is passed as a value: in the template its braces would be interpreted.
    error = PydanticCustomError(kind, "{reason}", {**(context or {}), "reason": reason})
    return InitErrorDetails(type=error, loc=path, input=None)
