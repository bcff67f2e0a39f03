"""Finds the members of a package that is open for more: each module there holds one."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType
from typing import Any


def members_of(package: ModuleType, attribute: str) -> list[Any]:
    """Find what each module of a package has under this name, in the order of the modules' names.

    A module without it is passed over, and so is one that is not named as its member: somebody
    may have left a draft or a copy there, and a copy would do everything twice.
    """
    found = []
    for name in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
        member = getattr(import_module(f"{package.__name__}.{name}"), attribute, None)
        if member is not None and member.name == name:
            found.append(member)
    return found
