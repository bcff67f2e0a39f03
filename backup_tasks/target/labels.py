"""SELinux labels of what is made elsewhere and then renamed: it would keep those of elsewhere."""

from __future__ import annotations

import contextlib
import os

LABEL = "security.selinux"


def copy_label(folder: int, place: int | str) -> None:
    """Give what will lie in `folder` the label that it would have if it were made there.

    Args:
        place: an open file, or a path whose last name is not followed.

    Does nothing where the system has no labels, or does not let us.
    """
    try:
        label = os.getxattr(folder, LABEL)
    except OSError:
        return
    with contextlib.suppress(OSError):
        os.setxattr(place, LABEL, label, follow_symlinks=isinstance(place, int))
