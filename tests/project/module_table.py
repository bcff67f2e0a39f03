"""docs/modules.md: every package and module with the first sentence of its docstring.

`make docs` writes it; a test fails while it is not what the docstrings say.
"""

from __future__ import annotations

import ast

from backup_tasks.common.paths import PROJECT_ROOT
from tests.project.test_layers import MODULES, PACKAGES

PAGE = PROJECT_ROOT / "docs" / "modules.md"
_HEAD = """# Modules

Made by `make docs` from the docstrings. Packages stand from the ground up: each imports only those
before it ([architecture.md](architecture.md)).
"""


def render_page() -> str:
    """The whole page."""
    places = [*PACKAGES]
    places.insert(PACKAGES.index("stores") + 1, "stores.s3")
    return _HEAD + "".join(map(_section, places))


def _section(package: str) -> str:
    inside = sorted(name for name in MODULES if name.rpartition(".")[0] == package)
    names = [name for name in inside if name != "stores.s3"]
    rows = [f"| `{name.rpartition('.')[2]}` | {_summary(name)} |\n" for name in names]
    head = f"\n## {package}\n\n{_summary(package)}\n\n| module | what it is |\n|---|---|\n"
    return head + "".join(rows)


def _summary(module: str) -> str:
    """The first sentence of a module's docstring."""
    return (ast.get_docstring(MODULES[module]) or "").split("\n\n")[0].replace("\n", " ")


if __name__ == "__main__":
    PAGE.write_text(render_page())
