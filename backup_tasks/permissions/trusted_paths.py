"""Trust: only root may change the files that root obeys, as with sshd and sudo.

Anybody who may write a profile, a template, a program or a folder on the way to one decides what
the running user does. So each name from `/` on, symlinks and their targets included, must belong
to root or to the running user, and nobody else may write it:

- write bits of the mode count, and so do the entries of an ACL;
- a group whose only member is the owner counts as the owner (user-private groups);
- a sticky folder, such as /tmp, may lie on the way to a file, since nobody removes or renames
  another's files there; it may not itself be a folder in which files are looked for.

A path that was found trustworthy stays so: nobody else can change it afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import shlex
import shutil
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

from backup_tasks.common.closes import Closes
from backup_tasks.common.printable import one_line, printable
from backup_tasks.errors import TrustError

# The role of a name: a folder on the way, a folder in which names are looked for, or a file.
Role = Literal["passage", "passage near services", "folder", "folder near services", "file"]
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# As /etc/login.defs has it on Debian and Ubuntu: SYS_UID_MAX and SYS_GID_MAX.
_LAST_SYSTEM_ID = 999
_MOST_LINKS = 40  # as the kernel has it


def open_trusted(path: Path) -> int:
    """Open a file for reading, by descriptors from `/` on; returns its descriptor.

    Judges the very file that it opens. Does not wait for a FIFO.

    Raises:
        TrustError: others may change the file, or something on the way to it.
        OSError: the file cannot be opened, or is not a regular file.
    """
    with _Way() as way:
        way.follow(path)
        descriptor = os.open(way.name or ".", _READ, dir_fd=way.folder)
        try:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), way.here)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file", way.here)
            _judge(status, descriptor, way.here, "file")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def check_file(path: Path) -> None:
    """Check that nobody else may change a file, or something on the way to it.

    A file that is missing or cannot be examined passes: opening it will show the error.

    Raises:
        TrustError: others may change the file, or something on the way to it.
    """
    try:
        with _Way() as way:
            way.follow(path)
    except OSError:
        return


def check_program(name: str, folder: Path, search: str | None) -> None:
    """Check that nobody else may change the program that a command starts with.

    Args:
        folder: where the command will run; search: its PATH.

    Raises:
        TrustError: others may change the program, or something on the way to it.
    """
    found = str(folder / name) if "/" in name else shutil.which(name, path=search)
    if found:
        check_file(Path(found))


def check_folder(path: Path, *, near_services: bool = False) -> None:
    """Check that nobody else may put files into a folder, or replace it.

    For a folder that does not exist yet, checks the folder in which it will be made.

    Args:
        near_services: accept folders on the way that a group of services may write, as the group
            syslog may write Ubuntu's /var/log. For files that are written and never obeyed.

    Raises:
        TrustError: others may put files into the folder, or replace it.
    """
    try:
        with _Way(near_services=near_services) as way:
            role: Role = "folder"
            try:
                way.follow(path)
            except FileNotFoundError:
                way.name = ""
                role = "folder near services" if near_services else "folder"
            if not way.name:
                _judge(os.fstat(way.folder), way.folder, way.here, role)
    except OSError:
        return


@contextlib.contextmanager
def trusted_folder(path: Path, *, near_services: bool = False) -> Iterator[int]:
    """Open a folder that `check_folder` accepts; its descriptor outlives changes of the path.

    Raises:
        TrustError: others may put files into the folder, or replace it.
        OSError: the folder cannot be opened, or the path is no folder.
    """
    with _Way(near_services=near_services) as way:
        way.follow(path)
        if way.name:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), way.here)
        _judge(os.fstat(way.folder), way.folder, way.here, "folder")
        yield way.folder


def judge_below(folder: Path) -> Iterator[str]:
    """The flaws of the names in a folder, a line each; the folder itself is for `check_folder`.

    Raises:
        OSError: the folder cannot be read.
    """
    with os.scandir(folder) as found:
        for item in found:
            try:
                if item.is_symlink():
                    check_file(Path(item.path))
                else:
                    status = item.stat(follow_symlinks=False)
                    role: Role = "folder" if stat.S_ISDIR(status.st_mode) else "file"
                    _judge(status, item.path, item.path, role)
            except TrustError as error:
                yield str(error)
            except FileNotFoundError:
                continue


class _Way(Closes):
    """The folders from `/` to a file, open, each judged before a name in it is looked at.

    Attributes:
        name: the last name, in `folder`; "" when the path leads to a folder.
    """

    def __init__(self, *, near_services: bool = False) -> None:
        self._passage: Role = "passage near services" if near_services else "passage"
        self._folders = [(os.open("/", _LOOK | os.O_DIRECTORY), "/")]
        self.name = ""

    def close(self) -> None:
        """Close every folder on the way."""
        self._leave(0)

    @property
    def folder(self) -> int:
        """The descriptor of the last folder reached."""
        return self._folders[-1][0]

    @property
    def here(self) -> str:
        """The real path reached so far."""
        folder = self._folders[-1][1]
        return os.path.join(folder, self.name) if self.name else folder

    def follow(self, path: Path) -> None:
        """Walk to the end of the path.

        Raises:
            TrustError: others may change a name on the path.
            OSError: a name cannot be opened, stands below a file, or leads to too many symlinks.
        """
        _judge(os.fstat(self.folder), self.folder, "/", self._passage)
        names = os.fspath(path.absolute()).split("/")[::-1]
        links = 0
        while names:
            name = names.pop()
            if self.name:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self.here)
            if name == "..":
                self._leave(max(1, len(self._folders) - 1))
            elif name not in ("", "."):
                target = self._step(name)
                if target is not None:
                    links += 1
                    if links > _MOST_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
                    names += target.split("/")[::-1]
                    if target.startswith("/"):
                        self._leave(1)

    def _step(self, name: str) -> str | None:
        """Go on by one name; returns the target of a symlink, else None."""
        descriptor = os.open(name, _LOOK, dir_fd=self.folder)
        try:
            status = os.fstat(descriptor)
            here = os.path.join(self._folders[-1][1], name)
            if stat.S_ISLNK(status.st_mode):
                _judge_owner(status, here)
                return os.readlink("", dir_fd=descriptor)
            is_folder = stat.S_ISDIR(status.st_mode)
            _judge(status, descriptor, here, self._passage if is_folder else "file")
            if is_folder:
                self._folders.append((descriptor, here))
                descriptor = -1
            else:
                self.name = name
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return None

    def _leave(self, depth: int) -> None:
        while len(self._folders) > depth:
            os.close(self._folders.pop()[0])


def _judge(status: os.stat_result, place: int | str, path: str, role: Role) -> None:
    """Check that a name belongs to root or to the running user, and that nobody else may write it.

    Raises:
        TrustError: others may change it; one line names it, them and the remedy.
    """
    _judge_owner(status, path)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        return  # a device or a pipe has no content of its own to obey
    is_sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if not status.st_mode & 0o022 or (role.startswith("passage") and is_sticky):
        return
    near_services = role.endswith("near services")
    who = [
        *_group_writers(status, place, near_services),
        *(["everybody"] if status.st_mode & 0o002 else []),
    ]
    if not who:
        return
    why = f"may be written by {' and by '.join(who)} (mode {stat.S_IMODE(status.st_mode):04o})"
    if is_sticky:
        raise TrustError(f"{printable(path)} {why}", "name a folder of your own, made beforehand")
    # With an ACL, the mode's group bits are its mask: `g-w` ends every grant to write.
    bits = ("g" if status.st_mode & 0o020 else "") + ("o" if status.st_mode & 0o002 else "")
    raise _distrust(path, why, f"chmod {bits}-w")


def _judge_owner(status: os.stat_result, path: str) -> None:
    owner = status.st_uid
    if owner not in (0, os.geteuid()) and not _is_from_outside(owner):
        if _is_home(path, owner):
            raise TrustError(
                f"{printable(path)} is the home of {_user(owner)}, and {running_user()} obeys what "
                "is in it",
                f"move that out of there, as to /opt, or run this as {_user(owner)}",
            )
        # A link's owner decides where it leads; without -h, `chown` would follow it.
        option = "-h " if stat.S_ISLNK(status.st_mode) else ""
        raise _distrust(path, f"belongs to {_user(owner)}", f"chown {option}{running_user()}:")


def _distrust(path: str, why: str, remedy: str) -> TrustError:
    what = f"{printable(path)} {why}, and {running_user()} obeys what is in it"
    return TrustError(what, f"run: {remedy} {one_line(shlex.quote(path))}")


def running_user() -> str:
    """The running user's name, for a command that an operator types."""
    return _user(os.geteuid())


def _group_writers(status: os.stat_result, place: int | str, near_services: bool) -> Iterator[str]:
    """Name who else may write by the mode's group bits, or by an ACL behind them."""
    if not status.st_mode & 0o020:  # it is also the mask of an ACL, which then grants nothing
        return
    for kind, number in _writers_by_acl(place):
        if kind == "unknown":
            yield "whom its ACL names, which cannot be read"
        elif kind == "user" and number not in (0, os.geteuid()):
            yield f"{_user(number)}, by its ACL"
        elif kind == "group":
            group = status.st_gid if number < 0 else number
            is_harmless = near_services and _is_of_services(group)
            if not is_harmless and not any(
                _is_private_group(group, user) for user in (0, os.geteuid())
            ):
                yield f"the group {_group(group)}"


def _writers_by_acl(place: int | str) -> list[tuple[str, int]]:
    from backup_tasks.filesystem.posix_acl import acl_writers  # seldom needed

    path = f"/proc/self/fd/{place}" if isinstance(place, int) else place
    try:
        return acl_writers(os.getxattr(path, "system.posix_acl_access"))
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return [("group", -1)]
        return [("unknown", -1)]


@cache
def _is_private_group(number: int, user: int) -> bool:
    """Whether a group is named like the user, who is its only member."""
    try:
        group, owner = grp.getgrgid(number), pwd.getpwuid(user)
    except KeyError:
        return False
    return (
        owner.pw_gid == number
        and owner.pw_name == group.gr_name
        and set(group.gr_mem) <= {owner.pw_name}
        and all(other.pw_uid == user for other in pwd.getpwall() if other.pw_gid == number)
    )


@cache
def _is_of_services(number: int) -> bool:
    """Whether a group is the system's, and so are all its members."""
    try:
        members = set(grp.getgrgid(number).gr_mem)
    except KeyError:
        return False
    return number <= _LAST_SYSTEM_ID and all(
        user.pw_uid <= _LAST_SYSTEM_ID
        for user in pwd.getpwall()
        if user.pw_gid == number or user.pw_name in members
    )


def _is_home(path: str, owner: int) -> bool:
    """Whether a folder is its owner's home: a new owner would shut them out."""
    try:
        return os.path.realpath(pwd.getpwuid(owner).pw_dir) == path
    except KeyError:
        return False


@cache
def _is_from_outside(user: int) -> bool:
    """Whether the number stands for all users that our user namespace does not map.

    The root of the namespace's creator is among them if `/` belongs to that number too.
    """
    if os.stat("/").st_uid != user:
        return False
    try:
        with open("/proc/sys/kernel/overflowuid", "rb") as file:
            is_stand_in = int(file.read()) == user
        with open("/proc/self/uid_map", "rb") as file:
            return is_stand_in and file.read().split() != [b"0", b"0", b"4294967295"]
    except (OSError, ValueError):
        return False


def _user(number: int) -> str:
    try:
        return one_line(pwd.getpwuid(number).pw_name)
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return one_line(grp.getgrgid(number).gr_name)
    except KeyError:
        return str(number)
