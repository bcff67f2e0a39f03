"""Remove trees without making whoever writes files next pay for it.

ext4 gives the number of a removed file to a new one only after some time, and until then looks at
each such number again for every new file (`recently_deleted` in Linux's fs/ext4/ialloc.c: a minute
once what was removed is on disk). A restore right after many files were removed took ten times as
long in the kernel.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

_REMEMBERED_SECONDS = 65


class Rubbish:
    """Removes trees, now or later, and knows when none of them disturbs any more."""

    def __init__(self) -> None:
        self._trees: list[Path] = []
        self._harmless_at = time.monotonic()

    def add(self, tree: Path) -> None:
        """Have it removed by the next `clear`."""
        self._trees.append(tree)

    def clear(self) -> None:
        """Remove all that was added."""
        for tree in self._trees:
            shutil.rmtree(tree, ignore_errors=True)
        self._trees.clear()
        os.sync()
        self._harmless_at = time.monotonic() + _REMEMBERED_SECONDS

    def wait(self) -> None:
        """Return when files can be written as if nothing had been removed."""
        time.sleep(max(0.0, self._harmless_at - time.monotonic()))
