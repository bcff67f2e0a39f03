"""The base of what holds files or memory, and is closed at the end of a `with` block."""

from __future__ import annotations

from typing import Self


class Closes:
    """A context manager that gives itself, and ends with `close`."""

    def close(self) -> None:
        """Free what it holds."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
