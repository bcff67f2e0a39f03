"""botocore's descriptions of services, found and read in half the time that it takes itself.

botocore looks into the folders of all 400 services to learn that S3 is one of them, and reads its
JSON with the standard library. What is read is the same.
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
    """Have a new session read descriptions by this loader, from where it would find them itself."""
    # As `botocore.loaders.create_loader` takes AWS_DATA_PATH.
    places = (session.get_config_variable("data_path") or "").split(os.pathsep)
    more = [os.path.expanduser(os.path.expandvars(place)) for place in places if place]
    session.register_component("data_loader", QuickLoader(more, _Files()))


class QuickLoader(Loader):
    """Finds descriptions where botocore does."""

    def list_available_services(self, type_name: str) -> list[str]:
        """Every name that may be one: loading one that is none fails in time."""
        del type_name
        names: set[str] = set()
        for place in self.search_paths:
            with contextlib.suppress(OSError):
                names.update(os.listdir(place))
        return sorted(names)


class _Files(JSONFileLoader):
    def load_file(self, file_path: str) -> Any:
        """The content of one file, named without its ending; None if there is none."""
        for ending, opened in ((".json", open), (".json.gz", gzip.open)):
            try:
                with opened(file_path + ending, "rb") as file:
                    return msgspec.json.decode(file.read())
            except (FileNotFoundError, NotADirectoryError):
                continue
        return None
