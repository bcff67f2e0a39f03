"""Install the Debian packages that the bench compares with, where they are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

# Program -> Debian package. What stands last is what bench/measure.py runs everything with.
PACKAGES = {
    "restic": "restic",
    "borg": "borgbackup",
    "pigz": "pigz",
    "zstd": "zstd",
    "tar": "tar",
    "/usr/bin/time": "time",
}


def main() -> None:
    missing = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(
            f"The bench needs {', '.join(missing)}. "
            f"On Debian and Ubuntu: sudo apt install {' '.join(missing)}"
        )
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends"]):
        command = ["apt-get", *arguments, *(missing if arguments[0] == "install" else [])]
        if subprocess.run(command, env=environ, check=False).returncode:
            sys.exit(f"could not install {', '.join(missing)}: see what apt-get said above")


if __name__ == "__main__":
    main()
