"""The sources of a profile as a tree of names, links on the way to them included."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from backup_tasks.errors import SourceError

# These errors mean that a file is not there. Any other means only that it cannot be looked at.
GONE = (errno.ENOENT, errno.ENOTDIR)


@dataclass(slots=True)
class SourceNode:
    """One name on the way to the sources.

    Attributes:
        names: the names below that lead to sources.
        whole: everything below belongs to the backup, not just `names`.
    """

    names: dict[str, SourceNode] = field(default_factory=dict)
    whole: bool = False

    def add(self, path: str, *, whole: bool) -> None:
        """Add an absolute path to the tree."""
        node = self
        for name in path.split("/"):
            if name:
                node = node.names.setdefault(name, SourceNode())
        node.whole = node.whole or whole

    def leads_to(self, names: Sequence[str]) -> bool:
        """Whether the path of these names, below this node, belongs to the backup or lies on the
        way to a source."""
        node = self
        for name in names:
            if node.whole:
                return True
            if name not in node.names:
                return False
            node = node.names[name]
        return True


def plan_sources(sources: tuple[str, ...]) -> tuple[SourceNode, dict[str, str]]:
    """The tree of names that leads to the sources.

    A source that is a symlink, or lies behind one, is followed: both the link and its target
    belong to the backup. A source that exists but cannot be looked at is in the tree as well:
    the walk then meets the error on the way to it.

    Returns:
        The tree, and the missing sources: path -> reason.

    Raises:
        SourceError: none of the sources is there.
    """
    root = SourceNode()
    missing: dict[str, str] = {}
    for source in sources:
        try:
            os.lstat(source)
            real = os.path.realpath(source, strict=True)
        except OSError as error:
            if error.errno in GONE:
                missing[source] = f"source: {error.strerror or error}"
                continue
            real = os.path.realpath(source)
        for link in _links_on_the_way(source):
            root.add(link, whole=False)
        root.add(real, whole=True)
    if len(missing) == len(sources):
        named = ", ".join(f"{path} ({reason})" for path, reason in missing.items())
        raise SourceError(f"none of the sources can be read: {named}; check backup.sources")
    return root, missing


def _links_on_the_way(path: str) -> Iterator[str]:
    names = path.strip("/").split("/")
    for end in range(1, len(names) + 1):
        upper = "/" + "/".join(names[:end])
        if os.path.islink(upper):
            yield upper
