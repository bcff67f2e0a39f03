"""Trust in all that a task obeys before any profile: code, Python's modules, the project's folders.

Code that others may change is already running when this checks it. Yet a task that then refuses
does not go on to store credentials, crontab lines and backups for them.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from backup_tasks.common.paths import Paths
from backup_tasks.common.printable import one_line, printable
from backup_tasks.errors import TrustError
from backup_tasks.permissions.trusted_paths import (
    check_file,
    check_folder,
    judge_below,
    running_user,
)


def check_logs(paths: Paths) -> None:
    """Check that nobody else may write the folder of the logs.

    Raises:
        TrustError: others may write it, so that nothing is logged. If it lies in the project, and
            others may change the code too, the message is that of `check_installation`.
    """
    try:
        check_folder(paths.logs, near_services=True)
    except TrustError as error:
        in_project = [*_code(paths.root)] if paths.logs.is_relative_to(paths.root) else []
        raise TrustError("\n".join(dict.fromkeys(in_project or [str(error)]))) from None


def check_installation(paths: Paths) -> None:
    """Check that nobody else may change the installation.

    Raises:
        TrustError: has a line for each thing that others may change: code and its folders, the
            folders of profiles and state, and templates, which are code as well.
    """
    if lines := _flaws(paths):
        raise TrustError("\n".join(lines))


def _flaws(paths: Paths) -> list[str]:
    lines = [*_code(paths.root)]
    for folder in (paths.profiles, paths.templates, paths.state):
        # The remedy for the whole project also mends the folders in it.
        if not lines or not folder.is_relative_to(paths.root):
            lines += _flaw_of_folder(folder)
            lines += [] if folder == paths.profiles else _below([folder])
    lines += _below(_folders_below(paths.templates))  # a template may include others
    return list(dict.fromkeys(lines))


def _code(project: Path) -> Iterator[str]:
    package = project / "backup_tasks"
    folders = [package, *_folders_below(package), project / "__pycache__"]
    flaws = [*_tree(project, folders, _files_of_code(project))]
    yield from flaws
    prefix = Path(sys.prefix)
    is_told = flaws and prefix.is_relative_to(project)  # the project's remedy mends it too
    places = [*sys.path, *filter(None, [sys.pycache_prefix])]
    modules = [Path(place or os.curdir).absolute() for place in places]
    own = [folder for folder in modules if folder.is_relative_to(prefix)]
    python = Path(sys.executable).absolute()
    if prefix != Path(sys.base_prefix):  # else it is the system's own, and much larger
        if not is_told:
            yield from _tree(prefix, [prefix / "bin", *own], [python, prefix / "pyvenv.cfg"])
    elif flaw := _flaw_of_file(python):
        yield flaw
    for folder in modules:
        if folder not in own and folder != project:
            yield from _flaw_of_modules(folder)
    yield from _flaws_of_settings()


def _files_of_code(project: Path) -> Iterator[Path]:
    """Files in the project's folder that Python may import, or that Invoke reads as settings."""
    yield project / "tasks.py"  # also if the folder cannot be read
    with contextlib.suppress(OSError):
        for name in os.listdir(project):
            if name.endswith((".py", ".pyc", ".so")) or name.startswith("invoke."):
                yield project / name


def _folders_below(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as found:
            names = [item.path for item in found if item.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for name in names:
        yield Path(name)
        yield from _folders_below(Path(name))


def _tree(top: Path, folders: Iterable[Path], files: Iterable[Path]) -> Iterator[str]:
    """The flaws of a folder of code, of the way to it, and of its content, as one line at most."""
    folders = list(folders)
    # `_below` finds the flaws of the inner folders in the folders that hold them.
    outermost = [folder for folder in folders if folder.parent not in folders]
    way = _flaw_of_folder(top.parent, is_passage=True)
    yield from way
    if way:
        return
    found = _flaw_of_folder(top)
    found += [flaw for file in files if (flaw := _flaw_of_file(file))]
    found += [flaw for folder in outermost for flaw in _flaw_of_folder(folder)]
    found = list(dict.fromkeys([*found, *_below(folders)]))
    if len(found) == 1:
        yield found[0]
    elif found:
        place = one_line(shlex.quote(str(top)))
        yield (
            f"{printable(str(top))} holds {len(found)} files or folders that others may change, "
            f"such as: {found[0].partition('; run: ')[0]}; "
            f"run: chown -R {running_user()}: {place} && chmod -R go-w {place}"
        )


def _below(folders: Iterable[Path]) -> list[str]:
    found: list[str] = []
    for folder in folders:
        try:
            found += judge_below(folder)
        except OSError:  # missing or unreadable: nothing in it is obeyed
            continue
    return found


def _flaw_of_folder(folder: Path, *, is_passage: bool = False) -> list[str]:
    try:
        (check_file if is_passage else check_folder)(folder)
    except TrustError as error:
        return [str(error)]
    return []


def _flaw_of_file(file: Path) -> str:
    try:
        check_file(file)
    except TrustError as error:
        return str(error)
    return ""


def _flaw_of_modules(folder: Path) -> Iterator[str]:
    """The flaw of a folder in Python's search path; `python -m` adds the current folder."""
    if not folder.exists():
        return
    try:
        check_folder(folder)
    except TrustError as error:
        if folder == Path.cwd():
            yield (
                f"Python looks for modules in the folder where it was started, and {error.what}; "
                f"start {printable(sys.prefix)}/bin/invoke, or start it in another folder"
            )
        else:
            yield f"Python looks for modules in {printable(str(folder))}, and {error}"


def _flaws_of_settings() -> Iterator[str]:
    """The flaws of Invoke's settings, which may be Python; `sudo -E` keeps another user's HOME."""
    for start in ("/etc/invoke", os.path.expanduser("~/.invoke")):
        for kind in ("yaml", "yml", "json", "py"):
            file = Path(f"{start}.{kind}")
            if os.path.lexists(file):
                try:
                    check_file(file)
                except TrustError as error:
                    place = printable(str(file))
                    yield f"Invoke reads {place}, and {error.what}; set HOME, or remove that file"
