"""Commands that were started in a session of their own, and how they are ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a command and all that it started, so that nothing of it outlives the call.

    Args:
        process: started with `start_new_session`.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()
