"""What the bench ran on, without saying whose machine it is."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from tests.support.s3_server import find_weed

_VERSION = re.compile(r"\d+(?:\.\d+)+(?:[-~+]\w+)*")


def describe_machine() -> dict[str, str]:
    """Hardware, kernel and server."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": f"{os.cpu_count()} cores, {_processor()}",
        "memory": f"{pages / 2**30:.0f} GiB",
        "system": f"{_system()}, Linux {platform.release()}",
        "Python": f"{platform.python_version()}, {_whose_python()}",
        "S3 server": f"SeaweedFS {_version(find_weed(), 'version')} on the same machine",
    }


def describe_peers(tools: Path) -> dict[str, str]:
    """The versions of all that we are compared with.

    Args:
        tools: the environment that holds the AWS CLI.
    """
    return {
        "restic": _version("restic", "version"),
        "borg": _version("borg", "--version"),
        "tar": _version("tar", "--version"),
        "pigz": _version("pigz", "--version"),
        "zstd": _version("zstd", "--version"),
        "AWS CLI": _version(str(tools / "bin" / "aws"), "--version"),
    }


def _whose_python() -> str:
    """Those who package Python build it with optimisations that others often leave out."""
    return "the system's own" if sys.base_prefix == "/usr" else "not the system's own"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _system() -> str:
    return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")


def _version(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = _VERSION.search(done.stdout + done.stderr)
    return found[0] if found else "unknown"
