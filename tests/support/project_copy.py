"""A copy of the project, for what would write into the project's own folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from backup_tasks.common.paths import PROJECT_ROOT

_PARTS = (
    "backup_tasks",
    "docs",
    "profiles",
    "templates",
    "tests",
    "demo.py",
    "tasks.py",
    "pyproject.toml",
    "Makefile",
    "quiet-ctrl-c.pth",
    "README.md",
    "CHANGELOG.md",
)


def copy_project(target: Path) -> Path:
    """Copy what belongs to the project, without what tools and runs left there; returns it."""
    target.mkdir(parents=True)
    for name in _PARTS:
        part = PROJECT_ROOT / name
        if part.is_dir():
            shutil.copytree(part, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif part.exists():
            shutil.copy2(part, target / name)
    (target / "logs").mkdir()
    return target
