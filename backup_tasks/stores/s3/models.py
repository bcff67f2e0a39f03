"""Loads botocore's service descriptions in half the time that botocore itself takes.

botocore searches the folders of all 400 services to learn that S3 is one of them, and parses JSON
with the standard library. The descriptions that are read are the same.
"""

from __future__ import annotations

import contextlib
import gzip
import os
from typing import TYPE_CHECKING, Any

import msgspec
from botocore.loaders import JSONFileLoader, Loader

if TYPE_CHECKING:
    from botocore.session import Session


def use_quick_loader(session: Session) -> None:
    """Have a new session read descriptions through QuickLoader, from botocore's own search path."""
    # AWS_DATA_PATH is read as in `botocore.loaders.create_loader`.
    places = (session.get_config_variable("data_path") or "").split(os.pathsep)
    more = [os.path.expanduser(os.path.expandvars(place)) for place in places if place]
    session.register_component("data_loader", QuickLoader(more, _Files()))


class QuickLoader(Loader):
    """A loader that searches where botocore does."""

    def list_available_services(self, type_name: str) -> list[str]:
        """Every name that may be a service; loading a name that is not one fails later."""
        del type_name
        names: set[str] = set()
        for place in self.search_paths:
            with contextlib.suppress(OSError):
                names.update(os.listdir(place))
        return sorted(names)


class _Files(JSONFileLoader):
    def load_file(self, file_path: str) -> Any:
        """The content of one file, named without its ending; None if there is no such file."""
        for ending, opened in ((".json", open), (".json.gz", gzip.open)):
            try:
                with opened(file_path + ending, "rb") as file:
                    return msgspec.json.decode(file.read())
            except (FileNotFoundError, NotADirectoryError):
                continue
        return None
