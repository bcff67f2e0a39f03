"""SELinux labels of files made in one folder and moved to another: they would keep the first's."""

from __future__ import annotations

import contextlib
import os

LABEL = "security.selinux"


def copy_label(folder: int, place: int | str) -> None:
    """Give a file that is about to move into `folder` the label of one made there.

    Does nothing where the system has no labels, or forbids setting them.

    Args:
        place: the file: a descriptor, or a path whose last name is not followed.
    """
    try:
        label = os.getxattr(folder, LABEL)
    except OSError:
        return
    with contextlib.suppress(OSError):
        os.setxattr(place, LABEL, label, follow_symlinks=isinstance(place, int))
